"""An integer ONNX network of another tool into an integer graph: QLinear operations, and QuantizeLinear ...
DequantizeLinear around float operations (QDQ).

Both mean the same integers: a sum of products of bytes less their zero points, an int32 bias, and one requantization by
``float32(input scale * weight scale) / output scale``, to the nearest integer, ties to the even one
(``nearest_even`` of `flowlab.compiler.number_format`), which is what ONNX Runtime's integer kernels do.
A chain of functions of one byte becomes a table, computed in float32 as ONNX says it; a sum of two bytes of different
scales is ``add_float``. A float bias is rounded to the sum's own steps, as ONNX Runtime does.

Weights of 9 bits (unsigned ones with any zero point) are split, over an input that is read as often.
What has no such meaning is refused with the ONNX node's name.
"""

from __future__ import annotations

from flowlab.compiler.ir import Graph
from flowlab.compiler.onnx_model import OnnxModel
from flowlab.compiler.quantized_onnx.layers import Importer
from flowlab.compiler.quantized_onnx.values import QUANTIZED


def is_quantized(model: OnnxModel) -> bool:
    """Whether a file has operations that quantize, or takes integers."""
    return any(node.op_type in QUANTIZED for node in model.nodes) or any(
        dtype != "float32" for dtype in model.input_dtypes().values()
    )


def import_quantized(model: OnnxModel) -> Graph:
    """The integer graph of a checked model; values keep their ONNX names.

    Raises:
        GraphError: naming the ONNX node that has no integer meaning, and why.
    """
    return Importer(model).graph()
