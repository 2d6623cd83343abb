"""What must never pass in silence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from networks.training import data, quantize_job, trained
from torch import nn

from flowlab.contracts import NumberFormat, Requantize
from flowlab.errors import OptionError, QuantizationError
from flowlab.quant.fake_layer import FakeLayer
from flowlab.quant.ptq import post_training, wrap
from flowlab.quant.qat import quantization_aware


def calibration(**changes: float) -> np.ndarray:
    features = np.array(data().train_features[:64])
    for place, value in changes.items():
        features[int(place.removeprefix("window"))][0, 5, 0] = value
    return features


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_calibration_data_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(QuantizationError, match=r"input: calibration gives 1 values .* first in window 7"):
        post_training(quantize_job(trained(), calibration=calibration(window7=value)), "test")


def test_an_outlier_that_flattens_the_input_is_refused_by_name() -> None:
    with pytest.raises(QuantizationError, match=r"quantize: an outlier of .* flattens the tensor"):
        post_training(quantize_job(trained(), calibration=calibration(window7=1e7)), "test")


def test_no_calibration_data_are_refused() -> None:
    with pytest.raises(QuantizationError, match="there are no calibration windows"):
        post_training(quantize_job(trained(), calibration=calibration()[:0]), "test")


def test_a_loss_that_becomes_nan_is_an_error() -> None:
    def fit(network: nn.Module) -> dict[str, object]:
        return {"epochs": [{"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": math.nan}]}

    with pytest.raises(QuantizationError, match="the loss of epoch 2 is nan"):
        quantization_aware(quantize_job(trained(), fit=fit), "test")


def test_a_weight_that_becomes_nan_is_an_error() -> None:
    def fit(network: nn.Module) -> dict[str, object]:
        with torch.no_grad():
            next(network.parameters()).fill_(math.nan)
        return {}

    with pytest.raises(QuantizationError, match="became NaN"):
        quantization_aware(quantize_job(trained(), fit=fit), "test")


def test_an_absurd_learning_rate_ends_in_an_error_or_in_finite_integers() -> None:
    try:
        quantized = quantization_aware(quantize_job(trained(), learning_rate=1e6, epochs=2), "test")
    except (QuantizationError, OptionError) as error:
        assert "rate" in str(error)
    else:
        assert quantized.module is not None


def test_a_bias_that_training_moves_out_of_the_register_names_its_layer() -> None:
    network = wrap(quantize_job(trained()))
    layer = network.parts[3]
    assert isinstance(layer, FakeLayer)
    layer.integers()
    layer.bias_bits = 18
    with torch.no_grad():
        layer.bias += 3e4
        layer.weight *= 1000
    with pytest.raises(QuantizationError, match=r"5: the bias of channel \d+ became .*, and the machine holds 18 bits"):
        layer.integers()


def test_a_dead_channel_stays_dead_and_harms_nobody() -> None:
    module = trained()
    with torch.no_grad():
        module[1].weight[2] = 0  # type: ignore[index]
        module[1].bias[2] = 0  # type: ignore[index,union-attr]
        module[2].running_mean[2] = 0  # type: ignore[index]
        module[2].running_var[2] = 1e-30  # type: ignore[index,union-attr]
    graph = post_training(quantize_job(module), "test").graph
    assert not graph.node("1").constants["weight"][2].any()
    assert np.all((graph.node("1.bnorm").constants["shift"] >= 0) & (graph.node("1.bnorm").constants["shift"] < 24))


def test_a_channel_of_tiny_variance_is_quantized_or_refused_but_never_clipped() -> None:
    module = trained()
    with torch.no_grad():
        module[2].running_var[2] = 1e-12  # type: ignore[index,union-attr]
    try:
        quantized = post_training(quantize_job(module), "test")
    except QuantizationError as error:
        assert "channel 2" in str(error) or "flattens" in str(error)
    else:
        assert np.abs(quantized.graph.node("1").constants["weight"]).max() <= 127


@pytest.mark.parametrize(
    ("format", "bits", "words"),
    [
        (
            NumberFormat("bare", {8: Requantize(0, (0, 31), 24)}, power_of_two_scales={}),
            8,
            "has no multiplier for 8-bit",
        ),
        (NumberFormat("other", {8: Requantize(8, (0, 31), 24)}, rounding="half_up"), 8, "rounds 'half_up'"),
        (NumberFormat("layered", {8: Requantize(8, (0, 31), 24)}, per="layer"), 8, "one multiplier for a layer"),
        (NumberFormat("eight", {8: Requantize(0, (0, 31), 24)}), 4, "no 4-bit weights. Known: 8"),
    ],
)
def test_a_number_format_that_is_not_obeyed_is_refused(format: NumberFormat, bits: int, words: str) -> None:
    with pytest.raises(QuantizationError, match=words):
        wrap(quantize_job(trained(), format=format, weight_bits=bits))


def test_a_machine_with_a_small_shifter_gets_scales_that_fit() -> None:
    small = NumberFormat("small", {8: Requantize(0, (0, 6), 16)})
    graph = post_training(quantize_job(trained(), format=small), "test").graph
    for node in graph.nodes:
        if node.op == "requantize":
            assert node.constants["shift"].max() <= 6
            assert np.abs(node.constants["bias"]).max() < 2**15
