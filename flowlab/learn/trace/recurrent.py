"""Recurrent layers, unrolled: one projection of all inputs, then for each place a few sums, products and activations.

The weights of the state stand in the graph once for every place, so short series and small states are what fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowlab.learn.trace.activations import applied
from flowlab.learn.trace.arithmetic import added, multiplied
from flowlab.learn.trace.builder import Call, States, View
from flowlab.learn.trace.layers import numbers, per_channel
from flowlab.learn.trace.movement import gathered

MOST_PLACES = 256  # of a series: each costs a dozen nodes

Array = NDArray[np.float32]


@dataclass(frozen=True)
class _Cell:
    """A layer's weights in one direction: of the input (gates, in), of the state (gates, hidden), and both biases."""

    call: Call
    input_weight: Array
    input_bias: Array
    state_weight: Array
    state_bias: Array

    @property
    def size(self) -> int:
        """Of the state."""
        return int(self.state_weight.shape[1])

    def rows(self, *gates: int, negative: bool = False) -> _Cell:
        """The same cell with these gates alone, in this order; ``negative`` turns the last one's sign."""
        chosen = np.concatenate([np.arange(gate * self.size, (gate + 1) * self.size) for gate in gates])
        sign = np.ones((len(chosen), 1), np.float32)
        if negative:
            sign[-self.size :] = -1
        parts = [self.input_weight, self.input_bias[:, None], self.state_weight, self.state_bias[:, None]]
        weight, bias, state, other = (np.ascontiguousarray(part[chosen] * sign) for part in parts)
        return _Cell(self.call, weight, bias[:, 0], state, other[:, 0])

    def project(self, view: View, bias: Array, suffix: str) -> list[View]:
        """Gates of the input at every place, a view (gates,) each; the input is (place, feature)."""
        builder = self.call.builder
        places, inside = view.shape
        value = builder.read(View(view.value, view.index.T, f"{self.call.name}{suffix}.take"), (inside, places, 1))
        weight = self.input_weight[:, :, None, None]
        name = builder.append(
            f"{self.call.name}{suffix}", "conv", (value,), (len(weight), places, 1),
            attributes={"stride": (1, 1), "padding": (0, 0, 0, 0), "groups": 1},
            constants={"weight": np.ascontiguousarray(weight), "bias": bias},
        )  # fmt: skip
        index = np.arange(len(weight) * places, dtype=np.int64).reshape(len(weight), places)
        return [View(name, index[:, place], f"{name}.{place}") for place in range(places)]

    def state(self, view: View, bias: Array | None, suffix: str) -> View:
        """Gates of the state, a view (gates,)."""
        builder = self.call.builder
        constants = {"weight": self.state_weight} if bias is None else {"weight": self.state_weight, "bias": bias}
        shape = (len(self.state_weight),)
        name = builder.append(f"{self.call.name}{suffix}", "linear", (builder.read(view),), shape, constants=constants)
        return builder.whole(name, shape)

    def part(self, view: View, place: int, suffix: str) -> View:
        """One gate of several."""
        index = view.index[place * self.size : (place + 1) * self.size]
        return View(view.value, index, f"{self.call.name}{suffix}")


def _lstm(cell: _Cell, inputs: View, suffix: str) -> tuple[list[View], View]:
    """States at every place, and the last cell state; torch's gates are input, forget, cell, output."""
    call, cell = cell.call, cell.rows(0, 1, 3, 2)
    outputs: list[View] = []
    memory: View | None = None
    for place, gates in enumerate(cell.project(inputs, cell.input_bias + cell.state_bias, f"{suffix}.input")):
        at = f"{suffix}.{place}"
        if outputs:
            gates = added(call, gates, cell.state(outputs[-1], None, f"{at}.state"), f"{at}.gates")  # noqa: PLW2901
        opened = View(gates.value, gates.index[: 3 * cell.size], f"{call.name}{at}.open")
        opened = applied(call, opened, "sigmoid", f"{at}.sigmoid")
        new = applied(call, cell.part(gates, 3, f"{at}.cell"), "tanh", f"{at}.tanh")
        new = multiplied(call, cell.part(opened, 0, f"{at}.in"), new, f"{at}.new")
        if memory is not None:
            kept = multiplied(call, cell.part(opened, 1, f"{at}.forget"), memory, f"{at}.kept")
            new = added(call, kept, new, f"{at}.memory")
        memory = new
        shown = applied(call, memory, "tanh", f"{at}.shown")
        outputs.append(multiplied(call, cell.part(opened, 2, f"{at}.out"), shown, at))
    assert memory is not None
    return outputs, memory


def _gru(cell: _Cell, inputs: View, suffix: str) -> tuple[list[View], View]:
    """States at every place, twice the last; torch's gates are reset, update, new. 1 - sigmoid(x) is sigmoid(-x)."""
    call, opening, renewing = cell.call, cell.rows(0, 1, 1, negative=True), cell.rows(2)
    outputs: list[View] = []
    opened_inputs = opening.project(inputs, opening.input_bias + opening.state_bias, f"{suffix}.open")
    new_inputs = renewing.project(inputs, renewing.input_bias, f"{suffix}.new")
    for place, (gates, new) in enumerate(zip(opened_inputs, new_inputs, strict=True)):
        at = f"{suffix}.{place}"
        if outputs:
            gates = added(call, gates, opening.state(outputs[-1], None, f"{at}.state"), f"{at}.gates")  # noqa: PLW2901
        opened = applied(call, gates, "sigmoid", f"{at}.sigmoid")
        reset = cell.part(opened, 0, f"{at}.reset")
        if outputs:
            state = renewing.state(outputs[-1], renewing.state_bias, f"{at}.renewed")
            past = multiplied(call, reset, state, f"{at}.past")
        else:
            past = per_channel(call, reset, renewing.state_bias, 0.0, f"{at}.past")
        fresh = applied(call, added(call, new, past, f"{at}.sum"), "tanh", f"{at}.tanh")
        fresh = multiplied(call, cell.part(opened, 2, f"{at}.renew"), fresh, f"{at}.fresh")
        if outputs:
            kept = multiplied(call, cell.part(opened, 1, f"{at}.update"), outputs[-1], f"{at}.kept")
            fresh = added(call, kept, fresh, at)
        outputs.append(fresh)
    return outputs, outputs[-1]


def _elman(function: str) -> Callable[[_Cell, View, str], tuple[list[View], View]]:
    def run(cell: _Cell, inputs: View, suffix: str) -> tuple[list[View], View]:
        outputs: list[View] = []
        for place, gates in enumerate(cell.project(inputs, cell.input_bias + cell.state_bias, f"{suffix}.input")):
            at = f"{suffix}.{place}"
            if outputs:
                gates = added(cell.call, gates, cell.state(outputs[-1], None, f"{at}.state"), f"{at}.sum")  # noqa: PLW2901
            outputs.append(applied(cell.call, gates, function, at))
        return outputs, outputs[-1]

    return run


def recurrent(call: Call) -> Any:
    """An LSTM, GRU or RNN layer of any depth and direction, batch first, that begins with zeros."""
    layer, view = call.layer, call.view()
    call.require(len(view.shape) == 2, f"gets shape {view.shape}: it reads (place, feature)")
    call.require(bool(layer.batch_first), "reads the batch as its second dimension: use batch_first=True")
    call.require(not getattr(layer, "proj_size", 0), "projects its state: use proj_size=0 and nn.Linear behind it")
    call.require(
        view.shape[0] <= MOST_PLACES,
        f"is unrolled over {view.shape[0]} places, and {MOST_PLACES} are the most: shorten the series by a convolution "
        "with a stride, or a pool",
    )
    _check_begins_with_zeros(call, call.argument(1, "hx"))
    run = {"LSTM": _lstm, "GRU": _gru}.get(layer.mode) or _elman("relu" if layer.mode == "RNN_RELU" else "tanh")
    states, memories = [], []
    for depth in range(layer.num_layers):
        directions = []
        for direction in range(2 if layer.bidirectional else 1):
            suffix = f".l{depth}" + ("_reverse" if direction else "")
            turned = View(view.value, view.index[::-1], f"{call.name}{suffix}.flip") if direction else view
            outputs, memory = run(_cell(call, suffix.replace(".", "_")), turned, suffix)
            states.append(outputs[-1])
            memories.append(memory)
            directions.append(outputs[::-1] if direction else outputs)
        view = _sequence(call, directions, f".l{depth}.states")
    last = States(tuple(states))
    return (view, (last, States(tuple(memories))) if layer.mode == "LSTM" else last)


def _cell(call: Call, suffix: str) -> _Cell:
    layer = call.layer
    weight, state = (numbers(getattr(layer, f"weight_{each}{suffix}")) for each in ("ih", "hh"))
    zeros = torch.zeros(len(weight))
    bias, other = (numbers(getattr(layer, f"bias_{each}{suffix}") if layer.bias else zeros) for each in ("ih", "hh"))
    return _Cell(call, weight, bias, state, other)


def _sequence(call: Call, directions: Sequence[Sequence[View]], suffix: str) -> View:
    """States (place, hidden), the directions beside one another."""
    places = [list(each) for each in zip(*directions, strict=True)]
    views = [view for place in places for view in place]
    return gathered(call, views, (len(places), sum(each.index.size for each in places[0])), suffix)


def _check_begins_with_zeros(call: Call, given: Any) -> None:
    for state in given if isinstance(given, (tuple, list)) else (given,):
        zeros = state is None or (isinstance(state, Tensor) and not bool(state.any()))
        call.require(zeros, "begins with a state of its own: let it begin with zeros")
