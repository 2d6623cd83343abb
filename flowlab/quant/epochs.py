"""Counting the epochs of a training loop that is not ours, and when its norms and scales are frozen."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from numbers import Integral

from torch import Tensor

from flowlab.errors import OptionError

MOST_KNOWN = 1 << 20  # windows of one epoch
SEEN_BEFORE = 0.9  # of a batch's windows
ENOUGH = 32  # windows in a row that have come again
FEW = 3  # epochs: with so few nothing is frozen before the last step


@dataclass
class Epochs:
    """What a wrapper sees of a loop: steps, and the changes between training and evaluation.

    An epoch ends when training follows evaluation, or when `end` is called, or after ``per_epoch`` steps; the first
    of them that is used is the one that counts. One without a step counts nothing. Where none of them is used, the
    first epoch has ended when windows come again, and the others are as long.
    """

    total: int
    per_epoch: int | None = None
    done: int = 0
    steps: int = 0
    in_epoch: int = 0
    told: bool = False
    followed: bool = False  # an epoch has ended because training followed evaluation

    def step(self) -> None:
        """One batch was trained on."""
        self.steps += 1
        self.in_epoch += 1
        if self.per_epoch is not None and self.in_epoch >= self.per_epoch:
            self._end()

    @property
    def unknown(self) -> bool:
        """Whether nothing has said yet when an epoch ends."""
        return self.per_epoch is None and not self.told and not self.followed

    def come_again(self, steps: int, since: int) -> None:
        """Windows come again after so many steps, ``since`` of which have been taken in the second epoch."""
        self.per_epoch = steps
        if self.in_epoch:
            self.done, self.in_epoch = self.done + 1, since

    def end(self) -> None:
        """The loop says that an epoch is over."""
        self.told = True
        self._end()

    def trains_again(self) -> None:
        """Training follows evaluation."""
        if self.per_epoch is None and not self.told:
            self.followed |= self.in_epoch > 0
            self._end()

    def begin(self, epoch: int, total: int) -> None:
        """The loop says where it stands; ``epoch`` counts from 0."""
        self.told, self.done, self.total, self.in_epoch = True, epoch, total, 0

    def _end(self) -> None:
        if self.in_epoch:
            self.done += 1
            self.in_epoch = 0


class Recurrence:
    """Tells when a loop has begun its second epoch: by windows that have nearly all been there before.

    A batch that is fed several times in a row (a closure, a step in two passes) is no other epoch. A loop that changes
    its windows every time (noise, shifts) never has one, and after `MOST_KNOWN` windows none is looked for any longer.
    """

    def __init__(self) -> None:
        self.known: set[int] = set()
        self.batches = 0
        self.first = 0  # the batch with which windows began to come again
        self.streak = 0  # how many have come again since
        self.last: list[int] = []

    def again(self, x: Tensor) -> bool:
        """Whether the second epoch has begun, (window, ...); `first` is then its first batch, counted from 0."""
        if len(self.known) >= MOST_KNOWN:
            return False
        found = [zlib.crc32(window.tobytes()) for window in x.detach().contiguous().numpy()]
        at, self.batches = self.batches, self.batches + 1
        if found == self.last:
            return False
        self.last = found
        if at and sum(one in self.known for one in found) >= SEEN_BEFORE * len(found):
            self.first = self.first if self.streak else at
            self.streak += len(found)
            return self.streak >= min(ENOUGH, len(self.known))
        self.streak = 0
        self.known.update(found)
        return False

    def forget(self) -> None:
        """What is no longer needed."""
        self.known, self.last = set(), []


def norm_epochs(asked: bool | int | None, total: int) -> int | None:
    """After how many epochs batch norm is frozen; None: not before the end.

    Raises:
        OptionError: for anything but None (the midpoint), False (never) and a number of epochs.
    """
    if asked is None:
        return None if total <= FEW else total // 2
    return _number("num_batch_norm_update_epochs", asked, "None (the midpoint), False (never)")


def observer_epochs(asked: bool | int | None) -> int | None:
    """After how many epochs scales stay as they are; None: whenever training has settled.

    Raises:
        OptionError: for anything but False (or None) and a number of epochs.
    """
    return None if asked is None else _number("num_observer_update_epochs", asked, "False (never)")


def _number(name: str, asked: object, others: str) -> int | None:
    if asked is False:
        return None
    if isinstance(asked, bool) or not isinstance(asked, Integral) or asked < 0:
        raise OptionError(f"{name}: {asked!r} is none of {others} and a number of epochs, 0 or more")
    return int(asked)


def whole(name: str, value: object, least: int = 0) -> int:
    """A whole number.

    Raises:
        OptionError: naming the argument, for anything else or less.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise OptionError(f"{name}: {value!r} is no whole number of {least} or more")
    return int(value)
