from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.contracts import Requantize
from flowlab.errors import QuantizationError
from flowlab.quant import observe

NPU8 = Requantize(multiplier_bits=0, shift=(0, 31), bias_bits=24)
GENERIC8 = Requantize(multiplier_bits=8, shift=(0, 31), bias_bits=32)
SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.floats(-12, 12), st.floats(-6, 6), st.floats(-6, 6))
def test_ratios_of_scales_are_powers_of_two_and_every_number_fits(
    seed: int, weights: float, source: float, output: float
) -> None:
    random = np.random.default_rng(seed)
    weight = random.normal(0, 2.0**weights, (4, 3, 5, 1))
    bias = random.normal(0, 2.0**output * 50, 4)
    try:
        chosen = observe.layer_scales(
            "conv", weight=weight, bias=bias, input_scale=2.0**source, output_scale=2.0**output, bits=8, form=NPU8
        )
    except QuantizationError as error:
        assert "conv: " in str(error)
        return
    assert np.all((chosen.shift >= 0) & (chosen.shift <= 31))
    np.testing.assert_allclose(chosen.weight * 2.0**source / chosen.output, 2.0 ** -chosen.shift.astype(float))
    exponent = np.log2(chosen.output) - output
    assert exponent == pytest.approx(round(exponent))
    whole = np.rint(bias / (chosen.weight * 2.0**source)) + 2.0 ** (chosen.shift - 1.0)
    bounds = 127 * 255 * 15 + 256 * 2.0**chosen.shift
    assert np.all((np.abs(whole) < 2**23) | (np.abs(whole) > bounds))


@given(SEEDS, st.sampled_from([8, 4, 2]), st.sampled_from([16, 32]), st.floats(-12, 12), st.floats(-6, 6))
def test_free_ratios_are_multiplier_and_shift_and_every_number_fits(
    seed: int, bits: int, bias_bits: int, weights: float, source: float
) -> None:
    random = np.random.default_rng(seed)
    weight = random.normal(0, 2.0**weights, (4, 3, 5, 1))
    weight[3] = 0
    bias = random.normal(0, 50, 4) * 2.0 ** random.integers(-8, 8, 4)
    form = Requantize(multiplier_bits=8, shift=(0, 31), bias_bits=bias_bits)
    chosen = observe.layer_scales(
        "conv",
        weight=weight,
        bias=bias,
        input_scale=2.0**source,
        output_scale=0.5,
        bits=bits,
        form=form,
        power_of_two=False,
    )
    assert np.all((chosen.shift >= 0) & (chosen.shift <= 31))
    assert np.all((chosen.multiplier >= 1) & (chosen.multiplier <= 255))
    largest = (chosen.multiplier >= 128) | (chosen.shift == 0)  # else a finer ratio had been possible
    assert np.all(largest)
    ratio = chosen.multiplier * 2.0 ** -chosen.shift.astype(float)
    np.testing.assert_allclose(chosen.weight * 2.0**source / chosen.output, ratio)
    whole = np.abs(bias / (chosen.weight * 2.0**source)) + 0.5 / ratio
    most = 2 ** (bits - 1) - 1
    integers = np.clip(np.rint(weight.reshape(4, -1) / chosen.weight[:, None]), -most, most)
    bounds = np.abs(integers).sum(axis=1) * 255 + 256 / ratio
    assert np.all((whole < 2.0 ** (min(bias_bits, 24) - 1)) | (whole > bounds))


@pytest.mark.parametrize(("bits", "most"), [(8, 0.01), (4, 0.13), (2, 0.6)])
def test_each_width_loses_of_a_weight_what_least_squares_lets_it(bits: int, most: float) -> None:
    weight = np.random.default_rng(5).normal(0, 0.3, (8, 200))
    chosen = observe.layer_scales(
        "fc",
        weight=weight,
        bias=np.zeros(8),
        input_scale=0.02,
        output_scale=0.1,
        bits=bits,
        form=GENERIC8,
        power_of_two=False,
    )
    step, limit = chosen.weight[:, None], 2 ** (bits - 1) - 1
    error = np.clip(np.rint(weight / step), -limit, limit) * step - weight
    assert np.sqrt((error**2).mean()) < most * np.sqrt((weight**2).mean())


def test_where_no_multiplier_is_large_enough_the_output_gets_coarser_or_the_layer_is_named() -> None:
    def chosen(size: float) -> observe.LayerScales:
        return observe.layer_scales(
            "fc",
            weight=np.full((1, 4), size),
            bias=np.zeros(1),
            input_scale=1.0,
            output_scale=1.0,
            bits=4,
            form=GENERIC8,
            power_of_two=False,
        )

    assert chosen(1e5).output > 1.0
    with pytest.raises(QuantizationError, match=r"fc: channel 0 has a weight of 1e\+12 .* above 255 .*4096 times"):
        chosen(1e12)


def test_a_free_channel_that_is_clipped_whatever_comes_needs_no_exact_bias() -> None:
    weight = np.array([[0.01, -0.01], [0.01, 0.02]])
    chosen = observe.layer_scales(
        "conv",
        weight=weight,
        bias=np.array([-1e9, 0.0]),
        input_scale=0.02,
        output_scale=0.01,
        bits=4,
        form=Requantize(8, (0, 31), 16),
        power_of_two=False,
    )
    assert chosen.output == 0.01


@given(SEEDS)
def test_eight_bits_lose_less_than_two_percent_of_a_weight(seed: int) -> None:
    random = np.random.default_rng(seed)
    weight = random.normal(0, 0.3, (8, 40))
    chosen = observe.layer_scales(
        "fc", weight=weight, bias=np.zeros(8), input_scale=0.02, output_scale=0.1, bits=8, form=NPU8
    )
    step = chosen.weight[:, None]
    error = np.clip(np.rint(weight / step), -127, 127) * step - weight
    assert np.sqrt((error**2).mean()) < 0.02 * np.sqrt((weight**2).mean())


def test_weights_that_need_a_shift_to_the_left_make_the_output_coarser() -> None:
    weight = np.full((1, 4), 100.0)
    chosen = observe.layer_scales(
        "fc", weight=weight, bias=np.zeros(1), input_scale=1.0, output_scale=0.125, bits=8, form=NPU8
    )
    assert chosen.output > 0.5
    assert chosen.shift.tolist() == [0]
    assert np.rint(weight / chosen.weight).max() <= 127


def test_no_scale_at_all_is_an_error_with_layer_channel_and_limit() -> None:
    with pytest.raises(QuantizationError, match=r"fc: channel 0 has a weight of 1e\+09.*shift below 0.*4096 times"):
        observe.layer_scales(
            "fc", weight=np.full((1, 4), 1e9), bias=np.zeros(1), input_scale=1.0, output_scale=1.0, bits=8, form=NPU8
        )


def test_a_bias_beyond_the_register_is_an_error_with_layer_channel_and_limit() -> None:
    weight = np.full((2, 4), 50.0)
    with pytest.raises(QuantizationError, match=r"conv: the bias of channel 1 is .* output steps, beyond 4 bits"):
        observe.layer_scales(
            "conv",
            weight=weight,
            bias=np.array([0.0, 3e4]) * 4096,
            input_scale=1.0,
            output_scale=1.0,
            bits=8,
            form=Requantize(0, (0, 31), 4),
        )


def test_a_channel_that_is_clipped_whatever_comes_needs_no_exact_bias() -> None:
    weight = np.array([[0.01, -0.01], [0.01, 0.02]])
    chosen = observe.layer_scales(
        "conv", weight=weight, bias=np.array([-1e9, 0.0]), input_scale=0.02, output_scale=0.01, bits=8, form=NPU8
    )
    assert chosen.output == 0.01


@given(SEEDS, st.floats(-4, 3), st.floats(-3, 3))
def test_the_input_step_rounds_to_the_nearest_integer(seed: int, size: float, offset: float) -> None:
    random = np.random.default_rng(seed)
    factor = random.uniform(0.5, 1, 3) * 10.0**-size * random.choice([-1, 1], 3)
    bias = random.normal(0, 10.0**size, 3) + offset * 10.0**size
    scale = 4 / 127
    numbers = observe.input_numbers("quantize", bias, factor, scale)
    small = (np.abs(numbers.multiplier) < 4096) | (numbers.shift == 0)
    assert np.all((np.abs(numbers.multiplier) >= 128) & small)
    x = (random.uniform(-4, 4, (200, 3)) / factor - bias).astype(np.float32)
    whole = np.floor((x + numbers.bias) * numbers.multiplier.astype(np.float32))
    found = np.clip(np.floor(whole / np.exp2(numbers.shift)), -128, 127)
    wanted = np.clip((x.astype(np.float64) + bias) * factor / scale, -128, 127)
    assert np.abs(found - wanted).max() < 0.6  # half a step, and a little for the multiplier's 12 bits


def test_a_variable_that_no_multiplier_reaches_is_named() -> None:
    with pytest.raises(QuantizationError, match="quantize: variable 1 needs the factor"):
        observe.input_numbers("quantize", np.zeros(2), np.array([1.0, 1e-9]), 0.03)


def test_nan_in_calibration_is_an_error_with_name_and_window() -> None:
    values = np.zeros((4, 3))
    values[2, 1] = np.nan
    with pytest.raises(QuantizationError, match=r"input: calibration gives 1 values .* window 2 \(1 of 4 windows\)"):
        observe.check_finite("input", values)


def test_an_outlier_that_flattens_a_tensor_is_an_error_with_its_name() -> None:
    values = np.append(np.random.default_rng(0).normal(0, 1, 10000), 1e6)
    with pytest.raises(QuantizationError, match=r"quantize: an outlier of 1e\+06 flattens"):
        observe.check_levels("quantize", values, 1e6 / 127)


@pytest.mark.parametrize(("bits", "refused"), [(8, True), (4, True), (2, False)])
def test_few_levels_are_no_outlier_where_there_are_no_more(bits: int, refused: bool) -> None:
    values = np.append(np.random.default_rng(0).normal(0, 1, 10000), 6.0)  # 4.65 from the 1st to the 99th hundredth
    scale = 4.65 / 1.5
    if refused:
        with pytest.raises(QuantizationError, match="an outlier of"):
            observe.check_levels("layer", values, scale, 2**bits)
    else:
        observe.check_levels("layer", values, scale, 2**bits)


def test_values_that_are_mostly_zero_are_no_outlier() -> None:
    values = np.zeros(10000)
    values[:50] = 3
    observe.check_levels("relu", values, 3 / 255)


@given(SEEDS, st.integers(1, 300))
def test_a_global_sum_keeps_the_mean(seed: int, area: int) -> None:
    random = np.random.default_rng(seed)
    x = random.integers(0, 256, (50, area))
    shift = observe.pool_shift(x.mean(axis=1) * 0.5, 0.5, area, low=0, high=255, most=31)
    half = 2 ** (shift - 1) if shift else 0
    found = np.clip((x.sum(axis=1) + half) >> shift, 0, 255) * (0.5 * 2.0**shift / area)
    assert np.abs(found - x.mean(axis=1) * 0.5).max() <= 0.5 * 2.0**shift / area + 1.0


def test_values_that_lie_close_together_far_from_0_are_no_outliers() -> None:
    observe.check_levels("mean.bnorm", np.linspace(0.351, 0.354, 500), 0.354 / 127)
    with pytest.raises(QuantizationError, match=r"mean\.bnorm: an outlier of 1 flattens the tensor"):
        observe.check_levels("mean.bnorm", np.append(np.linspace(0.351, 0.354, 500), 1.0), 1.0 / 127)
