"""What a program costs on one of TI's devices: cycles of the model NPU, and the estimate from TI's published figures.

Two numbers that are never mixed, beside the third, exact one: instructions of our own C, which an execution counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowlab.contracts import Costs

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph
    from flowlab_tinpu.device_table import Row


def costs_of(row: Row, graph: Graph) -> Costs:
    """Both, of a placed graph."""
    from flowlab_tinpu.costs.estimate import estimate
    from flowlab_tinpu.costs.model_npu import MODEL_NPU, cycles

    model = cycles(MODEL_NPU, graph)
    return Costs(model if model.by_layer else None, estimate(row, graph))
