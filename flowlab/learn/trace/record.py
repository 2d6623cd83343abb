"""torch.fx's record of a module: every node with what it gave for a batch of zeros, in-place changes made visible.

The module runs on zeros while it is traced, so sizes are plain numbers and lists have a length.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from flowlab.errors import GraphError

BATCH = 2  # of the tracing: more than one, so that a dimension that swallows the batch shows
RESULT = "result"  # in a node's meta: what it gave
CHANGED = "changed"  # in a node's meta: the inputs that it wrote over
PLAIN = ("shape", "ndim", "dtype", "device", "layout", "is_cuda", "requires_grad")  # attributes without elements


@torch.inference_mode(False)  # versions of tensors, which tell what was written over, are kept outside it alone
def record(module: nn.Module, shape: tuple[int, ...]) -> fx.GraphModule:
    """The module's copy in eval mode as torch.fx's graph, every node with its result for zeros of ``(BATCH, *shape)``.

    A node that changes its input in place is what later nodes read.

    Raises:
        GraphError: where forward cannot be traced, has several inputs, or does not take the shape.
    """
    tracer = _Tracer(torch.zeros(BATCH, *shape))
    root = _of_one_input(copy.deepcopy(module).eval())
    try:
        traced = fx.GraphModule(root, tracer.trace(root))
    except GraphError:
        raise
    except Exception as error:  # tracing runs the user's own forward, which may raise anything
        raise GraphError(
            f"{type(module).__name__}.forward cannot be traced: {error}{_line(error)}. "
            "Decisions and loops that depend on values have no place in a fixed network: compute them before"
        ) from error
    places = [node for node in traced.graph.nodes if node.op == "placeholder"]
    if len(places) != 1:
        raise GraphError(f"forward has {len(places)} inputs ({', '.join(node.name for node in places)}): use one")
    for node in list(traced.graph.nodes):
        for changed in node.meta.get(CHANGED, ()):
            _show_change(node, changed)
    traced.graph.eliminate_dead_code()
    return traced


def _of_one_input(module: nn.Module) -> nn.Module:
    """The module with a forward of one input where all others have a default; changed in place."""
    try:
        first, *others = inspect.signature(module.forward).parameters.values()
    except (ValueError, TypeError):
        return module
    named = [each for each in others if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    if len(others) == 0 or first.kind == first.VAR_POSITIONAL or any(each.default is each.empty for each in named):
        return module
    kind = type(module)

    def forward(self: Any, x: Tensor) -> Any:
        return kind.forward(self, x)

    module.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    return module


def _line(error: Exception) -> str:
    """Where in the user's own file the tracing ended: the last ``forward`` that is not torch's."""
    trace, found = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_name == "forward" and "torch" not in code.co_filename.replace("\\", "/").split("/"):
            found = f" (line {trace.tb_lineno} of its file)"
        trace = trace.tb_next
    return found


class _Proxy(fx.Proxy):
    """A tensor while forward is traced, with the size that it has."""

    @property
    def result(self) -> Any:
        """What the node gave for zeros."""
        return self.node.meta[RESULT]

    def __getattr__(self, k: str) -> Any:
        """Plain attributes at once; the others become nodes."""
        if k in PLAIN and isinstance(self.result, Tensor):
            return getattr(self.result, k)
        return super().__getattr__(k)

    def size(self, *places: int) -> Any:
        """Torch's."""
        return self.result.size(*places)

    def dim(self) -> int:
        """Torch's."""
        return int(self.result.dim())

    def numel(self) -> int:
        """Torch's."""
        return int(self.result.numel())

    def __len__(self) -> int:
        return len(self.result)

    def __iter__(self) -> Iterator[Any]:
        return iter([operator.getitem(self, place) for place in range(len(self.result))])

    def __setitem__(self, place: Any, value: Any) -> None:
        raise GraphError(f"'{self.node.name}[...] = ' writes into a value: build it with torch.cat or an addition")

    def _in_place(self, function: Any, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    def __iadd__(self, other: Any) -> Any:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place(operator.itruediv, other)


class _Tracer(fx.Tracer):
    """Runs every node as it is recorded."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features
        self.running = False  # while a node runs, layers are layers

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """As torch.fx's, while it records."""
        return attr_val if self.running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """As torch.fx's, while it records."""
        return forward(*args, **kwargs) if self.running else super().call_module(m, forward, args, kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Ours, which know their result."""
        return _Proxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **named: Any) -> Any:
        """As torch.fx's; then the node runs."""
        made = super().create_proxy(kind, target, args, kwargs, *more, **named)
        if kind != "output":
            self._run(made.node)
        return made

    def _run(self, node: fx.Node) -> None:
        for each in node.all_input_nodes:
            if RESULT not in each.meta:  # a tensor that forward itself made
                self._run(each)
        before = {each: each.meta[RESULT]._version for each in node.all_input_nodes if _is_tensor(each)}
        self.running = True
        try:
            with torch.no_grad():
                node.meta[RESULT] = self._result(node)
        except Exception as error:  # layers and functions of any kind
            results = [each.meta.get(RESULT) for each in node.all_input_nodes]
            inputs = [str(tuple(each.shape[1:])) for each in results if isinstance(each, Tensor)]
            reason = str(error).partition("\n")[0]
            raise GraphError(
                f"'{node.target if node.op == 'call_module' else node.name}' does not take an input of shape "
                f"{' and '.join(inputs)}: {reason}"
            ) from error
        finally:
            self.running = False
        node.meta[CHANGED] = [each for each, version in before.items() if each.meta[RESULT]._version != version]

    def _result(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.features
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.root)
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda each: each.meta[RESULT])
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get(RESULT), Tensor)


def _show_change(node: fx.Node, changed: fx.Node) -> None:
    """Let later nodes read the changed value instead of the one that was written over.

    Raises:
        GraphError: where only a part was written, or something that is read later shares its memory in another shape.
    """
    result, old = node.meta[RESULT], changed.meta[RESULT]
    nodes = list(node.graph.nodes)
    place = nodes.index(node)
    if not isinstance(result, Tensor) or not _same_place(result, old):
        raise GraphError(f"'{node.name}' writes into '{changed.name}': build the value with torch.cat or an addition")
    for other in nodes[:place]:
        if not _is_tensor(other) or not _same_memory(other.meta[RESULT], old):
            continue
        readers = [user for user in other.users if user in nodes[place + 1 :]]
        if readers and not _same_place(other.meta[RESULT], old):
            raise GraphError(
                f"'{node.name}' changes a value in place that '{readers[0].name}' reads in another shape: "
                "write the change without in-place operations (x = x + y, inplace=False)"
            )
        for reader in readers:
            reader.replace_input_with(other, node)


def _same_memory(left: Tensor, right: Tensor) -> bool:
    return left.untyped_storage().data_ptr() == right.untyped_storage().data_ptr()


def _same_place(left: Tensor, right: Tensor) -> bool:
    return left.data_ptr() == right.data_ptr() and left.shape == right.shape and left.stride() == right.stride()
