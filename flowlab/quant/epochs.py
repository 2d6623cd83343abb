"""Counting the epochs of a training loop that is not ours, and when its norms and scales are frozen."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from torch import Tensor

from flowlab.errors import OptionError

MOST_KNOWN = 1 << 20  # windows of one epoch
SEEN_BEFORE = 0.9  # of a batch's windows
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

    def step(self) -> None:
        """One batch was trained on."""
        self.steps += 1
        self.in_epoch += 1
        if self.per_epoch is not None and self.in_epoch >= self.per_epoch:
            self._end()

    @property
    def unknown(self) -> bool:
        """Whether nothing has said yet when an epoch ends."""
        return self.per_epoch is None and not self.told and not self.done

    def come_again(self, steps: int) -> None:
        """Windows come again after so many steps."""
        self.per_epoch = steps
        self._end()

    def end(self) -> None:
        """The loop says that an epoch is over."""
        self.told = True
        self._end()

    def trains_again(self) -> None:
        """Training follows evaluation."""
        if self.per_epoch is None and not self.told:
            self._end()

    def begin(self, epoch: int, total: int) -> None:
        """The loop says where it stands; ``epoch`` counts from 0."""
        self.told, self.done, self.total, self.in_epoch = True, epoch, total, 0

    def _end(self) -> None:
        if self.in_epoch:
            self.done += 1
            self.in_epoch = 0


class Recurrence:
    """Tells when a loop begins its second epoch: by a batch whose windows have nearly all been there before.

    A loop that changes its windows every time (noise, shifts) never has one, and after `MOST_KNOWN` windows it is not
    looked for any longer.
    """

    def __init__(self) -> None:
        self.known: set[int] = set()
        self.batches = 0

    def again(self, x: Tensor) -> bool:
        """Whether this batch is the second epoch's first; (window, ...)."""
        if len(self.known) >= MOST_KNOWN:
            return False
        found = [hash(window.tobytes()) for window in x.detach().contiguous().numpy()]
        if self.batches and sum(one in self.known for one in found) >= SEEN_BEFORE * len(found):
            return True
        self.known.update(found)
        self.batches += 1
        return False


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
