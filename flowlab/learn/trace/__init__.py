"""From a torch module to the compiler's float graph, by tracing it with torch.fx.

Only what the graph's closed set of operations can say is taken; for everything else there is an error, before any
training, that names the place in the module and what to use instead.
Node names are module paths (``conv1``, ``block.conv``); a function in ``forward`` gets the name that torch.fx gives it.

Shapes: torch's ``(channel, length)`` are the graph's ``(channel, length, 1)``; ``(feature,)`` and ``(channel, height,
width)`` are the same in both. Whatever only moves numbers (views, slices, permutations, padding, nearest upsampling)
is followed by index, and becomes at most one `reshape` or `take` where a layer reads the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from flowlab.compiler.ir import Graph, Input
from flowlab.learn.trace.builder import INPUT, Builder, Ending, graph_type
from flowlab.learn.trace.compare import compare
from flowlab.learn.trace.record import record
from flowlab.learn.trace.tables import take


@dataclass(frozen=True)
class Traced:
    """A module's float graph, and how its nodes belong to the module.

    ``modules``: node -> path of the module that it computes (a second use of a module, too).
    ``views``: node -> from the module's weight to the node's, where it is not the same shape.
    ``structure``: what forward returns: ``tensor``, ``tuple``, ``list`` or ``dict``; the graph's outputs are
    ``output``, or ``output0``, ``output1``, ..., or the keys.
    ``warnings``: sentences on what the graph leaves out; ``endings``: of an output that ends in a softmax, which one
    (``softmax`` or ``log_softmax``) and its dimension with the batch, or None where numbers are moved behind it.
    """

    graph: Graph
    modules: Mapping[str, str]
    views: Mapping[str, Callable[[Tensor], Tensor]]
    structure: str
    warnings: tuple[str, ...]
    endings: Mapping[str, Ending | None] = field(default_factory=dict)


def trace_module(module: nn.Module, shape: tuple[int, ...], output: str = "output") -> Traced:
    """The module's inference as a float graph with constants; the module itself is not changed.

    Args:
        module: float32 ``(batch, *shape)`` -> one tensor, or a tuple, list or dict of them; it is read as in eval mode.
        shape: of the input without the batch, one to three numbers; the graph calls it ``input``.
        output: name of the graph's only output, and what the names of several begin with.

    Raises:
        GraphError: naming the place, what stands there, and what to use instead.
    """
    traced = record(module, shape)
    builder = Builder(traced, shape, take)
    for node in traced.graph.nodes:
        builder.add(node)
    outputs, structure = builder.outputs(output)
    builder.drop_unread(outputs)
    graph = Graph((Input(INPUT, graph_type(shape)),), tuple(builder.nodes), outputs)
    compare(module, builder, graph)
    return Traced(graph, builder.modules, builder.views, structure, tuple(builder.warnings), builder.endings(output))


def float_graph(module: nn.Module, shape: tuple[int, ...], output: str = "output") -> Graph:
    """The graph of `trace_module`; raises as it does."""
    return trace_module(module, shape, output).graph
