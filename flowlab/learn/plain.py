"""A float training as a user writes it, without any of our loop: what benchmarks divide by, and their float networks.

Eager torch, float32, plain SGD with a cosine, the layout as it comes, the last epoch's weights.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from flowlab.learn.determinism import seeded
from flowlab.learn.lengthwise import lengthwise


@dataclass(frozen=True)
class Recipe:
    """How: the rate falls along a cosine over the epochs. ``turned``: lay series along the width, for speed alone."""

    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.01
    weight_decay: float = 1e-3
    seed: int = 0
    turned: bool = False


def train_plain(
    module: torch.nn.Module, features: NDArray[np.float32], targets: NDArray[np.int64], recipe: Recipe
) -> list[float]:
    """Train a module in place on one thread; it ends in eval mode. Returns the CPU seconds of each epoch.

    Args:
        module: float32 ``(batch, channel, height, width)`` -> logits ``(batch, class)``.
        features: float32, ``(window, channel, height, width)``.
        targets: int64, ``(window,)``.
        recipe: how.
    """
    before, seconds = torch.from_numpy(np.require(features, requirements="W")), []
    laid = lengthwise(module, before) if recipe.turned else nullcontext((before,))
    with seeded(recipe.seed, 1), laid as (windows,):
        labels = torch.from_numpy(targets)
        optimizer = torch.optim.SGD(
            module.parameters(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
        for _ in range(recipe.epochs):
            start = time.process_time()
            module.train()
            for chosen in torch.split(torch.randperm(len(labels)), recipe.batch_size):
                if len(chosen) == 1:
                    continue  # one window has no variance
                optimizer.zero_grad()
                cross_entropy(module(windows[chosen]), labels[chosen]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            schedule.step()
            seconds.append(time.process_time() - start)
        module.eval()
    return seconds
