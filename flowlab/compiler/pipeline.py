"""Run passes one after the other; the graph is verified after each, and a pass that breaks it is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from flowlab.compiler.ir import Graph
from flowlab.compiler.passes import Pass
from flowlab.compiler.verify import verify
from flowlab.errors import GraphError

if TYPE_CHECKING:
    from flowlab.compiler.place import Placement
    from flowlab.contracts import Target

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
    """What gives a placed graph the arithmetic, the layers, the order and the memory of its program."""
    from flowlab.compiler.passes.allocate import Allocate
    from flowlab.compiler.passes.fuse_bnorm import FuseBnorm
    from flowlab.compiler.passes.legalise import Legalise
    from flowlab.compiler.passes.schedule import Schedule

    return Legalise(), FuseBnorm(), Schedule(), Allocate()


def place_for(target: Target, graph: Graph, off: str = "", watch: Watch = unwatched) -> Placement:
    """Placement decided for a device: its passes, the graph verified after each, then its rules.

    Args:
        target: the device.
        graph: float or integer.
        off: why its accelerator is not used, if it is not; a CPU needs no zeros, so no pass runs.
        watch: called with every pass's name and the graph that it left.

    Raises:
        GraphError: naming the pass, if it fails or leaves a graph that breaks a law.
    """
    from flowlab.compiler.passes.place import Place

    rules = target.rules()
    prepared = graph if off else apply_passes(graph, target.passes(), watch)
    last = Place(rules, target.unit_name, off if rules else "")
    placement = last.placement(prepared)
    watch(last.name, placement.graph)
    return placement
