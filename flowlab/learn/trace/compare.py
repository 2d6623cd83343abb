"""The proof of a tracing: the graph's values are torch's, node by node, on random numbers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from flowlab.compiler import interpreter
from flowlab.compiler.ir import Graph
from flowlab.errors import GraphError
from flowlab.learn.trace.builder import Builder, View
from flowlab.learn.trace.record import BATCH

SIZE = 3.0  # of the numbers, so that clips clip
TOLERANCE = 1e-3  # of the largest; float32 sums in another order are far below


def compare(module: nn.Module, builder: Builder, graph: Graph) -> None:
    """Run module, record and graph on the same random windows.

    Raises:
        GraphError: naming the first node whose values differ, as a hook or a layer of another meaning makes them.
    """
    source = torch.Generator().manual_seed(0)
    features = torch.randn(BATCH, *builder.shape, generator=source) * SIZE
    with np.errstate(over="ignore", invalid="ignore"):
        values = interpreter.run(graph, features.numpy().reshape(BATCH, *graph.inputs[0].type.shape))
    results = _Results(builder.traced)
    with torch.no_grad():
        given = results.run(features.clone())
        expected = copy.deepcopy(module).eval()(features.clone())
    if not _alike(given, expected):
        raise GraphError(
            f"{type(module).__name__}.forward gives something else than its record: it depends on values, changes "
            "them in place, or draws numbers; write it without that"
        )
    beyond: set[fx.Node] = set()
    for node in builder.traced.graph.nodes:
        if node in builder.left_out or beyond.intersection(node.all_input_nodes):
            beyond.add(node)
            continue
        view, result = builder.env.get(node), results.found.get(node)
        if isinstance(view, View) and isinstance(result, Tensor) and view.value in values:
            _check(node, _seen(values[view.value], view), result.numpy())


class _Results(fx.Interpreter):
    """Every tensor as it was when its node gave it."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.found: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """As torch.fx's; a copy is kept."""
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.found[n] = result.detach().clone()
        return result


def _alike(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.shape == right.shape and torch.allclose(left, right, TOLERANCE, 1e-6, equal_nan=True)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_alike(left[key], right[key]) for key in left)
    if isinstance(left, (tuple, list)) and isinstance(right, (tuple, list)):
        return len(left) == len(right) and all(map(_alike, left, right))
    return bool(left == right)


def _seen(value: np.ndarray[Any, Any], view: View) -> np.ndarray[Any, Any]:
    flat = value.reshape(BATCH, -1)
    return np.where(view.index < 0, 0, flat[:, view.index])


def _check(node: fx.Node, found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    finite = np.isfinite(expected)
    room = TOLERANCE * float(np.abs(expected[finite]).max(initial=0.0)) + 1e-6
    if found.shape == expected.shape and bool((np.abs(found - expected)[finite] <= room).all()):
        return
    place = node.target if node.op == "call_module" else node.name
    raise GraphError(
        f"'{place}' computes something else than torch's layer or function of its kind: "
        "remove hooks from it, and write what they do into forward"
    )
