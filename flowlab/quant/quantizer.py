"""The quantizer of this package, as a plugin brings it: scales by least squares, and training where it is asked for.

Light: torch is imported when one works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flowlab.contracts import NumberFormat, Quantized, QuantizeJob, Quantizer

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph


class IntegerQuantizer(Quantizer):
    """Obeys the number format that it is given; a plugin names it, and says which of a target's formats it asks for."""

    libraries = ("torch", "numpy")
    mixed = True
    code = ("flowlab.quant", "flowlab.compiler.ir", "flowlab.compiler.verify")

    def check(self, graph: Graph, format: NumberFormat, options: Any) -> Sequence[str]:
        """Operations that have no integer form, one sentence each."""
        from flowlab.quant.fold import problems

        return problems(graph)

    def quantize(self, job: QuantizeJob, options: Any) -> Quantized:
        """Choose scales, and go on training where this quantizer does."""
        from flowlab.quant.ptq import post_training
        from flowlab.quant.qat import quantization_aware

        return (quantization_aware if self.trains else post_training)(job, self.name)
