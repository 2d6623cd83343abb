"""Find squeeze-and-excite in a traced network: a value times a gate that knows only the value's global average."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import fx, nn


class SqueezeExcite(nn.Module):
    """Stands as a key for the form ``x * gate(global average of x)``, however it is written in ``forward``.

    No module of this class is ever made: the networks that have such a block each bring their own class for it.
    """


_PRODUCTS = (operator.mul, operator.imul, torch.mul, torch.multiply)
_GATES = (nn.Sigmoid, nn.Hardsigmoid, nn.Hardtanh, nn.ReLU6)
_GATE_FUNCTIONS = (torch.sigmoid, F.sigmoid, F.hardsigmoid, F.relu6, F.hardtanh)
_SIZES = ("size", "dim")


def remove_squeeze_excite(traced: fx.GraphModule) -> tuple[str, ...]:
    """Put the value itself in the place of each such product; the names of the products."""
    names = []
    for node in list(traced.graph.nodes):
        if not _is_product(node):
            continue
        first, second = node.args
        for value, gate in ((first, second), (second, first)):
            if isinstance(value, fx.Node) and isinstance(gate, fx.Node) and _is_gate_of(traced, gate, value):
                node.replace_all_uses_with(value)
                traced.graph.erase_node(node)
                names.append(_block(traced, gate) or node.name)
                break
    return tuple(names)


def _is_product(node: fx.Node) -> bool:
    called = node.op == "call_function" and node.target in _PRODUCTS
    return (called or (node.op == "call_method" and node.target in ("mul", "mul_"))) and len(node.args) == 2


def _is_gate_of(traced: fx.GraphModule, gate: fx.Node, value: fx.Node) -> bool:
    """True where every way from the gate back to the value leads over its global average, and a sigmoid is on it."""
    if gate is value:
        return False
    squeezed = bounded = False
    waiting, seen = [gate], {gate}
    while waiting:
        node = waiting.pop()
        if _is_size(node):
            continue
        if node is value or node.op == "placeholder":
            return False
        if _is_global_average(traced, node):
            if node.all_input_nodes[:1] != [value]:
                return False
            squeezed = True
            continue
        bounded = bounded or _is_bounded(traced, node)
        like = node.op == "call_method" and node.target == "expand_as"  # its second argument gives but a shape
        for source in node.all_input_nodes[:1] if like else node.all_input_nodes:
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return squeezed and bounded


def _is_size(node: fx.Node) -> bool:
    if node.op == "call_method" and node.target in _SIZES:
        return True
    return node.op == "call_function" and node.target is getattr and node.args[1] == "shape"


def _is_global_average(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        layer = traced.get_submodule(str(node.target))
        return type(layer) is nn.AdaptiveAvgPool2d and _is_one(layer.output_size)
    if node.op == "call_function" and node.target is F.adaptive_avg_pool2d:
        return _is_one(node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size"))
    if node.target in ("mean", torch.mean):
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        return isinstance(dims, (list, tuple)) and sorted(int(str(dim)) % 4 for dim in dims) == [2, 3]
    return False


def _is_one(size: object) -> bool:
    return size == 1 or (isinstance(size, (list, tuple)) and tuple(size) == (1, 1))


def _is_bounded(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(traced.get_submodule(str(node.target))) in _GATES
    return node.target in ("sigmoid", *_GATE_FUNCTIONS)


def _block(traced: fx.GraphModule, gate: fx.Node) -> str:
    """The dotted name of the module that holds the gate's layers, if there is one."""
    names = [str(node.target) for node in _upstream(gate) if node.op == "call_module"]
    return names[0].rpartition(".")[0] if names else ""


def _upstream(node: fx.Node) -> Iterator[fx.Node]:
    while node.op == "call_module" or node.op in ("call_function", "call_method"):
        yield node
        if not node.all_input_nodes:
            return
        node = node.all_input_nodes[0]
