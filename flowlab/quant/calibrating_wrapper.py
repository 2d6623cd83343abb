"""The wrapper of post-training quantization: the float network runs, and what is fed is sampled."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor

from flowlab.contracts import Quantized
from flowlab.quant.fake_network import FakeQuantized
from flowlab.quant.ptq import convert, post_training
from flowlab.quant.wrapper import Wrapper


class CalibratingWrapper(Wrapper):
    """Post-training quantization in a loop of the user's own: run the network on data, then convert.

    Every forward is the float network's, without gradients and in evaluation mode, whatever mode was asked for; what
    was fed is sampled until `convert`.
    """

    trains = False

    def forward(self, x: Tensor, *more: Any) -> Any:
        """(batch, ...) -> the float network's outputs; the windows are taken into the sample."""
        x = self._checked(x, more)
        if not self.scales_frozen:
            self._observe(x)
        self.module.eval()  # a new wrapper is in training mode, as every module
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return self.module(x)

    def train(self, mode: bool = True) -> Self:
        """Accepted; the network itself stays in evaluation mode, so that its norms stay as they were trained."""
        super().train(mode)
        self.module.eval()
        return self

    def _converted(self, output_int: bool) -> Quantized:
        other = self._calibrated() if self.bias_factor or self.bits.mixed else self
        if not self.bias_factor:
            return post_training(other._job(other._windows(), output_int), self.quantizer)
        return convert(other._job(other._windows(), output_int), other._measured(), self.quantizer)

    def _calibrated(self) -> CalibratingWrapper:
        other = copy.deepcopy(self)
        other._calibrate()
        return other

    def _measured(self) -> FakeQuantized:
        network = self.network or self._calibrated().network
        assert network is not None
        return network
