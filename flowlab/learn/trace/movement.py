"""Operations that only move numbers: torch runs them on the elements' own numbers, and the result is the index.

So views, slices, permutations, repeats, padding with zeros, concatenation and nearest upsampling need no code of their
own, and cannot be understood otherwise than torch does.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowlab.errors import GraphError
from flowlab.learn.trace.builder import Call, IntArray, View, canonical
from flowlab.learn.trace.record import BATCH


def reindex(view: View, move: Callable[[Tensor], Tensor], hint: str) -> View:
    """A view behind a movement of torch's, on a batch of one."""
    numbers = torch.from_numpy(view.index + 1).double()[None]  # 0 is what a padding brings
    return View(view.value, _whole(move(numbers)[0]) - 1, hint)


def move(call: Call) -> Any:
    """Take an operation that moves the elements of one or several values; a view, or a tuple of them."""
    views = call.views()
    total = sum(view.index.size for view in views)
    starts = dict(zip(map(id, views), np.cumsum([0, *(view.index.size for view in views)]), strict=False))
    try:
        result = call.run(lambda view: _numbers(view.index.shape, starts[id(view)], total))
    except Exception as error:  # torch's, on numbers instead of values
        reason = str(error).partition("\n")[0]
        raise GraphError(f"{call.place}: its elements cannot be followed: {reason}") from error
    if isinstance(result, Tensor):
        return _seen(call, views, result, total, call.name)
    return tuple(_seen(call, views, part, total, f"{call.name}.{place}") for place, part in enumerate(result))


def _numbers(shape: tuple[int, ...], start: int, total: int) -> Tensor:
    """1 and up for the elements of a batch; each window of the batch begins ``total`` further."""
    inner = torch.arange(prod(shape), dtype=torch.float64).reshape(1, *shape) + (start + 1)
    return inner + torch.arange(BATCH, dtype=torch.float64).reshape(-1, *(1,) * len(shape)) * total


def _whole(numbers: Tensor) -> IntArray:
    return np.ascontiguousarray(numbers.numpy()).astype(np.int64)


def _seen(call: Call, views: list[View], result: Tensor, total: int, hint: str) -> View:
    """The result's first window as a view, if all windows are moved alike and none sees another."""
    whole = _whole(result)
    shape = tuple(whole.shape)
    alike = bool(shape) and shape[0] == BATCH
    first = whole[0] if alike else whole
    alike = alike and bool(((first >= 0) & (first <= total)).all())
    alike = alike and bool((whole[1] == np.where(first == 0, 0, first + total)).all())
    call.require(alike, f"gives shape {shape} for a batch of {BATCH}: keep the batch as the first dimension")
    return joined(call, views, np.asarray(first - 1), hint)


def joined(call: Call, views: list[View], index: IntArray, hint: str, suffix: str = "") -> View:
    """A view of elements of several views, numbered one behind the other; concatenated where they are of two values."""
    starts = np.cumsum([0, *(view.index.size for view in views)])
    read = [place for place in range(len(views)) if ((index >= starts[place]) & (index < starts[place + 1])).any()]
    if len({views[place].value for place in read}) <= 1:
        table = np.concatenate([*(view.index.reshape(-1) for view in views), [-1]])
        return View(views[read[0] if read else 0].value, table[index], hint)
    parts = [views[place] for place in read]
    renumbered = np.concatenate([np.arange(each.index.size) for each in views] + [np.array([-1])])
    offset = dict(zip(read, np.cumsum([0, *(each.index.size for each in parts)]), strict=False))
    for place in read:
        renumbered[starts[place] : starts[place + 1]] += offset[place]
    index = renumbered[index]
    total = sum(each.index.size for each in parts)
    in_order = index.size == total and bool((index.reshape(-1) == np.arange(total)).all())
    shapes = [canonical(each.shape) for each in parts]
    alike = in_order and len({shape[1:] for shape in shapes}) == 1
    value = concatenated(call, parts, shapes if alike else None, suffix)
    return View(value, index, hint)


def gathered(call: Call, views: list[View], shape: tuple[int, ...], suffix: str) -> View:
    """Several values of one size behind one another, in this shape."""
    index = np.arange(sum(view.index.size for view in views), dtype=np.int64).reshape(shape)
    return joined(call, views, index, f"{call.name}{suffix}", suffix)


def concatenated(call: Call, parts: list[View], shapes: list[tuple[int, ...]] | None, suffix: str = "") -> str:
    """One value of several, along the first axis in their shapes, or flat where there are none; a chain of pairs."""
    builder = call.builder
    flat = [(each.index.size,) for each in parts]
    values = [builder.read(each, shape) for each, shape in zip(parts, shapes or flat, strict=True)]
    chain, shape = values[0], builder.types[values[0]].shape
    for place, value in enumerate(values[1:], 1):
        other = builder.types[value].shape
        shape = (shape[0] + other[0], *shape[1:])
        last = suffix if place == len(values) - 1 else f"{suffix}.{place}"
        chain = builder.emit(call, "concat", (chain, value), shape, suffix=last)
    return chain
