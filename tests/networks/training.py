"""Train a small network on tones, and ask for its quantization."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from flowlab.contracts import QuantizeJob
from flowlab.learn.loop import FitData, FitSettings, fit
from flowlab.learn.trace import float_graph
from flowlab_tinpu.number_format import NPU

from . import rule_breaker
from .tones import tones


@cache
def data() -> FitData:
    features, labels = tones(600, 1)
    return FitData(features[:400], labels[:400], features[400:], labels[400:])


def settings(**changes: Any) -> FitSettings:
    values: dict[str, Any] = {"epochs": 4, "batch_size": 32, "learning_rate": 0.02}
    return FitSettings(**{**values, **changes})


@cache
def _trained(activation: type[nn.Module]) -> nn.Module:
    module = rule_breaker.build(activation=activation)
    fit(module, data(), settings())
    return module


def trained(activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    """A fresh copy of the small network, trained once."""
    return copy.deepcopy(_trained(activation))


def quantize_job(module: nn.Module, shape: tuple[int, int, int] = rule_breaker.SHAPE, **changes: Any) -> QuantizeJob:
    """A job as the stage makes it; ``features`` instead of the tones, ``epochs`` and ``learning_rate`` for the fit."""
    epochs, rate = changes.pop("epochs", 3), changes.pop("learning_rate", 0.002)
    values: dict[str, Any] = {
        "model": copy.deepcopy(module),
        "graph": float_graph(module, shape),
        "format": NPU,
        "weight_bits": 8,
        "activation_bits": 8,
        "calibration": np.array(data().train_features[:256]),
        "fit": lambda network: fit(network, data(), settings(epochs=epochs, learning_rate=rate, warmup_epochs=0)),
        "output_int": True,
        "scratch": Path("unused"),
        "seed": 0,
        "progress": lambda what, done: None,
    }
    return QuantizeJob(**{**values, **changes})


def outputs(module: nn.Module, features: np.ndarray) -> np.ndarray:
    """What a module gives, without gradients."""
    with torch.no_grad():
        return module(torch.from_numpy(np.array(features))).numpy()
