"""Passes: each file is one rewrite of the graph."""

from __future__ import annotations

from typing import Protocol

from flowlab.compiler.ir import Graph


class Pass(Protocol):
    """A frozen dataclass with a name; its docstring shows the graph Before and After."""

    @property
    def name(self) -> str:
        """How errors and `explain` call this pass."""
        ...

    def apply(self, graph: Graph) -> Graph:
        """The rewritten graph; the given one is never changed."""
        ...
