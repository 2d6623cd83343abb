"""Float, 8, 4 and 2 bits in bytes of weights, by arithmetic, like the quantization chapter's table of model sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowlab.report.facts import ReportFacts

# bits, name, and the drop that this table calls typical
PRECISIONS = ((32, "float32", "0 %"), (8, "8 bits", "< 1 %"), (4, "4 bits", "1–5 %"), (2, "2 bits", "5–15 %"))


@dataclass(frozen=True)
class WidthRow:
    """One precision: ``bytes`` is parameters x bits / 8, rounded up; ``accuracy`` is measured, None elsewhere."""

    name: str
    bytes: int
    times: float
    typical: str
    accuracy: float | None
    this_run: bool


def layer_bits(facts: ReportFacts) -> Mapping[str, Any] | None:
    """The bits of each layer's weights and their mean, where they differ."""
    mixed = facts.metrics_quantize.get("mixed")
    return mixed if isinstance(mixed, Mapping) else None


def width_rows(facts: ReportFacts) -> list[WidthRow]:
    """The four precisions, and the mean where layers differ; none where the number of parameters is not known."""
    parameters = facts.metrics_train.get("parameters")
    if not isinstance(parameters, int):
        return []
    config, mixed = facts.quantization_config, layer_bits(facts)
    used = 32 if config.get("method") == "none" else None if mixed else config.get("weight_bits")
    rows = []
    for bits, name, typical in PRECISIONS:
        document = facts.metrics_train if bits == 32 else facts.metrics_quantize if bits == used else {}
        accuracy = (document.get("test") or {}).get("accuracy")
        rows.append(WidthRow(name, -(-parameters * bits // 8), 32 // bits, typical, accuracy, bits == used))
    if mixed:
        mean = float(mixed["mean_bits"])
        reached = (facts.metrics_quantize.get("test") or {}).get("accuracy")
        size, times = -(-int(parameters * mean) // 8), round(32 / mean, 1)
        rows.append(WidthRow(f"{mean:.2f} bits on average", size, times, "", reached, True))
    return rows


def beside_weights(facts: ReportFacts) -> int | None:
    """Bytes of constants in this run's program that are no weights: biases, multipliers, shifts; None if not known."""
    memory = facts.memory or {}
    weights, flash = memory.get("flash_weights", memory.get("packed_bytes")), (memory.get("regions") or {}).get("flash")
    if not isinstance(weights, int) or not flash:
        return None
    rest = sum(flash.values()) - weights
    return rest if rest >= 0 else None


def measured(rows: Sequence[WidthRow]) -> bool:
    """Whether any row has an accuracy."""
    return any(row.accuracy is not None for row in rows)
