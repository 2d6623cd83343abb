"""A batch norm behind a layer becomes part of the layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph, Node


@dataclass(frozen=True)
class FoldBatchNorm:
    """Fold the batch norm that alone reads a convolution or a linear layer into its weights and bias.

    With ``k = weight / sqrt(variance + epsilon)`` the layer's weights become ``k * w`` and its bias
    ``k * (b - mean) + bias``, computed in float64. The layer keeps its name.

    Before::

        graph 1
        input %input: float32[2]
        %fc: float32[1] = linear(%input)
          weight: float32[1, 2] = 1.0 2.0
        %norm: float32[1] = batch_norm(%fc) epsilon=0.0
          bias: float32[1] = 3.0
          mean: float32[1] = 1.0
          variance: float32[1] = 4.0
          weight: float32[1] = 6.0
        output "output" = %norm

    After::

        graph 1
        input %input: float32[2]
        %fc: float32[1] = linear(%input)
          bias: float32[1] = 0.0
          weight: float32[1, 2] = 3.0 6.0
        output "output" = %fc
    """

    name: str = "fold_batchnorm"

    def apply(self, graph: Graph) -> Graph:
        """The graph without those batch norms."""
        while found := next(filter(None, (_foldable(graph, node) for node in graph.nodes)), None):
            graph = _fold(graph, *found)
        return graph


def _foldable(graph: Graph, norm: Node) -> tuple[Node, Node] | None:
    if norm.op != "batch_norm" or norm.inputs[0] in graph.outputs.values():
        return None
    for layer in graph.nodes:
        if layer.name == norm.inputs[0] and layer.op in ("conv", "linear"):
            return (layer, norm) if len(graph.users(layer.name)) == 1 else None
    return None


def _fold(graph: Graph, layer: Node, norm: Node) -> Graph:
    import numpy as np

    from flowlab.compiler.rewrite import replace_nodes, substitute

    weight, bias, mean, variance = (
        norm.constants[key].astype(np.float64) for key in ("weight", "bias", "mean", "variance")
    )
    scale = weight / np.sqrt(variance + float(norm.attributes["epsilon"]))  # type: ignore[arg-type]
    kernel = layer.constants["weight"].astype(np.float64)
    before = layer.constants["bias"].astype(np.float64) if "bias" in layer.constants else 0.0
    constants = {
        "weight": (kernel * scale.reshape(-1, *(1,) * (kernel.ndim - 1))).astype(np.float32),
        "bias": (scale * (before - mean) + bias).astype(np.float32),
    }
    folded = replace(layer, constants=constants)
    graph = replace_nodes(graph, lambda node: folded if node.name == layer.name else node)
    return substitute(graph, {norm.name: layer.name})
