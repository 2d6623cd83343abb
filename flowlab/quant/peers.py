"""Other projects' quantizers, where they are installed: benchmarks run them on the same network and windows.

Each gets the trained float module (or its ONNX), the training windows, and as many calibration windows as ours; what
comes back are its outputs on the test windows. Nothing here is used by a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CALIBRATION = 512
Outputs = Callable[[Any, bytes, Any, NDArray[np.float32]], NDArray[Any]]


@dataclass(frozen=True)
class Peer:
    """``outputs``: (float module, its ONNX, `flowlab.learn.loop.FitData`, test features) -> outputs ``(N, class)``."""

    name: str
    needs: tuple[str, ...]
    outputs: Outputs

    def missing(self) -> str:
        """What is not installed, or an empty text."""
        lacking = [name for name in self.needs if util.find_spec(name) is None]
        return f"{', '.join(lacking)} is not installed" if lacking else ""


def onnxruntime_static(module: Any, model: bytes, data: Any, test: NDArray[np.float32]) -> NDArray[Any]:
    """ONNX Runtime's static quantizer in its QDQ form: 8-bit weights a channel, unsigned 8-bit activations."""
    import logging
    import tempfile

    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    from flowlab.compiler.run_qdq import run_qdq

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # it ships no types
        def __init__(self, name: str) -> None:
            self._left = iter({name: data.train_features[at : at + 64]} for at in range(0, CALIBRATION, 64))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self._left, None)

    from onnxruntime import InferenceSession

    (source,) = InferenceSession(model, providers=["CPUExecutionProvider"]).get_inputs()
    before = logging.root.level
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        paths[0].write_bytes(model)
        logging.root.setLevel(logging.ERROR)  # it advises by warnings
        try:
            quantize_static(
                paths[0],
                paths[1],
                Reader(source.name),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            logging.root.setLevel(before)
        return run_qdq(paths[1].read_bytes(), test)


PEERS = (Peer("ONNX Runtime static 8/8", ("onnxruntime.quantization",), onnxruntime_static),)
NOT_BUILT = ("Brevitas", "torchao")  # known, and nothing here runs them yet
