"""Replace parts of a network by others, on a copy: what an accelerator lacks by what it has, before training.

A key says what is replaced: a module's class (that very class), a torch function that ``forward`` calls, a module's
dotted name, or a pattern of names (``features.*.act``); a name wins over a pattern, a pattern over a class.
A value says by what: a class (made without arguments), an instance (each place gets its own copy), or a function of
the module that stands there, which returns the new one, or the same where it wants to leave it.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from flowlab.errors import GraphError, OptionError, did_you_mean
from flowlab.quant.squeeze_excite import SqueezeExcite, remove_squeeze_excite

Key = type[nn.Module] | Callable[..., Any] | str
Value = type[nn.Module] | nn.Module | Callable[..., Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Replaced:
    """One replacement: the place, and what stood and stands there, in words."""

    name: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.name or 'the network itself'}: {self.before} -> {self.after}"


DROPOUTS: dict[Any, type[nn.Module]] = {F.dropout: nn.Dropout, F.dropout1d: nn.Dropout1d, F.dropout2d: nn.Dropout2d}


@dataclass(frozen=True)
class Operated:
    """A network after surgery; the caller's own is as it was."""

    module: nn.Module
    replaced: tuple[Replaced, ...]


@dataclass(frozen=True)
class Place:
    """Where a replacement stands: the module's dotted name, and its input's shape (with batch) where one is known.

    A value that is a function with an argument ``place`` gets it.
    """

    name: str
    input_shape: Shape | None = None


def operate(
    model: nn.Module,
    replacements: Mapping[Any, Any],
    *,
    may_be_absent: Iterable[Any] = (),
    example: Tensor | None = None,
) -> Operated:
    """The network with the replacements made, on a copy; parameters of what stays have their values.

    Args:
        model: any module; it is not changed.
        replacements: keys and values as the module's docstring says.
        may_be_absent: keys that need not match anything.
        example: an input with its batch: every replacement is then tried on the shape that comes to its place.
            Without it they are held against what they replaced at the first forward.

    Raises:
        OptionError: for a key or a value of another kind, a key that matches nothing, a value that fails, and a
            replacement that does not take the shape of its place or gives another; it names the place.
        GraphError: where a function is to be replaced and ``forward`` cannot be traced.
    """
    _check_kinds(replacements)
    found = _Surgeon(copy.deepcopy(model), replacements, _shapes(model, example))
    found.modules()
    found.functions(set(may_be_absent))
    found.patterns()
    missing = [key for key in replacements if key not in found.matched and key not in may_be_absent]
    if missing:
        raise OptionError(_nothing(model, missing[0]))
    return Operated(found.model, tuple(found.replaced))


def _check_kinds(replacements: Mapping[Any, Any]) -> None:
    for key, value in replacements.items():
        if not isinstance(key, str) and not callable(key):
            raise OptionError(
                f"replacement of {key!r}: a key is a module's class, a torch function, or a module's dotted name or "
                "pattern"
            )
        if not isinstance(value, nn.Module) and not callable(value):
            raise OptionError(
                f"replacement of {_spoken(key)} by {value!r}: a value is a module's class, a module, or a function of "
                "the module that is replaced"
            )


def _nothing(model: nn.Module, key: Any) -> str:
    if isinstance(key, str):
        names = [name for name, _ in model.named_modules() if name]
        shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        return f"replacement of '{key}': no module has this name.{did_you_mean(key, names)} Known: {shown or 'none'}"
    if isinstance(key, type):
        kinds = sorted({type(module).__name__ for module in model.modules()})
        below = sorted(
            {type(module).__name__ for module in model.modules() if isinstance(module, key) and type(module) is not key}
        )
        hint = f" Classes below it count by themselves: {', '.join(below)}." if below else ""
        return f"replacement of {key.__name__}: the network has none.{hint} Known: {', '.join(kinds)}"
    return f"replacement of {_spoken(key)}: forward does not call it"


class _Surgeon:
    """The copy that is operated on, and what was done."""

    def __init__(self, model: nn.Module, replacements: Mapping[Any, Any], shapes: Mapping[str, Shape]) -> None:
        self.model, self.replacements, self.shapes = model, replacements, shapes
        self.matched: set[Any] = set()
        self.replaced: list[Replaced] = []

    def modules(self) -> None:
        """Replace modules by name, pattern and class; one that stands at several places is replaced once."""
        new: dict[int, nn.Module] = {}
        kept = list(self.model.modules())  # an id is one only as long as its module lives
        gone: list[str] = []
        for name, module in list(self.model.named_modules(remove_duplicate=False)):
            key = self._key(name, type(module))
            if key is None or any(name.startswith(f"{above}.") or above == "" for above in gone):
                continue
            if id(module) not in new:
                new[id(module)] = self._make(name, module, key)
            result = new[id(module)]
            if result is not module:
                gone.append(name)
                self._put(name, module, result)
        del kept

    def functions(self, may_be_absent: set[Any]) -> None:
        """Replace calls of torch functions in ``forward`` by modules."""
        wanted = {key: value for key, value in self.replacements.items() if _is_function(key)}
        traced = self._trace(bool(set(wanted) - may_be_absent)) if wanted else None
        if traced is None:
            return
        for node in list(traced.graph.nodes):
            if node.op != "call_function" or node.target not in wanted:
                continue
            self.matched.add(node.target)
            module = _made(wanted[node.target], None, Place(node.name), _spoken(node.target))
            with traced.graph.inserting_after(node):
                traced.add_submodule(node.name, module)
                new = traced.graph.call_module(node.name, node.args[:1] or (node.kwargs["input"],))
            node.replace_all_uses_with(new)
            traced.graph.erase_node(node)
            self.replaced.append(Replaced(node.name, _spoken(node.target), _shown(module)))
        if any(key in self.matched for key in wanted):
            self._take(traced)

    def patterns(self) -> None:
        """Replace what is no module and no function, but several that belong together."""
        if SqueezeExcite not in self.replacements:
            return
        traced = self._trace(False)
        names = () if traced is None else remove_squeeze_excite(traced)
        if traced is not None and names:
            self.matched.add(SqueezeExcite)
            self.replaced += [Replaced(name, "squeeze and excite", "removed") for name in names]
            self._take(traced)

    def _key(self, name: str, kind: type[nn.Module]) -> Any:
        """The key for a module, the most particular first; all that match are noted."""
        keys = self.replacements if name else ()  # the network itself has no name
        names = [key for key in keys if isinstance(key, str) and fnmatchcase(name, key)]
        names.sort(key=lambda key: key != name)
        self.matched.update(names)
        if kind in self.replacements:
            self.matched.add(kind)
        return names[0] if names else (kind if kind in self.replacements else None)

    def _make(self, name: str, module: nn.Module, key: Any) -> nn.Module:
        place = Place(name, self.shapes.get(name))
        result = _made(self.replacements[key], module, place, f"'{name}' ({type(module).__name__})")
        if result is module:
            return module
        like = next(iter(module.parameters()), None)
        if like is not None:
            result.to(device=like.device, dtype=like.dtype)
        result.train(module.training)
        if place.input_shape is not None:
            check_shapes(name, module, result, place.input_shape)
        else:
            result.register_forward_hook(_FirstForward(name, copy.deepcopy(module)))
        return result

    def _put(self, name: str, module: nn.Module, result: nn.Module) -> None:
        self.replaced.append(Replaced(name, _shown(module), _shown(result)))
        if not name:
            self.model = result
            return
        parent, _, last = name.rpartition(".")
        self.model.get_submodule(parent)._modules[last] = result

    def _trace(self, must: bool) -> fx.GraphModule | None:
        try:
            graph, dropping = self._followed()
        except GraphError as error:
            if must:
                raise
            warnings.warn(f"{error}; functions in it stay as they are", stacklevel=2)
            return None
        except Exception as error:  # tracing runs the user's own forward, which may raise anything
            if must:
                raise GraphError(
                    f"{type(self.model).__name__}.forward cannot be traced, so no function in it can be replaced: "
                    f"{error}"
                ) from error
            return None
        traced = fx.GraphModule(self.model, graph, type(self.model).__name__)
        for node in dropping:
            probability = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
            traced.add_submodule(node.name, DROPOUTS[node.target](probability))
            with graph.inserting_after(node):
                new = graph.call_module(node.name, node.args[:1] or (node.kwargs["input"],))
            node.replace_all_uses_with(new)
            graph.erase_node(node)
        traced.recompile()
        traced.train(self.model.training)
        return traced

    def _followed(self) -> tuple[fx.Graph, list[fx.Node]]:
        """``forward`` as a graph, and its calls of dropout that ask for ``self.training``, which a graph does not know.

        Raises:
            GraphError: where something else asks for it.
        """
        modes = {module: module.training for module in self.model.modules()}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                graphs = [fx.Tracer().trace(self.model.train(mode)) for mode in (False, True)]
        finally:
            for module, mode in modes.items():
                module.training = mode
        told = [[(node.op, node.target, str(node.args), str(node.kwargs)) for node in graph.nodes] for graph in graphs]
        if len(told[0]) != len(told[1]):
            raise GraphError(f"{type(self.model).__name__}.forward takes another way in training, which a graph cannot")
        differ = [node for node, *pair in zip(graphs[0].nodes, *told, strict=True) if pair[0] != pair[1]]
        for node in differ:
            if node.target not in DROPOUTS:
                raise GraphError(f"'{node.name}' in {type(self.model).__name__}.forward depends on self.training")
        return graphs[0], differ

    def _take(self, traced: fx.GraphModule) -> None:
        traced.graph.eliminate_dead_code()
        traced.graph.lint()
        traced.recompile()
        traced.delete_all_unused_submodules()
        self.model = traced


def _is_function(key: Any) -> bool:
    return callable(key) and not isinstance(key, type)


def _made(value: Any, module: nn.Module | None, place: Place, where: str) -> nn.Module:
    """What a value gives for a place."""
    if isinstance(value, nn.Module):
        return copy.deepcopy(value)
    try:
        if isinstance(value, type):
            result = value()
        elif _takes_place(value):
            result = value(module, place=place)
        else:
            result = value(module)
    except OptionError:
        raise
    except Exception as error:  # a class that needs arguments, a stranger's function
        hint = ": write a function of the module that makes it" if isinstance(value, type) else ""
        raise OptionError(f"{where}: {_spoken(value)} fails with {type(error).__name__} ({error}){hint}") from error
    if not isinstance(result, nn.Module):
        raise OptionError(f"{where}: {_spoken(value)} gives {result!r}, which is no module")
    return result


def _takes_place(value: Callable[..., Any]) -> bool:
    try:
        return "place" in inspect.signature(value).parameters
    except (TypeError, ValueError):  # built in, without a signature
        return False


def check_shapes(name: str, before: nn.Module, after: nn.Module, shape: Shape) -> None:
    """OptionError naming the place, where the new module does not do to this shape what the old one did."""
    wanted = _shape_of(before, shape)
    try:
        found = _shape_of(after, shape)
    except Exception as error:  # the new module may be anything
        raise OptionError(
            f"'{name}': {_shown(after)} in the place of {_shown(before)} does not take an input of shape "
            f"{tuple(shape)}: {str(error).partition(chr(10))[0]}"
        ) from error
    if found != wanted:
        raise OptionError(
            f"'{name}': {_shown(after)} in the place of {_shown(before)} gives shape {found} for an input of "
            f"shape {tuple(shape)}, and {wanted} is needed"
        )


def _shape_of(module: nn.Module, shape: Shape) -> Any:
    """The shape (or shapes) that a copy of the module gives, in eval mode; its state and the generators stay."""
    trial = copy.deepcopy(module).eval()
    trial._forward_hooks.clear()
    like = next(iter(trial.parameters()), torch.zeros(()))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return _shapes_in(trial(torch.zeros(shape, dtype=like.dtype, device=like.device)))


def _shapes_in(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, Mapping):
        return {key: _shapes_in(part) for key, part in value.items()}
    return [_shapes_in(part) for part in value] if isinstance(value, (list, tuple)) else type(value).__name__


class _FirstForward:
    """A hook that holds a replacement against what it replaced, once, on the first shape that comes."""

    def __init__(self, name: str, before: nn.Module) -> None:
        self.name, self.before = name, before

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        for key in [key for key, hook in module._forward_hooks.items() if hook is self]:
            del module._forward_hooks[key]
        if inputs and isinstance(inputs[0], Tensor):
            check_shapes(self.name, self.before, module, tuple(inputs[0].shape))


def _shapes(model: nn.Module, example: Tensor | None) -> dict[str, Shape]:
    """The shape of the first input of every module, by name, from one forward of a copy in eval mode."""
    if example is None:
        return {}
    found: dict[str, Shape] = {}
    trial = copy.deepcopy(model).eval()
    for name, module in trial.named_modules(remove_duplicate=False):
        module.register_forward_pre_hook(_note(found, name))
    try:
        with torch.no_grad():
            trial(example)
    except Exception as error:  # the user's own forward
        raise OptionError(
            f"the example of shape {tuple(example.shape)} does not go through the network: {error}"
        ) from error
    return found


def _note(found: dict[str, Shape], name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            found.setdefault(name, tuple(inputs[0].shape))

    return note


def _spoken(thing: Any) -> str:
    return f"'{thing}'" if isinstance(thing, str) else str(getattr(thing, "__name__", thing))


def _shown(module: nn.Module) -> str:
    """A module in one line."""
    children = list(module.children())
    if children:
        inside: Iterator[str] = (type(child).__name__ for child in children)
        return f"{type(module).__name__}({', '.join(inside)})"
    text = repr(module)
    return text if "\n" not in text else type(module).__name__
