"""A network from outside, in any of the forms in which it comes: ONNX, a torch.export archive, a state dict.

Whatever the form: one graph of one input (of integers from an ONNX file alone), and what the network itself gives for
windows, by the program that it was made for (ONNX Runtime, torch).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.errors import ConfigError, GraphError
from flowlab.stages.own.files import read_array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowlab.compiler.ir import Graph

    Windows = NDArray[np.float32]

EXPORTED, STATES = (".pt2",), (".pt", ".pth")  # what the files' names end in; everything else is ONNX
WINDOWS = "float32 of the network's own shape behind the windows"
BATCH = 256  # windows that ONNX Runtime runs at once
MOST_BATCH = 4096  # that a file may be fixed to


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


def network_of(path: Path, data: bytes, inputs: Path, module: str | None) -> OwnNetwork:
    """The file as a graph of one input, and what the file itself gives.

    Args:
        path: for messages, and for its name's ending.
        data: the file's bytes.
        inputs: windows, whose shape is asked for where the file does not say it.
        module: ``package.module:name`` for a state dict.

    Raises:
        ConfigError: for a module that cannot be had.
        DataError: for a file that cannot be read.
        GraphError: naming the node that cannot be expressed.
    """
    if is_torch(path):
        return _torch_network(path, data, module, lambda: read_array(inputs, WINDOWS).shape[1:])
    from flowlab.compiler.import_foreign import import_foreign
    from flowlab.stages.own.integers import raw

    try:
        found = import_foreign(data)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None
    return OwnNetwork(
        found.graph,
        lambda windows: _file_outputs(path, found.model, raw(found.graph, windows), found.graph),
        "the file in ONNX Runtime",
        tuple(f"{path.name}: {one}" for one in found.said),
        found.model,
    )


def _torch_network(path: Path, data: bytes, module: str | None, shape: Callable[[], tuple[int, ...]]) -> OwnNetwork:
    from flowlab.learn.own_torch import own_torch

    found = own_torch(path, data, module, shape)
    said = tuple(f"{path.name}: {one}" for one in found.traced.warnings)
    return OwnNetwork(found.traced.graph, found, "the module in torch", said)


def finite(path: Path, found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Outputs as they are; GraphError where a number is none."""
    import numpy as np

    for name, values in found.items():
        if not np.isfinite(values).all():
            raise GraphError(f"{path}: output '{name}' of the float network is NaN or infinite on its own inputs")
    return found


def _file_outputs(path: Path, model: bytes, windows: Windows, graph: Graph) -> Mapping[str, Any]:
    """What the file gives in ONNX Runtime; GraphError with its words, where it does not run the file."""
    from flowlab.compiler.ir import is_float
    from flowlab.stages import validate

    try:
        return _in_batches(validate.session_of(model, optimized=is_float(graph)), windows, list(graph.outputs))
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None
    except Exception as error:  # noqa: BLE001 - ONNX Runtime has kinds of its own
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise GraphError(f"{path}: ONNX Runtime does not run it: {first}") from None


def _in_batches(session: Any, windows: Windows, names: list[str]) -> dict[str, Any]:
    """Outputs of all windows, as many at once as the file takes: a batch may be fixed in it."""
    import numpy as np

    (given,) = session.get_inputs()
    values = windows[..., 0] if len(given.shape) == windows.ndim - 1 else windows
    batch = given.shape[0] if isinstance(given.shape[0], int) else BATCH
    if not 1 <= batch <= MOST_BATCH:
        raise GraphError(f"its batch is fixed to {batch}; 1 to {MOST_BATCH} are known")
    parts: dict[str, list[Any]] = {name: [] for name in names}
    for start in range(0, len(values), batch):
        part = values[start : start + batch]
        full = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
        for name, made in zip(names, session.run(names, {given.name: np.ascontiguousarray(full)}), strict=True):
            parts[name].append(made[: len(part)])
    return {name: np.concatenate(made) for name, made in parts.items()}
