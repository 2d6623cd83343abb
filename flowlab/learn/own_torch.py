"""A network of torch's, from an archive of torch.export or a state dict: its float graph, and what the module gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowlab.compiler import interpreter
from flowlab.compiler.import_foreign import check_graph
from flowlab.errors import GraphError
from flowlab.learn.own_module import own_module
from flowlab.learn.pt2_archive import read_program
from flowlab.learn.pt2_module import module_of
from flowlab.learn.trace import Traced, trace_module

BATCH = 256  # windows that a module runs at once
TOLERANCE = 1e-3  # of the largest output: float32 sums in another order are far below
Windows = NDArray[np.float32]


@dataclass(frozen=True)
class OwnTorch:
    """``traced.graph``: of one input; called with windows, the module's own outputs by name.

    Where the graph leaves out a softmax, they are what the graph gives, once both are seen to agree: every window that
    is compared is also a proof of the tracing.
    """

    module: nn.Module
    traced: Traced
    shape: tuple[int, ...]
    path: Path

    def __call__(self, windows: Windows) -> Mapping[str, Any]:
        """Outputs of float32 windows of the graph's shape.

        Raises:
            GraphError: where torch does not run them, or the graph's outputs are others.
        """
        graph, found = self.traced.graph, self._module(windows)
        values = interpreter.run(graph, windows)
        outputs = {}
        for name, value in graph.outputs.items():
            wanted, given = found[name], values[value].reshape(found[name].shape)
            alike = _ended(given, self.traced.endings[name]) if name in self.traced.endings else given
            room = TOLERANCE * max(float(np.abs(wanted).max()), 1.0)
            finite = alike is not None and bool(np.isfinite(wanted).all())  # what is not is refused as such
            if finite and not bool((np.abs(alike - wanted) <= room).all()):
                raise GraphError(f"{self.path}: output '{name}' of its float graph is not what torch computes")
            outputs[name] = given if name in self.traced.endings else wanted
        return outputs

    def _module(self, windows: Windows) -> dict[str, Any]:
        parts: dict[str, list[Any]] = {}
        with torch.no_grad():
            for start in range(0, len(windows), BATCH):
                batch = torch.from_numpy(windows[start : start + BATCH].reshape(-1, *self.shape).copy())
                try:
                    values = _values(self.module(batch))
                except Exception as error:  # noqa: BLE001 - a module of the user's own
                    first = (str(error).splitlines() or [type(error).__name__])[0]
                    raise GraphError(f"{self.path}: torch does not run it on {len(batch)} windows: {first}") from None
                for name, value in zip(self.traced.graph.outputs, values, strict=True):
                    parts.setdefault(name, []).append(value.numpy())
        return {name: np.concatenate(each) for name, each in parts.items()}


def own_torch(path: Path, data: bytes, module: str | None, shape: Callable[[], tuple[int, ...]]) -> OwnTorch:
    """The network of a torch file.

    Args:
        path: for messages, and for its name's ending.
        data: the file's bytes.
        module: ``package.module:name`` for a state dict.
        shape: of the windows that are given, which is asked for where the file does not say it.

    Raises:
        ConfigError: for a module that cannot be had.
        DataError: for a file that cannot be read, or is not the module's.
        GraphError: naming the node that cannot be expressed, or whose graph is not what torch computes.
    """
    if module is not None:
        return _traced(own_module(module, data, path), shape(), path, str)
    program = read_program(data, path)
    try:
        network = module_of(program)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None
    sizes = program.sizes[program.input][1:]
    return _traced(network, tuple(size for size in sizes if size is not None), path, network.explained)


def _traced(network: nn.Module, shape: tuple[int, ...], path: Path, explained: Callable[[str], str]) -> OwnTorch:
    try:
        traced = trace_module(network, shape)
        check_graph(traced.graph)
    except GraphError as error:
        raise GraphError(f"{path}: {explained(str(error))}") from None
    return OwnTorch(network, traced, shape, path)


def _values(result: Any) -> list[Any]:
    """The tensors that a forward returns, in the order of the graph's outputs."""
    if isinstance(result, Mapping):
        return list(result.values())
    return list(result) if isinstance(result, (tuple, list)) else [result]


def _ended(values: Any, ending: tuple[str, int] | None) -> Any:
    """The softmax behind values of the graph; None where others stand behind it."""
    if ending is None:
        return None
    kind, dim = ending
    found: Tensor = getattr(torch, kind)(torch.from_numpy(values), dim)
    return found.numpy()
