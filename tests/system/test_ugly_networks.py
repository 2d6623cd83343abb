"""Many ordinary networks, quantized for both number formats after and during training, against the float ones."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from quant.ugly_measure import canonical, fit_of, job_of, left_out_of, measure
from quant.ugly_networks import RIGHT, build, data, parts
from torch import nn

from flowlab.compiler.number_format import GENERIC
from flowlab.contracts import NumberFormat
from flowlab.quant.ptq import post_training
from flowlab.quant.qat import quantization_aware
from flowlab_tinpu.number_format import NPU

FORMATS = [NPU, GENERIC]


@cache
def network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    return build(name)


@pytest.mark.parametrize("format", FORMATS, ids=lambda each: each.name)
@pytest.mark.parametrize("name", RIGHT)
def test_after_training_it_is_right(name: str, format: NumberFormat) -> None:
    module, shape = network(name)
    measured = measure(module, shape, post_training(job_of(module, shape, format), "test"), left_out_of(name))
    assert measured.right, measured


@pytest.mark.parametrize("format", FORMATS, ids=lambda each: each.name)
@pytest.mark.parametrize("name", RIGHT)
def test_aware_of_it_it_is_right_and_what_was_trained_is_what_ships(name: str, format: NumberFormat) -> None:
    module, shape = network(name)
    trained: list[Any] = []
    fit = fit_of(module, shape, left_out=left_out_of(name))

    def watched(quantized: Any) -> dict[str, Any]:
        trained.append(quantized)
        return fit(quantized)

    result = quantization_aware(job_of(module, shape, format, fit=watched), "test")
    measured = measure(module, shape, result, left_out_of(name))
    assert measured.right, measured
    features = torch.from_numpy(canonical(data(shape).test, shape))
    assert result.module is not None
    with torch.no_grad():
        pairs = zip(parts(trained[0].eval()(features)), parts(result.module(features)), strict=True)
    assert all(np.array_equal(during.numpy(), shipped.numpy()) for during, shipped in pairs)
