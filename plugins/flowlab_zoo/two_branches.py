"""The module behind `flowlab_zoo.residual`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowlab.errors import OptionError

KERNEL, STRIDE = (3, 1), (2, 1)
SHORTEST = 15  # what three convolutions of 3 in steps of 2 leave one value of


class TwoBranchNetwork(nn.Module):
    """``(batch, channel, height, 1)`` -> ``(batch, outputs)``."""

    def __init__(self, shape: tuple[int, int, int], outputs: int, channels: Sequence[int], *, adds: bool) -> None:
        """``channels``: of the long branch's convolutions; the short branch makes as many as the last."""
        super().__init__()
        if shape[1] < SHORTEST:
            raise OptionError(f"two branches need {SHORTEST} values of a feature, and it has {shape[1]}")
        self.adds = adds
        self.norm = nn.BatchNorm2d(shape[0])
        counts = (shape[0], *channels)
        layers = [layer for pair in zip(counts, channels, strict=False) for layer in _conv(*pair)]
        self.long = nn.Sequential(*layers)
        self.short = nn.Sequential(*_conv(shape[0], channels[-1]))
        self.average = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Both branches from one norm."""
        x = self.norm(x)
        long, short = self.long(x), self.short(x)
        x = self.average(long) + self.average(short) if self.adds else self.average(torch.cat([long, short], dim=2))
        found: Tensor = self.fc(torch.flatten(x, 1))
        return found


def _conv(given: int, made: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(given, made, KERNEL, STRIDE), nn.BatchNorm2d(made), nn.ReLU()
