"""Quantization around a training loop that is not ours: the law holds, epochs are seen, the caller's model stays."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from networks.tones import tones
from networks.training import quantize_job, trained
from torch import Tensor, nn

from flowlab.compiler.text import print_graph, same
from flowlab.errors import OptionError, QuantizationError
from flowlab.quant.ptq import post_training
from flowlab.quant.wrapper import Wrapper
from flowlab_tinpu.torchmodelopt import (
    GenericTinyMLPTQFxModule,
    GenericTinyMLQATFxModule,
    TINPUTinyMLPTQFxModule,
    TINPUTinyMLQATFxModule,
)

FEATURES, LABELS = (torch.from_numpy(values) for values in tones(384, 1))
TEST, TEST_LABELS = (torch.from_numpy(values) for values in tones(200, 9))
QAT = (TINPUTinyMLQATFxModule, GenericTinyMLQATFxModule)
PTQ = (TINPUTinyMLPTQFxModule, GenericTinyMLPTQFxModule)
BATCH = 32
BATCHES = len(FEATURES) // BATCH


def network() -> nn.Module:
    return trained(nn.ReLU)


def epoch(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for start in range(0, len(FEATURES), BATCH):
        optimizer.zero_grad()
        output = model(FEATURES[start : start + BATCH])
        nn.functional.cross_entropy(output, LABELS[start : start + BATCH]).backward()
        optimizer.step()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9)


def train(model: Wrapper, epochs: int, between: Callable[[Any], object] = lambda model: None) -> Wrapper:
    """A loop that says ``train()`` once."""
    optimizer = sgd(model)
    model.train()
    for _ in range(epochs):
        epoch(model, optimizer)
        between(model)
    return model.eval()


def evaluate(model: Any) -> None:
    model.eval()
    with torch.no_grad():
        model(TEST)
    model.train()


def calibrate(model: Wrapper) -> Wrapper:
    model.eval()
    for start in range(0, len(FEATURES), BATCH):
        model(FEATURES[start : start + BATCH])
    return model


def accuracy(model: nn.Module) -> float:
    with torch.no_grad():
        return float((model(TEST).argmax(1) == TEST_LABELS).float().mean())


def onnx(path: Path, features: Tensor) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: features.numpy()})
    return dict(zip([one.name for one in session.get_outputs()], found, strict=True))


def saved(model: Wrapper) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    return file


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("wrapper", QAT)
def test_a_loop_that_never_evaluates_ships_what_evaluation_says(
    wrapper: type[Wrapper], bits: int, tmp_path: Path
) -> None:
    model = train(wrapper(network(), {"weight": {"bitwidth": bits}}, total_epochs=4), 4)
    with pytest.warns(UserWarning, match=f"0 of 4 epochs in {4 * BATCHES} steps.*after 2, is frozen only now"):
        converted = model.convert()
    converted.export(TEST[:1], tmp_path / "model.onnx", input_names=["input"])
    with torch.no_grad():
        assert torch.equal(converted(TEST), model(TEST))
        assert np.array_equal(onnx(tmp_path / "model.onnx", TEST)["output"], converted(TEST).numpy())
    assert accuracy(converted) > 0.9


@pytest.mark.parametrize(
    ("between", "options"),
    [
        (evaluate, {}),
        (lambda model: model.epoch_end(), {}),
        (lambda model: (evaluate(model), evaluate(model), model.epoch_end()), {}),
        (lambda model: None, {"steps_per_epoch": BATCHES}),
        (evaluate, {"steps_per_epoch": BATCHES}),
    ],
    ids=["train-after-eval", "epoch_end", "epoch_end-counts-alone", "steps_per_epoch", "steps-count-alone"],
)
def test_an_epoch_ends_once_however_the_loop_says_so(between: Callable[[Any], object], options: dict[str, int]) -> None:
    model = TINPUTinyMLQATFxModule(network(), total_epochs=4, **options)
    frozen: list[bool] = []

    def look(model: Any) -> None:
        between(model)
        frozen.append(model.norms_frozen)

    if between is not evaluate and not options:
        model.epochs.told = True  # what epoch_end() says of itself, here before the first evaluation
    train(model, 4, look)
    assert (model.epochs.done, frozen) == (4, [False, True, True, True])
    model.convert()  # a warning would be an error


@pytest.mark.parametrize("epochs", [0, 1, 2, 3])
def test_with_three_epochs_or_less_nothing_is_frozen_before_the_last_step(epochs: int) -> None:
    frozen: list[bool] = []
    model = TINPUTinyMLQATFxModule(network(), total_epochs=epochs)
    train(model, max(epochs, 1), lambda model: (evaluate(model), frozen.append(model.norms_frozen)))
    assert not any(frozen)
    converted = model.convert()
    assert torch.equal(converted(TEST), model(TEST).detach())


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(None, [False, True, True, True]), (False, [False] * 4), (1, [True] * 4), (3, [False, False, True, True])],
)
def test_norms_are_frozen_when_they_are_asked_to_be(asked: bool | int | None, expected: list[bool]) -> None:
    frozen: list[bool] = []
    model = GenericTinyMLQATFxModule(network(), total_epochs=4, num_batch_norm_update_epochs=asked)
    train(model, 4, lambda model: (evaluate(model), frozen.append(model.norms_frozen)))
    assert frozen == expected
    model.convert()


def test_scales_stay_where_observers_are_to_stop() -> None:
    model = TINPUTinyMLQATFxModule(network(), total_epochs=9, num_observer_update_epochs=0)
    optimizer = sgd(model)
    model(FEATURES[:64])
    before = dict(model.network.scales.scale)
    with torch.no_grad():
        for value in model.parameters():
            value *= 5
    epoch(model, optimizer)
    assert model.network.scales.scale == before
    assert len(model.reservoir) == 64


def test_scales_follow_weights_that_grow() -> None:
    model = TINPUTinyMLQATFxModule(network(), total_epochs=9)
    optimizer = sgd(model)
    model(FEATURES[:64])
    before = dict(model.network.scales.scale)
    with torch.no_grad():
        list(model.parameters())[-2].mul_(5)
    epoch(model, optimizer)
    after = model.network.scales.scale
    assert any(after[name] > 2 * before[name] for name in after)


def test_an_optimizer_of_the_float_model_trains_the_wrong_copy_and_is_told() -> None:
    theirs = network()
    model = TINPUTinyMLQATFxModule(theirs, total_epochs=1)
    epoch(model, sgd(theirs))
    count = sum(value.numel() for value in theirs.parameters())
    with pytest.warns(UserWarning, match=f"0 of {count} weights changed since wrapping"):
        model.convert()


@pytest.mark.parametrize("wrapper", [*QAT, *PTQ])
def test_the_callers_model_stays_as_it_is(wrapper: type[Wrapper]) -> None:
    theirs = network().train()
    before = copy.deepcopy(theirs.state_dict())
    model = wrapper(theirs, total_epochs=1)
    if wrapper.trains:
        train(model, 1)
    else:
        calibrate(model)
    model.convert()
    assert theirs.training
    assert all(value.requires_grad and value.grad is None for value in theirs.parameters())
    assert all(torch.equal(value, before[name]) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize("wrapper", QAT)
@pytest.mark.parametrize("epochs", [1, 3], ids=["live", "frozen"])
def test_a_state_dict_a_copy_and_a_pickle_are_the_same_wrapper(wrapper: type[Wrapper], epochs: int) -> None:
    model = train(wrapper(network(), {"weight": {"bitwidth": 4}}, total_epochs=4), epochs, evaluate)
    loaded = wrapper(copy.deepcopy(network()), {"weight": {"bitwidth": 4}}, total_epochs=4)
    loaded.load_state_dict(torch.load(saved(model), weights_only=True))
    others = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded.eval()]
    assert all(torch.equal(other(TEST), model(TEST)) for other in others)
    for each in (model, *others):
        each.train()
        epoch(each, sgd(each))
        each.eval()
    assert all(torch.equal(other(TEST), model(TEST)) for other in others)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len({print_graph(each.convert().graph) for each in (model, *others)}) == 1


def test_a_state_before_the_first_batch_is_one_too() -> None:
    model = TINPUTinyMLQATFxModule(network(), total_epochs=4)
    other = pickle.loads(pickle.dumps(model))
    other.load_state_dict(torch.load(saved(model), weights_only=True))
    assert other.network is None
    train(copy.deepcopy(model), 1)


def test_a_state_of_other_bits_is_refused() -> None:
    model = train(TINPUTinyMLQATFxModule(network(), total_epochs=1), 1)
    other = TINPUTinyMLQATFxModule(network(), {"weight": {"bitwidth": 2}}, total_epochs=1)
    with pytest.raises(QuantizationError, match="of 8 and 8 bits, and this wrapper 2 and 8"):
        other.load_state_dict(model.state_dict())


@pytest.mark.parametrize("wrapper", PTQ)
def test_calibration_in_a_loop_gives_what_the_pipeline_gives(wrapper: type[Wrapper]) -> None:
    model = calibrate(wrapper(network(), total_epochs=1))
    windows = model.reservoir.kept.numpy()
    job = quantize_job(network(), format=wrapper.format, calibration=windows, output_int=False)
    assert same(model.convert().graph, post_training(job, wrapper.quantizer).graph)


def test_calibration_runs_the_float_network_in_evaluation_mode_whatever_is_asked() -> None:
    theirs = nn.Sequential(network(), nn.Dropout(0.5)).eval()
    model = TINPUTinyMLPTQFxModule(theirs)
    assert torch.equal(model(TEST), theirs(TEST))
    assert torch.equal(model.train()(TEST), theirs(TEST))


def test_biases_take_over_a_part_of_the_mean_error() -> None:
    plain, moved = (
        calibrate(GenericTinyMLPTQFxModule(network(), {"weight": {"bitwidth": 2}}, bias_calibration_factor=factor))
        for factor in (0.0, 1.0)
    )
    with torch.no_grad():
        real = network().eval()(FEATURES)
        errors = [float((each.convert()(FEATURES) - real).mean(0).abs().max()) for each in (plain, moved)]
    assert errors[1] < errors[0]


def test_training_goes_on_after_a_conversion() -> None:
    model = train(TINPUTinyMLQATFxModule(network(), total_epochs=2), 1)
    first = model.convert()
    again = model.convert()
    assert same(first.graph, again.graph)
    train(model, 1)
    assert not same(model.convert().graph, first.graph)


def test_freezing_is_for_good() -> None:
    model = TINPUTinyMLQATFxModule(network(), total_epochs=9)
    optimizer = sgd(model)
    epoch(model, optimizer)
    assert not model.network.finished
    model.freeze()
    kept = model.reservoir.seen
    epoch(model, optimizer)
    assert model.network.finished
    assert model.reservoir.seen == kept


@pytest.mark.parametrize("wrapper", [TINPUTinyMLQATFxModule, TINPUTinyMLPTQFxModule])
def test_stats_say_how_far_integers_are_from_real_values(
    wrapper: type[Wrapper], caplog: pytest.LogCaptureFixture
) -> None:
    model = wrapper(network(), total_epochs=1, verbose=True)
    with pytest.raises(QuantizationError, match="nothing was calibrated"):
        model.measure_stats()
    with caplog.at_level(logging.INFO, "flowlab.quant"):
        calibrate(model)
        found = model.measure_stats()
    assert 0 < max(found.values()) < 0.12
    assert next(iter(found)) in caplog.text
    between = model.measure_stats(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 2.0]]))
    assert between == {"largest": 1.0, "mean": 0.5, "relative": 0.5, "same_class": 1.0}
    with pytest.raises(QuantizationError, match="cannot be compared"):
        model.measure_stats(torch.zeros(2), torch.zeros(3))


class Heads(nn.Module):
    """A series with two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv1d(1, 4, 5, padding=2), nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.conv(x).relu().mean(2)
        return {"class": self.one(x), "size": self.two(x)}


def test_a_series_with_several_outputs_keeps_its_ranks_and_names(tmp_path: Path) -> None:
    x = FEATURES[:, :, :, 0]
    model = TINPUTinyMLQATFxModule(Heads(), total_epochs=1)
    optimizer = sgd(model)
    for start in range(0, 256, 64):
        found = model(x[start : start + 64])
        (found["class"].sum() + found["size"].square().sum()).backward()
        optimizer.step()
    converted = model.eval().convert()
    with torch.no_grad():
        assert {name: tuple(value.shape) for name, value in converted(x).items()} == {
            "class": (384, 3),
            "size": (384, 2),
        }
        assert all(torch.equal(value, converted(x)[name]) for name, value in model(x).items())
        model.export(x[:1], tmp_path / "two.onnx", input_names=["wave"], output_names=["class", "size"])
        shipped = onnx(tmp_path / "two.onnx", x)
        assert all(np.array_equal(shipped[name], value.numpy()) for name, value in converted(x).items())


def test_a_file_is_written_with_the_callers_names_or_not_at_all(tmp_path: Path) -> None:
    model = calibrate(TINPUTinyMLPTQFxModule(network())).convert()
    with pytest.warns(UserWarning, match="opset 9 was asked for"):
        model.export(TEST[:1], tmp_path / "a.onnx", input_names=["wave"], output_names=["class"], opset_version=9)
    assert list(onnx(tmp_path / "a.onnx", TEST)) == ["class"]
    for options, said in [
        ({"input_names": ["a", "b"]}, "input_names"),
        ({"output_names": [""]}, "output_names"),
        ({"input_names": ["same"], "output_names": ["same"]}, "'same' is taken"),
    ]:
        with pytest.raises(OptionError, match=said):
            model.export(TEST[:1], tmp_path / "b.onnx", **options)
    with pytest.raises(OptionError, match=r"the network takes \(batch, 1, 96, 1\)"):
        model.export(TEST[:1, :, :9], tmp_path / "b.onnx")
    with pytest.raises(OptionError, match=r"nowhere.*cannot be written"):
        model.export(TEST[:1], tmp_path / "nowhere" / "b.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_bits_that_are_asked_for_are_those_of_the_weights() -> None:
    with pytest.warns(UserWarning, match="activation bits 4 -> 8"):
        calibrate(TINPUTinyMLPTQFxModule(network(), {"weight": {"bitwidth": 4}, "activation": {"bitwidth": 4}}))
    model = calibrate(GenericTinyMLPTQFxModule(network(), {"weight": {"bitwidth": 4}, "activation": {"bitwidth": 4}}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = model.convert().graph
    weights = [node.constants["weight"] for node in graph.nodes if node.op in ("conv", "linear")]
    assert max(int(np.abs(each).max()) for each in weights) == 7


def test_bits_by_layer_keep_their_mean() -> None:
    asked = {"weight": {"bitwidth": 4}, "auto_quantization": True}
    model = train(TINPUTinyMLQATFxModule(network(), asked, total_epochs=1), 1)
    layers = model.network.layers()
    sizes = [part.weight.numel() for part in layers]
    assert model.bits_of == {part.step.name: part.bits for part in layers}
    assert sum(part.bits * size for part, size in zip(layers, sizes, strict=True)) <= 4 * sum(sizes)
    assert torch.equal(model.convert()(TEST), model(TEST).detach())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"qconfig_type": {"weights": {"bitwidth": 4}}}, "no key 'weights'. Did you mean 'weight'"),
        ({"qconfig_type": {"weight": {"bits": 4}}}, r"qconfig_type\['weight'\]: no key 'bits'"),
        ({"qconfig_type": {"weight": {"bitwidth": 3}}}, r"\['bitwidth'\]: 3. Known: 8, 4, 2"),
        ({"qconfig_type": {"weight": {"bitwidth": True}}}, r"\['bitwidth'\]: True"),
        ({"qconfig_type": {"weight": 4}}, "4 is no mapping"),
        ({"qconfig_type": {"activation": {"bitwidth": 16}}}, r"\['activation'\]\['bitwidth'\]: 16"),
        ({"qconfig_type": {"weight": {"qscheme": "per_tensor_affine"}}}, "only per_channel_symmetric is done here"),
        ({"qconfig_type": "int8"}, "'int8' is neither None nor a mapping"),
        ({"total_epochs": -1}, "total_epochs: -1"),
        ({"total_epochs": 1.5}, "total_epochs: 1.5"),
        ({"num_batch_norm_update_epochs": True}, "num_batch_norm_update_epochs: True"),
        ({"num_observer_update_epochs": -2}, "num_observer_update_epochs: -2"),
        ({"bias_calibration_factor": 2}, "bias_calibration_factor: 2"),
        ({"steps_per_epoch": 0}, "steps_per_epoch: 0"),
        ({"calibration_count": 0}, "calibration_count: 0"),
        ({"backend": "cuda"}, "backend: 'cuda'"),
        ({"is_qat": False}, "is_qat=False says the opposite"),
    ],
)
def test_an_argument_that_makes_no_sense_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        TINPUTinyMLQATFxModule(network(), **{"total_epochs": 4, **options})


def test_what_is_no_float_network_is_not_wrapped() -> None:
    with pytest.raises(OptionError, match=r"str; an nn\.Module is expected"):
        TINPUTinyMLQATFxModule("model", total_epochs=1)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="wrapped already"):
        TINPUTinyMLQATFxModule(TINPUTinyMLQATFxModule(network()), total_epochs=1)
    with pytest.raises(OptionError, match=r"float64; float32 is quantized: use model\.float\(\)"):
        TINPUTinyMLQATFxModule(network().double(), total_epochs=1)


def test_every_argument_of_the_chapter_is_taken() -> None:
    model = TINPUTinyMLQATFxModule(
        network(),
        qconfig_type={"weight": {"bitwidth": 8, "qscheme": "per_channel_symmetric"}, "activation": {"bitwidth": 8}},
        example_inputs=(TEST[:1],),
        is_qat=True,
        backend="qnnpack",
        total_epochs=1,
        num_batch_norm_update_epochs=None,
        num_observer_update_epochs=False,
        bias_calibration_factor=0.0,
        verbose=False,
        float_ops=False,
    )
    with pytest.raises(QuantizationError, match="the network takes"):
        model(TEST[:, :, :5])


def test_what_cannot_be_quantized_is_refused_at_the_first_batch_by_its_name() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(Exception, match="forward") as raised:
        TINPUTinyMLQATFxModule(Branches(), total_epochs=1)(TEST)
    assert type(raised.value).__module__ == "flowlab.errors"
