from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from networks.training import data, outputs, quantize_job, trained
from torch import nn

from flowlab.compiler.number_format import GENERIC
from flowlab.contracts import NumberFormat
from flowlab.quant.calibrate import calibrate
from flowlab.quant.converted import Converted
from flowlab.quant.fake_network import FakeQuantized
from flowlab.quant.fold import fold
from flowlab.quant.ptq import convert
from flowlab_tinpu.number_format import NPU

WIDTHS = [(NPU, 8), (NPU, 4), (NPU, 2), (GENERIC, 8), (GENERIC, 2)]


def network(module: nn.Module, format: NumberFormat = NPU, bits: int = 8, **how: Any) -> FakeQuantized:
    job = quantize_job(module)
    steps = fold(job.graph)
    scales = calibrate(steps, job.calibration, format, bits, bits_of=how.get("bits_of"))
    return FakeQuantized(steps, scales, format, bits, **how)


def with_negative_norms() -> nn.Module:
    module = trained()
    with torch.no_grad():
        module[2].weight[:3] *= -1  # type: ignore[index,operator]
    return module


def steps_of(made: FakeQuantized, count: int, rate: float = 0.01) -> None:
    """Train for a few batches, forwards and backwards."""
    optimizer = torch.optim.Adam(made.parameters(), rate)
    x, y = (torch.from_numpy(np.array(value)) for value in (data().train_features, data().train_targets))
    made.train()
    for start in range(count):
        batch = slice(32 * start, 32 * start + 32)
        optimizer.zero_grad()
        nn.functional.cross_entropy(made(x[batch]), y[batch]).backward()
        optimizer.step()


def whole(made: FakeQuantized) -> np.ndarray:
    made.eval()
    with torch.no_grad():
        return made.whole_numbers(torch.from_numpy(np.array(data().val_features))).numpy()


def shipped(made: FakeQuantized, format: NumberFormat, bits: int) -> np.ndarray:
    result = convert(quantize_job(trained(), format=format, weight_bits=bits), made, "test")
    assert isinstance(result.module, Converted)
    return outputs(result.module, data().val_features)


@pytest.mark.parametrize(("format", "bits"), WIDTHS)
def test_raw_weights_with_their_norm_give_the_integers_of_the_folded_ones(format: NumberFormat, bits: int) -> None:
    module = with_negative_norms()
    folded, raw = network(module, format, bits), network(module, format, bits, live=0.5)
    assert any(layer.gamma is not None for layer in raw.layers())
    assert all(layer.gamma is None for layer in folded.layers())
    for one, other in zip(folded.layers(), raw.layers(), strict=True):
        assert np.mean(one.integers().weight != other.integers().weight) < 0.005  # one at a tie may fall elsewhere
    assert np.abs(whole(folded) - whole(raw)).max() <= 1


@pytest.mark.parametrize(("format", "bits"), WIDTHS)
@pytest.mark.parametrize("live", [True, False])
def test_evaluation_is_what_ships_whether_norms_are_live_or_not(format: NumberFormat, bits: int, live: bool) -> None:
    made = network(with_negative_norms(), format, bits, live=0.5, learn_scales=True)
    steps_of(made, 4)
    if not live:
        made.finish()
        steps_of(made, 2)
    assert made.finished is not live
    assert np.array_equal(whole(made), shipped(made, format, bits))


@pytest.mark.parametrize(("format", "bits"), [(NPU, 4), (NPU, 2), (GENERIC, 8)])
def test_integers_stay_when_norms_are_frozen(format: NumberFormat, bits: int) -> None:
    made = network(with_negative_norms(), format, bits, live=0.5)
    steps_of(made, 4)
    with torch.no_grad():
        before = [layer.whole_weight() for layer in made.layers()]
        made.finish()
        after = [layer.whole_weight() for layer in made.layers()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_norms_are_live_for_their_part_of_the_epochs_and_to_the_last_of_few() -> None:
    made = network(trained(), live=0.7)
    assert not made.finished
    for epochs, live in ((10, 7), (3, 2), (2, 1), (1, 1)):
        made.set_live(True)
        seen = []
        for epoch in range(epochs):
            made.begin_epoch(epoch, epochs)
            seen.append(not made.finished)
        assert seen == [epoch < live for epoch in range(epochs)], epochs
    made.finish()
    assert made.finished


def test_a_live_norm_counts_the_batch_and_a_frozen_one_does_not() -> None:
    made = network(trained(), live=1.0)
    layer = next(layer for layer in made.layers() if layer.gamma is not None)
    before = layer.mean.clone()
    steps_of(made, 1)
    moved = layer.mean.clone()
    made.finish()
    steps_of(made, 1)
    assert not torch.equal(before, moved)
    assert torch.equal(moved, layer.mean)


def test_given_parameters_are_trained_in_place() -> None:
    module = trained()
    names = dict(module.named_parameters())
    made = network(module, parameters=names)
    own = {id(parameter) for parameter in made.parameters()}
    used = {name for name, parameter in names.items() if id(parameter) in own}
    assert {"1.weight", "1.bias", "2.weight", "2.bias"} <= used
    before = copy.deepcopy(module.state_dict())
    steps_of(made, 2)
    assert not torch.equal(before["1.weight"], module.state_dict()["1.weight"])


def test_a_filter_of_zeros_stays_zero_and_gives_its_bias() -> None:
    made = network(trained(), bits=2, live=0.5, learn_scales=True)
    layer = next(layer for layer in made.layers() if layer.gamma is not None)
    with torch.no_grad():
        layer.weight[1] = 0
        layer.beta[1] = 3 * layer.output_scale  # type: ignore[index]
    steps_of(made, 1, rate=0.0)
    made.finish()
    steps_of(made, 3)
    assert not layer.integers().weight[1].any()
    assert layer.integers().weight[0].any()
    assert np.array_equal(whole(made), shipped(made, NPU, 2))


def test_layers_have_the_bits_that_are_asked_for() -> None:
    made = network(trained(), bits=2, bits_of={"1": 8}, live=0.5)
    steps_of(made, 2)
    graph = convert(quantize_job(trained(), weight_bits=2), made, "test").graph
    bits = {node.name: node.attributes["weight_bits"] for node in graph.nodes if "weight_bits" in node.attributes}
    assert bits.pop("1") == 8
    assert set(bits.values()) == {2}
    assert np.abs(graph.node("1").constants["weight"]).max() > 1
    assert set(graph.node("1.bnorm").constants["multiplier"].tolist()) == {1}
    assert np.array_equal(whole(made), shipped(made, NPU, 2))


def test_one_window_is_trained_with_the_frozen_norm() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(96, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    made = network(module, live=1.0)
    made.train()
    x = torch.from_numpy(np.array(data().train_features[:1]))
    assert bool(torch.isfinite(made(x)).all())


@pytest.mark.parametrize("live", [0.0, 1.0])
def test_series_of_one_channel_are_trained_with_the_channels_last(live: float) -> None:
    made = network(trained(), live=live)
    seen = []
    for part in made.layers():
        part.register_forward_hook(lambda _part, _given, value: seen.append(value))
    made.train()
    made(torch.from_numpy(np.array(data().train_features[:8])))
    several = [value for value in seen if value.ndim == 4 and value.shape[1] > 1 and value.shape[3] > 1]
    assert made.turned
    assert several
    assert all(value.stride(1) == 1 for value in several)
