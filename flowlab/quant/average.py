"""What ships of a loop whose rate never falls: an average of the weights over the epochs since norms were frozen.

Weights of few bits go on jumping between two integers for as long as they are trained. In an average over epochs they
lie where they were most of the time; its norms then need the statistics that these weights have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

RECENT = 3  # of t epochs the last one counts 4 / (t + 3): early ones are forgotten
FAR = 4.0  # times as far as between any two epochs before, no training moves a weight


@dataclass
class Average:
    """Weights by name, over the ends of ``count`` epochs; the later ones count more (polynomial decay).

    ``last`` are those of the last epoch's end, and ``farthest`` is how far any weight of a parameter moved between two.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    last: Mapping[str, Tensor] = field(default_factory=dict)
    farthest: Mapping[str, float] = field(default_factory=dict)
    count: int = 0

    def add(self, module: nn.Module) -> None:
        """Another epoch has ended."""
        now = {name: value.detach().clone() for name, value in module.named_parameters()}
        self.count += 1
        if self.count == 1:
            self.weights, self.last, self.farthest = now, now, dict.fromkeys(now, 0.0)
            return
        share = (RECENT + 1) / (self.count + RECENT)
        self.weights = {name: torch.lerp(self.weights[name], value, share) for name, value in now.items()}
        self.farthest = {name: max(self.farthest[name], _far(self.last[name], value)) for name, value in now.items()}
        self.last = now

    def fits(self, module: nn.Module, *, trained: bool) -> bool:
        """Whether the module's weights can be what training made of the last ones; ``trained``: whether it went on.

        Other weights may have been put in place: those of a file, a filter set to zero.
        """
        return not self.count or all(
            name in self.last and self._near(name, value.detach(), trained) for name, value in module.named_parameters()
        )

    def _near(self, name: str, value: Tensor, trained: bool) -> bool:
        last = self.last[name]
        if not trained:
            return torch.equal(value, last)
        return value.shape == last.shape and (self.count == 1 or _far(last, value) <= FAR * self.farthest[name])

    def write(self, module: nn.Module) -> None:
        """Give the weights to a module."""
        with torch.no_grad():
            for name, value in module.named_parameters():
                value.copy_(self.weights[name])


@dataclass
class Writes:
    """Tells a training's own steps from whatever else writes to the weights, by how often they are written to.

    What came between two batches before is a step; more than the most of it, or anything where no step was due, is
    somebody else's.
    """

    last: int
    most: int | None = None  # before two batches nothing is known
    due: bool = False

    def batch(self, versions: int) -> None:
        """A batch is trained on."""
        if self.due:
            self.most = max(self.most or 0, versions - self.last)
        self.last, self.due = versions, True

    def seen(self, versions: int) -> None:
        """The weights were taken as they are, and no step is due."""
        self.last, self.due = versions, False

    def by_others(self, versions: int) -> bool:
        """Whether somebody else wrote since the last batch, or since they were seen."""
        if self.due and self.most is None:
            return False
        return not 0 <= versions - self.last <= (self.most or 0) * self.due


def _far(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max()) if one.numel() else 0.0
