"""Brevitas: its default integer quantizers, weights by channel, calibrated and then trained."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from flowlab_zoo.peers.peer import Peer, PeerJob

NEEDS = ("brevitas",)


def _prepared(job: PeerJob, bits: int) -> Any:
    from brevitas.graph.calibrate import calibration_mode
    from brevitas.graph.quantize import COMPUTE_LAYER_MAP, preprocess_for_quantize, quantize
    from brevitas.quant.scaled_int import Int8WeightPerChannelFloat

    layers = dict(COMPUTE_LAYER_MAP)
    own = {"weight_quant": Int8WeightPerChannelFloat, "weight_bit_width": bits}
    for kind in (nn.Conv2d, nn.Linear):
        made, options = layers[kind]
        layers[kind] = made, {**options, **own}
    graph = preprocess_for_quantize(fx.symbolic_trace(copy.deepcopy(job.module).eval()))
    module = quantize(graph, compute_layer_map=layers).eval()
    with torch.no_grad(), calibration_mode(module):
        for windows in job.calibration():
            module(windows)
    return module


PEERS = (
    Peer("Brevitas PTQ 8/8", NEEDS, partial(_prepared, bits=8)),
    Peer("Brevitas PTQ 4/8", NEEDS, partial(_prepared, bits=4)),
    Peer("Brevitas QAT 8/8", NEEDS, partial(_prepared, bits=8), trains=True),
    Peer("Brevitas QAT 4/8", NEEDS, partial(_prepared, bits=4), trains=True),
    Peer("Brevitas QAT 2/8", NEEDS, partial(_prepared, bits=2), trains=True),
)
