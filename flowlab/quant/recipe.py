"""How a network goes on with the integers that ship, by the width of its narrowest weights.

Light: numbers and names, so that a stage can say them before anything is trained.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

from flowlab.contracts import QuantizeJob

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Recipe:
    """Quantization-aware training. Of the network: live norms, learned scales; of the loop: optimizer, rates, loss.

    Args:
        live: share of the epochs in which norms use the statistics of the batch; they are folded for the rest.
        learn_scales: whether weights' scales are trained, where their ratios are free.
        optimizer: as the loop names it; ``lr_scheduler`` and ``weight_decay`` likewise.
        learning_rate: the highest of the first cycle, which ends when norms are folded.
        then: the second cycle's highest, as a factor of the first one's.
        distillation: the float network's share of the loss; its outputs are softened by ``temperature``.
    """

    live: float = 0.0
    learn_scales: bool = True
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    lr_scheduler: str = "onecyclelr"
    weight_decay: float = 0.0
    then: float = 0.1
    distillation: float = 0.7
    temperature: float = 3.0

    def folded(self, epochs: int) -> float:
        """Where in a training of so many epochs norms are folded, 0 to 1; 1 where they never are or were never live."""
        return live_epochs(self.live, epochs) / epochs or 1.0

    def sentence(self, epochs: int, optimizer: str, learning_rate: float, distillation: float) -> str:
        """What a training was that followed this recipe, but for what was asked for otherwise."""
        live = live_epochs(self.live, epochs)
        norms = f"norms live for {live} of {epochs} epochs" if live else f"norms folded, {epochs} epochs"
        taught = f", {distillation:.0%} of the loss from the float network's outputs" if distillation else ""
        return f"{optimizer}, highest rate {learning_rate:g}, {norms}{taught}"


@dataclass(frozen=True)
class Finetune:
    """Post-training quantization that goes on: ``steps`` of ``batch`` calibration windows each, by Adam.

    ``live`` is the share of the steps with live norms; the rate has one cycle for them and one for the rest, whose
    highest is ``then`` times the first one's. Outputs that are classes are softened by ``temperature``.
    """

    steps: int = 280
    batch: int = 64
    learning_rate: float = 1e-3
    live: float = 0.0
    then: float = 0.1
    temperature: float = 3.0


TRAINING: Mapping[int, Recipe] = {
    2: Recipe(live=0.7, learning_rate=1e-2),
    4: Recipe(live=0.7, learning_rate=3e-3),
    8: Recipe(),
}
TUNING: Mapping[int, Finetune] = {
    2: Finetune(live=0.7, learning_rate=2e-2),
    4: Finetune(),
}
FULL_BITS = 8  # with so many everywhere, fine-tuning changed no prediction that was measured: scales alone will do


def live_epochs(share: float, epochs: int) -> int:
    """How many whole epochs, the first ones, have live norms; ``share`` of them, 0 to 1."""
    return round(share * epochs)


def widths(job: QuantizeJob) -> set[int]:
    """Bits of the weights that a job's layers may have."""
    return {job.weight_bits, *job.bits_of.values()}


def recipe_of(bits: Collection[int]) -> Recipe:
    """Of a network whose layers have weights of these widths: the narrowest decides."""
    return _nearest(TRAINING, min(bits))


def tuning_of(bits: Collection[int], activation_bits: int = FULL_BITS) -> Finetune | None:
    """Of a network whose layers have weights of these widths: the narrowest decides; None where all are full."""
    narrowest = min(*bits, activation_bits)
    return None if narrowest >= FULL_BITS else _nearest(TUNING, narrowest)


def _nearest(known: Mapping[int, Choice], bits: int) -> Choice:
    """The choice for the widest width that is not above, else for the narrowest."""
    return known[max((width for width in known if width <= bits), default=min(known))]
