"""From a torch module to the compiler's float graph, by tracing it with torch.fx.

Only what the graph's closed set of operations can say is taken; for everything else there is an error, before any
training, that names the place in the module and what to use instead.
Node names are module paths (``conv1``, ``block.conv``); a function in ``forward`` gets the name that torch.fx gives it.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import fx, nn

from flowlab.compiler.ir import Attribute, Graph, Input, Node, TensorType
from flowlab.errors import GraphError

BATCH = 2  # of the tracing: more than one, so that a dimension that swallows the batch shows

Pair = tuple[int, int]


def float_graph(module: nn.Module, shape: tuple[int, int, int], output: str = "output") -> Graph:
    """The module's inference as a float graph with constants; the module itself is not changed.

    Args:
        module: float32 ``(batch, channel, height, width)`` -> one tensor; it is read as in eval mode.
        shape: (channel, height, width) of the input, which the graph calls ``input``.
        output: name of the graph's output.

    Raises:
        GraphError: naming the place, what stands there, and what to use instead.
    """
    traced = _trace(copy.deepcopy(module).eval(), shape)
    builder = _Builder(traced, shape)
    for node in traced.graph.nodes:
        builder.add(node)
    return Graph((Input("input", TensorType("float32", shape)),), tuple(builder.nodes), {output: builder.result})


def _trace(module: nn.Module, shape: tuple[int, int, int]) -> fx.GraphModule:
    try:
        traced = fx.symbolic_trace(module)
    except Exception as error:  # tracing runs the user's own forward, which may raise anything
        raise GraphError(
            f"{type(module).__name__}.forward cannot be traced: {error}. "
            "Decisions and loops that depend on values have no place in a fixed network: compute them before"
        ) from error
    traced.graph.eliminate_dead_code()
    places = [node for node in traced.graph.nodes if node.op == "placeholder"]
    if len(places) != 1:
        raise GraphError(f"forward has {len(places)} inputs ({', '.join(node.name for node in places)}): use one")
    _Shapes(traced).run(torch.zeros(BATCH, *shape))
    return traced


class _Shapes(fx.Interpreter):
    """Runs the module once on zeros, and notes the shape of every result that is one tensor."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.extra_traceback = False  # our own error says where

    def run_node(self, n: fx.Node) -> Any:
        """As torch.fx's; an exception becomes a GraphError with the node's place."""
        try:
            with torch.no_grad():
                result = super().run_node(n)
        except Exception as error:  # layers and functions of any kind
            inputs = [str(tuple(node.meta["shape"][1:])) for node in n.all_input_nodes if "shape" in node.meta]
            reason = str(error).partition("\n")[0]
            raise GraphError(
                f"'{n.target if n.op == 'call_module' else n.name}' does not take an input of shape "
                f"{' and '.join(inputs)}: {reason}"
            ) from error
        if isinstance(result, torch.Tensor):
            n.meta["shape"] = tuple(result.shape)
        return result


@dataclass
class _Builder:
    """Graph nodes made so far, and which value each torch.fx node stands for."""

    traced: fx.GraphModule
    shape: tuple[int, int, int]
    nodes: list[Node] = field(default_factory=list)
    values: dict[fx.Node, str] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)
    result: str = ""

    def add(self, node: fx.Node) -> None:
        """Take one torch.fx node."""
        if node.op == "placeholder":
            self.values[node], self.types["input"] = "input", TensorType("float32", self.shape)
        elif node.op == "output":
            (value,) = node.args
            if not isinstance(value, fx.Node):
                raise GraphError("forward returns several values: return one tensor")
            self.result = self.value(value, node)
        elif node.op == "call_module":
            layer = self.traced.get_submodule(str(node.target))
            self.call(node, f"'{node.target}' ({type(layer).__name__})", MODULES.get(type(layer)), layer)
        elif node.op == "call_function":
            self.call(node, f"'{node.name}' ({_spoken(node.target)})", FUNCTIONS.get(node.target), None)
        elif node.op == "call_method":
            self.call(node, f"'{node.name}' (.{node.target}())", METHODS.get(str(node.target)), None)
        else:
            raise GraphError(
                f"'{node.target}' is a tensor that forward uses by itself: use a layer (nn.Conv2d, nn.Linear) for it"
            )

    def call(self, node: fx.Node, place: str, taker: Taker | None, layer: nn.Module | None) -> None:
        """Take one operation, by the table."""
        if taker is None:
            raise GraphError(f"{place}: the integer graph has no such operation. {KNOWN}")
        taker(self, _Call(node, layer, place))

    def value(self, node: object, user: fx.Node) -> str:
        """The graph's value that a torch.fx node stands for."""
        if isinstance(node, fx.Node) and node in self.values:
            return self.values[node]
        raise GraphError(f"'{user.name}' uses {node!r}: not a value of the network but a size, a constant or a list")

    def emit(
        self,
        call: _Call,
        op: str,
        inputs: tuple[str, ...],
        *,
        attributes: Mapping[str, Attribute] | None = None,
        constants: Mapping[str, NDArray[Any]] | None = None,
        shape: tuple[int, ...] | None = None,
        suffix: str = "",
    ) -> str:
        """Append a node; its name is the layer's path, or torch.fx's name for a function or a layer's second use."""
        name = str(call.node.target) if call.layer is not None else call.node.name
        name = (call.node.name if name in self.types else name) + suffix
        while name in self.types:
            name += "_"
        self.types[name] = TensorType("float32", call.shape if shape is None else shape)
        self.nodes.append(Node(name, op, inputs, self.types[name], attributes or {}, constants or {}))
        self.values[call.node] = name
        return name


@dataclass(frozen=True)
class _Call:
    """One torch.fx node with the layer that it calls, if any, and how errors name it."""

    node: fx.Node
    layer: Any
    place: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result without the batch; GraphError where the batch is not its first dimension."""
        whole = _shape(self.node, self.place)
        if not whole or whole[0] != BATCH:
            self.refuse(f"gives shape {whole} for a batch of {BATCH}: keep the batch as the first dimension")
        return whole[1:]

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by place or by name."""
        return self.node.args[place] if len(self.node.args) > place else self.node.kwargs.get(name, default)

    def refuse(self, why: str) -> None:
        """Raise the error of this place."""
        raise GraphError(f"{self.place}: {why}")

    def require(self, holds: bool, why: str) -> None:
        """Raise unless it holds."""
        if not holds:
            self.refuse(why)


Taker = Callable[[_Builder, _Call], None]


def _shape(node: object, place: str) -> tuple[int, ...]:
    shape = node.meta.get("shape") if isinstance(node, fx.Node) else None
    if shape is None:
        raise GraphError(f"{place}: its result is not one tensor")
    return tuple(shape)


def _input(builder: _Builder, call: _Call) -> tuple[str, tuple[int, ...]]:
    value = builder.value(call.argument(0, "input"), call.node)
    return value, builder.types[value].shape


def _numbers(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().numpy().astype(np.float32))


def _pair(value: Any) -> Pair:
    first, second = value if isinstance(value, (tuple, list)) else (value, value)
    return int(first), int(second)


def _alias(builder: _Builder, call: _Call) -> None:
    builder.values[call.node] = _input(builder, call)[0]


def _conv(builder: _Builder, call: _Call) -> None:
    layer: nn.Conv2d = call.layer
    value, _ = _input(builder, call)
    call.require(layer.padding_mode == "zeros", f"pads with '{layer.padding_mode}': use padding_mode='zeros'")
    call.require(tuple(layer.dilation) == (1, 1), "has a dilation: use dilation 1 and a larger kernel or a stride")
    weight = _numbers(layer.weight)
    if layer.padding == "same":  # torch puts the odd one at the end
        totals = [extent - 1 for extent in weight.shape[2:]]
        padding = (totals[0] // 2, totals[1] // 2, totals[0] - totals[0] // 2, totals[1] - totals[1] // 2)
    else:
        high, wide = (0, 0) if layer.padding == "valid" else _pair(layer.padding)
        padding = (high, wide, high, wide)
    constants = {"weight": weight} if layer.bias is None else {"weight": weight, "bias": _numbers(layer.bias)}
    attributes: dict[str, Attribute] = {"stride": _pair(layer.stride), "padding": padding, "groups": layer.groups}
    builder.emit(call, "conv", (value,), attributes=attributes, constants=constants)


def _linear(builder: _Builder, call: _Call) -> None:
    layer: nn.Linear = call.layer
    value, shape = _input(builder, call)
    call.require(len(shape) == 1, f"gets shape {shape}: put nn.Flatten() before it, or use nn.Conv2d with kernel 1")
    constants = {"weight": _numbers(layer.weight)}
    if layer.bias is not None:
        constants["bias"] = _numbers(layer.bias)
    builder.emit(call, "linear", (value,), constants=constants)


def _batch_norm(builder: _Builder, call: _Call) -> None:
    layer: nn.BatchNorm2d = call.layer
    value, _ = _input(builder, call)
    mean, variance = layer.running_mean, layer.running_var
    if mean is None or variance is None:
        raise GraphError(f"{call.place}: has no running statistics: use track_running_stats=True")
    ones = torch.ones_like(mean)
    constants = {
        "weight": _numbers(ones if layer.weight is None else layer.weight),
        "bias": _numbers(ones * 0 if layer.bias is None else layer.bias),
        "mean": _numbers(mean),
        "variance": _numbers(variance),
    }
    builder.emit(call, "batch_norm", (value,), attributes={"epsilon": float(layer.eps)}, constants=constants)


def _relu(builder: _Builder, call: _Call) -> None:
    builder.emit(call, "relu", (_input(builder, call)[0],))


def _activation(function: str) -> Taker:
    def take(builder: _Builder, call: _Call) -> None:
        builder.emit(call, "activation", (_input(builder, call)[0],), attributes={"function": function})

    return take


def _gelu(builder: _Builder, call: _Call) -> None:
    form = call.layer.approximate if call.layer is not None else call.argument(9, "approximate", "none")
    call.require(form == "none", f"is the approximation '{form}': use approximate='none', a table costs the same")
    _activation("gelu")(builder, call)


def _leaky_relu(builder: _Builder, call: _Call) -> None:
    slope = call.layer.negative_slope if call.layer is not None else call.argument(1, "negative_slope", 0.01)
    call.require(float(slope) == 0.01, f"has the slope {slope}: use 0.01")
    _activation("leaky_relu")(builder, call)


def _hardtanh(builder: _Builder, call: _Call) -> None:
    if call.layer is not None:
        limits = (call.layer.min_val, call.layer.max_val)
    else:
        limits = (call.argument(1, "min_val", -1.0), call.argument(2, "max_val", 1.0))
    known = {(-1.0, 1.0): "hardtanh", (0.0, 6.0): "relu6"}
    call.require(limits in known, f"clips to {limits}: use nn.ReLU6() or nn.Hardtanh() with limits -1 and 1")
    _activation(known[limits])(builder, call)


def _max_pool(builder: _Builder, call: _Call) -> None:
    value, _ = _input(builder, call)
    layer = call.layer
    if layer is not None:
        kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
        dilation, ceil, indices = layer.dilation, layer.ceil_mode, layer.return_indices
    else:
        kernel, stride = call.argument(1, "kernel_size"), call.argument(2, "stride")
        padding, dilation = call.argument(3, "padding", 0), call.argument(4, "dilation", 1)
        ceil, indices = call.argument(5, "ceil_mode", False), call.argument(6, "return_indices", False)
    call.require(_pair(dilation) == (1, 1), "has a dilation: use dilation 1")
    call.require(not ceil, "rounds its size up: use ceil_mode=False and a padding")
    call.require(not indices, "returns indices: use return_indices=False")
    high, wide = _pair(padding)
    attributes: dict[str, Attribute] = {
        "kernel": _pair(kernel),
        "stride": _pair(kernel if stride in (None, ()) else stride),
        "padding": (high, wide, high, wide),
    }
    builder.emit(call, "max_pool", (value,), attributes=attributes)


def _adaptive(builder: _Builder, call: _Call) -> None:
    value, shape = _input(builder, call)
    size = call.layer.output_size if call.layer is not None else call.argument(1, "output_size")
    high, wide = size if isinstance(size, (tuple, list)) else (size, size)
    wanted = (shape[1] if high is None else high, shape[2] if wide is None else wide)
    if wanted == shape[1:]:
        return _alias(builder, call)
    if wanted == (1, 1):
        builder.emit(call, "average_pool", (value,))
        return None
    equal = shape[1] % wanted[0] == 0 and shape[2] % wanted[1] == 0
    call.require(equal, f"averages {shape[1]}x{shape[2]} down to {wanted[0]}x{wanted[1]}: {PARTS}")
    parts = (shape[1] // wanted[0], shape[2] // wanted[1])
    _averages(builder, call, kernel=parts, stride=parts, padding=(0, 0))
    return None


def _average_pool(builder: _Builder, call: _Call) -> None:
    value, shape = _input(builder, call)
    layer = call.layer
    if layer is not None:
        kernel, stride, padding = _pair(layer.kernel_size), layer.stride, _pair(layer.padding)
        ceil, inside, divisor = layer.ceil_mode, not layer.count_include_pad, layer.divisor_override
    else:
        kernel, stride = _pair(call.argument(1, "kernel_size")), call.argument(2, "stride")
        padding, ceil = _pair(call.argument(3, "padding", 0)), call.argument(4, "ceil_mode", False)
        inside, divisor = not call.argument(5, "count_include_pad", True), call.argument(6, "divisor_override")
    call.require(divisor is None, "divides by another number: use divisor_override=None")
    if kernel == shape[1:] and padding == (0, 0):
        builder.emit(call, "average_pool", (value,))
        return
    call.require(not ceil, "rounds its size up: use ceil_mode=False and a padding")
    call.require(not inside or padding == (0, 0), "leaves its padding out of the mean: use count_include_pad=True")
    _averages(builder, call, kernel=kernel, stride=_pair(kernel if stride in (None, ()) else stride), padding=padding)


def _averages(builder: _Builder, call: _Call, *, kernel: Pair, stride: Pair, padding: Pair) -> None:
    """Averages over parts are a depthwise convolution with equal weights, which quantization-aware training moves."""
    value, shape = _input(builder, call)
    area = kernel[0] * kernel[1]
    weight = np.full((shape[0], 1, *kernel), 1 / area, np.float32)
    attributes: dict[str, Attribute] = {"stride": stride, "padding": (*padding, *padding), "groups": shape[0]}
    builder.emit(call, "conv", (value,), attributes=attributes, constants={"weight": weight})


def _mean(builder: _Builder, call: _Call) -> None:
    value, shape = _input(builder, call)
    dims = call.argument(1, "dim")
    chosen = sorted(d % 4 for d in (dims if isinstance(dims, (tuple, list)) else [dims])) if dims is not None else []
    call.require(len(shape) == 3 and chosen == [2, 3], f"averages over the dimensions {dims}: {GLOBAL}")
    pooled = (shape[0], 1, 1)
    if call.argument(2, "keepdim", False):
        builder.emit(call, "average_pool", (value,))
    else:
        value = builder.emit(call, "average_pool", (value,), shape=pooled)
        builder.emit(call, "flatten", (value,), suffix=".flatten")


def _flatten(builder: _Builder, call: _Call) -> None:
    value, shape = _input(builder, call)
    if call.shape == shape:
        return _alias(builder, call)
    flat = (int(np.prod(shape)),)
    call.require(call.shape == flat, f"gives shape {call.shape} from {shape}: only flattening to {flat} is known")
    builder.emit(call, "flatten", (value,))


def _add(builder: _Builder, call: _Call) -> None:
    first, second = (builder.value(call.argument(i, name), call.node) for i, name in ((0, "input"), (1, "other")))
    call.require(bool(call.node.kwargs.get("alpha", 1) == 1), "has an alpha: add without it")
    call.require(
        builder.types[first].shape == builder.types[second].shape,
        f"adds shapes {builder.types[first].shape} and {builder.types[second].shape}: make them equal",
    )
    builder.emit(call, "add", (first, second))


def _ignore(builder: _Builder, call: _Call) -> None:
    """A size: whoever uses it as a value is refused, whoever reshapes with it is judged by the result's shape."""


def _getattr(builder: _Builder, call: _Call) -> None:
    call.require(call.node.args[1] == "shape", f"reads '.{call.node.args[1]}': only .shape is known")


def _spoken(target: object) -> str:
    return str(getattr(target, "__name__", target))


GLOBAL = "only the average over all of height and width is known: use nn.AdaptiveAvgPool2d(1)"
PARTS = "the parts are not equal: choose a size that divides it, or use nn.AdaptiveAvgPool2d(1)"
KNOWN = (
    "Known: nn.Conv2d, nn.Linear, nn.BatchNorm1d/2d, nn.ReLU and other activations, nn.MaxPool2d, "
    "nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout, and adding; for a series use nn.Conv2d with kernel (k, 1)"
)
MODULES: dict[type, Taker] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: _relu,
    nn.ReLU6: _activation("relu6"),
    nn.Hardtanh: _hardtanh,
    nn.LeakyReLU: _leaky_relu,
    nn.Sigmoid: _activation("sigmoid"),
    nn.Tanh: _activation("tanh"),
    nn.SiLU: _activation("silu"),
    nn.GELU: _gelu,
    nn.MaxPool2d: _max_pool,
    nn.AdaptiveAvgPool2d: _adaptive,
    nn.AvgPool2d: _average_pool,
    nn.Flatten: _flatten,
    nn.Unflatten: _flatten,
    nn.Dropout: _alias,
    nn.Dropout1d: _alias,
    nn.Dropout2d: _alias,
    nn.Identity: _alias,
}
FUNCTIONS: dict[Any, Taker] = {
    F.relu: _relu,
    torch.relu: _relu,
    F.relu6: _activation("relu6"),
    F.hardtanh: _hardtanh,
    F.leaky_relu: _leaky_relu,
    F.sigmoid: _activation("sigmoid"),
    torch.sigmoid: _activation("sigmoid"),
    F.tanh: _activation("tanh"),
    torch.tanh: _activation("tanh"),
    F.silu: _activation("silu"),
    F.gelu: _gelu,
    F.max_pool2d: _max_pool,
    F.adaptive_avg_pool2d: _adaptive,
    F.avg_pool2d: _average_pool,
    torch.mean: _mean,
    torch.flatten: _flatten,
    torch.reshape: _flatten,
    torch.squeeze: _flatten,
    F.dropout: _alias,
    operator.add: _add,
    operator.iadd: _add,
    torch.add: _add,
    operator.getitem: _ignore,
    getattr: _getattr,
}
METHODS: dict[str, Taker] = {
    "relu": _relu,
    "sigmoid": _activation("sigmoid"),
    "tanh": _activation("tanh"),
    "mean": _mean,
    "flatten": _flatten,
    "reshape": _flatten,
    "view": _flatten,
    "squeeze": _flatten,
    "contiguous": _alias,
    "add": _add,
    "size": _ignore,
}
