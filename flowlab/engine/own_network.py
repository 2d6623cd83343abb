"""A network from outside, in any of the forms in which it comes: ONNX, a torch.export archive, a state dict.

Whatever the form: one graph of one input (of integers from an ONNX file alone), and what the network itself gives for
windows, by the program that it was made for (ONNX Runtime, torch).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowlab.compiler.ir import Graph

    Windows = NDArray[np.float32]

EXPORTED, STATES = (".pt2",), (".pt", ".pth")  # what the files' names end in; everything else is ONNX


@dataclass(frozen=True)
class OwnNetwork:
    """``outputs``: windows -> the float network's own outputs by name; ``by``: what computes them, for people."""

    graph: Graph
    outputs: Callable[[Windows], Mapping[str, Any]]
    by: str
    said: tuple[str, ...] = ()
    model: bytes = b""  # an ONNX file as it is

    @property
    def integers(self) -> bool:
        """Whether it is a network of integers already."""
        from flowlab.compiler.ir import is_float

        return not is_float(self.graph)


def is_torch(path: Path) -> bool:
    """Whether a file is torch's, by its name."""
    return path.suffix.lower() in (*EXPORTED, *STATES)


def check_form(path: Path, module: str | None) -> None:
    """Hold the file's name against ``--module``.

    Raises:
        ConfigError: where one needs the other, or does not.
    """
    state = path.suffix.lower() in STATES
    if state and module is None:
        raise ConfigError(
            f"{path}: a state dict has weights and no network. Name the class or function that makes it, with --module "
            "package.module:name; it is imported and run. Or give what torch.export.save writes (.pt2)"
        )
    if module is not None and not state:
        raise ConfigError(f"--module {module}: is for a state dict (.pt, .pth); {path} brings its network along")


def torch_network(path: Path, data: bytes, module: str | None, shape: Callable[[], tuple[int, ...]]) -> OwnNetwork:
    """The network of a torch file; arguments and errors as of `flowlab.learn.own_torch.own_torch`."""
    from flowlab.learn.own_torch import own_torch

    found = own_torch(path, data, module, shape)
    said = tuple(f"{path}: {one}" for one in found.traced.warnings)
    return OwnNetwork(found.traced.graph, found, "the module in torch", said)
