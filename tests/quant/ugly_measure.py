"""Measure a quantized network against its float one: class, error, equality with interpreter and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from quant.ugly_networks import data, parts
from torch import nn

from flowlab.compiler import interpreter
from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.ir import Graph
from flowlab.contracts import NumberFormat, Quantized, QuantizeJob
from flowlab.learn.trace import trace_module

AGREE, ERROR = 0.95, 0.12  # what "right" means at 8 bits


@dataclass(frozen=True)
class Measured:
    """The worst of a network's outputs: share of equal classes, relative L2 error; and whether integers are equal."""

    agree: float
    error: float
    equal: bool

    @property
    def right(self) -> bool:
        return self.agree >= AGREE and self.error <= ERROR and self.equal


def left_out_of(name: str) -> str:
    """The function at a network's end that the integer graph leaves out."""
    return next((each for each in ("log_softmax", "softmax") if each in name), "")


def job_of(module: nn.Module, shape: tuple[int, ...], format: NumberFormat, **changes: Any) -> QuantizeJob:
    values: dict[str, Any] = {
        "model": module,
        "graph": trace_module(module, shape).graph,
        "format": format,
        "weight_bits": 8,
        "activation_bits": 8,
        "calibration": canonical(data(shape).train[0][:256], shape),
        "fit": lambda network: {},
        "output_int": False,
        "scratch": Path("unused"),
        "seed": 0,
        "progress": lambda what, done: None,
    }
    return QuantizeJob(**{**values, **changes})


def canonical(features: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Windows in the graph's shape."""
    return features.reshape(len(features), *(shape if len(shape) != 2 else (*shape, 1))).numpy()


def fit_of(
    module: nn.Module, shape: tuple[int, ...], *, left_out: str = "", epochs: int = 4, rate: float = 1e-4
) -> Callable[[Any], dict[str, Any]]:
    """A short training on whole numbers, as a user writes it: Adam, towards the float network's outputs.

    Not towards the labels: that would move the network away from the float one, as it moves that one itself.
    """

    def fit(network: Any) -> dict[str, Any]:
        torch.manual_seed(0)
        windows, _ = data(shape).train
        features = torch.from_numpy(canonical(windows, shape))
        with torch.no_grad():
            wanted = [part.flatten(1) if part.ndim > 1 else part[:, None] for part in parts(module(windows))]
        optimizer = torch.optim.Adam(network.parameters(), rate)
        for epoch in range(epochs):
            network.begin_epoch(epoch, epochs)
            network.train()
            for batch in torch.randperm(len(features)).split(64):
                outputs = [_last(part, left_out).flatten(1) for part in parts(network(features[batch]))]
                pairs = zip(outputs, wanted, strict=True)
                loss = torch.stack([(a - b[batch]).square().mean() / b.square().mean() for a, b in pairs]).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        network.eval()
        return {}

    return fit


def _last(output: torch.Tensor, left_out: str) -> torch.Tensor:
    """An output behind the function that the integer graph leaves out."""
    return getattr(torch, left_out)(output, 1) if left_out else output


def measure(
    module: nn.Module, shape: tuple[int, ...], quantized: Quantized, left_out: str = "", count: int = 300
) -> Measured:
    """Of one network on some windows; ``left_out``: what the integer graph leaves to whoever reads its outputs."""
    windows = data(shape).test[:count]
    features = canonical(windows, shape)
    with torch.no_grad():
        expected = [each.numpy() for each in parts(module(windows))]
        assert quantized.module is not None
        found = [each.numpy() for each in parts(quantized.module(torch.from_numpy(features)))]
    equal = same_integers(quantized.graph, features, found)
    found = [_last(torch.from_numpy(each), left_out).numpy() for each in found]
    pairs = [(e.reshape(len(e), -1), f.reshape(len(f), -1)) for e, f in zip(expected, found, strict=True)]
    agree = min(float((e.argmax(1) == f.argmax(1)).mean()) for e, f in pairs)
    error = max(float(np.linalg.norm(f - e) / np.linalg.norm(e)) for e, f in pairs)
    return Measured(agree, error, equal)


def same_integers(graph: Graph, features: np.ndarray, found: list[np.ndarray]) -> bool:
    """Whether interpreter and ONNX Runtime give what the converted module gives."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(export_onnx(graph), options, providers=["CPUExecutionProvider"])
    runtime = session.run(list(graph.outputs), {"input": features})
    written = interpreter.outputs(graph, features)
    return all(
        np.array_equal(written[name], value) and np.array_equal(np.asarray(other), value)
        for name, value, other in zip(graph.outputs, found, runtime, strict=True)
    )
