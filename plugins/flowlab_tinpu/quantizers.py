"""The quantizers of the NPU: after training, and aware of it; torch is imported when one works."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flowlab.contracts import NumberFormat, Quantized, QuantizeJob, Quantizer

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph

CODE = ("flowlab_tinpu.quantizers", "flowlab.quant", "flowlab.compiler.ir", "flowlab.compiler.verify")


class NpuQuantizer(Quantizer):
    """What both have: the format that they ask for, and what they say of a network before any training."""

    format = "npu"
    libraries = ("torch", "numpy")
    code = CODE

    def check(self, graph: Graph, format: NumberFormat, options: Any) -> Sequence[str]:
        """Operations that have no integer form, one sentence each."""
        from flowlab.quant.fold import problems

        return problems(graph)

    def quantize(self, job: QuantizeJob, options: Any) -> Quantized:
        """Choose scales, and go on training where this quantizer does."""
        from flowlab.quant.ptq import post_training
        from flowlab.quant.qat import quantization_aware

        return (quantization_aware if self.trains else post_training)(job, self.name)


class PostTraining(NpuQuantizer):
    """Scales from calibration data, by least squares."""

    name = "tinpu_ptq"
    summary = "post-training quantization for the NPU: scales from calibration windows, nothing is trained"
    trains = False


class QuantizationAware(NpuQuantizer):
    """The same, and then training with the arithmetic that ships."""

    name = "tinpu_qat"
    summary = "quantization-aware training for the NPU: the network trains on with the integers that ship"
    trains = True


QUANTIZERS: tuple[Quantizer, ...] = (QuantizationAware(), PostTraining())
