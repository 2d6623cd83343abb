"""Activations: those that the graph has by name, and those that are made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from flowlab.compiler.ir import Attribute
from flowlab.learn.trace.arithmetic import added, multiplied
from flowlab.learn.trace.builder import Call, Taker, View
from flowlab.learn.trace.layers import per_channel
from flowlab.learn.trace.movement import reindex

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
CLIPS = {"hardtanh": (-1.0, 1.0), "relu6": (0.0, 6.0)}


def applied(call: Call, view: View, function: str, suffix: str = "", **attributes: Attribute) -> View:
    """An activation on a value, in the value's own shape where the view is all of it."""
    builder = call.builder
    value = view.value if builder.is_whole(view) else builder.read(view)
    shape = builder.types[value].shape
    if function == "relu":
        name = builder.emit(call, "relu", (value,), shape, suffix=suffix)
    else:
        name = builder.emit(
            call, "activation", (value,), shape, attributes={"function": function, **attributes}, suffix=suffix
        )
    return builder.whole(name, view.shape)


def activation(function: str) -> Taker:
    """The taker of an activation without parameters."""
    return lambda call: applied(call, call.view(), function)


def gelu(call: Call) -> View:
    """GELU in its exact form."""
    form = call.layer.approximate if call.layer is not None else call.kwargs.get("approximate", "none")
    call.require(form == "none", f"is the approximation '{form}': use approximate='none', a table costs the same")
    return applied(call, call.view(), "gelu")


def leaky_relu(call: Call) -> View:
    """A leaky ReLU of any slope."""
    return _leaky(call, float(call.option("negative_slope", 1, 0.01)))


def rrelu(call: Call) -> View:
    """A randomized leaky ReLU, which has the mean of its slopes at inference."""
    low, high = (
        float(call.option(name, place, default)) for name, place, default in (("lower", 1, 1 / 8), ("upper", 2, 1 / 3))
    )
    return _leaky(call, (low + high) / 2)


def _leaky(call: Call, slope: float) -> View:
    if slope == 0.01:
        return applied(call, call.view(), "leaky_relu")
    return applied(call, call.view(), "leaky_relu", alpha=slope)


def prelu(call: Call) -> View:
    """One slope: a leaky ReLU; one a channel: ReLU(x) - slope * ReLU(-x)."""
    weight = call.layer.weight if call.layer is not None else call.argument(1, "weight")
    call.require(isinstance(weight, Tensor), "its slope is computed by the network: use nn.PReLU or nn.LeakyReLU")
    slopes = weight.detach().double().numpy().reshape(-1)
    if len(slopes) == 1:
        return _leaky(call, float(np.float32(slopes[0])))
    view = call.view()
    shape = (-1,) + (1,) * (len(view.shape) - 1)
    above = applied(call, view, "relu", ".above")
    below = applied(call, per_channel(call, view, -1.0, 0.0, ".minus"), "relu", ".below")
    return added(call, above, per_channel(call, below, -slopes.reshape(shape), 0.0, ".slope"))


def hardtanh(call: Call) -> View:
    """A clip with any two limits."""
    return clipped(call, call.view(), call.option("min_val", 1, -1.0), call.option("max_val", 2, 1.0))


def clamp(call: Call) -> View:
    """``torch.clamp`` with constant limits, one of them or both."""
    low, high = call.argument(1, "min"), call.argument(2, "max")
    for limit in (low, high):
        call.require(limit is None or isinstance(limit, (int, float)), "its limits are no plain numbers")
    return clipped(call, call.view(), low, high)


def clamp_min(call: Call) -> View:
    """A clip from below."""
    return clipped(call, call.view(), call.argument(1, "min"), None)


def clamp_max(call: Call) -> View:
    """A clip from above."""
    return clipped(call, call.view(), None, call.argument(1, "max"))


def clipped(call: Call, view: View, low: Any, high: Any) -> View:
    """A value between two limits, of which one may be missing."""
    least, most = (None if limit is None or not np.isfinite(limit) else float(limit) for limit in (low, high))
    if least is None and most is None:
        return view
    if most is None:
        assert least is not None
        if least == 0:
            return applied(call, view, "relu")
        above = applied(call, per_channel(call, view, 1.0, -least, ".from"), "relu", ".above")
        return per_channel(call, above, 1.0, least)
    if least is None:
        below = applied(call, per_channel(call, view, -1.0, most, ".from"), "relu", ".below")
        return per_channel(call, below, -1.0, most)
    for function, known in CLIPS.items():
        if (least, most) == known:
            return applied(call, view, function)
    return applied(call, view, "hardtanh", low=least, high=most)


def maximum(call: Call) -> View:
    """The larger of two values: ``b + relu(a - b)``; or of a value and a number."""
    return _extreme(call, 1.0)


def minimum(call: Call) -> View:
    """The smaller of two values: ``b - relu(b - a)``; or of a value and a number."""
    return _extreme(call, -1.0)


def _extreme(call: Call, sign: float) -> View:
    left, right = call.argument(0, "input"), call.argument(1, "other")
    if isinstance(left, View) and isinstance(right, View):
        first, second = (
            per_channel(call, each, sign * way, 0.0, f".{way:g}") for each, way in ((left, 1), (right, -1))
        )
        above = applied(call, added(call, first, second, ".difference"), "relu", ".relu")
        return added(call, right, above if sign > 0 else per_channel(call, above, sign, 0.0, ".below"))
    view, limit = (left, right) if isinstance(left, View) else (right, left)
    plain = isinstance(limit, Tensor) and limit.numel() == 1
    call.require(plain or isinstance(limit, (int, float)), "compares with a constant of several numbers: use one")
    number = float(limit)
    return (
        clipped(call, call.as_view(view), number, None) if sign > 0 else clipped(call, call.as_view(view), None, number)
    )


def elu(call: Call) -> View:
    """An ELU of any alpha."""
    return applied(call, call.view(), "elu", alpha=float(call.option("alpha", 1, 1.0)))


def celu(call: Call) -> View:
    """``alpha * elu(x / alpha)`` with alpha 1."""
    alpha = float(call.option("alpha", 1, 1.0))
    inner = applied(call, per_channel(call, call.view(), 1 / alpha, 0.0, ".in"), "elu", ".elu", alpha=1.0)
    return per_channel(call, inner, alpha, 0.0)


def selu(call: Call) -> View:
    """A scaled ELU."""
    return per_channel(call, applied(call, call.view(), "elu", ".elu", alpha=SELU_ALPHA), SELU_SCALE, 0.0)


def softplus(call: Call) -> View:
    """A softplus of any beta; beyond torch's threshold the two differ by less than float32 shows."""
    beta = float(call.option("beta", 1, 1.0))
    if beta == 1.0:
        return applied(call, call.view(), "softplus")
    inner = applied(call, per_channel(call, call.view(), beta, 0.0, ".in"), "softplus", ".softplus")
    return per_channel(call, inner, 1 / beta, 0.0)


def log_sigmoid(call: Call) -> View:
    """``-softplus(-x)``."""
    inner = applied(call, per_channel(call, call.view(), -1.0, 0.0, ".in"), "softplus", ".softplus")
    return per_channel(call, inner, -1.0, 0.0)


def absolute(call: Call) -> View:
    """``relu(x) + relu(-x)``."""
    view = call.view()
    below = applied(call, per_channel(call, view, -1.0, 0.0, ".minus"), "relu", ".below")
    return added(call, applied(call, view, "relu", ".above"), below)


def tanhshrink(call: Call) -> View:
    """``x - tanh(x)``."""
    view = call.view()
    return added(call, view, per_channel(call, applied(call, view, "tanh", ".tanh"), -1.0, 0.0, ".minus"))


def glu(call: Call) -> View:
    """The first half times the sigmoid of the second."""
    view, dim = call.view(), int(call.option("dim", 1, -1))

    def half(which: int) -> View:
        return reindex(view, lambda x: x.chunk(2, dim)[which], f"{call.name}.{which}")

    return multiplied(call, half(0), applied(call, half(1), "sigmoid", ".sigmoid"))


def softmax(call: Call) -> View:
    """Left out at the network's end, where it changes no class; refused inside."""
    inside = "only at the network's end can it be left out: use a sigmoid gate, or nn.Softmax as the last layer"
    call.require(_only_moves_behind(call.node), f"has no integer form here; {inside}")
    kind = "log_softmax" if "log" in _function_name(call) else "softmax"
    dim = call.option("dim", 1)
    if dim is None:  # as torch guesses, of a value with its batch
        dim = 0 if len(call.view().shape) == 2 else 1
    call.builder.left_out[call.node] = (kind, int(dim))
    call.builder.warnings.append(
        f"{call.place} is left out of the integer graph: its outputs are the values before it, of the same class"
    )
    return call.view()


def _function_name(call: Call) -> str:
    target = type(call.layer) if call.layer is not None else call.node.target
    return str(getattr(target, "__name__", target)).lower()


def _only_moves_behind(node: fx.Node) -> bool:
    from flowlab.learn.trace.tables import moves_only

    return all(user.op == "output" or (moves_only(user) and _only_moves_behind(user)) for user in node.users)


def drop(call: Call) -> View:
    """Dropout at inference; one that drops then too is refused."""
    probability, training = call.argument(1, "p", 0.5), call.argument(2, "training", call.node.op == "call_function")
    drops = call.layer is None and bool(training) and probability > 0
    call.require(not drops, "drops at inference too: write F.dropout(x, p, self.training), or use nn.Dropout")
    return call.view()


def same(call: Call) -> View:
    """Nothing at inference."""
    return call.view()


def to(call: Call) -> View:
    """A change of dtype or device that keeps float32."""
    result = call.node.meta["result"]
    call.require(isinstance(result, Tensor) and result.dtype == torch.float32, "changes the dtype: stay with float32")
    return call.view()
