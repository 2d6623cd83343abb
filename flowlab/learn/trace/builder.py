"""The float graph while it is made: nodes so far, and which value, seen through which index, each torch tensor is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from flowlab.compiler.ir import Attribute, Node, TensorType
from flowlab.errors import GraphError
from flowlab.learn.trace.record import BATCH, RESULT

INPUT = "input"
MOST_RANK = 3
IntArray = NDArray[np.int64]


def canonical(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The graph's shape for torch's, without the batch: what has no place in three dimensions lies flat."""
    if len(shape) == 2:
        return (*shape, 1)
    return shape if 1 <= len(shape) <= MOST_RANK else (prod(shape),)


def graph_type(shape: tuple[int, ...]) -> TensorType:
    """A float32 value of the graph for torch's shape."""
    return TensorType("float32", canonical(shape))


Ending = tuple[str, int]  # ``softmax`` or ``log_softmax``, and its dimension with the batch


@dataclass(frozen=True, eq=False)
class View:
    """A torch tensor: a value of the graph, of which ``index`` (torch's shape without the batch) says the elements.

    -1 is a zero. ``hint`` names the node that moves the elements, where one must.
    """

    value: str
    index: IntArray
    hint: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Torch's, without the batch."""
        return self.index.shape


@dataclass(frozen=True)
class States:
    """Values that torch stacks before the batch, (value, batch, ...), as the last states of a recurrent layer."""

    views: tuple[View, ...]


@dataclass(frozen=True)
class Absent:
    """Something that torch gives and the graph has not; an error where it is read."""

    why: str


@dataclass(frozen=True)
class Call:
    """One torch.fx node with the layer that it calls, if any, its arguments, and how errors name it."""

    builder: Builder
    node: fx.Node
    layer: Any
    place: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The layer's path, or torch.fx's name for a function or a layer's second use."""
        path = str(self.node.target) if self.layer is not None else self.node.name
        return self.node.name if path in self.builder.named else path

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result without the batch; GraphError where the batch is not its first dimension."""
        result = self.node.meta[RESULT]
        self.require(isinstance(result, Tensor), "its result is not one tensor")
        whole = tuple(result.shape)
        if not whole or whole[0] != BATCH:
            self.refuse(f"gives shape {whole} for a batch of {BATCH}: keep the batch as the first dimension")
        return whole[1:]

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by place or by name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def option(self, name: str, place: int, default: Any = None) -> Any:
        """A layer's attribute, or a function's argument."""
        return getattr(self.layer, name) if self.layer is not None else self.argument(place, name, default)

    def view(self, place: int = 0, name: str = "input") -> View:
        """An argument that must be a value of the network."""
        return self.as_view(self.argument(place, name))

    def as_view(self, value: object) -> View:
        """A value of the network, or an error."""
        if isinstance(value, View):
            return value
        if isinstance(value, Absent):
            self.refuse(value.why)
        self.refuse(f"uses {_short(value)}: not a value of the network but a size, a constant or a list")
        raise AssertionError

    def refuse(self, why: str) -> None:
        """Raise the error of this place."""
        raise GraphError(f"{self.place}: {why}")

    def require(self, holds: bool, why: str) -> None:
        """Raise unless it holds."""
        if not holds:
            self.refuse(why)

    def run(self, tensor_of: Callable[[View], Tensor]) -> Any:
        """What the operation makes of other tensors in the views' places, with all else as it was."""
        args, kwargs = _map_views((self.args, dict(self.kwargs)), tensor_of)
        with torch.no_grad():
            if self.layer is not None:
                return self.layer(*args, **kwargs)
            if self.node.op == "call_method":
                return getattr(args[0], str(self.node.target))(*args[1:], **kwargs)
            return self.node.target(*args, **kwargs)  # type: ignore[operator]

    def views(self) -> list[View]:
        """All values of the network among the arguments, each once, in order."""
        found: dict[int, View] = {}

        def note(view: View) -> View:
            found[id(view)] = view
            return view

        _map_views((self.args, dict(self.kwargs)), note)
        return list(found.values())


Taker = Callable[[Call], Any]


def _short(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


@dataclass
class Builder:
    """Graph nodes made so far, and what each torch.fx node stands for: a `View`, a constant, a size, a list."""

    traced: fx.GraphModule
    shape: tuple[int, ...]
    taker: Callable[[Call], Any]
    nodes: list[Node] = field(default_factory=list)
    env: dict[fx.Node, Any] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    views: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    left_out: dict[fx.Node, Ending] = field(default_factory=dict)
    result: Any = None
    named: set[str] = field(default_factory=lambda: {INPUT})  # layers' paths that are taken
    joined: dict[str, tuple[str, str]] = field(default_factory=dict)  # concatenations and their parts
    given: dict[tuple[Any, ...], Any] = field(default_factory=dict)  # what a layer made of a value
    moved: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)

    def add(self, node: fx.Node) -> None:
        """Take one torch.fx node."""
        if node.op == "placeholder":
            self.types[INPUT] = graph_type(self.shape)
            self.env[node] = self.whole(INPUT, self.shape)
            return
        if RESULT not in node.meta and hasattr(node.target, "_fields"):
            name = getattr(node.target, "__name__", "of its own")
            raise GraphError(
                f"forward makes the named tuple {name}: return a plain tuple, or a dict, whose keys become the "
                "outputs' names"
            )
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda each: self.env[each])
        if node.op == "output":
            self.result = args[0]
        elif node.op == "get_attr" or not _has_views((args, kwargs)) or _is_plain(node.meta[RESULT]):
            self.env[node] = node.meta[RESULT]
        else:
            self._take(node, self._call(node, tuple(args), kwargs))

    def _take(self, node: fx.Node, call: Call) -> None:
        """Take a call; a layer that reads the same value once more gives the same."""
        key = (str(node.target), *map(id, call.args))
        again = call.layer is not None and not call.kwargs and all(isinstance(each, View) for each in call.args)
        if again and key in self.given:
            self.env[node] = self.given[key]
            return
        self.env[node] = self.taker(call)
        if call.layer is not None:
            self.named.add(str(node.target))
        if again:
            self.given[key] = self.env[node]

    def _call(self, node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        if node.op == "call_module":
            layer = self.traced.get_submodule(str(node.target))
            return Call(self, node, layer, f"'{node.target}' ({type(layer).__name__})", args, kwargs)
        if node.op == "call_method":
            return Call(self, node, None, f"'{node.name}' (.{node.target}())", args, kwargs)
        spoken = str(getattr(node.target, "__name__", node.target))
        return Call(self, node, None, f"'{node.name}' ({spoken})", args, kwargs)

    def whole(self, value: str, shape: tuple[int, ...], hint: str = "") -> View:
        """A value of the graph as a torch tensor of this shape, element by element."""
        index = np.arange(prod(self.types[value].shape), dtype=np.int64).reshape(shape)
        return View(value, index, hint or f"{value}.reshape")

    def is_whole(self, view: View) -> bool:
        """Whether a view is its value, but for the shape."""
        size = prod(self.types[view.value].shape)
        return view.index.size == size and bool((view.index.reshape(-1) == np.arange(size)).all())

    def read(self, view: View, shape: tuple[int, ...] | None = None) -> str:
        """The graph's value that holds a view's elements in this shape (default: the graph's for the view's)."""
        shape = canonical(view.shape) if shape is None else shape
        view = self._behind_concat(view)
        found = self.types[view.value].shape
        if self.is_whole(view) and found == shape:
            return view.value
        key = (view.value, shape, view.index.tobytes())
        if key not in self.moved:
            constants = {}
            if not self.is_whole(view):
                op = "take"
                constants = {"index": np.ascontiguousarray(view.index.reshape(-1).astype(np.int32))}
            else:
                op = "flatten" if len(shape) == 1 and len(found) == MOST_RANK else "reshape"
            self.moved[key] = self.append(view.hint, op, (view.value,), shape, constants=constants)
        return self.moved[key]

    def _behind_concat(self, view: View) -> View:
        """A view of one part of a concatenation as a view of that part, so that the others may be left out."""
        while view.value in self.joined and view.index.size and int(view.index.min()) >= 0:
            first, second = self.joined[view.value]
            size = prod(self.types[first].shape)
            if int(view.index.max()) < size:
                view = View(first, view.index, view.hint)
            elif int(view.index.min()) >= size:
                view = View(second, view.index - size, view.hint)
            else:
                break
        return view

    def append(
        self,
        name: str,
        op: str,
        inputs: tuple[str, ...],
        shape: tuple[int, ...],
        *,
        attributes: Mapping[str, Attribute] | None = None,
        constants: Mapping[str, NDArray[Any]] | None = None,
    ) -> str:
        """Append a node of the graph's shape; a name that is taken gets an underscore."""
        while name in self.types:
            name += "_"
        self.types[name] = TensorType("float32", shape)
        self.nodes.append(Node(name, op, inputs, self.types[name], attributes or {}, constants or {}))
        if op == "concat":
            self.joined[name] = (inputs[0], inputs[1])
        return name

    def emit(
        self,
        call: Call,
        op: str,
        inputs: tuple[str, ...],
        shape: tuple[int, ...],
        *,
        attributes: Mapping[str, Attribute] | None = None,
        constants: Mapping[str, NDArray[Any]] | None = None,
        suffix: str = "",
    ) -> str:
        """Append a node of a call, and note which module it is."""
        name = self.append(call.name + suffix, op, inputs, shape, attributes=attributes, constants=constants)
        if call.layer is not None:
            self.modules[name] = str(call.node.target)
        return name

    def drop_unread(self, outputs: Mapping[str, str]) -> None:
        """Forget the nodes that no output depends on."""
        needed = set(outputs.values())
        for node in reversed(self.nodes):
            if node.name in needed:
                needed.update(node.inputs)
        self.nodes = [node for node in self.nodes if node.name in needed]
        self.modules = {name: path for name, path in self.modules.items() if name in needed}
        self.views = {name: view for name, view in self.views.items() if name in needed}

    def outputs(self, name: str) -> tuple[dict[str, str], str]:
        """The graph's outputs by name, and what they are in: ``tensor``, ``tuple``, ``list`` or ``dict``."""
        result = self.result
        if isinstance(result, dict):
            for key in result:
                if not isinstance(key, str) or not key:
                    raise GraphError(f"forward returns a dict with the key {key!r}: names of outputs are texts")
            parts, structure = dict(result), "dict"
        elif isinstance(result, (tuple, list)):
            parts = {f"{name}{place}": value for place, value in enumerate(result)}
            structure = "list" if isinstance(result, list) else "tuple"
        else:
            parts, structure = {name: result}, "tensor"
        if not parts:
            raise GraphError("forward returns nothing: return a tensor, or a tuple, list or dict of tensors")
        found = {key: self._output(key, value) for key, value in parts.items()}
        if INPUT in found and found[INPUT] != INPUT:
            raise GraphError(f"output '{INPUT}': the name is that of the input. Give it another one")
        return found, structure

    def endings(self, name: str) -> dict[str, Ending | None]:
        """By output, the function at its end that the graph leaves out; None where something is moved behind it."""
        (last,) = (node for node in self.traced.graph.nodes if node.op == "output")
        result: Any = last.args[0]
        if isinstance(result, dict):
            parts = {str(key): value for key, value in result.items()}
        elif isinstance(result, (tuple, list)):
            parts = {f"{name}{place}": value for place, value in enumerate(result)}
        else:
            parts = {name: result}
        nodes = {key: node for key, node in parts.items() if isinstance(node, fx.Node)}
        return {key: self.left_out.get(node) for key, node in nodes.items() if self._leaves_out(node)}

    def _leaves_out(self, node: fx.Node) -> bool:
        waiting, seen = [node], {node}
        while waiting:
            one = waiting.pop()
            if one in self.left_out:
                return True
            waiting += [before for before in one.all_input_nodes if before not in seen]
            seen.update(one.all_input_nodes)
        return False

    def _output(self, name: str, value: object) -> str:
        if not isinstance(value, View):
            why = value.why if isinstance(value, Absent) else f"{_short(value)} is not a value of the network"
            raise GraphError(f"output '{name}': {why}; forward returns tensors, or a tuple, list or dict of them")
        if len(value.shape) > MOST_RANK:
            raise GraphError(f"output '{name}' has shape {value.shape}: three dimensions behind the batch are the most")
        return self.read(value)


def _map_views(value: Any, change: Callable[[View], Any]) -> Any:
    """The same lists, tuples, dicts and slices with every `View` changed."""
    if isinstance(value, View):
        return change(value)
    if isinstance(value, States):
        found = [change(each) for each in value.views]
        return torch.stack(found) if all(isinstance(each, Tensor) for each in found) else found
    if not _has_views(value):
        return value
    if isinstance(value, dict):
        return {key: _map_views(each, change) for key, each in value.items()}
    if isinstance(value, slice):
        return slice(*(_map_views(each, change) for each in (value.start, value.stop, value.step)))
    return (
        [_map_views(each, change) for each in value]
        if isinstance(value, list)
        else tuple(_map_views(each, change) for each in value)
    )


def _has_views(value: object) -> bool:
    if isinstance(value, dict):
        return any(_has_views(each) for each in value.values())
    if isinstance(value, (tuple, list)):
        return any(_has_views(each) for each in value)
    if isinstance(value, slice):
        return _has_views((value.start, value.stop, value.step))
    return isinstance(value, (View, States, Absent))


def _is_plain(value: object) -> bool:
    """Whether it is a size, a number, a device: nothing with elements."""
    return value is not None and not _has_tensors(value)


def _has_tensors(value: object) -> bool:
    if isinstance(value, dict):
        return any(_has_tensors(each) for each in value.values())
    if isinstance(value, (tuple, list)):
        return any(_has_tensors(each) for each in value)
    return isinstance(value, Tensor)
