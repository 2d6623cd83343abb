"""A plain float ONNX network into a float graph: the door for foreign networks.

Read: Conv, Gemm, MatMul (+ Add), BatchNormalization, Relu, Clip, common activations, MaxPool, AveragePool,
GlobalAveragePool, ReduceMean over the whole area, Flatten and Reshape, Add and Mul of two values, Concat of channels,
Gather from a flat value, Identity, Dropout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import onnx

from flowlab.compiler.import_moves import Taken, is_part_of_take, is_take, read_take, wanted_shape
from flowlab.compiler.infer import infer_shape
from flowlab.compiler.ir import Attribute, Graph, Input, Node, TensorType
from flowlab.compiler.onnx_model import Array, OnnxModel, attributes_of, clip_limits, node_error, node_name

Proto: TypeAlias = onnx.NodeProto
Pair = tuple[int, int]


def import_float(model: OnnxModel) -> Graph:
    """The float graph of a checked model; values keep their ONNX names.

    Raises:
        GraphError: naming the ONNX node and what it says that the IR cannot.
    """
    return _Importer(model).graph()


# --- windows: what Conv and MaxPool share -------------------------------------------------------


def conv_attributes(proto: Proto, weight: Array, shape: tuple[int, ...]) -> dict[str, Attribute]:
    """Stride, padding, groups and, where there is one, the dilation of a Conv that reads ``shape``."""
    if weight.ndim != 4:
        raise node_error(proto, f"is no 2-D convolution: its weight has shape {weight.shape}")
    dilation = _pair(proto, "dilations", (1, 1))
    if min(dilation) < 1:
        raise node_error(proto, f"has the dilation {dilation}; 1 and more are known")
    high, wide = ((int(size) - 1) * gap + 1 for size, gap in zip(weight.shape[2:], dilation, strict=True))
    stride, padding = _slide(proto, (high, wide), shape)
    found: dict[str, Attribute] = {
        "stride": stride,
        "padding": padding,
        "groups": int(attributes_of(proto).get("group", 1)),
    }
    return found if dilation == (1, 1) else {**found, "dilation": dilation}


def max_pool_attributes(proto: Proto, shape: tuple[int, ...]) -> dict[str, Attribute]:
    """Kernel, stride and padding of a MaxPool that reads ``shape``."""
    if attributes_of(proto).get("ceil_mode", 0) or len(proto.output) > 1:
        raise node_error(proto, "rounds up, or asks for indices; neither is known. Use ceil_mode=False")
    _refuse_dilation(proto)
    kernel = _pair(proto, "kernel_shape", None)
    stride, padding = _slide(proto, kernel, shape)
    return {"kernel": kernel, "stride": stride, "padding": padding}


def _refuse_dilation(proto: Proto) -> None:
    if _pair(proto, "dilations", (1, 1)) != (1, 1):
        raise node_error(proto, "is dilated; use dilation 1")


def _pair(proto: Proto, key: str, default: Pair | None) -> Pair:
    found = attributes_of(proto).get(key, default)
    if found is None or len(found) != 2:
        raise node_error(proto, f"attribute '{key}' is {found!r}; two integers are needed")
    return int(found[0]), int(found[1])


def _slide(proto: Proto, kernel: Pair, shape: tuple[int, ...]) -> tuple[Pair, tuple[int, int, int, int]]:
    stride = _pair(proto, "strides", (1, 1))
    return stride, padding_of(proto, attributes_of(proto).get("pads", (0, 0, 0, 0)), kernel, stride, shape)


def padding_of(
    proto: Proto, pads: Sequence[int], kernel: Sequence[int], stride: Pair, shape: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """Padding (top, left, bottom, right) of what slides over ``shape``: its ``pads``, or what its auto_pad makes.

    ``kernel`` is what it spans, gaps included.
    """
    auto = attributes_of(proto).get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        if len(pads) != 4 or min(pads) < 0:
            raise node_error(proto, f"attribute 'pads' is {pads!r}; four integers of at least 0 are needed")
        return int(pads[0]), int(pads[1]), int(pads[2]), int(pads[3])
    if auto == "VALID":
        return 0, 0, 0, 0
    if auto not in ("SAME_UPPER", "SAME_LOWER") or len(shape) != 3:
        raise node_error(proto, f"auto_pad {auto!r} is not known")
    before, after = [], []
    for axis in (0, 1):
        extent = shape[axis + 1]
        total = max((-(-extent // stride[axis]) - 1) * stride[axis] + kernel[axis] - extent, 0)
        small = total // 2
        before.append(small if auto == "SAME_UPPER" else total - small)
        after.append(total - before[-1])
    return before[0], before[1], after[0], after[1]


# --- the importer -------------------------------------------------------------------------------


_ACTIVATIONS = {
    "Sigmoid": "sigmoid", "Tanh": "tanh", "Softplus": "softplus", "Softsign": "softsign", "Mish": "mish",
    "HardSwish": "hardswish",
}  # fmt: skip
_ALPHA = {"LeakyRelu": ("leaky_relu", 0.01), "Elu": ("elu", 1.0)}
_CLIPS = {(0.0, math.inf): "relu", (0.0, 6.0): "relu6", (-1.0, 1.0): "hardtanh"}


@dataclass
class _Importer:
    model: OnnxModel
    nodes: list[Node] = field(default_factory=list)
    types: dict[str, TensorType] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)  # values that only rename another

    def graph(self) -> Graph:
        inputs = tuple(Input(name, TensorType("float32", shape)) for name, shape in self.model.inputs().items())
        self.types = {value.name: value.type for value in inputs}
        for proto in self.model.nodes:
            if (proto.op_type in _ACTIVATIONS) or (proto.op_type in _ALPHA):
                self._activation(proto)
                continue
            handler = _HANDLERS.get(proto.op_type)
            if handler is None:
                known = ", ".join(sorted({*_HANDLERS, *_ACTIVATIONS, *_ALPHA}))
                raise node_error(proto, f"this operation cannot be imported. Known: {known}")
            handler(self, proto)
        self.model.check_all_claimed()
        outputs = {value.name: self.value(value.name) for value in self.model.proto.graph.output}
        return Graph(inputs, tuple(self.nodes), outputs)

    def value(self, name: str) -> str:
        while name in self.same:
            name = self.same[name]
        return self.model.named(name)

    def shape(self, proto: Proto, index: int = 0) -> tuple[int, ...]:
        name = self.value(proto.input[index])
        if name not in self.types:
            raise node_error(proto, f"input {index} is '{name}', which is no value of the network")
        return self.types[name].shape

    def add(
        self,
        proto: Proto,
        op: str,
        inputs: tuple[str, ...],
        attributes: Mapping[str, Attribute] | None = None,
        constants: Mapping[str, Array] | None = None,
        *,
        name: str = "",
        shape: tuple[int, ...] = (),
    ) -> None:
        self.model.claim((proto,))
        inputs = tuple(self.value(each) for each in inputs)
        for index in range(len(inputs)):
            if inputs[index] not in self.types:
                raise node_error(proto, f"reads '{inputs[index]}', which is no value of the network")
        floats = {
            key: array if key == "index" else np.asarray(array, np.float32) for key, array in (constants or {}).items()
        }
        name, type_ = self.model.named(name or proto.output[0]), TensorType("float32", shape)
        node = Node(name, op, inputs, type_, attributes or {}, floats)
        shape = infer_shape(node, tuple(self.types[each] for each in inputs))
        node = replace(node, type=TensorType("float32", shape))
        self.nodes.append(node)
        self.types[node.name] = node.type

    def alias(self, proto: Proto) -> None:
        self.model.claim((proto,))
        self.same[proto.output[0]] = proto.input[0]

    def drop(self, name: str) -> None:
        """Take back an operation that turned out to be part of a larger one."""
        name = self.value(name)
        self.nodes = [node for node in self.nodes if node.name != name]
        del self.types[name]

    # --- layers -----------------------------------------------------------------------------------

    def _conv(self, proto: Proto) -> None:
        weight = self.model.constant(proto, 1)
        constants = {"weight": weight}
        if len(proto.input) > 2 and proto.input[2]:
            constants["bias"] = self.model.constant(proto, 2)
        self.add(proto, "conv", (proto.input[0],), conv_attributes(proto, weight, self.shape(proto)), constants)

    def _gemm(self, proto: Proto) -> None:
        found = attributes_of(proto)
        if found.get("transA", 0) or found.get("alpha", 1.0) != 1.0 or found.get("beta", 1.0) != 1.0:
            raise node_error(proto, "transposes its input, or scales; use a plain linear layer")
        weight = self.model.constant(proto, 1)
        constants = {"weight": weight if found.get("transB", 0) else weight.T}
        if len(proto.input) > 2 and proto.input[2]:
            constants["bias"] = np.broadcast_to(self.model.constant(proto, 2).ravel(), (len(constants["weight"]),))
        self.add(proto, "linear", (proto.input[0],), {}, constants)

    def _matmul(self, proto: Proto) -> None:
        """A product, with the addition of a constant behind it as its bias."""
        constants = {"weight": self.model.constant(proto, 1).T}
        add = self.model.reader(proto.output[0], "Add")
        parts = self.model.split(add) if add is not None else None
        if add is None or parts is None:
            self.add(proto, "linear", (proto.input[0],), {}, constants)
            return
        constants["bias"] = np.broadcast_to(parts[1].ravel(), (len(constants["weight"]),))
        self.model.claim((add,))
        self.add(proto, "linear", (proto.input[0],), {}, constants, name=add.output[0])

    def _batch_norm(self, proto: Proto) -> None:
        found = attributes_of(proto)
        if found.get("training_mode", 0):
            raise node_error(proto, "is in training mode. Export the model in eval mode")
        constants = {
            key: self.model.constant(proto, at) for at, key in enumerate(("weight", "bias", "mean", "variance"), 1)
        }
        attributes = {"epsilon": float(found.get("epsilon", 1e-5))}
        self.add(proto, "batch_norm", (proto.input[0],), attributes, constants)

    def _add(self, proto: Proto) -> None:
        if node_name(proto) in self.model.claimed or self.model.maker(proto.input[0], "Erf"):
            return  # the bias of a product, or part of a gelu
        if self.model.split(proto) is not None:
            raise node_error(proto, "adds a constant to what is no product")
        self.add(proto, "add", (proto.input[0], proto.input[1]))

    # --- elementwise ------------------------------------------------------------------------------

    def _relu(self, proto: Proto) -> None:
        self.add(proto, "relu", (proto.input[0],))

    def _clip(self, proto: Proto) -> None:
        limits = clip_limits(self.model, proto)
        if limits[1] >= float(np.finfo(np.float32).max):
            limits = (limits[0], math.inf)
        function = _CLIPS.get((limits[0], limits[1]))
        if function == "relu":
            self.add(proto, "relu", (proto.input[0],))
        elif function is not None:
            self.add(proto, "activation", (proto.input[0],), {"function": function})
        else:
            attributes: dict[str, Attribute] = {"function": "hardtanh", "low": limits[0], "high": limits[1]}
            self.add(proto, "activation", (proto.input[0],), attributes)

    def _activation(self, proto: Proto) -> None:
        attributes: dict[str, Attribute] = {}
        if proto.op_type in _ALPHA:
            function, default = _ALPHA[proto.op_type]
            alpha = float(attributes_of(proto).get("alpha", default))
            attributes["function"] = function
            if alpha != default:
                attributes["alpha"] = alpha
        else:
            attributes["function"] = _ACTIVATIONS[proto.op_type]
        self.add(proto, "activation", (proto.input[0],), attributes)

    def _hard_sigmoid(self, proto: Proto) -> None:
        found = attributes_of(proto)
        if not math.isclose(found.get("alpha", 0.2), 1 / 6, rel_tol=1e-6) or found.get("beta", 0.5) != 0.5:
            raise node_error(proto, "is no x / 6 + 1 / 2")
        self.add(proto, "activation", (proto.input[0],), {"function": "hardsigmoid"})

    def _gelu(self, proto: Proto) -> None:
        if attributes_of(proto).get("approximate", "none") != "none":
            raise node_error(proto, "is the approximation by tanh; use the exact gelu")
        self.add(proto, "activation", (proto.input[0],), {"function": "gelu"})

    def _erf(self, proto: Proto) -> None:
        """Part of a gelu, which the last multiplication claims."""

    def _mul(self, proto: Proto) -> None:
        """silu = x * sigmoid(x), or the last step of gelu = x * (1 + erf(x / sqrt 2)) / 2."""
        for x, other in ((0, 1), (1, 0)):
            sigmoid = self.model.maker(proto.input[other], "Sigmoid")
            if (
                sigmoid is not None
                and sigmoid.input[0] == proto.input[x]
                and self.model.reader(sigmoid.output[0], "Mul")
            ):
                self.drop(sigmoid.output[0])
                self.add(proto, "activation", (proto.input[x],), {"function": "silu"})
                return
        chain = self._gelu_chain(proto)
        if chain is not None:
            self.model.claim(chain[1:])
            self.add(proto, "activation", (chain[-1].input[0],), {"function": "gelu"})
        elif all(self.value(each) in self.types for each in proto.input):
            left, right = (self.types[self.value(each)].shape for each in proto.input)
            swapped = left != right and left[1:] == (1,) * (len(left) - 1)
            self.add(proto, "multiply", tuple(proto.input)[:: -1 if swapped else 1])
        elif self.model.reader(proto.output[0], "Mul") is None:
            raise node_error(proto, "multiplies by a constant, which is known in silu and gelu alone")

    def _gelu_chain(self, half: Proto) -> tuple[Proto, ...] | None:
        outer = self.model.split(half)
        product = self.model.maker(outer[0], "Mul") if outer is not None else None
        if outer is None or product is None or outer[1].size != 1 or float(outer[1].reshape(())) != 0.5:
            return None
        one = self.model.maker(product.input[1], "Add")
        erf = self.model.maker(one.input[0], "Erf") if one is not None else None
        root = self.model.maker(erf.input[0], "Div") if erf is not None else None
        parts = self.model.split(root) if root is not None else None
        if one is None or erf is None or root is None or parts is None or parts[0] != product.input[0]:
            return None
        added = self.model.split(one)
        if added is None or float(added[1].reshape(())) != 1.0:
            return None
        if not math.isclose(float(parts[1].reshape(())), math.sqrt(2), rel_tol=1e-6):
            return None
        return half, product, one, erf, root

    # --- pools and shapes -------------------------------------------------------------------------

    def _max_pool(self, proto: Proto) -> None:
        self.add(proto, "max_pool", (proto.input[0],), max_pool_attributes(proto, self.shape(proto)))

    def _global_average_pool(self, proto: Proto) -> None:
        self.add(proto, "average_pool", (proto.input[0],))

    def _average_pool(self, proto: Proto) -> None:
        shape = self.shape(proto)
        _refuse_dilation(proto)
        kernel = _pair(proto, "kernel_shape", None)
        stride, padding = _slide(proto, kernel, shape)
        if kernel == shape[1:] and padding == (0, 0, 0, 0):
            self.add(proto, "average_pool", (proto.input[0],))
            return
        found = attributes_of(proto)
        if found.get("ceil_mode", 0) or (any(padding) and not found.get("count_include_pad", 0)):
            raise node_error(proto, "counts fewer places at the border; use no padding, or count_include_pad=1")
        weight = np.full((shape[0], 1, *kernel), 1.0 / math.prod(kernel), np.float32)  # of each channel by itself
        attributes: dict[str, Attribute] = {"stride": stride, "padding": padding, "groups": shape[0]}
        self.add(proto, "conv", (proto.input[0],), attributes, {"weight": weight})

    def _reduce_mean(self, proto: Proto) -> None:
        found = attributes_of(proto)
        axes = self.model.axes(proto)
        if sorted(axis % 4 for axis in axes) != [2, 3] or len(self.shape(proto)) != 3:
            raise node_error(proto, f"averages axes {axes}; only height and width together are known")
        if found.get("keepdims", 1):
            self.add(proto, "average_pool", (proto.input[0],))
            return
        pooled = f"{proto.output[0]}/mean"
        self.add(proto, "average_pool", (proto.input[0],), name=pooled)
        self.add(proto, "flatten", (pooled,))

    def _flatten(self, proto: Proto) -> None:
        if attributes_of(proto).get("axis", 1) != 1:
            raise node_error(proto, "keeps more than the batch. Use axis 1")
        if is_part_of_take(self.model, proto):
            return
        self.add(proto, "flatten", (proto.input[0],))

    def _reshape(self, proto: Proto) -> None:
        gather = self.model.maker(proto.input[0], "Gather")
        if gather is not None:
            self._take(read_take(self.model, gather, proto, self.shape))
            return
        shape, wanted = self.shape(proto), [int(extent) for extent in self.model.constant(proto, 1)]
        if len(wanted) == 2 and wanted[1] in (-1, math.prod(shape)):
            self.add(proto, "flatten", (proto.input[0],))
        else:
            self.add(proto, "reshape", (proto.input[0],), shape=wanted_shape(self.model, proto))

    def _take(self, found: Taken) -> None:
        self.model.claim(found.protos)
        self.add(found.protos[-1], "take", (found.source,), {}, {"index": found.index}, shape=found.shape)

    def _gather(self, proto: Proto) -> None:
        if not is_take(self.model, proto):
            raise node_error(proto, "takes along an axis; slices and permutations of flat values are known")
        if self.model.reader(proto.output[0], "Reshape") is None:
            self._take(read_take(self.model, proto, None, self.shape))

    def _pad(self, proto: Proto) -> None:
        """Part of a take, which claims it."""
        if self.model.reader(proto.output[0], "Gather") is None:
            raise node_error(proto, "pads; give the convolution or the pool behind it the padding")

    def _concat(self, proto: Proto) -> None:
        if attributes_of(proto).get("axis") not in (1, 1 - 1 - len(self.shape(proto))) or len(proto.input) < 2:
            raise node_error(proto, "joins along another axis than the channels")
        before = proto.input[0]
        for place, other in enumerate(proto.input[1:], 2):
            name = proto.output[0] if place == len(proto.input) else f"{proto.output[0]}/first{place}"
            self.add(proto, "concat", (before, other), name=name)
            before = name

    def _squeeze(self, proto: Proto) -> None:
        shape = self.shape(proto)
        if len(shape) != 3 or shape[1:] != (1, 1):
            raise node_error(proto, "leaves more than (batch, features)")
        self.add(proto, "flatten", (proto.input[0],))


_HANDLERS: Mapping[str, Callable[[_Importer, Proto], Any]] = {
    "Conv": _Importer._conv,
    "Gemm": _Importer._gemm,
    "MatMul": _Importer._matmul,
    "BatchNormalization": _Importer._batch_norm,
    "Add": _Importer._add,
    "Relu": _Importer._relu,
    "Clip": _Importer._clip,
    "HardSigmoid": _Importer._hard_sigmoid,
    "Gelu": _Importer._gelu,
    "Erf": _Importer._erf,
    "Div": _Importer._erf,
    "Mul": _Importer._mul,
    "MaxPool": _Importer._max_pool,
    "GlobalAveragePool": _Importer._global_average_pool,
    "AveragePool": _Importer._average_pool,
    "ReduceMean": _Importer._reduce_mean,
    "Concat": _Importer._concat,
    "Gather": _Importer._gather,
    "Pad": _Importer._pad,
    "Flatten": _Importer._flatten,
    "Reshape": _Importer._reshape,
    "Squeeze": _Importer._squeeze,
    "Identity": _Importer.alias,
    "Dropout": _Importer.alias,
}
