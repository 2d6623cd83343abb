"""An integer network that trains a module's own parameters: which ones they are, and the statistics of its norms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from flowlab.compiler.ir import Graph
from flowlab.quant.fake_network import FakeQuantized
from flowlab.quant.steps import InputStep, Steps

TRAINED = ("weight", "bias")  # of a node's constants


class Trace(Protocol):
    """What is known of a module, as a tracer says it."""

    @property
    def graph(self) -> Graph:
        """The float graph."""
        ...

    @property
    def modules(self) -> Mapping[str, str]:
        """Node -> the path of its module."""
        ...

    @property
    def views(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """Node -> from the module's weight to the node's."""
        ...

    @property
    def structure(self) -> str:
        """What forward returns: ``tensor``, ``tuple``, ``list`` or ``dict``."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the graph leaves out."""
        ...

    @property
    def endings(self) -> Mapping[str, tuple[str, int] | None]:
        """Output -> the softmax at its end that the graph leaves out; None where numbers are moved behind it."""
        ...


def shared_parameters(module: nn.Module, traced: Trace) -> dict[str, nn.Parameter]:
    """The module's parameters by the node's constant, where the constant is nothing but the parameter."""
    found = {}
    for node in traced.graph.nodes:
        if node.name not in traced.modules:
            continue
        layer = module.get_submodule(traced.modules[node.name])
        for key in TRAINED:
            value, constant = getattr(layer, key, None), node.constants.get(key)
            if not isinstance(value, nn.Parameter) or constant is None:
                continue
            view = traced.views.get(node.name) if key == "weight" else None
            with torch.no_grad():
                seen = (value if view is None else view(value)).numpy()
            if seen.shape == constant.shape and np.array_equal(seen, constant, equal_nan=True):
                found[f"{node.name}.{key}"] = value
    return found


def freeze_others(network: FakeQuantized, module: nn.Module) -> None:
    """Parameters that are not the module's are not trained: an optimizer that was made before does not know them."""
    theirs = {id(value) for value in module.parameters()}
    for value in network.parameters():
        if id(value) not in theirs:
            value.requires_grad_(False)


def untrained(network: FakeQuantized, module: nn.Module, steps: Steps, traced: Trace) -> list[str]:
    """The module's parameters that the network does not share, but for the input's norm, which stays as it is."""
    used = {id(value) for value in network.parameters()}
    at_input = any(isinstance(step, InputStep) for step in steps.steps)
    leading = {traced.modules.get(node.name) for node in traced.graph.nodes if node.inputs == (steps.input,)}
    return [
        name
        for name, value in module.named_parameters()
        if id(value) not in used and not (at_input and name.rpartition(".")[0] in leading)
    ]


def share_statistics(network: FakeQuantized, module: nn.Module, traced_modules: Mapping[str, str]) -> None:
    """Let the network's norms gather their statistics in the module's own buffers."""
    for part in network.layers():
        norm = None if part.step.raw is None else part.step.raw.norm
        if norm is None or norm.name not in traced_modules:
            continue
        layer = module.get_submodule(traced_modules[norm.name])
        mean, variance = getattr(layer, "running_mean", None), getattr(layer, "running_var", None)
        if isinstance(mean, Tensor) and isinstance(variance, Tensor) and mean.shape == part.mean.shape:
            part.mean, part.variance = mean, variance
