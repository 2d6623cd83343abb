"""The table of layers with what each one costs: the page's rows, and a CSV file for spreadsheets and programs.

Cycles are those of the target's model of its accelerator, instructions those that an emulated core counted for the
layer in C; neither is the other, and neither is what the device takes. ``macs`` are all multiplications of a layer;
``macs_on_npu`` and the utilisation leave out ``zero_macs``, those by zeros that padding or splitting added.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]
COLUMNS = (
    "layer", "operation", "unit", "reason", "cure", "padding", "shape", "output", "macs", "macs_percent",
    "zero_macs", "macs_on_npu", "weight_bytes", "model_cycles", "model_cycles_percent", "utilisation_percent",
    "instructions", "instructions_percent", "live_bytes",
)  # fmt: skip
SUMS = ("macs", "zero_macs", "macs_on_npu", "weight_bytes", "model_cycles", "instructions")


def rows(
    layers: Sequence[Document], costs: Document | None = None, arena: Document | None = None
) -> list[dict[str, Any]]:
    """The placement's rows, each with what is known of its cost; None where nothing is.

    Args:
        layers: rows of the placement.
        costs: ``model`` and ``measured``, as the simulate stage writes them.
        arena: the memory map, as the compile stage writes it.

    Returns:
        The rows with ``macs_on_npu``, ``model_cycles``, ``utilisation`` (of the model's array, 0 to 1),
        ``instructions`` and ``live_bytes``, and the parts of the whole: ``macs_part``, ``cycles_part``,
        ``instructions_part``.
    """
    model = (costs or {}).get("model") or {"by_layer": {}, "macs_a_cycle": 0}
    counted: dict[str, int] = {}
    for found in ((costs or {}).get("measured") or {}).values():
        counted.update(found.get("layers", {}))
    live = (arena or {}).get("live", {})
    table = []
    for row in layers:
        own, cycles = row["macs"] - row["zero_macs"], model["by_layer"].get(row["name"])
        table.append(
            {
                **row,
                "macs_on_npu": own if row["unit"] == "npu" else 0,
                "model_cycles": cycles,
                "utilisation": own / (cycles * model["macs_a_cycle"]) if cycles and own else None,
                "instructions": counted.get(row["name"]),
                "live_bytes": live.get(row["name"]),
            }
        )
    for key, part in (("macs", "macs_part"), ("model_cycles", "cycles_part"), ("instructions", "instructions_part")):
        whole = total(table, key)
        for one in table:
            one[part] = one[key] / whole if whole and one[key] is not None else None
    return table


def total(table: Sequence[Document], key: str) -> int | None:
    """The sum of a column, None where no row has a value."""
    values = [row[key] for row in table if row[key] is not None]
    return sum(values) if values else None


def to_csv(table: Sequence[Document]) -> str:
    """The table as text: a line a layer, in order, and the sums; percentages have one decimal."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in table:
        writer.writerow(_line(row))
    sums = {key: total(table, key) for key in SUMS}
    writer.writerow(["total" if name == "layer" else _text(sums.get(name)) for name in COLUMNS])
    return text.getvalue()


def _line(row: Document) -> list[str]:
    values = {
        **row,
        "layer": row["name"],
        "operation": row["layer"],
        "output": "x".join(map(str, row["output"])),
        "macs_percent": _percent(row["macs_part"]),
        "model_cycles_percent": _percent(row["cycles_part"]),
        "utilisation_percent": _percent(row["utilisation"]),
        "instructions_percent": _percent(row["instructions_part"]),
    }
    return [_text(values.get(name)) for name in COLUMNS]


def _text(value: Any) -> str:
    """A cell; a text that a spreadsheet would take for a formula keeps its words behind a quotation mark."""
    text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
