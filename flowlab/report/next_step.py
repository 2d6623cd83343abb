"""The next thing to try where quantization cost accuracy: one step of the chapter's section 8.2.9, in its order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flowlab.report.facts import Document, ReportFacts

SMALL = 0.005  # a drop up to this is none: half a point, where the chapter calls less than one usual at 8 bits


@dataclass(frozen=True)
class NextStep:
    """What happened, in a sentence, and what to try: why it may help, and the words for the command line.

    ``settings`` is empty where there is nothing to try. ``good`` says that nothing was lost.
    """

    said: str
    why: str = ""
    settings: Sequence[str] = ()
    good: bool = False


def next_step(facts: ReportFacts) -> NextStep:
    """One step, chosen from what this run used."""
    if facts.quantization_config.get("method") == "none":
        return NextStep("Nothing was quantized in this run, so quantization cost no accuracy.", good=True)
    split, before, after = _measured(facts)
    if before is None or after is None:
        return NextStep("Neither network was measured, so nothing is known of what quantization cost.")
    drop = before - after
    points = f"{100 * abs(drop):.2f} points on the {split} split ({100 * before:.2f} % to {100 * after:.2f} %)"
    if drop <= SMALL:
        if drop <= 0:
            how = "Quantization cost no accuracy" + (f": it gained {points}." if drop < 0 else ".")
        else:
            how = f"Quantization cost {points}: up to {100 * SMALL:.1f} points count as nothing lost."
        return NextStep(f"{how} There is nothing to try.", good=True)
    why, settings = _step(facts.quantization_config, facts)
    return NextStep(f"Quantization cost {points}.", why, settings)


def _measured(facts: ReportFacts) -> tuple[str, float | None, float | None]:
    """Which split, and the metric of both networks on it: the test split, or validation where it was not measured."""
    for key, name in (("test", "test"), ("val", "validation")):
        before, after = _value(facts.metrics_train, key), _value(facts.metrics_quantize, key)
        if before is not None and after is not None:
            return name, before, after
    return "test", None, None


def _value(document: Document, key: str) -> float | None:
    values = document.get(key) or {}
    return next((float(value) for value in values.values() if isinstance(value, (int, float))), None)


def _step(config: Document, facts: ReportFacts) -> tuple[str, tuple[str, ...]]:
    weights, activations = _bits(config, "weight_bits"), _bits(config, "activation_bits")
    narrow = ("training.quantization_activation_bitwidth=8",) if activations < 8 else ()
    if config.get("method") == "PTQ" and facts.trained_quantizer:
        return (
            "Weights were rounded after training. Quantization-aware training lets the network see the rounding while "
            "it learns (8.2.9, step 1).",
            tuple(facts.trained_quantizer),
        )
    if weights < 8:
        return (
            f"Weights have {weights} bits. Use higher widths first, and come back to {weights} bits when 8 bits lose "
            "nothing (8.2.9, step 2).",
            ("training.quantization_weight_bitwidth=8", *narrow),
        )
    if narrow:
        return (
            f"Activations have {activations} bits. Keep them at higher precision: they cost no memory of the weights "
            "(8.2.9, step 3).",
            narrow,
        )
    epochs, floats = int(config.get("epochs") or 0), len(facts.metrics_train.get("history") or ())
    if 0 < epochs < floats:
        return (
            f"Weights and activations have 8 bits, and the quantized network trained for {epochs} epochs, the float "
            f"network for {floats}. More epochs cost nothing on the device.",
            (f"training.quantization_epochs={min(2 * epochs, floats)}",),
        )
    best = "Method and widths are at their best. A larger model tolerates quantization better (8.2.9, step 4)"
    if facts.larger_model:
        return f"{best}.", (f"training.model_name={facts.larger_model}",)
    return f"{best}, and no larger one of this family is known: `flowlab models` lists the others.", ()


def _bits(config: Document, key: str) -> int:
    value: Any = config.get(key)
    return value if isinstance(value, int) else 8
