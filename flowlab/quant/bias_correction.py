"""Move each bias by a part of what quantization does to the layer's mean, on calibration windows."""

from __future__ import annotations

import torch
from torch import Tensor

from flowlab.quant.fake_network import FakeQuantized
from flowlab.quant.real_value import real_values
from flowlab.quant.steps import LayerStep, value_of


def correct_biases(network: FakeQuantized, windows: Tensor, factor: float) -> None:
    """Layer by layer, from the input on: each sees the layers before it corrected.

    Args:
        network: changed in place: the bias of a layer, or the one of the norm behind it.
        windows: float32 (window, ...), as the network takes them.
        factor: the part of the mean difference between the real values and the integers' that is added, 0 to 1.
    """
    network.eval()
    with torch.no_grad():
        real = real_values(network.plan, windows.double())
        for step, part in zip(network.plan.steps, network.parts, strict=True):
            if not isinstance(step, LayerStep):
                continue
            name = value_of(step)
            whole = network.values(windows)[name].double() * network.scales.scale[name]
            missing = (real[name] - whole).transpose(0, 1).flatten(1).mean(1)
            bias = part.bias if part.beta is None else part.beta
            assert isinstance(bias, Tensor)
            bias += factor * missing.to(bias.dtype)
