"""What every step computes on real values: the reference of calibration and of fidelity."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from flowlab.quant.activation import activate
from flowlab.quant.convolve import convolve, pad
from flowlab.quant.steps import (
    AddStep,
    AverageStep,
    ConcatStep,
    FlattenStep,
    InputStep,
    LayerStep,
    MultiplyStep,
    PoolStep,
    ReshapeStep,
    Step,
    Steps,
    TakeStep,
    sources_of,
    value_of,
)


def real_values(steps: Steps, features: Tensor) -> dict[str, Tensor]:
    """Every value of a network on real features (window, ...), by name, in the features' dtype; the input too."""
    values = {steps.input: features}
    for step in steps.steps:
        values[value_of(step)] = real_value(step, *(values[source] for source in sources_of(step)))
    return values


def real_value(step: Step, *inputs: Tensor) -> Tensor:  # noqa: PLR0911 - a table of kinds
    """What a step computes on real values, in their dtype; a batch first."""
    x = inputs[0]
    if isinstance(step, InputStep):
        return (x + _channels(step.bias, x)) * _channels(step.factor, x)
    if isinstance(step, LayerStep):
        weight, bias = torch.from_numpy(step.weight).to(x), torch.from_numpy(step.bias).to(x)
        result = (
            convolve(x, weight, step.geometry) + _channels(step.bias, x) if step.geometry else F.linear(x, weight, bias)
        )
        return result.clamp(*step.clip)
    if isinstance(step, AverageStep):
        return x.mean(dim=(2, 3), keepdim=True).clamp(*step.clip)
    if isinstance(step, AddStep):
        return (x + inputs[1]).clamp(*step.clip)
    if isinstance(step, MultiplyStep):
        return (x * inputs[1]).clamp(*step.clip)
    if isinstance(step, ConcatStep):
        return torch.cat(inputs, dim=1)
    if isinstance(step, PoolStep):
        return F.max_pool2d(pad(x, step.padding, -torch.inf), step.kernel, step.stride)
    return (
        _moved(step, x)
        if isinstance(step, FlattenStep | ReshapeStep | TakeStep)
        else activate(step.function, step.attributes, x)
    )


def _moved(step: FlattenStep | ReshapeStep | TakeStep, x: Tensor) -> Tensor:
    if isinstance(step, TakeStep):
        return take(x, torch.from_numpy(step.index), step.shape)
    return x.reshape(len(x), *step.shape)


def take(x: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Elements of each window by their number, 0 for -1."""
    flat = F.pad(x.reshape(len(x), -1), (0, 1))  # -1 is the last one, which is 0
    return flat[:, index.long()].reshape(len(x), *shape)


def _channels(values: NDArray[np.float64], like: Tensor) -> Tensor:
    """One value a channel, shaped to broadcast over a batch like ``like``."""
    return torch.from_numpy(values).to(like).reshape((1, -1) + (1,) * (like.ndim - 2))


def samples_of(values: Mapping[str, Tensor], names: list[str]) -> dict[str, NDArray[np.float64]]:
    """Some of the numbers of each value, evenly taken."""
    from flowlab.quant.observe import sample

    return {name: sample(values[name].numpy()) for name in names}
