"""Numbers that only move, as our export writes them in ONNX: gathered from the flat value, which may end in a zero."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from flowlab.compiler.onnx_model import OnnxModel, attributes_of, node_error

Proto: TypeAlias = onnx.NodeProto
ShapeOf = Callable[[Proto], tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Taken:
    """A take: what it reads, the places (int32, -1 for a zero), its result's shape, the nodes that it is made of."""

    source: str
    index: NDArray[np.int32]
    shape: tuple[int, ...]
    protos: tuple[Proto, ...]


def is_part_of_take(model: OnnxModel, flatten: Proto) -> bool:
    """Whether a Flatten is the first step of a take, which claims it."""
    after = model.reader(flatten.output[0], "Pad", "Gather")
    return after is not None and after.input[0] == flatten.output[0]


def is_take(model: OnnxModel, gather: Proto) -> bool:
    """Whether a Gather moves numbers, and is no table."""
    return model.maker(gather.input[0], "Pad", "Flatten") is not None


def read_take(model: OnnxModel, gather: Proto, reshape: Proto | None, shape_of: ShapeOf) -> Taken:
    """The take that ends in a Gather, or in the Reshape behind it.

    Args:
        model: the file.
        gather: for which `is_take` holds.
        reshape: what gives its result a shape, or None.
        shape_of: the shape of what a node reads.

    Raises:
        GraphError: naming the node that is not as our export writes it.
    """
    pad = model.maker(gather.input[0], "Pad")
    flat = model.maker(gather.input[0] if pad is None else pad.input[0], "Flatten")
    places = model.constant(gather, 1)
    if flat is None or attributes_of(flat).get("axis", 1) != 1 or attributes_of(gather).get("axis", 0) != 1:
        raise node_error(gather, "takes from no flat value")
    count = math.prod(shape_of(flat))
    if pad is not None:
        _check_pad(model, pad)
    least, most = int(places.min(initial=0)), int(places.max(initial=0))
    if places.ndim != 1 or places.dtype.kind != "i" or least < 0 or most >= count + (pad is not None):
        raise node_error(gather, f"takes the places {least} .. {most} of {count} numbers")
    index = np.where(places == count, -1, places).astype(np.int32)
    protos = tuple(one for one in (flat, pad, gather, reshape) if one is not None)
    shape = (len(index),) if reshape is None else wanted_shape(model, reshape)
    return Taken(flat.input[0], index, shape, protos)


def wanted_shape(model: OnnxModel, reshape: Proto) -> tuple[int, ...]:
    """The shape behind the batch that a Reshape gives; GraphError for one that does not keep the batch."""
    shape = model.constant(reshape, 1)
    if shape.ndim != 1 or len(shape) < 2 or int(shape[0]) not in (0, -1) or int(shape[1:].min()) < 1:
        raise node_error(reshape, f"gives the shape {shape.tolist()}; [0, ...], which keeps the batch, is known")
    return tuple(int(extent) for extent in shape[1:])


def _check_pad(model: OnnxModel, pad: Proto) -> None:
    mode = attributes_of(pad).get("mode", "constant")
    if mode not in ("constant", b"constant") or model.constant(pad, 1).tolist() != [0, 0, 0, 1]:
        raise node_error(pad, "adds more than one number behind the last")
    if len(pad.input) > 2 and float(model.constant(pad, 2).reshape(())) != 0:
        raise node_error(pad, "adds what is no zero")
