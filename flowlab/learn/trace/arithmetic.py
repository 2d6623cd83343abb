"""Sums, differences, products and quotients of values and constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowlab.learn.trace.builder import Absent, Call, Taker, View, canonical
from flowlab.learn.trace.layers import per_channel
from flowlab.learn.trace.movement import reindex
from flowlab.learn.trace.record import BATCH


def added(call: Call, left: View, right: View, suffix: str = "") -> View:
    """The sum of two values; torch's broadcasting repeats elements."""
    return _pairwise(call, "add", left, right, suffix)


def multiplied(call: Call, left: View, right: View, suffix: str = "") -> View:
    """The product of two values; one number a channel against a plane needs no repeating."""
    planes = [canonical(each.shape) for each in (left, right)]
    for big, small, shapes in ((left, right, planes), (right, left, planes[::-1])):
        a_channel = len(shapes[0]) == 3 and shapes[1] == (shapes[0][0], 1, 1) and len(big.shape) == len(small.shape)
        if a_channel and shapes[0] != shapes[1]:
            values = (call.builder.read(big), call.builder.read(small))
            name = call.builder.emit(call, "multiply", values, shapes[0], suffix=suffix)
            return call.builder.whole(name, big.shape)
    return _pairwise(call, "multiply", left, right, suffix)


def _pairwise(call: Call, op: str, left: View, right: View, suffix: str) -> View:
    builder = call.builder
    shape = tuple(np.broadcast_shapes((1, *left.shape), (1, *right.shape)))[1:]
    call.require(
        len(left.shape) == len(right.shape),
        f"combines shapes {left.shape} and {right.shape}, and torch would take one's batch for the other's channels: "
        "give both the same number of dimensions",
    )
    both = [_expanded(each, shape, f"{call.name}.take") for each in (left, right)]
    own = builder.types[both[0].value].shape
    if not (all(builder.is_whole(each) for each in both) and builder.types[both[1].value].shape == own):
        own = canonical(shape)
    values = (builder.read(both[0], own), builder.read(both[1], own))
    return builder.whole(builder.emit(call, op, values, own, suffix=suffix), shape)


def _expanded(view: View, shape: tuple[int, ...], hint: str) -> View:
    return view if view.shape == shape else reindex(view, lambda x: x.expand(1, *shape), hint)


def _constant(call: Call, value: object, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A number or a tensor of the module's own, one a place of the result; the same for every window."""
    if isinstance(value, Absent):
        call.refuse(value.why)
    tensor = value if isinstance(value, Tensor) else None
    if tensor is None:
        plain = isinstance(value, (int, float)) and not isinstance(value, bool)
        call.require(plain, f"uses {value!r}: not a number, a tensor or a value of the network")
        tensor = torch.tensor(float(value))  # type: ignore[arg-type]
    whole = torch.broadcast_to(tensor.detach().double(), (BATCH, *shape))
    call.require(bool(torch.equal(whole[0], whole[1])), "has another constant for each window of the batch")
    array: NDArray[np.float64] = whole[0].numpy()
    return array


def _binary(values: Callable[[Call, View, View], View], line: Callable[[Call, Any, bool], tuple[Any, Any]]) -> Taker:
    """A taker for two values, or one and a constant, of which ``line`` makes scale and offset."""

    def take(call: Call) -> View:
        left, right = call.argument(0, "input"), call.argument(1, "other")
        call.require(call.kwargs.get("rounding_mode") is None, "rounds its quotient: leave rounding_mode out")
        if isinstance(left, View) and isinstance(right, View):
            return values(call, left, right)
        swapped = isinstance(right, View)
        view = call.as_view(right if swapped else left)
        constant = _constant(call, left if swapped else right, call.shape)
        scale, offset = line(call, constant, swapped)
        return per_channel(call, _expanded(view, call.shape, f"{call.name}.take"), scale, offset)

    return take


def _alpha(call: Call) -> float:
    return float(call.kwargs.get("alpha", 1))


def _add(call: Call, left: View, right: View) -> View:
    if _alpha(call) != 1:
        right = per_channel(call, right, _alpha(call), 0.0, ".alpha")
    return added(call, left, right)


def _subtract(call: Call, left: View, right: View) -> View:
    return added(call, left, per_channel(call, right, -_alpha(call), 0.0, ".minus"))


def _divide(call: Call, left: View, right: View) -> View:
    call.refuse("divides by a value of the network: multiply by one instead, or divide by a constant")
    raise AssertionError


def _line_of_sum(call: Call, constant: Any, swapped: bool) -> tuple[Any, Any]:
    return (_alpha(call), constant) if swapped else (1.0, _alpha(call) * constant)


def _line_of_difference(call: Call, constant: Any, swapped: bool) -> tuple[Any, Any]:
    return (-_alpha(call), constant) if swapped else (1.0, -_alpha(call) * constant)


def _line_of_quotient(call: Call, constant: Any, swapped: bool) -> tuple[Any, Any]:
    call.require(not swapped, "divides by a value of the network: multiply by one instead, or divide by a constant")
    call.require(bool((constant != 0).all()), "divides by 0")
    return 1 / constant, 0.0


add = _binary(_add, _line_of_sum)
subtract = _binary(_subtract, _line_of_difference)
multiply = _binary(multiplied, lambda call, constant, swapped: (constant, 0.0))
divide = _binary(_divide, _line_of_quotient)


def reversed_subtract(call: Call) -> View:
    """``torch.rsub(x, y)``: y - x."""
    minus = per_channel(call, call.view(), -_alpha(call), 0.0, ".minus")
    other = call.argument(1, "other")
    if isinstance(other, View):
        return added(call, other, minus)
    return per_channel(call, minus, 1.0, _constant(call, other, call.shape))


def negative(call: Call) -> View:
    """``-x``."""
    return per_channel(call, call.view(), -1.0, 0.0)


def square(call: Call) -> View:
    """``x * x``."""
    return multiplied(call, call.view(), call.view())


def power(call: Call) -> View:
    """The powers 1, 2 and 3 of a value."""
    view, exponent = call.view(), call.argument(1, "exponent")
    call.require(exponent in (1, 2, 3), f"is the power {exponent!r}: use 2 or 3, or a product")
    if exponent == 1:
        return view
    squared = multiplied(call, view, view, "" if exponent == 2 else ".square")
    return squared if exponent == 2 else multiplied(call, squared, view)


def lerp(call: Call) -> View:
    """``torch.lerp`` with a constant weight."""
    start, end, weight = call.view(0, "input"), call.view(1, "end"), call.argument(2, "weight")
    call.require(isinstance(weight, (int, float)), "its weight is no plain number")
    first = per_channel(call, start, 1.0 - weight, 0.0, ".start")
    return added(call, first, per_channel(call, end, weight, 0.0, ".end"))
