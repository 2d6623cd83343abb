"""What a quantizer of another package builds on, as the guide's page of the hook says it."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from networks.training import data, quantize_job, trained

import flowlab
from flowlab.compiler.number_format import GENERIC
from flowlab.quant.ptq import convert, wrap
from flowlab.quant.real_value import real_values

PAGE = Path(flowlab.__file__).parent / "guide" / "hook-quantizers.md"


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_integers_are_the_weights_over_their_scale_whatever_they_are_changed_to(bits: int) -> None:
    job = quantize_job(trained(), format=GENERIC, weight_bits=bits)
    network = wrap(job)
    random, wanted = np.random.default_rng(0), {}
    for part in network.layers():
        limit = part.weight_limit
        whole = random.integers(-limit, limit + 1, part.weight.shape)
        wanted[part.step.name] = whole
        with torch.no_grad():
            scale = part.scale.reshape(-1, *[1] * (part.weight.ndim - 1))
            part.weight.copy_(torch.from_numpy(whole) * scale)
    graph = convert(job, network, "of a plugin").graph
    for name, whole in wanted.items():
        np.testing.assert_array_equal(graph.node(name).constants["weight"], whole)


def test_a_bias_moves_the_values_by_as_much() -> None:
    network = wrap(quantize_job(trained(), format=GENERIC)).eval()
    windows = torch.from_numpy(np.array(data().val_features[:16]))
    last = network.layers()[-1]
    (output,) = network.plan.outputs.values()
    with torch.no_grad():
        before = network.values(windows)[output] * network.scales.scale[output]
        last.bias += 8 * network.scales.scale[output]
        after = network.values(windows)[output] * network.scales.scale[output]
    moved = (after - before) / network.scales.scale[output]
    assert float(moved.median()) == 8


def test_values_times_scales_are_near_those_of_the_float_network() -> None:
    network = wrap(quantize_job(trained(), format=GENERIC)).eval()
    windows = torch.from_numpy(np.array(data().val_features[:16]))
    with torch.no_grad():
        whole, real = network.values(windows), real_values(network.plan, windows.double())
    for part in network.layers():
        source = part.step.source
        assert source in whole
        assert float((whole[source] * network.scales.scale[source] - real[source]).norm() / real[source].norm()) < 0.1


def test_the_page_names_each_of_them() -> None:
    page = PAGE.read_text()
    network = wrap(quantize_job(trained(), format=GENERIC))
    layer = network.layers()[0]
    for name in ("step", "weight", "bias", "scale", "weight_limit"):
        assert f"`{name}`" in page
        assert hasattr(layer, name)
    assert next(iter(inspect.signature(wrap).parameters)) == "job"
    assert list(inspect.signature(convert).parameters) == ["job", "network", "quantizer"]
