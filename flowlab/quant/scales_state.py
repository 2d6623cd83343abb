"""Scales as plain values and tensors, so that a state dict can carry them and torch can load them without code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from flowlab.quant.calibrate import Scales
from flowlab.quant.observe import InputNumbers, LayerScales
from flowlab.quant.sharing import apart
from flowlab.quant.steps import Steps


def to_plain(scales: Scales) -> dict[str, Any]:
    """Numbers, tuples and tensors; the steps themselves are not among them."""
    return {
        "scale": dict(scales.scale),
        "range": dict(scales.range),
        "sums": dict(scales.sums),
        "sizes": dict(scales.sizes),
        "layers": {
            name: (each.output, _tensor(each.weight), _tensor(each.multiplier), _tensor(each.shift))
            for name, each in scales.layers.items()
        },
        "inputs": {
            name: (_tensor(each.bias), _tensor(each.multiplier), _tensor(each.shift))
            for name, each in scales.inputs.items()
        },
    }


def from_plain(plain: Mapping[str, Any], steps: Steps) -> Scales:
    """The scales again, for the steps of the same network."""
    found = Scales(
        scale={name: float(value) for name, value in plain["scale"].items()},
        range={name: (int(low), int(high)) for name, (low, high) in plain["range"].items()},
        sums={name: (int(first), int(second)) for name, (first, second) in plain["sums"].items()},
        sizes={name: float(value) for name, value in plain["sizes"].items()},
        layers={
            name: LayerScales(float(output), *(part.numpy().copy() for part in parts))
            for name, (output, *parts) in plain["layers"].items()
        },
        inputs={
            name: InputNumbers(*(part.numpy().copy() for part in parts)) for name, parts in plain["inputs"].items()
        },
    )
    return replace(found, steps=apart(steps, found.sizes))


def _tensor(values: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(np.array(values))
