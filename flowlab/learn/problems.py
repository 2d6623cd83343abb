"""What is learned: head, loss and metric as values, so that one loop serves every problem.

Light: torch is imported by the losses, so that stages which only count with numpy can use the metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowlab.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Problem:
    """One kind of problem.

    Args:
        name: as models name it in ``Model.problems``.
        outputs: width of the network's head, from the classes (or targets) of the data.
        loss: (outputs ``(batch, width)``, targets ``(batch,)``) -> a scalar tensor, the mean over the batch.
        metric: which of ``measure``'s numbers chooses the best epoch.
        higher_is_better: the direction of ``metric``.
        measure: (outputs ``(N, width)`` floats or integers, targets ``(N,)``) -> numbers by name.
        chance: (targets ``(N,)``) -> the value of ``metric`` up to which a network has shown nothing.
        likeness: (outputs, a teacher's outputs, temperature) -> a scalar tensor, 0 where they say the same.
    """

    name: str
    outputs: Callable[[Sequence[str]], int]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    metric: str
    higher_is_better: bool
    measure: Callable[[NDArray[np.generic], NDArray[np.int64]], dict[str, float]]
    chance: Callable[[NDArray[np.int64]], float]
    likeness: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]

    def at_least_as_good(self, new: float, old: float) -> bool:
        """True where ``new`` takes the place of ``old``: better, or equal (the later epoch has trained longer)."""
        return new >= old if self.higher_is_better else new <= old


def cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean cross entropy of logits ``(batch, class)``; no smoothing, no class weights.

    Raises:
        DataError: for a label that is none of the classes.
    """
    import torch.nn.functional as F

    wrong = targets[(targets < 0) | (targets >= outputs.shape[1])]
    if len(wrong):
        raise DataError(f"label {int(wrong[0])}: the network has {outputs.shape[1]} classes, counted from 0")
    return F.cross_entropy(outputs, targets)


def soft_cross_entropy(outputs: torch.Tensor, taught: torch.Tensor, temperature: float) -> torch.Tensor:
    """The divergence from a teacher's softened probabilities, times the temperature's square: a gradient of usual size.

    Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, section 2.
    """
    import torch.nn.functional as F

    said, meant = (F.log_softmax(logits / temperature, dim=1) for logits in (outputs, taught))
    return temperature**2 * F.kl_div(said, meant, reduction="batchmean", log_target=True)


def classify(outputs: NDArray[np.generic], targets: NDArray[np.int64]) -> dict[str, float]:
    """``accuracy``: the share of rows whose largest output is the target's; the first of equal ones counts."""
    return {"accuracy": float((outputs.argmax(axis=1) == targets).mean()) if len(targets) else 0.0}


def majority(targets: NDArray[np.int64]) -> float:
    """What a network that always says one class can reach: the largest share and two standard errors above it."""
    import numpy as np

    share = float(np.bincount(targets).max() / len(targets))
    return float(share + 2 * np.sqrt(share * (1 - share) / len(targets)))


def confusion(outputs: NDArray[np.generic], targets: NDArray[np.int64], classes: int) -> list[list[int]]:
    """Counts by true class (rows) and by the class of the largest output (columns)."""
    import numpy as np

    flat = np.bincount(targets * classes + outputs.argmax(axis=1), minlength=classes * classes)
    return [[int(count) for count in row] for row in flat.reshape(classes, classes)]


PROBLEMS: dict[str, Problem] = {
    "classification": Problem(
        name="classification",
        outputs=len,
        loss=cross_entropy,
        metric="accuracy",
        higher_is_better=True,
        measure=classify,
        chance=majority,
        likeness=soft_cross_entropy,
    ),
}
