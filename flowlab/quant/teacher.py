"""The float network as its graph says it: what quantization learns from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowlab.compiler.ir import Graph
from flowlab.quant.fold import fold
from flowlab.quant.real_value import real_values


class Teacher(nn.Module):
    """A float graph's real values; what the graph leaves out (a softmax at the end) is left out here too."""

    def __init__(self, graph: Graph) -> None:
        """Fold the graph."""
        super().__init__()
        self.plan = fold(graph)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, ...) -> the network's only or first output, float32; computed in float64."""
        with torch.no_grad():
            return real_values(self.plan, x.double())[self.plan.output].float()
