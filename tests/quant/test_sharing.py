"""Values that share a scale, and scales that hang together by powers of two."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks.training import quantize_job
from quant.ugly_networks import Net
from torch import nn

from flowlab.compiler.number_format import GENERIC
from flowlab.contracts import NumberFormat
from flowlab.errors import QuantizationError
from flowlab.learn.trace import float_graph
from flowlab.quant.calibrate import Scales, calibrate
from flowlab.quant.fidelity import errors, first_bad_layer
from flowlab.quant.fold import fold
from flowlab.quant.ptq import post_training, wrap
from flowlab.quant.steps import AddStep, AverageStep, Steps, TableStep, value_of
from flowlab_tinpu.number_format import NPU

SHAPE = (2, 12, 1)
FEATURES = np.random.default_rng(0).normal(0.5, 2, (64, *SHAPE)).astype(np.float32)
FORMATS = [NPU, GENERIC]


def conv(outside: int = 4, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(2, outside, (kernel, 1), padding=(kernel // 2, 0))


def chosen(network: nn.Module, format: NumberFormat, bits: tuple[int, int] = (8, 8)) -> tuple[Steps, Scales]:
    torch.manual_seed(0)
    steps = fold(float_graph(network.eval(), SHAPE))
    return steps, calibrate(steps, FEATURES, format, *bits)


def is_power_of_two(ratio: float) -> bool:
    return bool(np.isclose(np.log2(ratio), np.rint(np.log2(ratio)), atol=1e-9))


@pytest.mark.parametrize("format", FORMATS)
def test_both_sources_of_a_sum_have_one_scale_and_types_of_their_own(format: NumberFormat) -> None:
    torch.manual_seed(1)
    network = Net(lambda m, x: m.f((F.relu(m.a(x)) + m.b(x)).mean((2, 3))), a=conv(), b=conv(), f=nn.Linear(4, 2))
    steps, scales = chosen(network, format)
    (step,) = (step for step in steps.steps if isinstance(step, AddStep))
    first, second = step.sources
    assert scales.scale[first] == scales.scale[second]
    assert {scales.range[first][0], scales.range[second][0]} == {0, -128}
    multiplier, shift = scales.sums[step.name]
    ratio = scales.scale[first] / scales.scale[value_of(step)]
    assert np.isclose(multiplier * 2.0**-shift, ratio, rtol=0.004)
    if format is NPU:
        assert multiplier == 1 and is_power_of_two(ratio)


@pytest.mark.parametrize("format", FORMATS)
def test_parts_of_a_concatenation_have_one_scale_and_one_type(format: NumberFormat) -> None:
    network = Net(
        lambda m, x: m.f(torch.cat([m.a(x).relu(), m.b(x).tanh(), x], 1).mean((2, 3))),
        a=conv(),
        b=conv(),
        f=nn.Linear(10, 2),
    )
    steps, scales = chosen(network, format)
    joined = next(step for step in steps.steps if step.name == "cat")
    names = [value_of(step) for step in steps.steps if value_of(step) in ("a.bnorm", "tanh", "quantize", joined.name)]
    assert len(names) == 4
    assert len({scales.scale[name] for name in names}) == 1
    assert {scales.range[name] for name in names} == {(-128, 127)}


def test_a_value_and_its_own_average_need_a_table_where_ratios_are_powers_of_two() -> None:
    network = Net(lambda m, x: m.f((y := m.a(x)[:, :, :3] * 1.0) + y.mean(2, keepdim=True)), a=conv(), f=nn.Flatten())
    steps, scales = chosen(network, NPU)
    (average,) = (step for step in steps.steps if isinstance(step, AverageStep))
    (table,) = (step for step in steps.steps if isinstance(step, TableStep))
    assert (table.name, table.function, table.source) == (f"{average.name}.rescale", "identity", value_of(average))
    source = scales.scale[average.source]
    assert is_power_of_two(source / 3 / scales.scale[value_of(average)])
    assert scales.scale[table.name] == source  # what it is added to


def test_products_and_their_factors_are_powers_of_two_apart() -> None:
    network = Net(
        lambda m, x: (y := m.a(x)) * y + y * y.sigmoid() * m.b(x).relu(), a=conv(), b=conv(),
    )  # fmt: skip
    steps, scales = chosen(network, NPU)
    for step in steps.steps:
        if step.name.startswith("mul"):
            product = np.prod([scales.scale[source] for source in step.sources])  # type: ignore[union-attr]
            assert is_power_of_two(product / scales.scale[value_of(step)])
            assert scales.sums[step.name] == (1, round(-np.log2(product / scales.scale[value_of(step)])))


def test_every_output_keeps_eight_bits_and_what_hands_on_to_it_too() -> None:
    network = Net(
        lambda m, x: (
            F.max_pool2d(torch.cat([y := m.a(x).relu(), m.b(y)], 1), (2, 1)), m.c(y).flatten(1), y.mean((2, 3))
        ),
        a=conv(2), b=conv(2), c=conv(1),
    )  # fmt: skip
    steps, scales = chosen(network, GENERIC, (4, 4))
    assert list(steps.outputs) == ["output0", "output1", "output2"]
    for value in [*steps.outputs.values(), "a.bnorm", "b.bnorm", "c.bnorm"]:
        low, high = scales.range[value]
        assert high - low == 255
    assert scales.range["quantize"] == (-8, 7)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("output_int", [True, False])
def test_several_outputs_ship_with_scales_of_their_own(format: NumberFormat, output_int: bool) -> None:
    torch.manual_seed(0)
    network = Net(lambda m, x: {"a": m.a(x), "b": m.b(x) * 30, "c": m.a(x)}, a=conv(), b=conv()).eval()
    job = quantize_job(network, SHAPE, format=format, calibration=FEATURES, output_int=output_int)
    trained = wrap(job)
    quantized = post_training(job, "test")
    assert list(quantized.graph.outputs) == ["a", "b", "c"]
    assert quantized.module is not None
    x = torch.from_numpy(FEATURES)
    with torch.no_grad():
        wanted, found, during = network(x), quantized.module(x), trained.eval()(x)
        whole = trained.whole_numbers(x)
    assert isinstance(whole, dict)
    for name, value in wanted.items():
        shipped = whole[name].long() if output_int else during[name]
        assert torch.equal(found[name], shipped)
        assert float((during[name] - value).norm() / value.norm()) < 0.03


@pytest.mark.parametrize("format", FORMATS)
def test_a_small_value_that_is_read_elsewhere_keeps_its_bits(format: NumberFormat) -> None:
    torch.manual_seed(0)
    network = Net(lambda m, x: ((y := m.a(x)) + m.b(y) * 200).flatten(1), a=conv(2), b=conv(2)).eval()
    _, scales = chosen(network, format)
    assert scales.steps is not None
    assert [step.name for step in scales.steps.steps if isinstance(step, TableStep)] == ["a.rescale"]
    assert scales.scale["a.rescale"] > 50 * scales.scale["a.bnorm"]
    quantized = post_training(
        quantize_job(network, SHAPE, format=format, calibration=FEATURES, output_int=False), "test"
    )
    assert quantized.module is not None
    with torch.no_grad():
        wanted, found = network(torch.from_numpy(FEATURES)), quantized.module(torch.from_numpy(FEATURES))
    assert float((found - wanted).norm() / wanted.norm()) < 0.02


def test_scales_that_cannot_be_are_refused_by_name() -> None:
    network = Net(
        lambda m, x: torch.cat([y := (z := m.a(x)).relu(), y * ((-z).relu() * 900)], 1).flatten(1), a=conv(1)
    )  # a product that is always 0 of factors that never are
    with pytest.raises(QuantizationError, match=r"mul_1: a scale of .* no scales fit\. Put a layer between"):
        chosen(network, NPU)


def test_fidelity_names_the_first_layer_of_a_network_with_several_paths() -> None:
    torch.manual_seed(0)
    network = Net(lambda m, x: (m.a(x) + m.b(x), m.a(x)), a=conv(), b=conv())
    trained = wrap(quantize_job(network.eval(), SHAPE, calibration=FEATURES))
    found = errors(trained, FEATURES)
    assert set(found) == {value_of(step) for step in trained.plan.steps}
    assert max(found.values()) < 0.03
    assert first_bad_layer(trained, FEATURES, 0.05) == ""
    assert "THE QUANTIZED NETWORK IS FAR" in first_bad_layer(trained, FEATURES, 1e-4)
