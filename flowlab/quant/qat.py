"""Quantization-aware training: the float network goes on training with the arithmetic that ships."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from flowlab.contracts import Quantized, QuantizeJob
from flowlab.errors import QuantizationError
from flowlab.quant.fidelity import RIGHT_ERROR, first_bad_layer
from flowlab.quant.ptq import convert, with_warnings, wrap
from flowlab.quant.recipe import FULL_BITS, recipe_of, widths


def quantization_aware(job: QuantizeJob, quantizer: str) -> Quantized:
    """Wrap by the recipe of the narrowest weights, train with ``job.fit``, convert.

    Raises:
        QuantizationError: as `flowlab.quant.ptq.wrap`, and where the training's loss or a weight became NaN.
    """
    recipe = recipe_of(widths(job))
    network = wrap(job, live=recipe.live, learn_scales=recipe.learn_scales)
    bad = ""
    if min(*widths(job), job.activation_bits) >= FULL_BITS:  # with fewer, training is what brings it back
        bad = first_bad_layer(network, job.calibration, RIGHT_ERROR)
    before = {name: value.clone() for name, value in network.named_parameters()}
    history = job.fit(network)
    network.finish()
    _check(network, history)
    unchanged = all(torch.equal(value, before[name]) for name, value in network.named_parameters())
    result = replace(convert(job, network, quantizer), history=history)
    said = [f"before training: {bad}"] if bad else []
    if unchanged:
        said.append("quantization-aware training changed no weight: the result is that of PTQ")
    return with_warnings(result, *said)


def _check(network: torch.nn.Module, history: Mapping[str, Any]) -> None:
    for row in _rows(history):
        loss = row.get("train_loss")
        if isinstance(loss, float) and not math.isfinite(loss):
            raise QuantizationError(
                f"quantization-aware training: the loss of epoch {row.get('epoch')} is {loss}. Lower the learning rate."
            )
    for name, value in network.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise QuantizationError(f"quantization-aware training: '{name}' became NaN. Lower the learning rate.")


def _rows(history: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    rows = history.get("epochs", history.get("history", ()))
    if isinstance(rows, list | tuple):
        yield from (row for row in rows if isinstance(row, Mapping))
