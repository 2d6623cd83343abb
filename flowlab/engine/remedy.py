"""The one change most likely to win back what quantization lost: where most was lost, what is left to try there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WIDER = {2: 4, 4: 8}  # the next width of weights
MANY = 0.01  # of a result's values cut off: its range was chosen too narrow
LONGER = 3  # times the epochs: what two-bit weights gained most from
MORE_WINDOWS = 4  # times the calibration windows
MOST_BITS, MORE_BITS, MORE_BYTES = 8.0, 0.5, 1.25  # of a budget of mixed widths: its end, and the next larger one
DEVIATIONS = 2.0  # of the difference of paired counts, below which a loss is no more than chance
WEIGHTS, RESULTS = ("weights", "trained"), ("input", "result")


@dataclass(frozen=True)
class Loss:
    """What a run lost, and what its config chose: all that the choice of a remedy looks at.

    ``steps`` are (kind, layer, lost) in order; ``named`` says that the config names its quantizer; ``options`` are
    those of the stage ``quantize``.
    """

    method: str
    quantizer: str
    options: Mapping[str, Any]
    training_windows: int | None
    steps: tuple[tuple[str, str, float], ...]
    saturated: Mapping[str, float]
    wrong: int | None
    right: int | None
    named: bool

    @property
    def whole(self) -> float:
        """Of all steps."""
        return sum(lost for _, _, lost in self.steps)

    def of(self, kinds: tuple[str, ...]) -> float:
        """Of the steps of some kinds."""
        return sum(lost for kind, _, lost in self.steps if kind in kinds)

    def worst(self, kinds: tuple[str, ...]) -> tuple[str, float]:
        """The layer that lost most in steps of these kinds; an empty name where they are no layer's."""
        found = [(layer, lost) for kind, layer, lost in self.steps if kind in kinds]
        return max(found, key=lambda one: one[1], default=("", 0.0))

    def number(self, key: str) -> int:
        """An option that is a whole number, 0 where it is none."""
        value = self.options.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else 0


@dataclass(frozen=True)
class Remedy:
    """What to change, as the text behind ``--set`` (None: nothing, or what no key says), and why."""

    set: str | None
    why: str

    def to_json(self) -> dict[str, str | None]:
        """Plain."""
        return {"set": self.set, "why": self.why}

    def lines(self) -> list[str]:
        """For people."""
        said = [f"most likely to help: --set {self.set}"] if self.set else []
        return [*said, f"{'because' if said else 'nothing to change:'} {self.why}"]


def remedy(loss: Loss) -> Remedy:
    """Choose: first whether there is a loss at all, then by the kind of step that lost most."""
    if not loss.steps or loss.method == "none":
        return Remedy(None, "nothing is quantized")
    if loss.whole <= 0:
        return Remedy(None, "what ships is as good as the float network")
    if _by_chance(loss):
        return Remedy(
            None,
            f"the loss is no more than chance: {loss.wrong} windows became wrong and {loss.right} right. "
            "More test windows would tell",
        )
    broken = [(kind, loss.of((kind,))) for kind in ("export", "program") if loss.of((kind,)) != 0]
    if broken:
        return Remedy(None, f"the step '{broken[0][0]}' changes the result, which never may be: it is a defect")
    return _weights(loss) if loss.of(WEIGHTS) >= loss.of(RESULTS) else _results(loss)


def _by_chance(loss: Loss) -> bool:
    if loss.wrong is None or loss.right is None:
        return False
    return loss.wrong - loss.right <= DEVIATIONS * math.sqrt(loss.wrong + loss.right)


def _part(loss: Loss, kinds: tuple[str, ...], what: str) -> str:
    layer, lost = loss.worst(kinds)
    most = f", most of it in {layer} ({lost:.4f})" if layer and lost > 0 else ""
    return f"{what} lose {loss.of(kinds):.4f} of {loss.whole:.4f}{most}"


def _weights(loss: Loss) -> Remedy:
    bits, mixed = loss.number("weight_bits"), loss.options.get("mixed") is True
    said = _part(loss, WEIGHTS, "weights of mixed widths" if mixed else f"{bits}-bit weights")
    if loss.method == "PTQ":
        if loss.named:
            return Remedy(None, f"{said}; '{loss.quantizer}' does not train. Name a quantizer that does")
        return Remedy("training.quantization_method=QAT", f"{said}, and no training has made up for it yet")
    if mixed:
        return _larger_budget(loss, said)
    if bits in WIDER:
        return Remedy(
            f"training.quantization_weight_bitwidth={WIDER[bits]}",
            f"{said}, after {loss.number('epochs')} epochs of training on",
        )
    return _longer(loss, said)


def _larger_budget(loss: Loss, said: str) -> Remedy:
    """More bits for the weights that share them."""
    mean, size, tolerance = (loss.options.get(key) for key in ("mean_bits", "weight_bytes", "tolerance"))
    if isinstance(mean, int | float) and mean < MOST_BITS:
        return Remedy(f"training.auto_quantization_mean_bits={min(MOST_BITS, mean + MORE_BITS):g}", said)
    if isinstance(size, int):
        return Remedy(f"training.auto_quantization_weight_bytes={round(size * MORE_BYTES)}", said)
    if isinstance(tolerance, int | float) and tolerance > 0:
        return Remedy(f"training.autoquant_tolerance_classification={tolerance / 2:g}", said)
    return _longer(loss, said)


def _results(loss: Loss) -> Remedy:
    bits = loss.number("activation_bits")
    said = _part(loss, RESULTS, f"{bits}-bit results between the layers")
    if bits < 8:
        return Remedy("training.quantization_activation_bitwidth=8", said)
    layer, share = max(loss.saturated.items(), key=lambda one: one[1], default=("", 0.0))
    count, known = loss.number("calibration_count"), loss.training_windows or 0
    if share > MANY and count < known:
        return Remedy(
            f"training.quantization_calibration_count={min(known, MORE_WINDOWS * count)}",
            f"{said}; {100 * share:.1f} % of {layer} lie beyond the range that {count} calibration windows showed",
        )
    if loss.method == "PTQ" and not loss.named:
        return Remedy("training.quantization_method=QAT", f"{said}, and no training has made up for it yet")
    return _longer(loss, said)


def _longer(loss: Loss, said: str) -> Remedy:
    epochs = loss.number("epochs")
    if not epochs:
        return Remedy(None, f"{said}; '{loss.quantizer}' does not train. Name a quantizer that does")
    return Remedy(
        f"training.quantization_epochs={LONGER * epochs}", f"{said}, after only {epochs} epochs of training on"
    )
