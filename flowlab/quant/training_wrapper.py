"""The wrapper of quantization-aware training: when scales are chosen, norms frozen, and epochs over."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from flowlab.contracts import Quantized
from flowlab.errors import QuantizationError
from flowlab.quant.epochs import norm_epochs, whole
from flowlab.quant.fake_network import FakeQuantized
from flowlab.quant.integer_network import check_finite
from flowlab.quant.ptq import convert
from flowlab.quant.reservoir import Reservoir
from flowlab.quant.wrapped import FEWEST, exactly
from flowlab.quant.wrapper import Wrapper


class TrainingWrapper(Wrapper):
    """Quantization-aware training in a loop of the user's own.

    The first batches choose the scales (until `FEWEST` windows are kept the network is still a float one), and while
    training has not settled they are chosen again after 2, 4, 8, ... steps where a value's range has doubled or halved.
    An epoch is over when ``train()`` follows ``eval()``, when `epoch_end` is called, or after ``steps_per_epoch``
    batches; in a loop that does none of this, when its windows come again. In evaluation mode the outputs are those of
    the integers that would ship now, to the bit. A softmax at the network's end is no part of those; in training mode
    it is there, so that the loss stays what it was.
    """

    trains = True

    def forward(self, x: Tensor, *more: Any) -> Any:
        """(batch, ...) -> what the wrapped module gives, computed with the integers that ship."""
        with torch.autocast("cpu", enabled=False):
            return self._forward(self._checked(x, more))

    def _forward(self, x: Tensor) -> Any:
        if self.training:
            self._before_step(x)
        else:
            self._follow()
            self._pause()
            if self.network is None and self.begun:
                self._calibrate()  # from the few windows that came
            elif self.network is None:
                self._look(x)
        assert self.border is not None
        if self.network is None:
            return self.module(x)
        network = self.network if self.training else self._shipping()
        found = network(self.border.inside(x))
        if self.training and isinstance(found, Tensor):
            found = self._taught(x, found)
        return self.border.outside(found, ended=self.training)

    def _look(self, x: Tensor) -> None:
        """A loop that only calibrates, or that evaluates before it trains."""
        if not self.reservoir.seen:
            warnings.warn(
                "evaluated before a batch came in training mode: these outputs are the float network's, and the "
                "windows choose the scales if nothing is trained",
                stacklevel=6,
            )
        self._observe(x)

    def _before_step(self, x: Tensor) -> None:
        check_finite(x)
        self.copied = False
        if not self.begun:
            self.begun = True
            self.reservoir = Reservoir(self.reservoir.count, self.seed)  # what was evaluated is no training data
        if not self._settled:
            with exactly():
                self.reservoir.add(x)
        if torch.is_grad_enabled():
            self._before_training()
            if self.epochs.unknown and self.recurrence.again(x):
                first = self.recurrence.first
                self.epochs.come_again(first, self.recurrence.batches - 1 - first)
                self.recurrence.forget()
                self._say(f"windows come again: an epoch is {first} batches")
            self.epochs.step()
            self._keep_schedule()
        if self.network is None:
            if len(self.reservoir) >= min(FEWEST, self.reservoir.count):
                self._calibrate()
        elif not self._settled and _is_power_of_two(self.epochs.steps):
            self._calibrate()

    def _before_training(self) -> None:
        """The weights are those behind the last step: an epoch's end, perhaps."""
        versions = self._versions()
        if not self.norms_frozen:
            self.averaged_at = self.epochs.done, self.epochs.steps + 1  # what is trained with live norms has no part
        elif self.writes.by_others(versions):
            self._begin_average()
        elif self.epochs.done > self.averaged_at[0]:
            self._add_to_average()
        self.writes.batch(versions)

    def _pause(self) -> None:
        """The weights are those that training would end with."""
        versions = self._versions()
        if self.writes.by_others(versions):
            self._begin_average()
        elif self.norms_frozen:
            self._add_to_average()
        self.writes.seen(versions)

    def _add_to_average(self) -> None:
        trained = self.epochs.steps > self.averaged_at[1]
        if not self.average.fits(self.module, trained=trained):
            self._begin_average()
        elif trained and self.averages and self.network is not None:
            with exactly():
                self.average.add(self.module)
            self._hold_average(self.average)
        self.averaged_at = self.epochs.done, self.epochs.steps

    @property
    def _settled(self) -> bool:
        """Whether scales stay as they are."""
        late = self.observe_until is not None and self.network is not None and self.epochs.done >= self.observe_until
        return self.network is not None and (self.scales_frozen or self.norms_frozen or late)

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation; training after evaluation begins another epoch."""
        if mode and not self.training:
            self.epochs.trains_again()
            self._keep_schedule()
        super().train(mode)
        return self

    def epoch_end(self) -> None:
        """Say that an epoch is over, in a loop that never evaluates; what ``train()`` says is then not counted."""
        self.epochs.end()
        self._keep_schedule()

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Say where the loop stands, as flowlab's own does; ``epoch`` counts from 0."""
        epoch, epochs = whole("epoch", epoch), whole("epochs", epochs)
        self.norms_until = norm_epochs(self.norms_asked, epochs)
        self.epochs.begin(epoch, epochs)
        self._keep_schedule()

    def _keep_schedule(self) -> None:
        if self.norms_until is not None and self.epochs.done >= self.norms_until and not self.norms_frozen:
            self._say(f"batch norm is frozen after {self.epochs.done} epochs")
            self.norms_frozen = True
            if self.network is not None:
                self.network.finish()

    def _converted(self, output_int: bool) -> Quantized:
        self._follow()
        if self.network is None:
            self._calibrate()
        said = self._unfinished()
        other, network = self._copy_that_ships()
        for name, value in (*other.named_parameters(), *network.named_parameters()):
            if not bool(torch.isfinite(value).all()):
                raise QuantizationError(f"quantization-aware training: '{name}' became NaN. Lower the learning rate.")
        network.finish()
        found = convert(other._job(other._windows(), output_int), network.eval(), self.quantizer)
        return replace(found, warnings=(*found.warnings, *said))

    def _measured(self) -> FakeQuantized:
        return self._copy_that_ships()[1]

    def _copy_that_ships(self) -> tuple[Self, FakeQuantized]:
        """A copy, folded again from the weights as they are now, and its integers as evaluation has them."""
        if self.writes.by_others(self._versions()):  # a copy would not know
            self._begin_average()
        other = copy.deepcopy(self)
        if other.network is None:
            other._calibrate()
        other._pause()
        return other, other._shipping()

    def _unfinished(self) -> list[str]:
        """Sentences on a schedule that never came to its end, and on weights that nobody trained."""
        said, epochs = [], self.epochs
        seen = epochs.done + (not self.training and epochs.in_epoch > 0)  # evaluation behind the last epoch ends it
        if self.observe_until is not None and not self.scales_frozen and seen < self.observe_until:
            said.append(
                f"the loop was seen to end {seen} epochs in {epochs.steps} steps, so scales, to stay after "
                f"{self.observe_until}, followed to the end. Call eval() and train() in every epoch, or epoch_end(), "
                "or give steps_per_epoch"
            )
        if self.norms_until is not None and not self.norms_frozen and seen < self.norms_until:
            said.append(
                f"the loop was seen to end {epochs.done} of {epochs.total} epochs in {epochs.steps} steps, so batch "
                f"norm, to be frozen after {self.norms_until}, is frozen only now. Call eval() and train() in every "
                "epoch, or epoch_end(), or give steps_per_epoch"
            )
        if self._digest() == self.untouched:
            count = sum(value.numel() for value in self.module.parameters())
            said.append(
                f"0 of {count} weights changed since wrapping: the optimizer trains another copy, or nothing was "
                "trained. Make it of the wrapper's parameters()"
            )
        return said


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
