"""Integer networks inside a number format: single layers that tell roundings apart, and small chains of them.

A single layer has channels whose sums are what its input is, so its shift meets ties of both signs, and channels whose
sums overshoot the activations' range at both ends. Everything follows from the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowlab.compiler.infer import infer_shape
from flowlab.compiler.ir import Attribute, Graph, Input, Node, TensorType
from flowlab.compiler.number_format import limits
from flowlab.compiler.verify import verify
from flowlab.contracts import NumberFormat, Requantize
from flowlab.errors import GraphError

KINDS = ("FCONV", "GCONV", "DWCONV", "PWCONV", "FC", "MAXPOOL", "AVGPOOL", "ADD")
VECTORS = 6
OVERSHOOT = 3  # how far the largest sums lie beyond what saturates
MOST_SHIFT = 6  # of a layer's rows: with more a tie is too rare to be met
INT8 = (-128, 127)


@dataclass
class Network:
    """A graph that grows: every layer reads the last value and is drawn inside the number format."""

    format: NumberFormat
    random: np.random.Generator
    shape: tuple[int, int, int]
    nodes: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        channels = self.shape[0]
        rows: dict[str, NDArray[Any]] = {"bias": np.zeros(channels, np.float32)}
        rows |= {"multiplier": np.ones(channels, np.int32), "shift": np.zeros(channels, np.int32)}
        self.source = Input("input", TensorType("float32", self.shape))
        self.nodes.append(
            Node("entry", "quantize", ("input",), TensorType("int8", self.shape, 0.5), {"low": -128, "high": 127}, rows)
        )

    @property
    def last(self) -> Node:
        """The layer that was added last."""
        return self.nodes[-1]

    def graph(self) -> Graph:
        """What has grown so far, verified against the format."""
        made = Graph((self.source,), tuple(self.nodes), {"output": self.last.name}, {"number_format": self.format.name})
        verify(made, self.format)
        return made

    def add(
        self,
        name: str,
        op: str,
        dtype: str,
        *,
        inputs: tuple[str, ...] = (),
        scale: float = 0.0,
        constants: Mapping[str, NDArray[Any]] | None = None,
        **attributes: Attribute,
    ) -> None:
        """Append a node; its shape is inferred."""
        made = Graph((self.source,), tuple(self.nodes), {"output": self.last.name})
        inputs = inputs or (self.last.name,)
        node = Node(name, op, inputs, TensorType(dtype, (1,)), attributes, constants or {})
        shape = infer_shape(node, tuple(made.type_of(read) for read in inputs))
        self.nodes.append(Node(name, op, inputs, TensorType(dtype, shape, scale), attributes, constants or {}))

    def layer(self, kind: str, name: str, bits: int, *, relu: bool) -> None:
        """One layer of a kind, with its requantization."""
        before = self.last.type
        if kind == "MAXPOOL":
            kernel = self.pick((2, 1), (2, 2), (3, 1))
            self.add(
                name, "max_pool", before.dtype, scale=before.scale, kernel=kernel, stride=self.pick(kernel, (1, 1)),
                padding=(0, 0, 0, 0),
            )  # fmt: skip
            return
        if kind == "AVGPOOL":
            self.add(f"{name}.sum", "sum_pool", "int32", scale=before.scale)
        elif kind == "ADD":
            self.add(f"{name}.sum", "add", "int32", inputs=(self.last.name,) * 2, scale=before.scale)
        elif kind == "FC":
            if len(before.shape) == 3:
                self.add(f"{name}.flat", "flatten", before.dtype, scale=before.scale)
            shape: tuple[int, ...] = (self.pick(3, 4, 8), self.last.type.shape[0])
            self.add(f"{name}.sum", "linear", "int32", constants=self._weights(shape, bits), weight_bits=bits)
        else:
            self._convolve(kind, f"{name}.sum", bits)
        width = self.format.by_weight_bits[bits]
        self._requantize(name, width, relu=relu)

    def pick(self, *values: Any) -> Any:
        """One of these."""
        return values[int(self.random.integers(len(values)))]

    def _convolve(self, kind: str, name: str, bits: int) -> None:
        channels = self.last.type.shape[0]
        kernel = (1, 1) if kind == "PWCONV" else self.pick((3, 1), (3, 3), (2, 1), (5, 1), (1, 3), (9, 2))
        stride = (1, 1) if kind == "PWCONV" else self.pick((1, 1), (1, 1), (2, 1), (2, 2), (3, 1))
        depthwise = kind == "DWCONV"
        out = channels if depthwise else self.pick(4, 8, 8, 6)
        padding = self.pick((0, 0, 0, 0), (kernel[0] // 2, kernel[1] // 2, kernel[0] // 2, kernel[1] // 2))
        self.add(
            name, "conv", "int32", constants=self._weights((out, 1 if depthwise else channels, *kernel), bits),
            weight_bits=bits, stride=stride, groups=channels if depthwise else 1, padding=padding,
        )  # fmt: skip

    def _weights(self, shape: tuple[int, ...], bits: int) -> dict[str, NDArray[Any]]:
        """The first two output channels have one weight, 1 and -1: their sums are the input. The others are full."""
        most = 2 ** (bits - 1) - 1
        weight = self.random.integers(-most, most + 1, shape).astype(np.int8)
        flat = weight.reshape(len(weight), -1)
        flat[:2] = 0
        for channel, one in zip(range(min(2, len(flat))), (1, -1), strict=False):
            flat[channel, int(self.random.integers(flat.shape[1]))] = one
        flat[2:, 0] = most  # no channel is empty
        return {"weight": weight}

    def _requantize(self, name: str, width: Requantize, *, relu: bool) -> None:
        """Rows for a sum: a shift that meets ties in the first channels, and overshoots in the others."""
        total, form = self.last, self.format
        count = total.type.shape[0]
        largest = self._largest(total)
        top = self._multiplier_bits(width)
        wanted = np.log2(np.maximum(largest, 1) / (OVERSHOOT * 128)).round().astype(int)
        wanted = np.clip(wanted, 1, MOST_SHIFT)
        wanted[:2] = self.pick(1, 1, 2)
        if form.per == "layer":
            wanted[:] = self.pick(1, 2, int(np.clip(np.median(wanted), 1, MOST_SHIFT)))
        if width.shift[0] < 0 and self.pick(True, False, False):
            wanted[slice(None) if form.per == "layer" else slice(2, 3)] = -1
        shift = np.clip(wanted + top, *width.shift)
        multiplier = np.full(count, 1 << top, np.int64)
        if top and form.per == "channel":
            multiplier[2:] = self.random.integers(1 << top, 2 << top, max(count - 2, 0))
        bias = self._biases(width, np.minimum(largest, 64.0 * 2.0 ** np.maximum(wanted, 0)))
        low, high = limits(form, relu, self.pick(*form.activation_bits))
        rows = {"bias": bias, "multiplier": multiplier, "shift": shift}
        self.add(
            name, "requantize", "uint8" if low == 0 else "int8", scale=0.5,
            constants={key: array.astype(np.int32) for key, array in rows.items()},
            low=max(low, 0) if relu else low, high=high, rounding=form.rounding,
            bias_before_multiply=form.bias_before_multiply,
        )  # fmt: skip

    def _largest(self, total: Node) -> NDArray[np.float64]:
        """The largest sum of each channel."""
        from flowlab.compiler.intervals import intervals_of

        low, high = intervals_of(Graph((self.source,), tuple(self.nodes), {"output": total.name}))[total.name]
        return np.maximum(np.abs(low), np.abs(high)).astype(np.float64)

    def _multiplier_bits(self, width: Requantize) -> int:
        """Which power of two the multipliers are at least: so that their ties are those of a plain shift."""
        if not width.multiplier_bits:
            return 0
        most = min(width.multiplier_bits - 1, width.shift[1] - MOST_SHIFT)
        return int(self.random.integers(most // 2, most + 1))

    def _biases(self, width: Requantize, largest: NDArray[np.float64]) -> NDArray[np.int64]:
        """Biases that the register holds; none in the channels that meet ties."""
        unit = 2**width.bias_shift
        most = np.minimum(largest / unit, 2.0 ** (width.bias_bits - 1) - 1).astype(np.int64)
        bias: NDArray[np.int64] = self.random.integers(-most, most + 1) * unit
        bias[:2] = 0
        return bias


def single_layer(format: NumberFormat, kind: str, bits: int, seed: int) -> Graph:
    """One layer of a kind behind the entry, its own result the output. Raises `GraphError` where none was drawn."""
    random = np.random.default_rng(seed)
    network = Network(format, random, _shape(kind, random))
    network.layer(kind, "layer", bits, relu=bool(random.integers(2)))
    return network.graph()


def chain(format: NumberFormat, seed: int) -> Graph:
    """A few layers one behind the other and a linear one at the end. Raises `GraphError` where none was drawn."""
    random = np.random.default_rng(seed)
    network = Network(format, random, _shape("GCONV", random))
    bits = list(format.by_weight_bits)
    for at in range(int(random.integers(1, 4))):
        kind = network.pick("GCONV", "GCONV", "PWCONV", "DWCONV", "MAXPOOL", "ADD")
        network.layer(kind, f"layers.{at}", network.pick(*bits), relu=network.pick(True, False))
    if network.pick(True, False):
        network.layer("AVGPOOL", "pool", network.pick(*bits), relu=False)
    network.layer("FC", "fc", network.pick(*bits), relu=False)
    return network.graph()


def drawn(format: NumberFormat, kind: str, bits: int, seed: int) -> Graph | None:
    """A single layer, or a chain for the kind ""; None where these numbers make none: a kernel that is too long."""
    try:
        return single_layer(format, kind, bits, seed) if kind else chain(format, seed)
    except GraphError:
        return None


def _shape(kind: str, random: np.random.Generator) -> tuple[int, int, int]:
    channels = 1 if kind == "FCONV" else int(random.choice([4, 8, 8, 6]))
    return channels, int(random.choice([12, 16])), int(random.choice([1, 1, 4]))


def features_for(graph: Graph, seed: int) -> NDArray[np.float32]:
    """Whole numbers of all of int8, and with the second half of the vectors halves and numbers beyond it."""
    random = np.random.default_rng(seed)
    shape = (VECTORS, *graph.inputs[0].type.shape)
    size = int(np.prod(shape[1:]))
    ramp = np.resize(np.arange(INT8[0], INT8[1] + 1), VECTORS * size)
    features = random.permutation(ramp).astype(np.float32).reshape(shape)
    features[VECTORS // 2 :] += random.choice([0.0, 0.5, -0.25], features[VECTORS // 2 :].shape)
    features[-1] *= 1.5
    return features
