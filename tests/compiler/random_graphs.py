"""Random networks for properties: float or integer, with every operation that the IR has for each.

Integer networks have weights and activations of 8, 4 and 2 bits, layer by layer; their outputs have 8 bits.
"""

from __future__ import annotations

import numpy as np

from flowlab.compiler.infer import infer_shape
from flowlab.compiler.intervals import intervals_of
from flowlab.compiler.ir import Graph, Input, Node, TensorType
from flowlab.compiler.verify import verify


class Builder:
    """Appends nodes and infers their shapes."""

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        self.rng = np.random.default_rng(seed)
        self.input = Input("input", TensorType("float32", shape))
        self.nodes: list[Node] = []
        self.last = "input"

    def graph(self, outputs: dict[str, str] | None = None) -> Graph:
        return Graph((self.input,), tuple(self.nodes), outputs or {"output": self.last}, {"seed": "random"})

    def type(self, name: str | None = None) -> TensorType:
        return self.graph().type_of(name or self.last)

    def add(self, name, op, dtype, inputs=None, scale=1.0, constants=None, **attributes) -> str:
        inputs = inputs or (self.last,)
        types = tuple(self.type(each) for each in inputs)
        node = Node(name, op, inputs, TensorType(dtype, (1,)), attributes, constants or {})
        node = Node(name, op, inputs, TensorType(dtype, infer_shape(node, types), scale), attributes, constants or {})
        self.nodes.append(node)
        self.last = name
        return name

    def pick(self, *values):
        return values[int(self.rng.integers(len(values)))]

    def floats(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=shape).astype(np.float32)


def _whole_weights(b: Builder, shape: tuple[int, ...], bits: int) -> np.ndarray:
    most = 2 ** (bits - 1) - 1
    return b.rng.integers(-most, most + 1, shape).astype(np.int8)


def _limits(signed: bool, bits: int) -> tuple[int, int]:
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _conv_constants(b: Builder, bits: int, out: int, kind: str):
    """Weights of so many bits, or floats for 0."""
    channels, height, width = b.type().shape
    kernel = (int(b.rng.integers(1, min(4, height) + 1)), int(b.rng.integers(1, min(3, width) + 1)))
    groups = 1
    if kind == "depthwise":
        groups = out = channels
    elif kind == "grouped":
        groups = b.pick(*(each for each in range(1, channels + 1) if channels % each == 0))
        out *= groups
    shape = (out, channels // groups, *kernel)
    weight = _whole_weights(b, shape, bits) if bits else b.floats(*shape)
    padding = tuple(int(b.rng.integers(0, k)) for k in (*kernel, *kernel))
    attributes = {"groups": groups, "stride": b.pick((1, 1), (2, 1), (2, 2)), "padding": padding}
    gap = b.pick(1, 1, 2)
    if gap > 1 and kernel[0] > 1 and (kernel[0] - 1) * gap + 1 <= height + padding[0] + padding[2]:
        attributes["dilation"] = (gap, 1)
    return weight, attributes


def _branches(b: Builder, name: str, bits: int) -> None:
    """Two or three branches, each wide and then narrow, begun one after the other and put together at the end."""
    before = b.last
    count = b.pick(2, 3)
    wide = [_pointwise(b, f"{name}.{at}.wide", before, int(b.rng.integers(6, 12)), bits) for at in range(count)]
    narrow = [
        _pointwise(b, f"{name}.{at}.narrow", value, int(b.rng.integers(1, 3)), bits) for at, value in enumerate(wide)
    ]
    b.last = narrow[0]
    for at, value in enumerate(narrow[1:]):
        b.add(f"{name}.join.{at}", "concat", b.type().dtype, inputs=(b.last, value), scale=b.type().scale)


def _pointwise(b: Builder, name: str, before: str, out: int, bits: int) -> str:
    """A 1x1 convolution; of integers with its requantization."""
    b.last = before
    shape = (out, b.type().shape[0], 1, 1)
    weight = _whole_weights(b, shape, bits) if bits else b.floats(*shape)
    attributes = {"groups": 1, "stride": (1, 1), "padding": (0, 0, 0, 0), **({"weight_bits": bits} if bits else {})}
    b.add(
        name,
        "conv",
        "int32" if bits else "float32",
        scale=0.0 if bits else 1.0,
        constants={"weight": weight},
        **attributes,
    )
    if bits:
        _requantize(b, f"{name}.bnorm", signed=True)
    return b.last


def _place(b: Builder, name: str) -> None:
    """A take: a slice, a permutation, repeats or zeros between; or the same numbers under another shape."""
    type_ = b.type()
    count, (channels, height, width) = int(np.prod(type_.shape)), type_.shape
    places = np.arange(count).reshape(type_.shape)
    kind = b.pick("slice", "permute", "repeat", "zeros", "reshape", "reshape")
    if kind == "reshape":
        _shaped(b, name, "reshape", (channels, width, height), {})
        return
    if kind == "slice":
        places = places[: channels // 2 + 1, ::2]
    elif kind == "permute":
        places = places.transpose(0, 2, 1)
    elif kind == "repeat":
        places = places.repeat(2, axis=1)
    else:
        places = np.concatenate([np.full((channels, 1, width), -1), places], axis=1)
    _shaped(b, name, "take", places.shape, {"index": places.ravel().astype(np.int32)})


def _shaped(b: Builder, name: str, op: str, shape: tuple[int, ...], constants: dict[str, np.ndarray]) -> None:
    type_ = b.type()
    b.nodes.append(Node(name, op, (b.last,), TensorType(type_.dtype, shape, type_.scale), {}, constants))
    b.last = name


def _requantize(b: Builder, name: str, signed: bool, bits: int = 8) -> None:
    """To activations of so many bits, whose range the sums fill, or overshoot up to eightfold at both ends."""
    low, high = intervals_of(b.graph())[b.last]
    count = len(low)
    spread = np.maximum(np.maximum(np.abs(low), np.abs(high)), 1)
    multiplier = b.rng.integers(1, 256, count)
    levels = 0.8 * 2**bits
    shift = np.clip(np.log2(spread * multiplier / levels).astype(int) - int(b.rng.integers(0, 3)), 0, 31)
    bias = b.rng.integers(-spread // 2 - 1, spread // 2 + 1)
    if b.pick(True, False, False, False):  # a product beyond 32 bits, whose result need not saturate
        bias[0], multiplier[0], shift[0] = b.pick(-1, 1) * b.rng.integers(9_000_000, 12_000_000), 250, 31 - bits + 1
    low, high = _limits(signed, bits)
    b.add(
        name, "requantize", "int8" if signed else "uint8", scale=0.5,
        constants={
            key: array.astype(np.int32) for key, array in (("bias", bias), ("multiplier", multiplier), ("shift", shift))
        },
        low=low, high=high, rounding="floor", bias_before_multiply=True,
    )  # fmt: skip


def _pool(b: Builder, name: str) -> None:
    type_ = b.type()
    _, height, width = type_.shape
    kernel = (min(b.pick(1, 2, 3), height), min(b.pick(1, 2, 2, 3), width))
    padding = tuple(int(b.rng.integers(0, k)) for k in (*kernel, *kernel))
    b.add(
        name, "max_pool", type_.dtype, scale=type_.scale, kernel=kernel, stride=b.pick((1, 1), (2, 1)), padding=padding
    )


def random_graph(seed: int, quantized: bool) -> Graph:
    """A verified network: convolutions of all kinds, pools, adds, tables or activations, one or two linear layers."""
    rng = np.random.default_rng(seed)
    b = Builder(seed, (int(rng.integers(1, 7)), int(rng.integers(4, 12)), int(rng.integers(1, 4))))
    (_integer_body if quantized else _float_body)(b)
    graph = b.graph()
    verify(graph)
    return graph


def _integer_body(b: Builder) -> None:
    channels = b.type().shape[0]
    bits = b.pick(8, 8, 4, 2)
    low, high = _limits(True, bits)
    b.add(
        "quantize", "quantize", "int8", scale=0.25,
        constants={
            "bias": b.floats(channels),
            "multiplier": b.rng.integers(-2047, 2048, channels).astype(np.int32),
            "shift": b.rng.integers(12 - bits, 16 - bits, channels).astype(np.int32),
        },
        low=low, high=high,
    )  # fmt: skip
    for index in range(int(b.rng.integers(0, 5))):
        name = f"layers.{index}"
        kind = b.pick(
            "conv",
            "conv",
            "depthwise",
            "grouped",
            "pool",
            "pool",
            "table",
            "add",
            "place",
            "concat",
            "multiply",
            "branches",
        )
        if kind == "pool":
            _pool(b, name)
        elif kind == "branches":
            _branches(b, name, b.pick(8, 4, 2))
        elif kind == "place":
            _place(b, name)
        elif kind == "concat":
            b.add(name, "concat", b.type().dtype, inputs=(b.last, b.last), scale=b.type().scale)
        elif kind == "multiply":
            before = b.last
            factor = before
            if b.pick(True, False):  # one factor a channel, as a squeeze-and-excite block has
                b.add(f"{name}.mean", "sum_pool", "int32")
                _requantize(b, f"{name}.mean.bnorm", signed=False)
                factor = b.last
            scale = b.type(before).scale * b.type(factor).scale
            b.add(name, "multiply", "int32", inputs=(before, factor), scale=scale)
            _requantize(b, f"{name}.bnorm", signed=True, bits=b.pick(8, 4, 2))
        elif kind == "table":
            dtype = b.pick("int8", "uint8")
            b.add(name, "table", dtype, constants={"entries": b.rng.integers(0, 128, 256).astype(dtype)})
        elif kind == "add":
            before = b.last
            b.add(name, "add", "int32", inputs=(before, before))
            _requantize(b, f"{name}.bnorm", signed=True, bits=b.pick(8, 4, 2))
        else:
            bits = b.pick(8, 4, 2)
            weight, attributes = _conv_constants(b, bits, int(b.rng.integers(1, 8)), kind)
            b.add(name, "conv", "int32", scale=0.0, constants={"weight": weight}, weight_bits=bits, **attributes)
            _requantize(b, f"{name}.bnorm", signed=b.pick(True, False), bits=b.pick(8, 4, 2))
    if b.pick(True, False):
        b.add("pool", "sum_pool", "int32")
        _requantize(b, "pool.bnorm", signed=False, bits=b.pick(8, 4, 2))
    b.add("flat", "flatten", b.type().dtype, scale=b.type().scale)
    for index in range(int(b.rng.integers(1, 3))):
        inputs = b.type().shape[0]
        bits = b.pick(8, 4, 2)
        weight = _whole_weights(b, (int(b.rng.integers(1, 12)), inputs), bits)
        b.add(f"fc{index}", "linear", "int32", scale=0.0, constants={"weight": weight}, weight_bits=bits)
        _requantize(b, f"fc{index}.bnorm", signed=True)


def _norm(b: Builder, name: str) -> None:
    count = b.type().shape[0]
    constants = {key: b.floats(count) for key in ("weight", "bias", "mean")}
    constants["variance"] = np.abs(b.floats(count)) + np.float32(0.1)
    b.add(name, "batch_norm", "float32", constants=constants, epsilon=1e-5)


def _float_body(b: Builder) -> None:
    if b.pick(True, False):
        _norm(b, "norm")
    for index in range(int(b.rng.integers(0, 5))):
        name = f"layers.{index}"
        kind = b.pick(
            "conv", "conv", "depthwise", "grouped", "pool", "activation", "add", "relu", "dead", "place", "concat",
            "multiply", "branches",
        )  # fmt: skip
        if kind == "pool":
            _pool(b, name)
        elif kind == "branches":
            _branches(b, name, 0)
        elif kind == "activation":
            b.add(name, "activation", "float32", function=b.pick("sigmoid", "tanh", "silu", "relu6", "leaky_relu"))
        elif kind == "place":
            _place(b, name)
        elif kind == "concat":
            b.add(name, "concat", "float32", inputs=(b.last, b.last))
        elif kind == "multiply":
            before = b.last
            if b.pick(True, False):
                b.add(f"{name}.mean", "average_pool", "float32")
            b.add(name, "multiply", "float32", inputs=(before, b.last))
        elif kind == "relu":
            b.add(name, "relu", "float32")
            b.add(f"{name}.again", "relu", "float32")
        elif kind == "add":
            b.add(name, "add", "float32", inputs=(b.last, b.last))
        elif kind == "dead":
            before = b.last
            b.add(name, "relu", "float32")
            b.last = before
        else:
            weight, attributes = _conv_constants(b, 0, int(b.rng.integers(1, 8)), kind)
            constants = {"weight": weight} | ({"bias": b.floats(len(weight))} if b.pick(True, False) else {})
            b.add(name, "conv", "float32", constants=constants, **attributes)
            if b.pick(True, False):
                _norm(b, f"{name}.norm")
    if b.pick(True, False):
        b.add("pool", "average_pool", "float32")
    b.add("flat", "flatten", "float32")
    for index in range(int(b.rng.integers(1, 3))):
        out = int(b.rng.integers(1, 12))
        constants = {"weight": b.floats(out, b.type().shape[0]), "bias": b.floats(out)}
        b.add(f"fc{index}", "linear", "float32", constants=constants)


def random_features(graph: Graph, seed: int, count: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed + 1)
    return (rng.normal(size=(count, *graph.inputs[0].type.shape)) * rng.choice([1, 5, 40])).astype(np.float32)
