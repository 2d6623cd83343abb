"""An exported program as a torch module: each ATen operation as the layer or function that the tracing knows.

Only operations of the table are called, with plain arguments; no name of the file ever becomes code. Convolutions,
fully connected layers and batch norms get back the place in the module that their weights have, so that reports and
errors call them as their author does.
"""

from __future__ import annotations

import copy
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from flowlab.compiler.import_foreign import MOST_NODES, MOST_NUMBERS
from flowlab.errors import GraphError
from flowlab.learn.pt2_archive import ExportedProgram, Reference, Size, Step
from flowlab.learn.trace.tables import ATTENDS, NORMALISES

BATCHES = (2, 3)  # of the run that looks at shapes alone: another than the file's, so that one that is fixed shows
FLOAT32 = 7  # the number of float32 in the file
MODULE_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)
WORD = re.compile(r"[a-z_]{0,20}")  # the texts that operations take: modes
KNOWN = (
    "Known: convolutions over one and two dimensions, linear, batch_norm, activations, pools, means, sums, products, "
    "cat, and changes of shape"
)
RECURRENT = "is of a recurrent layer, which is read from a state dict (.pt) alone: give it with --module"
CANNOT: Mapping[str, str] = {  # what stands for a layer that has no place, of several steps
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), RECURRENT),
    **dict.fromkeys(
        ("layer_norm", "group_norm", "instance_norm", "native_layer_norm", "native_group_norm"), NORMALISES
    ),
    **dict.fromkeys(("matmul", "bmm", "einsum", "scaled_dot_product_attention"), ATTENDS),
}
TRAINING = "was exported in training mode: call module.eval() before torch.export.export"


def module_of(program: ExportedProgram) -> ProgramModule:
    """The program as a module of one input, in eval mode.

    Raises:
        GraphError: naming the step, where an operation is unknown, or makes another shape than the file says.
    """
    if len(program.steps) > MOST_NODES:
        raise GraphError(f"{len(program.steps):,} steps; a microcontroller's network has at most {MOST_NODES:,}")
    for step in program.steps:
        if why := CANNOT.get(_operation(step.operation)):
            raise GraphError(f"step {_Call(step, '').name}: {why}")
    try:
        made = ProgramModule(program)
    except GraphError:
        raise
    except Exception as error:  # noqa: BLE001 - what torch's layers say of arguments that they cannot have
        raise GraphError(f"an argument of a step is none that torch takes: {error}") from None
    _check_sizes(made, program)
    return made.eval()


class _Places(dict[str, str]):
    """Where the user wrote what has this name; a copy of a module goes on writing into it."""

    def __deepcopy__(self, memo: Any) -> _Places:
        return self


@dataclass(frozen=True)
class _Batch:
    """The batch's size in a list of sizes, for which the file has the one that it was exported with."""


@dataclass(frozen=True)
class _Call:
    """What is called for a step: a function, or the layer of a path."""

    step: Step
    call: Callable[..., Any] | str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For messages."""
        at = f", {self.step.place}" if self.step.place else ""
        return f"'{self.step.results[0] if self.step.results else '?'}' ({_short(self.step.operation)}{at})"


@dataclass(frozen=True)
class _Inside:
    """What a `ProgramModule` does; ``own``: the graph's name of each tensor of the module's -> the attribute's."""

    program: ExportedProgram
    own: Mapping[str, str]
    calls: tuple[_Call, ...]
    places: _Places


class ProgramModule(nn.Module):
    """Calls in order; everything of its own is in one attribute, since its layers have their author's names."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        own, places = {}, _Places()
        for place, (inside, name) in enumerate(program.inside.items()):
            if name in program.tensors:
                own[inside] = f"_tensor_{place}"
                self.register_buffer(own[inside], program.tensors[name])
        calls = tuple(_call(self, program, step, places) for step in program.steps)
        small = replace(program, tensors={})  # they are buffers now
        self._inside = _Inside(small, own, calls, places)

    def forward(self, x: Tensor) -> Any:
        """(batch, ...) -> what the exported module returns."""
        program, values = self._inside.program, self.tensors()
        values[program.input] = x
        for call in self._inside.calls:
            self.run(call, values)
        found = [_value(Reference(name), values) for name in program.outputs]
        if isinstance(program.structure, tuple):
            return dict(zip(program.structure, found, strict=True))
        return found[0] if program.structure == "tensor" else tuple(found)

    def tensors(self) -> dict[str, Any]:
        """The module's own tensors by their names in the graph."""
        return {inside: getattr(self, name) for inside, name in self._inside.own.items()}

    def run(self, call: _Call, values: dict[str, Any]) -> None:
        """Add a step's results to the values."""
        first, *others = (_value(each, values) for each in call.arguments.values())
        if isinstance(call.call, str):
            results = [self.get_submodule(call.call)(first)]
        else:
            result = call.call(first, **dict(zip(list(call.arguments)[1:], others, strict=True)))
            results = result if call.step.several else [result]
        for name, value in zip(call.step.results, results, strict=False):
            values[name] = value
            if isinstance(value, fx.Proxy):
                self._inside.places.setdefault(value.node.name, call.step.place)

    def explained(self, text: str) -> str:
        """An error's text, with the line of the first place that it names."""
        named = re.search(r"'([^']*)'", text)
        place = self._inside.places.get(named[1], "") if named else ""
        return f"{text} ({place})" if place else text


def _value(argument: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(argument, Reference):
        if argument.name not in values:
            raise GraphError(f"reads '{argument.name}', which no step makes")
        return values[argument.name]
    if isinstance(argument, list):
        return [_value(each, values) for each in argument]
    return argument


def _short(operation: str) -> str:
    return operation.removeprefix("torch.ops.")[:80]


# --- what is called ---------------------------------------------------------------------------------


def _call(module: nn.Module, program: ExportedProgram, step: Step, places: _Places) -> _Call:
    """The function or layer of a step, with its arguments as these take them."""
    call = _Call(step, "", dict(step.arguments))
    if not call.arguments:
        raise GraphError(f"step {call.name}: makes a value of nothing. {KNOWN}")
    if any(not WORD.fullmatch(each) for each in call.arguments.values() if isinstance(each, str)):
        raise GraphError(f"step {call.name}: its arguments hold a text that no operation takes")
    name = _operation(step.operation)
    arguments = _with_batch(program, step, {key: each for key, each in call.arguments.items() if each != []})
    if name == "convolution":
        name, arguments = _plain_convolution(program, arguments, call)
    layer = _layer(module, program, name, arguments)
    if layer is not None:
        places.setdefault(layer, step.place)
        return _Call(step, layer, {"input": next(iter(arguments.values()))})
    function = TABLE.get(name)
    if function is None:
        raise GraphError(f"step {call.name}: the integer graph has no such operation. {KNOWN}")
    return _Call(step, function, arguments)


def _operation(target: str) -> str:
    """``torch.ops.aten.conv2d.default`` -> ``conv2d``; operations of others keep their whole name."""
    parts = target.split(".")
    if parts[:3] == ["torch", "ops", "aten"] and len(parts) in (4, 5):
        return parts[3]
    return target


def _with_batch(program: ExportedProgram, step: Step, arguments: dict[str, Any]) -> dict[str, Any]:
    """Sizes that begin with the batch which the program was exported with, with any batch instead."""
    key = "shape" if "shape" in arguments else "size"
    sizes, first = arguments.get(key), next(iter(arguments.values()), None)
    if not isinstance(sizes, list) or not isinstance(first, Reference) or not step.results:
        return arguments
    shapes = [program.sizes.get(name, ()) for name in (first.name, step.results[0], program.input)]
    if all(shape[:1] == (sizes[0],) for shape in shapes):
        return {**arguments, key: [_Batch(), *sizes[1:]]}
    return arguments


def _plain_convolution(program: ExportedProgram, arguments: dict[str, Any], call: _Call) -> tuple[str, dict[str, Any]]:
    """Core ATen's one convolution as the one of its dimensions."""
    dims = len(program.sizes.get(getattr(arguments.get("weight"), "name", ""), ())) - 2
    if dims not in (1, 2):
        raise GraphError(f"step {call.name}: convolves over {dims} dimensions. {KNOWN}")
    if arguments.pop("transposed", False):
        return f"conv_transpose{dims}d", arguments
    arguments.pop("output_padding", None)
    return f"conv{dims}d", arguments


CONVOLUTIONS: Mapping[str, Any] = {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d}
NORMS: Mapping[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}  # by the input's dimensions
NORM, CORE_NORM = "batch_norm", "_native_batch_norm_legit_no_training"
LAYERS = (*CONVOLUTIONS, "linear", NORM, CORE_NORM)
PARTS = ("weight", "bias", "running_mean", "running_var")


def _layer(module: nn.Module, program: ExportedProgram, name: str, arguments: Mapping[str, Any]) -> str | None:
    """The path of the layer whose weights a step reads, which is made here; None where it is no plain layer."""
    first = next(iter(arguments.values()), None)
    names = {
        key: program.inside.get(each.name, "")
        for key in PARTS
        if isinstance(each := arguments.get(key), Reference)
    }  # fmt: skip
    path = names.get("weight", "").removesuffix(".weight")
    plain = all(each == f"{path}.{key}" and each in program.tensors for key, each in names.items())
    if name not in LAYERS or not MODULE_PATH.fullmatch(path) or not plain or arguments.get("training"):
        return None
    tensors = {key: program.tensors[each] for key, each in names.items()}
    rank = len(program.sizes.get(first.name, ())) if isinstance(first, Reference) else 0
    made = _made(name, tensors, arguments, rank)
    return path if made is not None and _put(module, path, made) else None


def _made(name: str, tensors: Mapping[str, Tensor], arguments: Mapping[str, Any], rank: int) -> nn.Module | None:
    """A layer with these tensors; None where there is no layer of that form."""
    weight, bias = tensors["weight"], "bias" in tensors
    made: nn.Module
    if any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        return None
    if name == "linear" and weight.ndim == 2:
        made = nn.Linear(weight.shape[1], weight.shape[0], bias, device="meta")
    elif name in CONVOLUTIONS and weight.ndim == rank:
        made = _convolution(CONVOLUTIONS[name], weight, bias, arguments)
    elif name in (NORM, CORE_NORM) and set(tensors) == set(PARTS) and rank in NORMS:
        made = NORMS[rank](len(weight), eps=float(arguments.get("eps", 1e-5)), device="meta")
        made.num_batches_tracked = torch.zeros((), dtype=torch.int64)
    else:
        return None
    for key, tensor in tensors.items():
        setattr(made, key, nn.Parameter(tensor, requires_grad=False) if key in ("weight", "bias") else tensor)
    return made


def _convolution(kind: Any, weight: Tensor, bias: bool, arguments: Mapping[str, Any]) -> nn.Module:
    groups = int(arguments.get("groups", 1))
    options = {key: arguments[key] for key in ("stride", "padding", "dilation") if key in arguments}
    options = {key: tuple(each) if isinstance(each, list) else each for key, each in options.items()}
    channels, kernel = (weight.shape[1] * groups, weight.shape[0]), tuple(weight.shape[2:])
    made: nn.Module = kind(*channels, kernel, groups=groups, bias=bias, device="meta", **options)
    return made


def _put(root: nn.Module, path: str, layer: nn.Module) -> bool:
    """Put a layer at its path; whether it is there, or the same one was."""
    *above, last = path.split(".")
    if any(part.startswith("_") for part in (*above, last)):  # those are the module's own
        return False
    for part in above:
        inner = getattr(root, part, None)
        if inner is None:
            inner = nn.Module()
            root.add_module(part, inner)
        if type(inner) is not nn.Module:
            return False
        root = inner
    there = getattr(root, last, None)
    if there is None:
        root.add_module(last, layer)
    return there is None or repr(there) == repr(layer)


def _check_sizes(module: ProgramModule, program: ExportedProgram) -> None:
    """Run without numbers: each step makes the shape that the file says, and none more than a microcontroller holds.

    Raises:
        GraphError: naming the step.
    """
    shape = program.sizes.get(program.input, ())[1:]
    if not shape or len(shape) > 3 or None in shape or not 0 < prod(each or 0 for each in shape) <= MOST_NUMBERS:
        said = tuple("any" if each is None else each for each in shape)
        raise GraphError(
            f"input '{program.input}' has shape {said} behind the batch: one to three fixed sizes can be compiled"
        )
    exported = program.sizes[program.input][0]
    batch = BATCHES[1] if exported == BATCHES[0] else BATCHES[0]
    with torch.no_grad():
        empty = copy.deepcopy(module).to("meta").eval()
        values = empty.tensors()
        values[program.input] = torch.empty((batch, *map(int, shape)), device="meta")  # type: ignore[arg-type]
        for call in empty._inside.calls:
            try:
                empty.run(call, values)
            except GraphError as error:
                raise GraphError(f"step {call.name}: {error}") from None
            except Exception as error:  # noqa: BLE001 - torch's own kinds, and Python's for arguments that it lacks
                first = (str(error).splitlines() or [type(error).__name__])[0]
                raise GraphError(f"step {call.name}: torch does not run it: {first}") from None
            for name in call.step.results:
                _check_size(call, values.get(name), program.sizes.get(name), (exported, batch))


def _check_size(call: _Call, value: Any, said: tuple[Size, ...] | None, batches: tuple[Size, int]) -> None:
    """Hold a result against the file's own shape, in which ``batches[0]`` stands for the batch that was run."""
    exported, batch = batches
    if not isinstance(value, Tensor):
        return
    if value.numel() > batch * MOST_NUMBERS:
        raise GraphError(
            f"step {call.name}: makes {value.numel() // batch:,} numbers a window; a microcontroller holds at most "
            f"{MOST_NUMBERS:,}"
        )
    found = tuple(value.shape)
    wanted = found if said is None else said
    if wanted[:1] == (exported,) and found[:1] == (batch,):
        wanted = (batch, *wanted[1:])
    if len(found) != len(wanted) or any(size not in (None, own) for size, own in zip(wanted, found, strict=True)):
        raise GraphError(
            f"step {call.name}: makes shape {found} for a batch of {batch}, and the file says {said}. Export with a "
            "batch that may change: dynamic_shapes=({0: torch.export.Dim('batch')},)"
        )


# --- the table --------------------------------------------------------------------------------------


def _sizes(x: Any, sizes: Any) -> tuple[Any, ...]:
    return tuple(x.shape[0] if isinstance(each, _Batch) else each for each in sizes)


def _same(x: Any, *, dtype: int | None = None, **_: Any) -> Any:
    if dtype not in (None, FLOAT32):
        raise GraphError("changes the dtype: stay with float32")
    return x


def _slice(x: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    if dim == 0 and start in (None, 0) and step == 1 and (end is None or end >= 1 << 62):
        return x  # all windows
    return operator.getitem(x, (slice(None),) * (dim % x.dim()) + (slice(start, end, step),))


def _padded(mode: str) -> Callable[..., Any]:
    return lambda x, padding: F.pad(x, padding, mode=mode)


def _resized(mode: str) -> Callable[..., Any]:
    def resize(
        x: Any, output_size: Any = None, align_corners: bool | None = None, scale_factors: Any = None, **scales: Any
    ) -> Any:
        size, factors = (tuple(output_size), None) if output_size else (None, tuple(scale_factors))
        corners = None if mode == "nearest" else align_corners
        return F.interpolate(x, size=size, scale_factor=factors, mode=mode, align_corners=corners)

    return resize


def _dropped(function: Callable[..., Any]) -> Callable[..., Any]:
    def drop(x: Any, p: float, train: bool) -> Any:
        if train:
            raise GraphError(TRAINING)
        return function(x, p, training=False)

    return drop


def _normed(x: Any, training: bool = False, momentum: float = 0.1, cudnn_enabled: bool = True, **others: Any) -> Any:
    if training:
        raise GraphError(TRAINING)
    return F.batch_norm(x, **others)


def _elu(x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    if scale == input_scale == 1.0:
        return F.elu(x, alpha)
    if input_scale != 1.0 or abs(scale - 1.0507009873554805) > 1e-6 or abs(alpha - 1.6732632423543772) > 1e-6:
        raise GraphError("scales its ELU: use nn.ELU or nn.SELU")
    return F.selu(x)


def _product(bias: Any, mat1: Any, mat2: Any, beta: float = 1, alpha: float = 1) -> Any:
    if beta != 1 or alpha != 1:
        raise GraphError("scales its sum: use a plain linear layer")
    return F.linear(mat1, mat2.t(), bias)


def _indexed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of a pool that gives places too, the values."""
    return lambda x, **others: (function(x, **others),)


def _method(name: str) -> Callable[..., Any]:
    return lambda x, **others: getattr(x, name)(**others)


def _lists(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A function whose list of sizes goes in by place."""
    return lambda x, **others: function(x, others.pop(name), **others)


TABLE: Mapping[str, Callable[..., Any]] = {
    **{
        name: getattr(F, name)
        for name in (
            "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "linear", "max_pool1d", "max_pool2d",
            "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "relu6", "hardtanh", "hardtanh_",
            "leaky_relu", "leaky_relu_", "elu_", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "softplus", "selu",
            "celu", "glu", "prelu", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
        )
    },
    **{
        name: getattr(torch, name)
        for name in (
            "relu", "relu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "clamp", "clamp_min", "clamp_max", "abs", "neg",
            "square", "pow", "add", "sub", "rsub", "mul", "div", "maximum", "minimum", "mean", "sum", "amax", "cat",
            "concat", "stack", "hstack", "vstack", "flatten", "unflatten", "unsqueeze", "permute", "transpose", "t",
            "swapaxes", "flip", "roll", "narrow", "select", "chunk", "unbind", "index_select", "softmax",
            "log_softmax",
        )
    },
    **{name: _method(name) for name in ("add_", "sub_", "mul_", "div_", "neg_", "clamp_", "clamp_min_")},
    **dict.fromkeys(
        ("contiguous", "detach", "alias", "lift_fresh_copy", "positive", "to", "_to_copy", "type_as", "detach_"), _same
    ),
    **dict.fromkeys(("view", "_unsafe_view", "view_copy"), lambda x, size: torch.reshape(x, _sizes(x, size))),
    "reshape": lambda x, shape: torch.reshape(x, _sizes(x, shape)),
    "expand": lambda x, size, implicit=False: x.expand(*_sizes(x, size)),
    "repeat": lambda x, repeats: x.repeat(*repeats),
    "squeeze": lambda x, dim=None: torch.squeeze(x) if dim is None else torch.squeeze(x, _tuple(dim)),
    "numpy_T": lambda x: x.t(),
    "clone": lambda x, memory_format=None: torch.clone(x),
    "slice": _slice,
    "split": _lists(torch.split, "split_size"),
    "split_with_sizes": _lists(torch.split, "split_sizes"),
    "unfold": lambda x, dimension, size, step: x.unfold(dimension, size, step),
    "log_sigmoid": F.logsigmoid,
    "elu": _elu,
    "silu_": lambda x: F.silu(x, inplace=True),
    "mish_": lambda x: F.mish(x, inplace=True),
    "hardswish_": lambda x: F.hardswish(x, inplace=True),
    "hardsigmoid_": lambda x: F.hardsigmoid(x, inplace=True),
    "relu6_": lambda x: F.relu6(x, inplace=True),
    "_softmax": lambda x, dim, half_to_float: torch.softmax(x, dim),
    "_log_softmax": lambda x, dim, half_to_float: torch.log_softmax(x, dim),
    "dropout": _dropped(F.dropout),
    "alpha_dropout": _dropped(F.alpha_dropout),
    "feature_alpha_dropout": _dropped(F.feature_alpha_dropout),
    "feature_dropout": _dropped(F.dropout),
    "batch_norm": _normed,
    "_native_batch_norm_legit_no_training": _indexed(_normed),
    "addmm": _product,
    "mm": lambda x, mat2: F.linear(x, mat2.t()),
    "max_pool2d_with_indices": _indexed(F.max_pool2d),
    "adaptive_max_pool1d": _indexed(F.adaptive_max_pool1d),
    "adaptive_max_pool2d": _indexed(F.adaptive_max_pool2d),
    "_adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "max": torch.max,
    "constant_pad_nd": lambda x, pad, value=0: F.pad(x, pad, value=value),
    "pad": F.pad,
    **{f"reflection_pad{dims}d": _padded("reflect") for dims in (1, 2)},
    **{f"replication_pad{dims}d": _padded("replicate") for dims in (1, 2)},
    **{f"upsample_nearest{dims}d": _resized("nearest") for dims in (1, 2)},
    "upsample_linear1d": _resized("linear"),
    "upsample_bilinear2d": _resized("bilinear"),
    "sym_size": lambda x, dim: x.size(dim),
    "_operator.mul": operator.mul,
    "_operator.add": operator.add,
    "_operator.sub": operator.sub,
    "_operator.floordiv": operator.floordiv,
}  # fmt: skip


def _tuple(dim: Any) -> Any:
    return tuple(dim) if isinstance(dim, list) else dim
