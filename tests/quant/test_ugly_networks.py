"""Ordinary networks of every kind: right, or refused by name. All of them here, briefly; whole in tests/system."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from quant.ugly_measure import ERROR, canonical, job_of, left_out_of, measure
from quant.ugly_networks import REFUSED, RIGHT, build, data, parts

from flowlab.compiler.number_format import GENERIC
from flowlab.errors import GraphError
from flowlab.learn.trace import trace_module
from flowlab.quant.ptq import convert, wrap
from flowlab_tinpu.number_format import NPU


def test_there_are_enough_networks_of_every_kind() -> None:
    assert len(RIGHT) >= 68
    assert len(RIGHT) + len(REFUSED) >= 80


@pytest.mark.parametrize("place", range(len(RIGHT)), ids=list(RIGHT))
def test_a_network_after_little_training_is_near_its_float_self_and_equal_everywhere(place: int) -> None:
    """By turns in one number format and the other."""
    name = list(RIGHT)[place]
    module, shape = build(name, epochs=1)
    job = job_of(module, shape, (NPU, GENERIC)[place % 2])
    job = replace(job, calibration=job.calibration[:64])
    network = wrap(job)
    quantized = convert(job, network, "test")
    measured = measure(module, shape, quantized, left_out_of(name), count=40)
    assert measured.equal
    assert measured.error <= ERROR
    assert quantized.module is not None
    features = torch.from_numpy(canonical(data(shape).test[:40], shape))
    with torch.no_grad():
        pairs = zip(parts(network.eval()(features)), parts(quantized.module(features)), strict=True)
    assert all(np.array_equal(during.numpy(), shipped.numpy()) for during, shipped in pairs)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused_before_training_by_name(name: str) -> None:
    make, shape, message = REFUSED[name]
    with pytest.raises(GraphError, match=message):
        trace_module(make(), shape)


def test_the_measure_sees_what_is_wrong() -> None:
    module, shape = build("baseline", epochs=1)
    job = job_of(module, shape, NPU)
    quantized = convert(job, wrap(job), "test")
    assert measure(module, shape, quantized).error < 0.05
    graph = quantized.graph
    (name, value), last = next(iter(graph.outputs.items())), graph.nodes[-1]
    wrong = replace(graph, nodes=(*graph.nodes[:-1], last.with_attributes(scale=2 * last.attributes["scale"])))  # type: ignore[operator]
    other = measure(module, shape, replace(quantized, graph=wrong))
    assert (name, value) == ("output", last.name)
    assert not other.equal and not other.right
