"""What the graph can say and a program cannot yet: refused before anything is trained, and not behind it."""

from __future__ import annotations

from flowlab.compiler.ir import Graph
from flowlab.compiler.program import OPS

KNOWN = (*OPS, "requantize", "relu", "batch_norm", "activation", "average_pool")  # the last four: of float graphs
SPOKEN = {"requantize_float": "adds a float bias"}


def unbuilt(graph: Graph) -> tuple[str, ...]:
    """A sentence for each node that no program of ours can run; empty where there is none.

    Such networks can be quantized and exported to ONNX, by the quantizers alone.
    """
    found = []
    for node in graph.nodes:
        if node.op not in KNOWN:
            what = SPOKEN.get(node.op, f"is a '{node.op}'")
            found.append(f"'{node.name}' {what}, and programs cannot yet. Do without, or quantize to ONNX.")
    if len(graph.outputs) != 1:
        found.append(
            f"the network has the outputs {', '.join(graph.outputs)}, and a run trains one: return one tensor."
        )
    return tuple(found)
