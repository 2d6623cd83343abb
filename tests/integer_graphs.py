"""Integer graphs with random weights, as a quantizer and the placement would leave them: what several tests share."""

from __future__ import annotations

import math

import numpy as np

from flowlab.compiler.ir import Attribute, Graph, Input, Node, TensorType


class Builder:
    """Appends layers; each is conv-like node + requantize, or a plain one.

    ``bits`` are those of the weights and of the activations of all layers; linear layers make 8 bits.
    """

    def __init__(
        self, shape: tuple[int, int, int], seed: int, multiplier: bool = False, bits: tuple[int, int] = (8, 8)
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.multiplier = multiplier
        self.weight_bits, self.activation_bits = bits
        self.inputs = (Input("input", TensorType("float32", shape)),)
        self.nodes: list[Node] = []
        channels = shape[0]
        constants = {
            "bias": self.random.normal(0, 1, channels).astype(np.float32),
            "multiplier": self.random.choice([-1, 1], channels).astype(np.int32)
            * self.random.integers(200, 4000, channels).astype(np.int32),
            "shift": self.random.integers(4, 7, channels).astype(np.int32),
        }
        self._add("quantize", "quantize", "input", TensorType("int8", shape, 0.03), self._limits(False), constants)

    def _limits(self, unsigned: bool, bits: int | None = None) -> dict[str, Attribute]:
        most = 2 ** (bits or self.activation_bits)
        return {"low": 0, "high": most - 1} if unsigned else {"low": -most // 2, "high": most // 2 - 1}

    def _weights(self, shape: tuple[int, ...]) -> np.ndarray:
        most = 2 ** (self.weight_bits - 1)
        return self.random.integers(1 - most, most, shape).astype(np.int8)

    def _add(
        self,
        name: str,
        op: str,
        source: str,
        type_: TensorType,
        attributes: dict[str, Attribute],
        constants: dict[str, np.ndarray] | None = None,
    ) -> Builder:
        inputs = tuple(source.split(" "))
        self.nodes.append(Node(name, op, inputs, type_, attributes, constants or {}))
        return self

    @property
    def last(self) -> Node:
        return self.nodes[-1]

    def _requantize(
        self, name: str, unsigned: bool, fan_in: int, channels: int | None = None, bits: int | None = None
    ) -> Builder:
        shape = self.last.type.shape
        count = shape[0]
        made, read = bits or self.activation_bits, self.activation_bits
        spread = max(2, fan_in) ** 0.5 * 40 * 2.0 ** (self.weight_bits - 8 + read - made)
        shift = max(0, round(math.log2(spread)))
        most_bias = max(1, 2000 >> (16 - self.weight_bits - read))
        constants = {
            "bias": self.random.integers(-most_bias, most_bias, count).astype(np.int32),
            "multiplier": self.random.integers(1, 256, count).astype(np.int32)
            if self.multiplier
            else np.ones(count, np.int32),
            "shift": (self.random.integers(-1, 2, count) + shift + (7 if self.multiplier else 0)).astype(np.int32),
        }
        attributes: dict[str, Attribute] = {
            **self._limits(unsigned, bits),
            "rounding": "floor",
            "bias_before_multiply": True,
        }
        if channels is not None:
            attributes["channels"] = channels
        type_ = TensorType("uint8" if unsigned else "int8", shape, 0.05)
        return self._add(name, "requantize", self.last.name, type_, attributes, constants)

    def conv(
        self,
        name: str,
        out: int,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        groups: int = 1,
        unsigned: bool = True,
        unit: str = "npu",
        layer: str = "GCONV",
        padding: tuple[int, int, int, int] | None = None,
        channels: int | None = None,
        dilation: tuple[int, int] = (1, 1),
    ) -> Builder:
        source = self.last
        given, height, width = source.type.shape
        pad = padding or (kernel[0] // 2, kernel[1] // 2, kernel[0] // 2, kernel[1] // 2)
        reach = [(size - 1) * gap + 1 for size, gap in zip(kernel, dilation, strict=True)]
        rows = (height + pad[0] + pad[2] - reach[0]) // stride[0] + 1
        columns = (width + pad[1] + pad[3] - reach[1]) // stride[1] + 1
        weight = self._weights((out, given // groups, *kernel))
        if channels is not None:
            weight[channels:] = 0
        attributes: dict[str, Attribute] = {
            "stride": stride, "padding": pad, "groups": groups, "weight_bits": self.weight_bits,
            "unit": unit, "layer": layer, **({"dilation": dilation} if dilation != (1, 1) else {}),
        }  # fmt: skip
        type_ = TensorType("int32", (out, rows, columns), 0.0)
        self._add(name, "conv", source.name, type_, attributes, {"weight": weight})
        return self._requantize(f"{name}.bnorm", unsigned, weight[0].size, channels)

    def max_pool(
        self, name: str, kernel: tuple[int, int], stride: tuple[int, int], pad: tuple[int, ...], unit: str = "npu"
    ) -> Builder:
        channels, height, width = self.last.type.shape
        rows = (height + pad[0] + pad[2] - kernel[0]) // stride[0] + 1
        columns = (width + pad[1] + pad[3] - kernel[1]) // stride[1] + 1
        type_ = TensorType(self.last.type.dtype, (channels, rows, columns), self.last.type.scale)
        attributes: dict[str, Attribute] = {
            "kernel": kernel, "stride": stride, "padding": pad, "unit": unit, "layer": "MAXPOOL",
        }  # fmt: skip
        if "channels" in self.last.attributes:
            attributes["channels"] = self.last.attributes["channels"]
        return self._add(name, "max_pool", self.last.name, type_, attributes)

    def table(self, name: str) -> Builder:
        entries = self.random.integers(-128, 128, 256).astype(np.int8)
        return self._add(
            name, "table", self.last.name, TensorType("int8", self.last.type.shape, 0.05), {"unit": "cpu"},
            {"entries": entries},
        )  # fmt: skip

    def sum_pool(self, name: str) -> Builder:
        channels, height, width = self.last.type.shape
        type_ = TensorType("int32", (channels, 1, 1), 0.0)
        self._add(name, "sum_pool", self.last.name, type_, {"unit": "npu", "layer": "AVGPOOL"})
        nodes = self._requantize(f"{name}.bnorm", True, 1)
        last = self.nodes[-1]
        shift = np.full(channels, round(math.log2(height * width)), np.int32)
        bias = np.full(channels, height * width // 2, np.int32)
        self.nodes[-1] = Node(
            last.name, last.op, last.inputs, last.type, last.attributes,
            {"bias": bias, "multiplier": np.ones(channels, np.int32), "shift": shift},
        )  # fmt: skip
        return nodes

    def add(self, name: str, other: str) -> Builder:
        type_ = TensorType("int32", self.last.type.shape, 0.0)
        self._add(name, "add", f"{self.last.name} {other}", type_, {"unit": "cpu"})
        nodes = self._requantize(f"{name}.bnorm", False, 1)
        last = self.nodes[-1]
        count = self.last.type.shape[0]
        constants = {**last.constants, "shift": np.ones(count, np.int32), "bias": np.ones(count, np.int32)}
        constants["multiplier"] = np.ones(count, np.int32)
        self.nodes[-1] = Node(last.name, last.op, last.inputs, last.type, last.attributes, constants)
        return nodes

    def multiply(self, name: str, factor: str, unsigned: bool = False) -> Builder:
        """``factor`` may have one number a channel."""
        types = {node.name: node.type for node in self.nodes}
        scale = self.last.type.scale * types[factor].scale
        type_ = TensorType("int32", self.last.type.shape, scale)
        self._add(name, "multiply", f"{self.last.name} {factor}", type_, {"unit": "cpu"})
        return self._requantize(f"{name}.bnorm", unsigned, 1)

    def concat(self, name: str, other: str) -> Builder:
        types = {node.name: node.type for node in self.nodes}
        first, *rest = self.last.type.shape
        type_ = TensorType(self.last.type.dtype, (first + types[other].shape[0], *rest), self.last.type.scale)
        return self._add(name, "concat", f"{self.last.name} {other}", type_, {"unit": "cpu"})

    def take(self, name: str, places: np.ndarray) -> Builder:
        """``places`` in the shape of the result."""
        type_ = TensorType(self.last.type.dtype, places.shape, self.last.type.scale)
        index = {"index": places.ravel().astype(np.int32)}
        return self._add(name, "take", self.last.name, type_, {"unit": "cpu"}, index)

    def reshape(self, name: str, shape: tuple[int, ...]) -> Builder:
        type_ = TensorType(self.last.type.dtype, shape, self.last.type.scale)
        return self._add(name, "reshape", self.last.name, type_, {})

    def flatten(self, name: str = "flatten") -> Builder:
        type_ = TensorType(self.last.type.dtype, (math.prod(self.last.type.shape),), self.last.type.scale)
        return self._add(name, "flatten", self.last.name, type_, {})

    def linear(self, name: str, out: int, unit: str = "npu") -> Builder:
        given = self.last.type.shape[0]
        weight = self._weights((out, given))
        attributes: dict[str, Attribute] = {"weight_bits": self.weight_bits, "unit": unit, "layer": "FC"}
        source = self.last.name
        self._add(name, "linear", source, TensorType("int32", (out,), 0.0), attributes, {"weight": weight})
        return self._requantize(f"{name}.bnorm", False, given, bits=8)

    def dequantize(self, name: str = "dequantize") -> Builder:
        scale = float(np.float32(self.last.type.scale))
        return self._add(
            name, "dequantize", self.last.name, TensorType("float32", self.last.type.shape), {"scale": scale}
        )

    def graph(self, **outputs: str) -> Graph:
        return Graph(self.inputs, tuple(self.nodes), outputs or {"output": self.last.name}, {})


def example_graph(seed: int = 0) -> Graph:
    """The chapter's kind of network, small: four convolutions, a pool, an average, an FC."""
    return (
        Builder((1, 64, 1), seed)
        .conv("conv1", 8, (5, 1), (2, 1), layer="FCONV")
        .conv("conv2", 8, (3, 1))
        .max_pool("pool", (3, 1), (2, 1), (1, 0, 1, 0))
        .conv("conv3", 16, (5, 1), (2, 1))
        .sum_pool("average")
        .flatten()
        .linear("fc", 2)
        .graph()
    )


def awkward_graph(seed: int = 1) -> Graph:
    """Two variables, 5 channels padded to 8, groups, a table, a residual add, a flatten of a plane, floats out."""
    builder = Builder((2, 12, 3), seed, multiplier=True)
    builder.conv("narrow", 8, (3, 3), unsigned=False, channels=5)
    builder.max_pool("pool", (2, 2), (2, 1), (0, 1, 1, 0))
    builder.table("silu")
    builder.conv("grouped", 8, (3, 1), groups=2, unsigned=False, unit="cpu", layer="conv")
    builder.add("residual", "silu")
    builder.conv("depthwise", 8, (3, 1), (2, 1), groups=8, layer="DWCONV", padding=(1, 0, 0, 0))
    builder.flatten().linear("fc", 3, unit="cpu")
    integers = builder.last.name
    builder.dequantize()
    return builder.graph(output=builder.last.name, integers=integers)


def moving_graph(seed: int = 11) -> Graph:
    """A dilated convolution, a gate a channel, a product, the input moved, two values end to end, another shape."""
    builder = Builder((2, 12, 2), seed)
    moved = np.arange(48).reshape(2, 12, 2)[:, ::-1].copy()
    moved[0, :2] = -1
    builder.take("moved", moved).conv("dilated", 4, (3, 2), dilation=(2, 1), padding=(2, 0, 2, 0), unsigned=False)
    value = builder.last.name
    builder.sum_pool("mean").table("gate")
    gate = builder.last.name
    builder.nodes.append(Node("again", "reshape", (value,), TensorType("int8", (4, 12, 1), 0.05), {}, {}))
    builder.multiply("gated", gate).multiply("square", "again").concat("both", "again")
    turned = np.arange(96).reshape(8, 12, 1).transpose(1, 0, 2)
    builder.take("turned", turned).reshape("shaped", (6, 4, 4))
    return builder.conv("last", 4, (2, 2), padding=(0, 0, 0, 0)).flatten().linear("fc", 3).graph()


def wide_input_graph(seed: int = 3) -> Graph:
    """Three variables whose quantized input a padding pass widened to four channels."""
    builder = Builder((3, 16, 1), seed)
    first = builder.last
    constants = {key: np.append(value, value.dtype.type(0)) for key, value in first.constants.items()}
    type_ = TensorType("int8", (4, 16, 1), first.type.scale)
    builder.nodes[0] = Node(first.name, first.op, first.inputs, type_, {**first.attributes, "channels": 3}, constants)
    return builder.conv("conv", 4, (3, 1)).flatten().linear("fc", 2).graph()


def narrow_graph(bits: tuple[int, int] = (4, 4), seed: int = 29, unit: str = "cpu") -> Graph:
    """Weights and activations of 4 or 2 bits, with multipliers; no layer's weights fill their last byte.

    With this seed every channel of every layer takes several values.
    """
    builder = Builder((1, 21, 1), seed, multiplier=True, bits=bits)
    builder.conv("conv1", 5, (3, 1), (2, 1), unit=unit, layer="FCONV")
    builder.conv("conv2", 7, (3, 1), unsigned=False, unit=unit)
    builder.max_pool("pool", (2, 1), (2, 1), (0, 0, 0, 0), unit)
    return builder.flatten().linear("fc", 3, unit=unit).graph()


def features_of(graph: Graph, count: int, seed: int = 5) -> np.ndarray:
    """float32 (vector, channel, height, width) that spread over the quantized input's range, and beyond it."""
    shape = graph.inputs[0].type.shape
    return np.random.default_rng(seed).normal(0, 1.5, (count, *shape)).astype(np.float32)
