"""The learning rate of each epoch, as a function: a resumed training needs no scheduler's state."""

from __future__ import annotations

import math
from collections.abc import Callable

from flowlab.errors import OptionError, unknown_name

WARMUP_FACTOR = 0.01  # the vendor's toolchain trains its warm-up epochs at a hundredth of the rate
STEP_EPOCHS, DECAY = 30, 0.1  # its steplr; exponentiallr decays by the same factor each epoch

SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "cosineannealinglr": lambda epoch, epochs: (1 + math.cos(math.pi * epoch / epochs)) / 2,
    "steplr": lambda epoch, epochs: float(DECAY ** (epoch // STEP_EPOCHS)),
    "exponentiallr": lambda epoch, epochs: float(DECAY**epoch),
    "constantlr": lambda epoch, epochs: 1.0,
    "none": lambda epoch, epochs: 1.0,
}


def learning_rate(base: float, epoch: int, epochs: int, scheduler: str, warmup_epochs: int) -> float:
    """The rate of one epoch: a hundredth of ``base`` while warming up, then ``base`` times the schedule's factor.

    Args:
        base: the rate that the config asks for.
        epoch: counted from 0.
        epochs: how many there are; where they are not more than ``warmup_epochs``, there is no warm-up.
        scheduler: a name in `SCHEDULES`, in any case; the cosine reaches 0 one epoch after the last.
        warmup_epochs: how many epochs at the hundredth.

    Raises:
        OptionError: for an unknown name.
    """
    factor = SCHEDULES.get(scheduler.lower())
    if factor is None:
        raise OptionError(f"training.lr_scheduler: {unknown_name('schedule', scheduler, SCHEDULES)}")
    warmup = warmup_epochs if epochs > warmup_epochs else 0
    if epoch < warmup:
        return base * WARMUP_FACTOR
    return base * factor(epoch - warmup, epochs - warmup)
