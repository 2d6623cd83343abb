"""What flowlab-gptq brings: one quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowlab.contracts import NumberFormat, Quantized, QuantizeJob, Quantizer
from flowlab.hookspecs import hookimpl

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph


@dataclass(frozen=True)
class GptqOptions:
    """How weights are rounded.

    Args:
        damping: part of the Hessian's mean diagonal that is added to its diagonal; above 0.
        follow_float: aim at what the float network's inputs give, not only at the weights.
    """

    damping: float = 0.01
    follow_float: bool = True

    def __post_init__(self) -> None:
        """Refuse a damping that makes no Hessian."""
        if not 0 < self.damping < float("inf"):
            raise ValueError(f"damping {self.damping:g}: give a number above 0, such as 0.01")


class Gptq(Quantizer):
    """Rounds each layer's weights by the second moments of its inputs; trains nothing."""

    name = "gptq"
    version = "1"
    summary = "second-order rounding in one pass over the calibration windows, without gradients"
    Options = GptqOptions
    mixed = True
    libraries = ("torch", "numpy")
    code = ("flowlab_gptq", "flowlab.quant", "flowlab.compiler.ir", "flowlab.compiler.verify")

    def check(self, graph: Graph, format: NumberFormat, options: GptqOptions) -> Sequence[str]:
        """Operations that have no integer form."""
        from flowlab.quant.fold import problems

        return problems(graph)

    def quantize(self, job: QuantizeJob, options: GptqOptions) -> Quantized:
        """Scales as flowlab chooses them, weights rounded one column after the other."""
        from flowlab_gptq.quantizer import quantize

        return quantize(job, options, self.name)


class GptqForCpu(Gptq):
    """The same for a device's CPU."""

    name = "gptq_cpu"
    summary = "second-order rounding for any CPU"
    format = "cpu"


@hookimpl
def flowlab_quantizers() -> Sequence[Quantizer]:
    """One for an accelerator, one for a CPU."""
    return (Gptq(), GptqForCpu())
