"""Bad input, through the wrappers and through the pipeline's quantizers: it works, or an error says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from networks.tones import tones
from networks.training import data, outputs, quantize_job, settings, trained
from torch import Tensor, nn

from flowlab.compiler import interpreter
from flowlab.contracts import QuantizeJob
from flowlab.errors import DataError, FlowlabError, QuantizationError
from flowlab.learn.loop import fit
from flowlab.quant.ptq import post_training
from flowlab.quant.qat import quantization_aware
from flowlab.quant.wrapper import Wrapper
from flowlab_tinpu.torchmodelopt import (
    GenericTinyMLPTQFxModule,
    GenericTinyMLQATFxModule,
    TINPUTinyMLPTQFxModule,
    TINPUTinyMLQATFxModule,
)

FEATURES, LABELS = tones(256, 1)
TEST, TEST_LABELS = tones(200, 9)
QAT = (TINPUTinyMLQATFxModule, GenericTinyMLQATFxModule)
WRAPPERS = (*QAT, TINPUTinyMLPTQFxModule, GenericTinyMLPTQFxModule)
QUANTIZERS = (post_training, quantization_aware)


def network() -> nn.Module:
    return trained(nn.ReLU)


def run(model: Any, features: np.ndarray, size: int = 64, epochs: int = 1) -> Any:
    """A user's loop: training where the wrapper trains, else calibration."""
    x, labels = torch.from_numpy(np.array(features)), torch.from_numpy(LABELS[: len(features)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    model.train(model.trains)
    for _ in range(epochs):
        for start in range(0, len(x), size):
            output = model(x[start : start + size])
            if model.trains:
                optimizer.zero_grad()
                nn.functional.cross_entropy(output, labels[start : start + size]).backward()
                optimizer.step()
    return model.eval()


def job(module: nn.Module, features: np.ndarray, **changes: Any) -> QuantizeJob:
    """As the stage makes it: calibration and training on these windows."""
    train = replace(data(), train_features=np.array(features), train_targets=LABELS[: len(features)])
    chosen = settings(epochs=changes.pop("epochs", 1), learning_rate=0.001, warmup_epochs=0)
    whole = {"calibration": np.array(features), "fit": lambda network: fit(network, train, chosen), "output_int": False}
    return quantize_job(module, **{**whole, **changes})


def accuracy(found: np.ndarray) -> float:
    return float((found.argmax(1) == TEST_LABELS).mean())


def shipped(module: nn.Module, features: np.ndarray, how: Any, **options: Any) -> np.ndarray:
    """Outputs on the test windows, by a wrapper or a quantizer; the module, and its graph, must agree."""
    if isinstance(how, type):
        converted = run(how(module, **options), features).convert()
        found, graph = outputs(converted, TEST), converted.graph
    else:
        quantized = how(job(module, features, **options), "mine")
        assert quantized.module is not None
        found, graph = outputs(quantized.module, TEST), quantized.graph
    assert np.array_equal(interpreter.run(graph, TEST)[graph.outputs["output"]], found)
    return found


def with_value(value: float, window: int = 70) -> np.ndarray:
    features = FEATURES.copy()
    features[window, 0, 5, 0] = value
    return features


EVERY_WAY = pytest.mark.parametrize("how", [*WRAPPERS, *QUANTIZERS], ids=lambda how: how.__name__)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_names_the_window_that_is_not_finite(wrapper: type[Wrapper], value: float) -> None:
    with pytest.raises(QuantizationError, match=r"NaN.* in window 6\b"):
        run(wrapper(network()), with_value(value))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_a_quantizer_names_the_value_that_is_not_finite(quantizer: Callable[..., Any], value: float) -> None:
    with pytest.raises(QuantizationError, match=r"NaN|infinite|finite"):
        quantizer(job(network(), with_value(value)), "mine")


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_is_converted_refuses_a_nan_and_saturates_at_the_infinite(wrapper: type[Wrapper]) -> None:
    converted = run(wrapper(network()), FEATURES).convert()
    with pytest.raises(QuantizationError, match="a NaN in window 6"):
        converted(torch.from_numpy(with_value(np.nan, 6)))
    largest, infinite = (converted(torch.from_numpy(with_value(value))) for value in (1e30, np.inf))
    assert torch.equal(largest, infinite)


@EVERY_WAY
def test_one_outlier_of_a_million_is_said_with_what_it_does_and_what_to_do(how: Any) -> None:
    """The norm at the input makes 6.5e4 of it; everything else would be left with a step or two of the integers."""
    with pytest.raises(QuantizationError, match=r"an outlier of 6\.52e\+04 flattens the tensor.*Remove the outlier"):
        shipped(network(), with_value(1e6), how)


@pytest.mark.parametrize("wrapper", QAT)
def test_an_outlier_after_scales_have_settled_saturates(wrapper: type[Wrapper]) -> None:
    model = run(wrapper(network(), total_epochs=1, num_observer_update_epochs=0), with_value(1e6, 200))
    assert accuracy(outputs(model.convert(), TEST)) > 0.9


@EVERY_WAY
def test_a_constant_channel_is_quantized(how: Any) -> None:
    """What the first convolution gives in one channel is its bias, so its norm's variance is 0, and its filter too."""
    module = network()
    with torch.no_grad():
        conv = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
        conv.weight[0] = 0
        norm = next(layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d) and layer.num_features > 1)
        norm.running_var[0] = 0
    assert accuracy(shipped(module, FEATURES, how)) > 0.6


@EVERY_WAY
def test_features_that_are_all_the_same_are_quantized(how: Any) -> None:
    assert np.isfinite(shipped(network(), np.full_like(FEATURES, 7.0), how)).all()


@EVERY_WAY
def test_filters_of_zeros_give_their_bias(how: Any) -> None:
    module = network()
    with torch.no_grad():
        last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
        last.weight[1] = 0
        last.bias[1] = 0.5
    found = shipped(module, FEATURES, how)
    assert np.abs(found[:, 1] - 0.5).max() < 0.25
    if how is post_training:
        assert found[:, 1].min() == found[:, 1].max()


@EVERY_WAY
def test_windows_of_zeros_alone_are_quantized(how: Any) -> None:
    assert np.isfinite(shipped(network(), np.zeros_like(FEATURES), how)).all()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_an_empty_loader_is_said_at_conversion(wrapper: type[Wrapper]) -> None:
    model = run(wrapper(network(), total_epochs=1), FEATURES[:0])
    with pytest.raises(QuantizationError, match=r"nothing was calibrated.*an empty loader runs nothing"):
        model.convert()
    with pytest.raises(QuantizationError, match="nothing was calibrated"):
        model.export(torch.from_numpy(TEST[:1]), "never.onnx")
    with pytest.raises(QuantizationError, match="the batch is empty"):
        model(torch.from_numpy(FEATURES[:0]))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_no_calibration_windows_are_said(quantizer: Callable[..., Any]) -> None:
    with pytest.raises(FlowlabError, match=r"empty|no .*windows|nothing"):
        quantizer(job(network(), FEATURES[:0]), "mine")


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("count", [1, 5, 70])
def test_batches_of_one_train_and_calibrate(wrapper: type[Wrapper], count: int) -> None:
    """As well as the float network does in the same loop: norms of batches of one cost something, too."""
    model = run(wrapper(network(), total_epochs=1), FEATURES[:count], size=1)
    said = outputs(model, TEST)
    converted = outputs(model.convert(), TEST)
    found = accuracy(converted)
    assert not wrapper.trains or np.array_equal(said, converted)
    plain = network()
    plain.trains = wrapper.trains
    assert found >= accuracy(outputs(run(plain, FEATURES[:count], size=1), TEST)) - 0.05


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_one_window_is_enough_for_a_quantizer(quantizer: Callable[..., Any]) -> None:
    assert np.isfinite(shipped(network(), FEATURES[:1], quantizer)).all()


@EVERY_WAY
@pytest.mark.parametrize("count", [65, 100])
def test_a_ragged_last_batch_is_a_batch(how: Any, count: int) -> None:
    """65 windows end in a batch of one."""
    assert accuracy(shipped(network(), FEATURES[:count], how)) > 0.9


@pytest.mark.parametrize("epochs", [0, 1, 2, 3])
@pytest.mark.parametrize("wrapper", QAT)
def test_few_epochs_in_a_loop_end_near_float(wrapper: type[Wrapper], epochs: int) -> None:
    model = run(wrapper(network(), total_epochs=epochs), FEATURES, epochs=max(epochs, 1))
    assert accuracy(outputs(model.convert(), TEST)) > 0.9


@pytest.mark.parametrize("wrapper", QAT)
def test_no_epoch_at_all_leaves_nothing_to_convert(wrapper: type[Wrapper]) -> None:
    model = run(wrapper(network(), total_epochs=0), FEATURES, epochs=0)
    with pytest.raises(QuantizationError, match="nothing was calibrated"):
        model.convert()


@pytest.mark.parametrize("epochs", [0, 1, 2, 3])
def test_few_epochs_in_the_pipeline_end_near_float(epochs: int) -> None:
    quantized = quantization_aware(job(network(), FEATURES, epochs=epochs), "mine")
    assert quantized.module is not None
    assert accuracy(outputs(quantized.module, TEST)) > 0.9
    assert bool(quantized.warnings) == (epochs == 0)  # nothing was trained


@pytest.mark.parametrize("wrapper", QAT)
def test_a_label_out_of_range_is_the_losss_error_and_the_wrapper_goes_on(wrapper: type[Wrapper]) -> None:
    model = wrapper(network(), total_epochs=1)
    with pytest.raises(IndexError, match="out of bounds"):
        nn.functional.cross_entropy(model(torch.from_numpy(FEATURES)), torch.full((256,), 7))
    assert accuracy(outputs(run(model, FEATURES).convert(), TEST)) > 0.9


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_out_of_range_is_named_in_the_pipeline(label: int) -> None:
    labels = LABELS.copy()
    labels[9] = label
    train = replace(data(), train_features=FEATURES, train_targets=labels)
    with pytest.raises(DataError, match=f"label {label}: the network has 3 classes"):
        quantization_aware(job(network(), FEATURES, fit=lambda module: fit(module, train, settings(epochs=1))), "mine")


@pytest.mark.parametrize("wrapper", QAT)
def test_weights_that_became_nan_are_named(wrapper: type[Wrapper]) -> None:
    model = run(wrapper(network(), total_epochs=1), FEATURES)
    with torch.no_grad():
        list(model.module.parameters())[-1].fill_(torch.nan)
    with pytest.raises(QuantizationError, match=r"became NaN"):
        model.convert()


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (torch.zeros(4, 1, 95, 1), r"\(4, 1, 95, 1\), and the network takes \(batch, 1, 96, 1\)"),
        (torch.zeros(1, 96, 1), "the network takes"),
        ([1.0, 2.0], "list; a tensor is expected"),
        (None, "NoneType; a tensor is expected"),
    ],
)
def test_a_batch_of_another_kind_is_refused(wrapper: type[Wrapper], batch: Tensor, said: str) -> None:
    model = wrapper(network(), example_inputs=torch.from_numpy(TEST[:1]))
    with pytest.raises(QuantizationError, match=said):
        model(batch)
