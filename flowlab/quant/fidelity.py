"""How far the whole numbers are from the real values of the same weights, layer by layer."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowlab.errors import QuantizationError
from flowlab.quant.fake_network import FakeQuantized
from flowlab.quant.real_value import real_values
from flowlab.quant.steps import value_of

MOST_WINDOWS = 128
RIGHT_ERROR = 0.12  # with full bits everywhere, what is farther off is not right


def errors(network: FakeQuantized, features: NDArray[np.float32]) -> dict[str, float]:
    """Relative error (L2) of every value against the float network that was folded; the trained one differs anyway.

    Args:
        features: float32 ``(window, channel, height, width)``; the first `MOST_WINDOWS` are used.
    """
    network.eval()
    x = torch.from_numpy(np.array(features[:MOST_WINDOWS]))
    found: dict[str, float] = {}
    with torch.no_grad():
        whole, real = network.values(x), real_values(network.plan, x.double())
    for step in network.plan.steps:
        name = value_of(step)
        size = float(real[name].norm())
        difference = float((whole[name].double() * network.scales.scale[name] - real[name]).norm())
        found[name] = difference / size if size else 0.0
    return found


def first_bad_layer(network: FakeQuantized, features: NDArray[np.float32], limit: float) -> str:
    """A sentence that names the first layer beyond the limit if an output is beyond it too; else an empty text."""
    found = errors(network, features)
    worst = max(found[value] for value in network.plan.outputs.values())
    if worst <= limit:
        return ""
    name = next((name for name, error in found.items() if not error <= limit), "the output")  # NaN is beyond it too
    return (
        f"{name}: THE QUANTIZED NETWORK IS FAR FROM THE FLOAT ONE: error {found.get(name, worst):.0%} of this layer's "
        f"values, {worst:.0%} of the output's"
    )


def differences(left: Tensor, right: Tensor) -> dict[str, float]:
    """Of real outputs and others: the largest, mean and relative (L2) difference, and the share of equal classes.

    Raises:
        QuantizationError: for different shapes.
    """
    if not isinstance(left, Tensor) or not isinstance(right, Tensor):
        raise QuantizationError("two tensors are compared; of a network with several outputs give one pair at a time")
    if left.shape != right.shape:
        raise QuantizationError(f"outputs of shapes {tuple(left.shape)} and {tuple(right.shape)} cannot be compared")
    real, other = left.detach().double(), right.detach().double()
    size = float(real.norm())
    found = {
        "largest": float((real - other).abs().max()),
        "mean": float((real - other).abs().mean()),
        "relative": float((real - other).norm()) / size if size else 0.0,
    }
    if left.ndim == 2 and left.shape[1] > 1:
        found["same_class"] = float((real.argmax(1) == other.argmax(1)).double().mean())
    return found
