"""Run passes one after the other; the graph is verified after each, and a pass that breaks it is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flowlab.compiler.ir import Graph
from flowlab.compiler.passes import Pass
from flowlab.compiler.verify import verify
from flowlab.errors import GraphError

Watch = Callable[[str, Graph], None]  # gets a pass's name and the graph that it left


def unwatched(name: str, graph: Graph) -> None:
    """Nobody looks."""


def apply_passes(graph: Graph, passes: Sequence[Pass], watch: Watch = unwatched) -> Graph:
    """The graph after all passes.

    Args:
        graph: verified first.
        passes: in order.
        watch: called with every pass's name and the graph that it left.

    Raises:
        GraphError: naming the pass, if it fails or leaves a graph that breaks a law.
    """
    verify(graph)
    for each in passes:
        try:
            graph = each.apply(graph)
            verify(graph)
        except GraphError as problem:
            raise GraphError(f"pass '{each.name}': {problem}") from problem
        watch(each.name, graph)
    return graph


def tidy_passes() -> tuple[Pass, ...]:
    """What makes a float graph the layers that will run."""
    from flowlab.compiler.passes.drop_dead import DropDead
    from flowlab.compiler.passes.drop_identity import DropIdentity
    from flowlab.compiler.passes.fold_batchnorm import FoldBatchNorm

    return DropDead(), DropIdentity(), FoldBatchNorm()


def program_passes() -> tuple[Pass, ...]:
    """What gives a placed graph the arithmetic, the order and the memory of its program."""
    from flowlab.compiler.passes.allocate import Allocate
    from flowlab.compiler.passes.legalise import Legalise
    from flowlab.compiler.passes.schedule import Schedule

    return Legalise(), Schedule(), Allocate()
