"""The quantizers of the NPU: after training, and aware of it."""

from __future__ import annotations

from flowlab.contracts import Quantizer
from flowlab.quant.quantizer import IntegerQuantizer


class PostTraining(IntegerQuantizer):
    """Scales from calibration data, by least squares."""

    name = "tinpu_ptq"
    summary = "post-training quantization for the NPU: scales from calibration windows, nothing is trained"
    format = "npu"
    trains = False


class QuantizationAware(IntegerQuantizer):
    """The same, and then training with the arithmetic that ships."""

    name = "tinpu_qat"
    summary = "quantization-aware training for the NPU: the network trains on with the integers that ship"
    format = "npu"
    trains = True


QUANTIZERS: tuple[Quantizer, ...] = (QuantizationAware(), PostTraining())
