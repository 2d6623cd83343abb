"""Shape inference: what an operation makes of the shapes that it reads. One function an operation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from flowlab.compiler.ir import Attribute, Node, TensorType
from flowlab.errors import GraphError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Shape = tuple[int, ...]
MOST_PADDED = 1 << 24  # places of one channel with its padding: a graph from outside must not fill the memory


def infer_shape(node: Node, inputs: tuple[TensorType, ...]) -> Shape:
    """The shape of a node's value, without the batch, from its inputs' types, constants and attributes.

    Raises:
        GraphError: naming the node, where operation, constants and inputs do not fit together.
    """
    return _SHAPES[node.op](node, *(value.shape for value in inputs))


def integers(node: Node, attribute: str, count: int) -> tuple[int, ...]:
    """An attribute that is a tuple of ``count`` integers.

    Raises:
        GraphError: naming the node, where it is something else.
    """
    value: Attribute | None = node.attributes.get(attribute)
    if isinstance(value, tuple) and len(value) == count and all(type(each) is int for each in value):
        return value
    raise GraphError(f"node '{node.name}': attribute '{attribute}' is {value!r}; {count} integers are needed")


def dilation_of(node: Node) -> tuple[int, int]:
    """How far apart a convolution's kernel reads, (h, w); (1, 1) where the node says nothing. Raises as `integers`."""
    if "dilation" not in node.attributes:
        return 1, 1
    down, across = integers(node, "dilation", 2)
    if min(down, across) < 1:
        raise GraphError(f"node '{node.name}': dilation ({down}, {across}) is at least 1")
    return down, across


def reach(kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int]:
    """The rows and columns that a kernel spans."""
    return (kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1


def integer(node: Node, attribute: str, default: int | None = None) -> int:
    """An attribute that is an integer.

    Raises:
        GraphError: naming the node, where it is missing without a default, or something else.
    """
    value = node.attributes.get(attribute, default)
    if type(value) is int:
        return value
    raise GraphError(f"node '{node.name}': attribute '{attribute}' is {value!r}; an integer is needed")


def place_bytes(index: NDArray[np.generic]) -> int:
    """Bytes of the places of a take in C: 2 each where they are enough, else 4."""
    return int(index.size) * (2 if int(index.max(initial=0)) < 1 << 15 else 4)


def _planes(node: Node, shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise GraphError(f"node '{node.name}': {node.op} reads (channel, height, width), and its input is {shape}")
    return shape[0], shape[1], shape[2]


def _slide(node: Node, extent: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
    stride = integers(node, "stride", 2)
    padding = integers(node, "padding", 4)
    if min(stride) < 1 or min(padding) < 0 or min(kernel) < 1:
        raise GraphError(f"node '{node.name}': stride {stride} and kernel {kernel} are at least 1, padding at least 0")
    if (extent[0] + padding[0] + padding[2]) * (extent[1] + padding[1] + padding[3]) > MOST_PADDED:
        raise GraphError(f"node '{node.name}': {extent} with padding {padding} is more than {MOST_PADDED} places")
    out = []
    for axis in (0, 1):
        room = extent[axis] + padding[axis] + padding[axis + 2] - kernel[axis]
        if room < 0:
            raise GraphError(
                f"node '{node.name}': a kernel of {kernel} does not fit into {extent} with padding {padding}"
            )
        out.append(room // stride[axis] + 1)
    return out[0], out[1]


def _conv(node: Node, shape: Shape) -> Shape:
    channels, height, width = _planes(node, shape)
    weight = node.constants["weight"].shape
    groups = integer(node, "groups")
    if len(weight) != 4:
        raise GraphError(f"node '{node.name}': the weight of a conv has 4 axes, found shape {weight}")
    if groups < 1 or channels % groups or weight[0] % groups or weight[1] != channels // groups:
        raise GraphError(
            f"node '{node.name}': a weight of shape {weight} with {groups} groups does not read {channels} channels"
        )
    if min(weight) < 1:
        raise GraphError(f"node '{node.name}': a weight of shape {weight} has no numbers")
    return (weight[0], *_slide(node, (height, width), reach((weight[2], weight[3]), dilation_of(node))))


def _linear(node: Node, shape: Shape) -> Shape:
    weight = node.constants["weight"].shape
    if len(shape) != 1 or len(weight) != 2 or weight[1] != shape[0]:
        raise GraphError(
            f"node '{node.name}': a weight of shape {weight} (out, in) does not read an input of shape {shape}"
        )
    return (weight[0],)


def _max_pool(node: Node, shape: Shape) -> Shape:
    channels, height, width = _planes(node, shape)
    kernel = integers(node, "kernel", 2)
    padding = integers(node, "padding", 4)
    if any(padding[side] >= kernel[side % 2] for side in range(4)):
        raise GraphError(f"node '{node.name}': padding {padding} is not smaller than the kernel {kernel}")
    return (channels, *_slide(node, (height, width), (kernel[0], kernel[1])))


def _global_pool(node: Node, shape: Shape) -> Shape:
    return (_planes(node, shape)[0], 1, 1)


def _quantize(node: Node, shape: Shape) -> Shape:
    channels = node.constants["bias"].shape[0] if node.constants["bias"].ndim == 1 else -1
    if channels < shape[0]:
        raise GraphError(f"node '{node.name}': {channels} biases for {shape[0]} channels")
    return (channels, *shape[1:])


def _flatten(node: Node, shape: Shape) -> Shape:
    return (math.prod(shape),)


def _reshape(node: Node, shape: Shape) -> Shape:
    if math.prod(node.type.shape) != math.prod(shape):
        raise GraphError(f"node '{node.name}': {shape} cannot become {node.type.shape}: other counts of numbers")
    return node.type.shape


def _take(node: Node, shape: Shape) -> Shape:
    index = node.constants["index"]
    if index.shape != (math.prod(node.type.shape),) or index.dtype.name != "int32":
        raise GraphError(
            f"node '{node.name}': index is {index.dtype.name}{index.shape}; "
            f"{math.prod(node.type.shape)} of int32 are needed, one for each number of {node.type.shape}"
        )
    least, most = int(index.min(initial=-1)), int(index.max(initial=-1))
    if least < -1 or most >= math.prod(shape):
        raise GraphError(
            f"node '{node.name}': index {least if least < -1 else most} is not in -1 .. {math.prod(shape) - 1}"
        )
    return node.type.shape


def _concat(node: Node, left: Shape, right: Shape) -> Shape:
    if left[1:] != right[1:]:
        raise GraphError(f"node '{node.name}': concat joins first axes; {left} and {right} differ in another one")
    return (left[0] + right[0], *left[1:])


def _keep(node: Node, shape: Shape) -> Shape:
    return shape


def _add(node: Node, left: Shape, right: Shape) -> Shape:
    if left != right:
        raise GraphError(f"node '{node.name}': add reads two equal shapes, found {left} and {right}")
    return left


def _multiply(node: Node, left: Shape, right: Shape) -> Shape:
    if right not in (left, (left[0], *(1,) * (len(left) - 1))):
        raise GraphError(
            f"node '{node.name}': multiply reads two equal shapes, or one factor a channel; found {left} and {right}"
        )
    return left


_SHAPES: dict[str, Callable[..., Shape]] = {
    "conv": _conv,
    "linear": _linear,
    "sum_pool": _global_pool,
    "average_pool": _global_pool,
    "requantize": _keep,
    "requantize_float": _keep,
    "quantize": _quantize,
    "quantize_linear": _keep,
    "max_pool": _max_pool,
    "flatten": _flatten,
    "relu": _keep,
    "activation": _keep,
    "table": _keep,
    "batch_norm": _keep,
    "add": _add,
    "add_float": _add,
    "multiply": _multiply,
    "concat": _concat,
    "take": _take,
    "reshape": _reshape,
    "dequantize": _keep,
}
