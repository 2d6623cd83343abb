"""Activations by name, as torch functions on real values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, sigmoid, tanh

from flowlab.compiler.ir import Attribute

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda value: value * 1.0,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "silu": F.silu,
    "gelu": F.gelu,
    "mish": F.mish,
    "elu": F.elu,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "leaky_relu": F.leaky_relu,
}
CLIPS: dict[str, tuple[float, float]] = {  # activations that are nothing but a clip
    "relu": (0.0, float("inf")),
    "relu6": (0.0, 6.0),
    "hardtanh": (-1.0, 1.0),
}
NEVER_NEGATIVE = ("relu", "relu6", "sigmoid", "softplus", "hardsigmoid")


def activate(function: str, attributes: Mapping[str, Attribute], value: Tensor) -> Tensor:
    """Apply an activation by name.

    Args:
        attributes: ``alpha``, the slope of a leaky ReLU or the ELU's scale; ``low`` and ``high``, limits of a clip.
    """
    if function == "hardtanh" and attributes.keys() & {"low", "high"}:
        low, high = (float(attributes.get(key, limit)) for key, limit in (("low", -1.0), ("high", 1.0)))  # type: ignore[arg-type]
        return F.hardtanh(value, low, high)
    alpha = attributes.get("alpha")
    if function == "leaky_relu" and alpha is not None:
        return F.leaky_relu(value, float(alpha))  # type: ignore[arg-type]
    if function == "elu" and alpha is not None:
        return F.elu(value, float(alpha))  # type: ignore[arg-type]
    return ACTIVATIONS[function](value)
