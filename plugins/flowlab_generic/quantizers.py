"""Quantizers that belong to no machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowlab.contracts import Quantized, QuantizeJob, Quantizer
from flowlab.quant.quantizer import IntegerQuantizer

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph, Node


class NoQuantizer(Quantizer):
    """Exports the float network as it was trained, batch norms folded into the layers before them."""

    name = "none"
    summary = "no quantization: the float network, every layer on the CPU"
    format = ""
    trains = False
    libraries = ("torch", "numpy")
    code = ("flowlab_generic.quantizers", "flowlab.quant.float_module", "flowlab.compiler")

    def quantize(self, job: QuantizeJob, options: Any) -> Quantized:
        """The job's graph, tidied, and its own module: nothing of it is the graph's, so the two can disagree."""
        from flowlab.quant.float_module import with_lines

        return Quantized(folded(job.graph, self.name), with_lines(job.model))


def folded(graph: Graph, quantizer: str) -> Graph:
    """The float graph that ships: nothing dead, no batch norm behind a layer, every number one that ONNX holds.

    Raises:
        QuantizationError: naming the constant that is not finite.
    """
    from dataclasses import replace

    from flowlab.compiler.pipeline import apply_passes, tidy_passes
    from flowlab.compiler.rewrite import replace_nodes

    tidy = apply_passes(graph, tidy_passes())
    return replace(replace_nodes(tidy, _as_onnx_holds_it), metadata={"quantizer": quantizer})


def _as_onnx_holds_it(node: Node) -> Node:
    """Float attributes as ONNX keeps them: the shortest decimals of their float32."""
    import numpy as np

    from flowlab.errors import QuantizationError

    for key, array in node.constants.items():
        if not np.isfinite(array.astype(np.float32)).all():
            raise QuantizationError(
                f"node '{node.name}': its {key} is not finite. Lower the learning rate, or look at the features"
            )
    floats = {key: value for key, value in node.attributes.items() if isinstance(value, float)}
    return node.with_attributes(**{key: float(str(np.float32(value))) for key, value in floats.items()})


class PostTraining(IntegerQuantizer):
    """Scales from calibration data, by least squares."""

    name = "generic_ptq"
    summary = "post-training quantization for any CPU: scales from calibration windows, nothing is trained"
    format = "cpu"
    trains = False


class QuantizationAware(IntegerQuantizer):
    """The same, and then training with the arithmetic that ships."""

    name = "generic_qat"
    summary = "quantization-aware training for any CPU: the network trains on with the integers that ship"
    format = "cpu"
    trains = True


QUANTIZERS: tuple[Quantizer, ...] = (NoQuantizer(), QuantizationAware(), PostTraining())
