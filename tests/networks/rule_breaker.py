"""The small network that does what the example does not: it breaks rules, needs padding, and has a CPU layer.

5 channels (no multiple of 4), a stride of 3 (which the accelerator lacks), an activation without a clip, and a fully
connected layer with 8 inputs (16 is the least).
"""

from __future__ import annotations

import torch
from torch import nn

SHAPE = (1, 96, 1)
CLASSES = 3


def build(seed: int = 0, activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    """(batch, 1, 96, 1) -> (batch, 3), untrained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.BatchNorm2d(1),
            nn.Conv2d(1, 5, (5, 1), (3, 1), (2, 0)),
            nn.BatchNorm2d(5),
            nn.ReLU(),
            nn.MaxPool2d((3, 1), (2, 1), (1, 0)),
            nn.Conv2d(5, 8, (3, 1), (1, 1), (1, 0)),
            nn.BatchNorm2d(8),
            activation(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, CLASSES),
        )
