"""Who lies where in a program's arena, and while which layers run: read from the program's own tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flowlab.compiler.allocate import Buffer, alive_at_peak
from flowlab.compiler.lower import roots
from flowlab.compiler.program import OUTSIDE, RENAMES, Container


@dataclass(frozen=True)
class Placed:
    """A tensor's bytes in the arena, and the first and the last layer (its place in the order) that needs them."""

    name: str
    offset: int
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class MemoryMap:
    """The arena: its bytes, the layers in the order in which they run, and the tensors."""

    size: int
    layers: tuple[str, ...]
    tensors: tuple[Placed, ...]

    def live(self) -> dict[str, int]:
        """Bytes that each layer needs while it runs: what it reads, what it writes, and what waits for a later one."""
        return {
            name: sum(one.size for one in self.tensors if one.first <= step <= one.last)
            for step, name in enumerate(self.layers)
        }

    def at_peak(self) -> dict[str, int]:
        """Bytes of the tensors that live while the most bytes do, by name."""
        return alive_at_peak([Buffer(one.name, one.size, one.first, one.last) for one in self.tensors])

    def to_json(self) -> dict[str, Any]:
        """Small JSON."""
        tensors = [vars(one) for one in self.tensors]
        return {"size": self.size, "layers": list(self.layers), "tensors": tensors, "live": self.live()}


def memory_map(container: Container, named: Callable[[str], str] = str) -> MemoryMap:
    """The map of a program; ``named`` gives a layer the name that it has in the table of layers.

    A layer that only renames numbers takes no time and no bytes, so it is left out. Outputs are needed to the end.
    """
    layers = [layer for layer in container.layers if layer.op not in RENAMES]
    root = roots(container.layers)
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for step, layer in enumerate(layers):
        first.setdefault(layer.output, step)
        for at in (*layer.inputs, layer.output):
            last[root[at]] = step
    last.update({root[at]: len(layers) - 1 for at in container.outputs.values()})
    placed = []
    for at, step in first.items():
        tensor = container.tensors[at]
        if tensor.offset != OUTSIDE:
            placed.append(Placed(named(tensor.name), tensor.offset, tensor.size, step, last[at]))
    return MemoryMap(container.arena, tuple(named(layer.name) for layer in layers), tuple(placed))
