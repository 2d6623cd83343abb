"""torchao's quantization of exported programs (PT2E), for x86: 8-bit weights by channel, 8-bit activations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowlab.learn.loop import predict
from flowlab_zoo.peers.peer import BATCH, Peer, PeerJob

NEEDS = ("torchao",)


def _prepared(job: PeerJob, trains: bool) -> Any:
    from torchao.quantization.pt2e import allow_exported_model_train_eval
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e, prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=trains))
    windows = next(job.calibration())[:BATCH]
    module = copy.deepcopy(job.module).train(trains)
    batch = {0: torch.export.Dim("batch", min=2)}
    exported = torch.export.export(module, (windows,), dynamic_shapes=(batch,)).module()
    prepared = (prepare_qat_pt2e if trains else prepare_pt2e)(exported, quantizer)
    with torch.no_grad():
        for windows in job.calibration():  # with training in view, too: its observers take their shape from it
            prepared(windows)
    return allow_exported_model_train_eval(prepared)


def _runner(module: Any) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
    from torchao.quantization.pt2e import allow_exported_model_train_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    module.eval()
    converted = allow_exported_model_train_eval(convert_pt2e(module))
    return lambda features: predict(converted, features)


PEERS = (
    Peer("torchao PT2E PTQ 8/8", NEEDS, partial(_prepared, trains=False), finished=_runner),
    Peer("torchao PT2E QAT 8/8", NEEDS, partial(_prepared, trains=True), trains=True, finished=_runner),
)
