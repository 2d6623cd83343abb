"""ONNX Runtime's static quantizer in its QDQ form: 8-bit weights a channel, unsigned 8-bit activations."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowlab_zoo.peers.peer import Peer, PeerJob


def _quantized(job: PeerJob) -> bytes:
    from onnxruntime import InferenceSession
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    (source,) = InferenceSession(job.model, providers=["CPUExecutionProvider"]).get_inputs()

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # it ships no types
        def __init__(self) -> None:
            self._left = iter({source.name: windows.numpy()} for windows in job.calibration())

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self._left, None)

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        before.write_bytes(job.model)
        quantize_static(
            before,
            after,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return after.read_bytes()


def _runner(model: bytes) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
    from flowlab.compiler.run_qdq import run_qdq

    return lambda features: run_qdq(model, features)


PEERS = (Peer("ONNX Runtime static 8/8", ("onnxruntime",), _quantized, finished=_runner),)
