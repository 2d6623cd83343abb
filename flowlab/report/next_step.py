"""The next thing to try: where the float network learned nothing, that; else where quantization cost accuracy.

The steps against a loss are the quantization chapter's, in its order: train with the rounding, more bits for weights,
more for activations, a larger model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flowlab.report.class_falls import POINTS, WINDOWS, ClassFall, worst_fall
from flowlab.report.facts import Document, ReportFacts
from flowlab.report.widths import layer_bits

SMALL = 0.005  # a drop up to this is none: half a point, where the chapter calls less than one usual at 8 bits
NOTHING = "LEARNED NOTHING"  # how the warning of a training at chance level can be told; a test holds it
FEW_EPOCHS = 10  # of a float training, the built-in number: where there were fewer, more are tried first
RATE = 2e-3  # the built-in learning rate
APART = 0.2  # training above validation accuracy: what was learned does not carry over


@dataclass(frozen=True)
class NextStep:
    """What happened, in a sentence or two, and what to try: why it may help, and the words for the command line.

    ``settings`` is empty where there is nothing to try, or nothing that one key says. ``good`` says that nothing was
    lost. ``title`` is what it stands under.
    """

    said: str
    why: str = ""
    settings: Sequence[str] = ()
    good: bool = False
    title: str = "Accuracy after quantization"


def next_step(facts: ReportFacts) -> NextStep:
    """One step, chosen from what this run used."""
    if any(NOTHING in str(text) for text in facts.metrics_train.get("warnings") or ()):
        return _learn(facts)
    if facts.quantization_config.get("method") == "none":
        return NextStep("Nothing was quantized in this run, so quantization cost no accuracy.", good=True)
    split, before, after = _measured(facts)
    if before is None or after is None:
        return NextStep("Neither network was measured, so nothing is known of what quantization cost.")
    drop, fall = before - after, worst_fall(facts.metrics_train, facts.metrics_quantize)
    points = f"{100 * abs(drop):.2f} points on the {split} split ({100 * before:.2f} % to {100 * after:.2f} %)"
    if drop > SMALL:
        said = f"Quantization cost {points}."
    elif drop > 0:
        said = f"Quantization cost {points}: up to {100 * SMALL:.1f} points count as nothing lost."
    else:
        said = "Quantization cost no accuracy" + (f": it gained {points}." if drop < 0 else ".")
    if fall is None and drop <= SMALL:
        return NextStep(f"{said} {_nothing_lost(facts)}", good=True)
    why, settings = _step(facts.quantization_config, facts)
    title = "The next thing to try" if settings else NextStep.title
    return NextStep(f"{said} {_fallen(fall)}" if fall else said, why, settings, title=title)


def _nothing_lost(facts: ReportFacts) -> str:
    """Said of quantization alone: the float network may still be a poor one."""
    classes = facts.metrics_train.get("confusion") and facts.metrics_quantize.get("confusion")
    each = f": no class lost {100 * POINTS:.0f} points and {WINDOWS} windows, or more" if classes else ""
    return f"Nothing is to be won back from quantization{each}."


def _fallen(fall: ClassFall) -> str:
    return (
        f"Hardest hit is class '{fall.name}': {100 * fall.after:.1f} % of its test windows are found, "
        f"{100 * fall.before:.1f} % by the float network ({fall.windows:,} fewer of {fall.total:,})."
    )


def _learn(facts: ReportFacts) -> NextStep:
    """What to try where even the float network says no more than chance."""
    said = "The float network has learned nothing that holds on the validation split"
    said += "." if facts.quantization_config.get("method") == "none" else ", so what quantization costs is not known."
    why, settings = _lesson(facts)
    return NextStep(said, why, settings, title="The next thing to try")


def _lesson(facts: ReportFacts) -> tuple[str, tuple[str, ...]]:
    history = list(facts.metrics_train.get("history") or ())
    reached = max((float(row.get("train_accuracy") or 0.0) for row in history), default=0.0)
    validation = _value(facts.metrics_train, "val") or 0.0
    if reached - validation > APART:
        return (
            f"On the training split it reached {100 * reached:.2f} %, on validation {100 * validation:.2f} %: what it "
            "learned does not carry over. Look whether the recordings of both splits are alike, get more of them, or "
            "choose other features.",
            (),
        )
    if 0 < len(history) < FEW_EPOCHS:
        more = max(FEW_EPOCHS, 3 * len(history))
        return (f"It trained for {len(history)} epochs: give it more.", (f"training.training_epochs={more}",))
    rate = ((facts.notes.get("overview") or {}).get("training") or {}).get("learning_rate")
    why = "Another learning rate is the next thing to try, and then other features, or other windows."
    if not isinstance(rate, (int, float)):
        return (why, ())
    usual = rate / RATE > 3 or RATE / max(rate, 1e-30) > 3
    other, name = (RATE, "the built-in one is") if usual else (rate / 10, "a tenth of it is")
    return (f"{why} The rate was {rate:g}; {name}:", (f"training.learning_rate={other:g}",))


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
    weights, activations = _narrowest(config, facts), _bits(config, "activation_bits")
    mixed = layer_bits(facts)
    whose = "Some weights" if mixed else "Weights"
    uniform = ("training.auto_quantization=false",) if mixed and mixed.get("measured", True) else ()
    narrow = ("training.quantization_activation_bitwidth=8",) if activations < 8 else ()
    if config.get("method") == "PTQ" and facts.trained_quantizer:
        return (
            "Weights were rounded after training. Quantization-aware training lets the network see the rounding while "
            "it learns.",
            tuple(facts.trained_quantizer),
        )
    if weights < 8:
        return (
            f"{whose} have {weights} bits. Use higher widths first, and come back to {weights} bits when 8 bits lose "
            "nothing.",
            (*uniform, "training.quantization_weight_bitwidth=8", *narrow),
        )
    if narrow:
        return (
            f"Activations have {activations} bits. Keep them at higher precision: they cost no memory of the weights.",
            narrow,
        )
    epochs, floats = int(config.get("epochs") or 0), len(facts.metrics_train.get("history") or ())
    if 0 < epochs < floats:
        return (
            f"Weights and activations have 8 bits, and the quantized network trained for {epochs} epochs, the float "
            f"network for {floats}. More epochs cost nothing on the device.",
            (f"training.quantization_epochs={min(2 * epochs, floats)}",),
        )
    best = "Method and widths are at their best. A larger model tolerates quantization better"
    if facts.larger_model:
        return f"{best}.", (f"training.model_name={facts.larger_model}",)
    return f"{best}, and no larger one of this family is known: `flowlab models` lists the others.", ()


def _narrowest(config: Document, facts: ReportFacts) -> int:
    """The fewest bits of any layer's weights."""
    mixed = layer_bits(facts)
    return min(int(row["bits"]) for row in mixed["layers"]) if mixed else _bits(config, "weight_bits")


def _bits(config: Document, key: str) -> int:
    value: Any = config.get(key)
    return value if isinstance(value, int) else 8
