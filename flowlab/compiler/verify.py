"""The laws of a graph: single assignment, shapes and types that fit, ranges, and accumulators that hold their sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from flowlab.compiler.infer import dilation_of, infer_shape, integer
from flowlab.compiler.intervals import INT32, intervals_of
from flowlab.compiler.ir import DTYPES, Graph, Node, TensorType
from flowlab.compiler.number_format import MANTISSA_BITS, ROUNDINGS
from flowlab.compiler.ops import LIMITS, OPS
from flowlab.errors import GraphError, unknown_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowlab.contracts import NumberFormat, Requantize

COMMON_ATTRIBUTES = (
    "unit", "layer",  # placement
    "channels", "in_channels",  # before padding
    "part_of", "part",  # the layer that was split, and how many of how many groups this is
    "offset",  # the value's place in the arena
)  # fmt: skip
FUNCTION_ATTRIBUTES = ("alpha", "low", "high")  # parameters of an activation function
FLOAT_BITS = 25  # of a signed integer that float32 holds, whatever it is
MAX_RANK = 3
MAX_NUMBERS = 1 << 26  # of one value: a graph from outside must not fill the memory


def verify(graph: Graph, format: NumberFormat | None = None) -> None:
    """Check every law of the IR.

    Args:
        graph: float or integer.
        format: if given, requantizations must obey it too (widths of bias and multiplier, range of the shift).

    Raises:
        GraphError: naming the node, what was found, and what holds.
    """
    types: dict[str, TensorType] = {}
    for value in graph.inputs:
        _check_new(value.name, types, "input")
        _check_type(value.name, value.type)
        types[value.name] = value.type
    for node in graph.nodes:
        _check_new(node.name, types, "node")
        _check_signature(node)
        for read in node.inputs:
            if read not in types:
                raise _error(node, f"reads '{read}', which no earlier line makes")
        _check_type(node.name, node.type)
        read_types = tuple(types[read] for read in node.inputs)
        _check_shape(node, read_types)
        _DTYPE_LAWS[node.op](node, *read_types)
        types[node.name] = node.type
    _check_outputs(graph, types)
    _check_sums(graph)
    if format is not None:
        _check_format(graph, format)


def _error(node: Node, message: str) -> GraphError:
    return GraphError(f"node '{node.name}' ({node.op}): {message}")


def _check_new(name: str, types: Mapping[str, TensorType], kind: str) -> None:
    if not name:
        raise GraphError(f"a {kind} has an empty name")
    if name in types:
        raise GraphError(f"{kind} '{name}': this name is taken; every value is made once")


def _check_type(name: str, type_: TensorType) -> None:
    if type_.dtype not in DTYPES:
        raise GraphError(f"value '{name}': {unknown_name('type', type_.dtype, DTYPES)}")
    if not 1 <= len(type_.shape) <= MAX_RANK or any(type(extent) is not int or extent < 1 for extent in type_.shape):
        raise GraphError(f"value '{name}': shape {type_.shape} is not one to three positive integers")
    if math.prod(type_.shape) > MAX_NUMBERS:
        raise GraphError(f"value '{name}': shape {type_.shape} is more than {MAX_NUMBERS} numbers")
    if not (math.isfinite(type_.scale) and type_.scale >= 0):
        raise GraphError(
            f"value '{name}': scale {type_.scale} is not finite and positive (0 where it differs by channel)"
        )
    if type_.scale == 0 and type_.dtype != "int32":
        raise GraphError(f"value '{name}': scale 0 is for accumulators (int32), and this is {type_.dtype}")
    if type_.dtype == "float32" and (type_.scale, type_.zero_point) != (1.0, 0):
        raise GraphError(f"value '{name}': a float32 value has scale 1 and zero point 0")
    if type_.dtype in LIMITS and not LIMITS[type_.dtype][0] <= type_.zero_point <= LIMITS[type_.dtype][1]:
        raise GraphError(f"value '{name}': zero point {type_.zero_point} does not fit {type_.dtype}")


def _check_signature(node: Node) -> None:
    if node.op not in OPS:
        raise GraphError(f"node '{node.name}': {unknown_name('operation', node.op, OPS)}")
    row = OPS[node.op]
    if len(node.inputs) != row.inputs:
        raise _error(node, f"has {len(node.inputs)} inputs; the operation reads {row.inputs}")
    _check_names(node, "constant", node.constants, row.constants)
    extra = FUNCTION_ATTRIBUTES if node.op == "activation" else ()
    allowed = (*row.attributes, *(f"{name}?" for name in (*COMMON_ATTRIBUTES, *extra)))
    _check_names(node, "attribute", node.attributes, allowed)
    for key, value in node.attributes.items():
        if type(value) not in (int, float, str, bool, tuple):
            raise _error(node, f"attribute '{key}' is a {type(value).__name__}; known: int, float, str, bool, tuple")


def _check_names(node: Node, kind: str, found: Mapping[str, object], known: tuple[str, ...]) -> None:
    names = {name.rstrip("?") for name in known}
    for name in found:
        if name not in names:
            raise _error(node, unknown_name(kind, name, names))
    for name in known:
        if not name.endswith("?") and name not in found:
            raise _error(node, f"{kind} '{name}' is missing")


def _check_shape(node: Node, inputs: tuple[TensorType, ...]) -> None:
    shape = infer_shape(node, inputs)
    if "dilation" in node.attributes and dilation_of(node) == (1, 1):
        raise _error(node, "attribute 'dilation' is (1, 1), which is not written: one graph has one text")
    if shape != node.type.shape:
        raise _error(node, f"says shape {node.type.shape}, and makes {shape}")
    if integer(node, "offset", 0) < 0:
        raise _error(node, f"attribute 'offset' is {node.attributes['offset']}; a place in the arena is at least 0")
    channels = integer(node, "channels", shape[0])
    if not 1 <= channels <= shape[0]:
        raise _error(node, f"attribute 'channels' is {channels}, and the value has {shape[0]}")


def _check_outputs(graph: Graph, types: Mapping[str, TensorType]) -> None:
    if not graph.inputs or not graph.outputs:
        raise GraphError("a graph has at least one input and one output")
    for name, value in graph.outputs.items():
        if value not in types:
            raise GraphError(f"output '{name}' is '{value}', which no line makes")


# --- types --------------------------------------------------------------------------------------


def _need(node: Node, what: str, found: str, known: tuple[str, ...]) -> None:
    if found not in known:
        raise _error(node, f"{what} is {found}; it must be {' or '.join(known)}")


def _float_law(node: Node, *inputs: TensorType) -> None:
    for read in inputs:
        _need(node, "the input", read.dtype, ("float32",))
    _need(node, "the result", node.type.dtype, ("float32",))
    for key, array in node.constants.items():
        _need(node, f"constant '{key}'", array.dtype.name, ("float32",))


def _batch_norm_law(node: Node, read: TensorType) -> None:
    _float_law(node, read)
    for key in node.constants:
        _per_channel(node, key)


def _per_channel(node: Node, key: str) -> None:
    shape = node.constants[key].shape
    if shape != (node.type.shape[0],):
        raise _error(node, f"constant '{key}' has shape {shape}; one number a channel is ({node.type.shape[0]},)")


def _sum_law(node: Node, *inputs: TensorType) -> None:
    """conv, linear, add, multiply: float, or bytes into an int32 accumulator."""
    if inputs[0].dtype == "float32":
        _float_law(node, *inputs)
        if "bias" in node.constants:
            _per_channel(node, "bias")
        return
    for read in inputs:
        _need(node, "the input", read.dtype, ("int8", "uint8"))
    _need(node, "the accumulator", node.type.dtype, ("int32",))
    if "bias" in node.constants:
        raise _error(node, "an integer layer has no bias of its own; it stands in the requantize behind it")
    if "weight" in node.constants:
        _need(node, "constant 'weight'", node.constants["weight"].dtype.name, ("int8",))
        _weights_law(node)
    if node.op == "multiply":
        scale = inputs[0].scale * inputs[1].scale
        if node.type.scale != scale:
            raise _error(node, f"has scale {node.type.scale!r}; the product of the scales is {scale!r}")
    elif len({(read.scale, read.zero_point) for read in inputs}) > 1:
        raise _error(node, f"adds integers of different scales: {', '.join(repr(read.scale) for read in inputs)}")


def _weights_law(node: Node) -> None:
    """Weights of 8, 4 or 2 bits, as many below 0 as above; those of 8 bits that other tools made have -128 too."""
    bits = integer(node, "weight_bits", 8)
    least, most = _ends(node.constants["weight"])
    limit = 2 ** (bits - 1) - 1
    if bits not in (2, 4, 8) or most > limit or least < -limit - (bits == 8):
        found = max(most, -least)
        raise _error(node, f"a weight of {found} does not fit {bits} bits (2, 4 or 8; +-{limit})")


def _ends(array: NDArray[np.generic]) -> tuple[int, int]:
    whole = array.astype("int64")
    return int(whole.min(initial=0)), int(whole.max(initial=0))


def _sum_pool_law(node: Node, read: TensorType) -> None:
    _need(node, "the input", read.dtype, ("int8", "uint8"))
    _need(node, "the accumulator", node.type.dtype, ("int32",))


def _limits_law(node: Node) -> None:
    low, high = integer(node, "low"), integer(node, "high")
    least, most = LIMITS[node.type.dtype]
    if not least <= low <= high <= most:
        raise _error(node, f"the range {low} .. {high} does not fit {node.type.dtype} ({least} .. {most})")


def _whole_numbers(node: Node, key: str, least: int, most: int) -> None:
    array: NDArray[np.generic] = node.constants[key]
    _per_channel(node, key)
    _need(node, f"constant '{key}'", array.dtype.name, ("int32",))
    for channel, value in enumerate(array.tolist()):
        if not least <= value <= most:
            raise _error(node, f"{key} {value} of channel {channel} is not in {least} .. {most}")


def _requantize_law(node: Node, read: TensorType) -> None:
    _need(node, "the input", read.dtype, ("int32",))
    _need(node, "the result", node.type.dtype, ("int8", "uint8"))
    _limits_law(node)
    _need(node, "the rounding", str(node.attributes["rounding"]), ROUNDINGS)
    if not isinstance(node.attributes["bias_before_multiply"], bool):
        raise _error(node, "attribute 'bias_before_multiply' is no boolean")
    tflite = node.attributes["rounding"] in ("single", "double")
    float_ = node.attributes["rounding"] == "nearest_even"
    _whole_numbers(node, "bias", *INT32)
    _whole_numbers(node, "multiplier", 0, 2**MANTISSA_BITS if float_ else INT32[1])
    _whole_numbers(node, "shift", *((0, 62) if tflite else (-31, 149) if float_ else (-31, 31)))


def _quantize_linear_law(node: Node, read: TensorType) -> None:
    _need(node, "the input", read.dtype, ("float32",))
    _own_scale_law(node)


def _add_float_law(node: Node, *inputs: TensorType) -> None:
    for read, key in zip(inputs, ("left_scale", "right_scale"), strict=True):
        _need(node, "the input", read.dtype, ("int8", "uint8"))
        if node.attributes[key] != read.scale:
            raise _error(node, f"attribute '{key}' is {node.attributes[key]!r}; the input's scale is {read.scale!r}")
        _float32_scale(node, read.scale)
    _own_scale_law(node)


def _own_scale_law(node: Node) -> None:
    """Bytes whose scale takes part in the arithmetic: a number that float32 holds."""
    _need(node, "the result", node.type.dtype, ("int8", "uint8"))
    _limits_law(node)
    _float32_scale(node, node.type.scale)


def _float32_scale(node: Node, scale: float) -> None:
    if not _is_float32(scale):
        raise _error(node, f"reads or has the scale {scale!r}, which float32 does not hold exactly")


def _requantize_float_law(node: Node, read: TensorType) -> None:
    _need(node, "the input", read.dtype, ("int32",))
    _need(node, "the result", node.type.dtype, ("int8", "uint8"))
    _limits_law(node)
    if node.type.zero_point:
        raise _error(node, f"has the zero point {node.type.zero_point}; with a float bias it is 0")
    for key in ("ratio", "bias"):
        _finite_floats(node, key)


def _finite_floats(node: Node, key: str) -> None:
    array = node.constants[key]
    _need(node, f"constant '{key}'", array.dtype.name, ("float32",))
    _per_channel(node, key)
    if not all(math.isfinite(value) for value in array.tolist()):
        raise _error(node, f"a {key} is not finite")


def _quantize_law(node: Node, read: TensorType) -> None:
    _need(node, "the input", read.dtype, ("float32",))
    _need(node, "the result", node.type.dtype, ("int8",))
    _limits_law(node)
    _finite_floats(node, "bias")
    _whole_numbers(node, "multiplier", -(2**24), 2**24)  # exact in float32
    _whole_numbers(node, "shift", 0, 31)


def _same_law(node: Node, *inputs: TensorType) -> None:
    for read in inputs:
        if node.op != "flatten":
            _need(node, "the input", read.dtype, ("float32", "int8", "uint8"))
        if (read.dtype, read.scale, read.zero_point) != (node.type.dtype, node.type.scale, node.type.zero_point):
            raise _error(node, f"changes the type from {read} to {node.type}; it keeps dtype, scale and zero point")


def _table_law(node: Node, read: TensorType) -> None:
    _need(node, "the input", read.dtype, ("int8", "uint8"))
    _need(node, "the result", node.type.dtype, ("int8", "uint8"))
    entries = node.constants["entries"]
    if entries.shape != (256,) or entries.dtype.name != node.type.dtype:
        raise _error(node, f"entries are {entries.dtype.name}{entries.shape}; 256 of {node.type.dtype} are needed")


def _dequantize_law(node: Node, read: TensorType) -> None:
    _need(node, "the input", read.dtype, ("int8", "uint8"))
    _need(node, "the result", node.type.dtype, ("float32",))
    scale = node.attributes["scale"]
    if not (isinstance(scale, float) and math.isfinite(scale) and scale > 0 and _is_float32(scale)):
        raise _error(node, f"attribute 'scale' is {scale!r}; a positive float that float32 holds exactly is needed")


def _is_float32(value: float) -> bool:
    import numpy as np

    return float(np.float32(value)) == value


_DTYPE_LAWS: dict[str, Callable[..., None]] = {
    "conv": _sum_law,
    "linear": _sum_law,
    "add": _sum_law,
    "multiply": _sum_law,
    "sum_pool": _sum_pool_law,
    "average_pool": _float_law,
    "requantize": _requantize_law,
    "requantize_float": _requantize_float_law,
    "quantize": _quantize_law,
    "quantize_linear": _quantize_linear_law,
    "add_float": _add_float_law,
    "max_pool": _same_law,
    "flatten": _same_law,
    "reshape": _same_law,
    "take": _same_law,
    "concat": _same_law,
    "relu": _float_law,
    "activation": _float_law,
    "table": _table_law,
    "batch_norm": _batch_norm_law,
    "dequantize": _dequantize_law,
}


# --- ranges -------------------------------------------------------------------------------------


def _check_sums(graph: Graph) -> None:
    """No accumulator, and no accumulator plus bias, leaves int32, whatever the input; from the real weights."""
    ranges = intervals_of(graph)
    for node in graph.nodes:
        if node.type.dtype == "int32":
            low, high = ranges[node.name]
            _check_range(node, "the accumulator", low, high)
        elif node.op == "requantize" and node.attributes["bias_before_multiply"]:
            low, high = ranges[node.inputs[0]]
            bias = node.constants["bias"].astype("int64")
            _check_range(node, "accumulator + bias", low + bias, high + bias)
        elif node.op == "requantize_float":
            _check_range(node, "the accumulator", *ranges[node.inputs[0]], bits=FLOAT_BITS)


def _check_range(node: Node, what: str, low: NDArray[np.int64], high: NDArray[np.int64], bits: int = 32) -> None:
    limit = 2 ** (bits - 1)
    for channel, (least, most) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        if least < -limit or most >= limit:
            raise _error(node, f"{what} of channel {channel} can be {least} .. {most}, which leaves {bits} bits")


def _check_format(graph: Graph, format: NumberFormat) -> None:
    for node in graph.nodes:
        if node.op != "requantize":
            continue
        source = graph.node(node.inputs[0])
        bits = source.attributes.get("weight_bits")
        if "weight" in source.constants and _ends(source.constants["weight"])[0] == -128:
            raise _error(source, f"has the weight -128; number format '{format.name}' has +-127")
        if bits is not None and bits not in format.by_weight_bits:
            raise _error(node, f"number format '{format.name}' has no {bits}-bit weights")
        widths = [width for key, width in format.by_weight_bits.items() if bits in (None, key)]  # pools have no weights
        _whole_numbers(node, "multiplier", 0, max(1, 2 ** max(width.multiplier_bits for width in widths) - 1))
        _whole_numbers(node, "shift", min(width.shift[0] for width in widths), max(width.shift[1] for width in widths))
        _bias_law(node, max(widths, key=lambda width: width.bias_bits))
        if format.per == "layer":
            _one_for_all(node)
        if not format.unsigned_after_relu:
            _need(node, "the result", node.type.dtype, ("int8",))
        _need(node, "the rounding", str(node.attributes["rounding"]), (format.rounding,))


def _bias_law(node: Node, width: Requantize) -> None:
    """A bias is what its register holds, shifted to the left as the machine shifts it."""
    unit, most = 2**width.bias_shift, 2 ** (width.bias_bits - 1)
    _whole_numbers(node, "bias", -most * unit, (most - 1) * unit)
    for channel, value in enumerate(node.constants["bias"].tolist()):
        if value % unit:
            raise _error(node, f"bias {value} of channel {channel} is no multiple of {unit}")


def _one_for_all(node: Node) -> None:
    for key in ("multiplier", "shift"):
        if len(set(node.constants[key].tolist())) > 1:
            raise _error(node, f"has several {key}s; the number format has one for a layer")
