"""Which layer, function and method is taken by what; and what to do instead of those that are not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from flowlab.errors import GraphError
from flowlab.learn.trace import activations, arithmetic, layers, pools
from flowlab.learn.trace.builder import Absent, Call, States, Taker, View
from flowlab.learn.trace.movement import move
from flowlab.learn.trace.record import RESULT
from flowlab.learn.trace.recurrent import recurrent

KNOWN = (
    "Known: convolutions over one and two dimensions (transposed ones too), nn.Linear, nn.BatchNorm1d/2d, activations, "
    "pools, nn.Upsample, nn.LSTM/GRU/RNN, nn.Dropout, changes of shape, cat, and +, -, * and / by constants"
)


def _item(call: Call) -> Any:
    """One of several values, or a slice of one."""
    container, place = call.argument(0, "a"), call.argument(1, "b")
    if isinstance(container, States) and isinstance(place, int):
        return container.views[place]
    if not isinstance(container, (View, States, Tensor)):
        value = container[place]
        if isinstance(value, Absent):
            call.refuse(value.why)
        return value
    return move(call)


def _attribute(call: Call) -> Any:
    name = call.argument(1, "name")
    if name == "data":
        return call.view()
    call.require(name in ("T", "mT", "H"), f"reads '.{name}': only .shape and what moves elements is known")
    return move(call)


def _cannot(why: str) -> Taker:
    def take(call: Call) -> Any:
        call.refuse(why)

    return take


CELLS = "is one place of a recurrent layer: use nn.LSTM, nn.GRU or nn.RNN with batch_first=True"
NORMALISES = "normalises by the window's own values, which integers cannot: use nn.BatchNorm1d or nn.BatchNorm2d"
ATTENDS = "multiplies values of the network with one another: attention has no integer form here, use convolutions"
PLACES = "gives places instead of values: leave it out, and take the class from the outputs"

MODULES: dict[type, Taker] = {
    nn.Conv1d: layers.conv(1),
    nn.Conv2d: layers.conv(2),
    nn.ConvTranspose1d: layers.conv(1, transposed=True),
    nn.ConvTranspose2d: layers.conv(2, transposed=True),
    nn.Linear: layers.linear,
    nn.BatchNorm1d: layers.batch_norm,
    nn.BatchNorm2d: layers.batch_norm,
    nn.ReLU: activations.activation("relu"),
    nn.ReLU6: activations.activation("relu6"),
    nn.Hardtanh: activations.hardtanh,
    nn.LeakyReLU: activations.leaky_relu,
    nn.RReLU: activations.rrelu,
    nn.PReLU: activations.prelu,
    nn.Sigmoid: activations.activation("sigmoid"),
    nn.Tanh: activations.activation("tanh"),
    nn.SiLU: activations.activation("silu"),
    nn.Mish: activations.activation("mish"),
    nn.Softsign: activations.activation("softsign"),
    nn.Hardswish: activations.activation("hardswish"),
    nn.Hardsigmoid: activations.activation("hardsigmoid"),
    nn.GELU: activations.gelu,
    nn.ELU: activations.elu,
    nn.CELU: activations.celu,
    nn.SELU: activations.selu,
    nn.Softplus: activations.softplus,
    nn.LogSigmoid: activations.log_sigmoid,
    nn.Tanhshrink: activations.tanhshrink,
    nn.GLU: activations.glu,
    nn.Softmax: activations.softmax,
    nn.LogSoftmax: activations.softmax,
    nn.MaxPool1d: pools.max_pool(1),
    nn.MaxPool2d: pools.max_pool(2),
    nn.AdaptiveMaxPool1d: pools.adaptive_max_pool(1),
    nn.AdaptiveMaxPool2d: pools.adaptive_max_pool(2),
    nn.AvgPool1d: pools.average_pool(1),
    nn.AvgPool2d: pools.average_pool(2),
    nn.AdaptiveAvgPool1d: pools.adaptive_average_pool(1),
    nn.AdaptiveAvgPool2d: pools.adaptive_average_pool(2),
    nn.Upsample: pools.resize,
    nn.UpsamplingNearest2d: pools.resize,
    nn.UpsamplingBilinear2d: pools.resize,
    **dict.fromkeys((nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Unfold), move),
    **dict.fromkeys(
        (
            nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ReflectionPad1d, nn.ReflectionPad2d,
            nn.ReplicationPad1d, nn.ReplicationPad2d, nn.CircularPad1d, nn.CircularPad2d,
        ),
        pools.cut,
    ),
    **dict.fromkeys(
        (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Identity),
        activations.same,
    ),
    **dict.fromkeys((nn.LSTM, nn.GRU, nn.RNN), recurrent),
    **dict.fromkeys((nn.LSTMCell, nn.GRUCell, nn.RNNCell), _cannot(CELLS)),
    **dict.fromkeys(
        (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.LocalResponseNorm), _cannot(NORMALISES)
    ),
    nn.MultiheadAttention: _cannot(ATTENDS),
    nn.TransformerEncoderLayer: _cannot(ATTENDS),
}  # fmt: skip
NAMES: dict[str, Taker] = {  # of functions of torch and torch.nn.functional, and of methods
    "relu": activations.activation("relu"),
    "relu6": activations.activation("relu6"),
    "sigmoid": activations.activation("sigmoid"),
    "tanh": activations.activation("tanh"),
    "silu": activations.activation("silu"),
    "mish": activations.activation("mish"),
    "softsign": activations.activation("softsign"),
    "hardswish": activations.activation("hardswish"),
    "hardsigmoid": activations.activation("hardsigmoid"),
    "softplus": activations.softplus,
    "hardtanh": activations.hardtanh,
    "leaky_relu": activations.leaky_relu,
    "rrelu": activations.rrelu,
    "prelu": activations.prelu,
    "gelu": activations.gelu,
    "elu": activations.elu,
    "celu": activations.celu,
    "selu": activations.selu,
    "logsigmoid": activations.log_sigmoid,
    "log_sigmoid": activations.log_sigmoid,
    "tanhshrink": activations.tanhshrink,
    "glu": activations.glu,
    "softmax": activations.softmax,
    "log_softmax": activations.softmax,
    "clamp": activations.clamp,
    "clip": activations.clamp,
    "clamp_min": activations.clamp_min,
    "clamp_max": activations.clamp_max,
    "abs": activations.absolute,
    "absolute": activations.absolute,
    "dropout": activations.drop,
    "dropout1d": activations.drop,
    "dropout2d": activations.drop,
    "alpha_dropout": activations.drop,
    "feature_alpha_dropout": activations.drop,
    **dict.fromkeys(("contiguous", "clone", "detach", "positive"), activations.same),
    **dict.fromkeys(("to", "float", "type", "cpu", "type_as"), activations.to),
    "conv1d": layers.conv_function(1),
    "conv2d": layers.conv_function(2),
    "conv_transpose1d": layers.conv_function(1, transposed=True),
    "conv_transpose2d": layers.conv_function(2, transposed=True),
    "linear": layers.linear,
    "batch_norm": layers.batch_norm_function,
    "max_pool1d": pools.max_pool(1),
    "max_pool2d": pools.max_pool(2),
    "adaptive_max_pool1d": pools.adaptive_max_pool(1),
    "adaptive_max_pool2d": pools.adaptive_max_pool(2),
    "avg_pool1d": pools.average_pool(1),
    "avg_pool2d": pools.average_pool(2),
    "adaptive_avg_pool1d": pools.adaptive_average_pool(1),
    "adaptive_avg_pool2d": pools.adaptive_average_pool(2),
    "mean": pools.mean,
    "sum": pools.total,
    "amax": pools.largest,
    "max": pools.largest,
    "interpolate": pools.resize,
    "upsample": pools.resize,
    "pad": pools.cut,
    "add": arithmetic.add,
    "iadd": arithmetic.add,
    "sub": arithmetic.subtract,
    "isub": arithmetic.subtract,
    "subtract": arithmetic.subtract,
    "rsub": arithmetic.reversed_subtract,
    "mul": arithmetic.multiply,
    "imul": arithmetic.multiply,
    "multiply": arithmetic.multiply,
    "truediv": arithmetic.divide,
    "itruediv": arithmetic.divide,
    "div": arithmetic.divide,
    "divide": arithmetic.divide,
    "neg": arithmetic.negative,
    "negative": arithmetic.negative,
    "square": arithmetic.square,
    "pow": arithmetic.power,
    "lerp": arithmetic.lerp,
    "maximum": activations.maximum,
    "minimum": activations.minimum,
    "getitem": _item,
    "getattr": _attribute,
    **dict.fromkeys(
        (
            "flatten", "unflatten", "reshape", "view", "reshape_as", "view_as", "squeeze", "unsqueeze", "permute",
            "transpose", "swapaxes", "swapdims", "moveaxis", "movedim", "flip", "roll", "expand", "expand_as",
            "broadcast_to", "repeat", "tile", "repeat_interleave", "narrow", "select", "index_select", "chunk", "split",
            "split_with_sizes", "tensor_split", "unbind", "unfold", "cat", "concat", "concatenate", "stack", "hstack",
            "vstack", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "atleast_1d",
        ),
        move,
    ),
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm", "normalize"), _cannot(NORMALISES)),
    **dict.fromkeys(("matmul", "bmm", "einsum", "scaled_dot_product_attention", "mm"), _cannot(ATTENDS)),
    **dict.fromkeys(("topk", "sort"), _cannot(PLACES)),
}  # fmt: skip
ROOMS = ("torch", "_operator", "math", "builtins")  # modules whose functions are meant by their names


def take(call: Call) -> Any:
    """What a call makes, by the tables.

    Raises:
        GraphError: naming the place, and what is known, or what to use instead.
    """
    taker = _taker(call.layer, call.node)
    result = call.node.meta[RESULT]
    if isinstance(result, Tensor) and call.node.target in (
        torch.argmax,
        torch.argmin,
        torch.argsort,
        "argmax",
        "argmin",
    ):
        call.refuse(PLACES)
    if isinstance(result, Tensor) and result.dtype != torch.float32:
        call.refuse(f"gives {str(result.dtype).removeprefix('torch.')}: stay with float32")
    if taker is None:
        raise GraphError(f"{call.place}: the integer graph has no such operation. {KNOWN}")
    return taker(call)


def _taker(layer: nn.Module | None, node: fx.Node) -> Taker | None:
    if layer is not None:
        for kind in type(layer).__mro__:  # a subclass that computes the same, as torch's parametrizations make
            if kind in MODULES and type(layer).forward is kind.forward:  # type: ignore[attr-defined]
                return MODULES[kind]
        return None
    name = str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", ""))
    room = str(getattr(node.target, "__module__", "torch") or "torch").partition(".")[0]
    if node.op == "call_function" and room not in ROOMS:
        return None
    name = name.removeprefix("_") if name == "_native_channel_shuffle" else name
    return NAMES.get(name) or (NAMES.get(name[:-1]) if name.endswith("_") and not name.endswith("__") else None)


def moves_only(node: fx.Node) -> bool:
    """Whether a node only moves numbers."""
    if node.op == "call_module":
        owner = node.graph.owning_module
        assert owner is not None
        return _taker(owner.get_submodule(str(node.target)), node) in (move, activations.same)
    return _taker(None, node) in (move, activations.same, _item)
