"""Quantization around a training loop that is not ours: the law holds, epochs are seen, the caller's model stays."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import pytest
import torch
from networks.tones import tones
from networks.training import quantize_job, trained
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.importer import import_onnx
from flowlab.compiler.text import print_graph, same
from flowlab.errors import GraphError, OptionError, QuantizationError
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


def epoch(model: nn.Module, optimizer: torch.optim.Optimizer, louder: float = 1.0) -> None:
    for start in range(0, len(FEATURES), BATCH):
        optimizer.zero_grad()
        output = model(FEATURES[start : start + BATCH] * louder)
        nn.functional.cross_entropy(output, LABELS[start : start + BATCH]).backward()
        optimizer.step()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9)


def train(
    model: Wrapper,
    epochs: int,
    between: Callable[[Any], object] = lambda model: None,
    *,
    shifted: bool = False,
) -> Wrapper:
    """A loop that says ``train()`` once; ``shifted``: no window comes twice."""
    optimizer = sgd(model)
    model.train()
    for at in range(epochs):
        epoch(model, optimizer, 1 + 1e-4 * at if shifted else 1.0)
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
    model = train(wrapper(network(), {"weight": {"bitwidth": bits}}, total_epochs=4), 4, shifted=True)
    with pytest.warns(UserWarning, match=f"0 of 4 epochs in {4 * BATCHES} steps.*after 2, is frozen only now"):
        converted = model.convert()
    converted.export(TEST[:1], tmp_path / "model.onnx", input_names=["input"])
    with torch.no_grad():
        assert torch.equal(converted(TEST), model(TEST))
        assert np.array_equal(onnx(tmp_path / "model.onnx", TEST)["output"], converted(TEST).numpy())
    assert accuracy(converted) > 0.9


def test_windows_that_come_again_begin_another_epoch() -> None:
    model = TINPUTinyMLQATFxModule(network(), total_epochs=4)
    optimizer, frozen = sgd(model), []
    model.train()
    for _ in range(4):
        epoch(model, optimizer)
        frozen.append(model.norms_frozen)
    assert frozen == [False, True, True, True]  # from the last batch of the second epoch on
    assert model.epochs.per_epoch == BATCHES and model.epochs.done == 4
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.convert()


@pytest.mark.parametrize("passes", [2, 3])
def test_a_batch_that_is_fed_several_times_is_no_epoch(passes: int) -> None:
    """A closure, or a step in two passes."""
    model = TINPUTinyMLQATFxModule(network(), total_epochs=4).train()
    optimizer, ended = sgd(model), []
    for _ in range(4):
        for start in range(0, len(FEATURES), BATCH):
            for _ in range(passes):
                optimizer.zero_grad()
                nn.functional.cross_entropy(
                    model(FEATURES[start : start + BATCH]), LABELS[start : start + BATCH]
                ).backward()
            optimizer.step()
        ended.append(model.epochs.done)
    assert ended == [0, 2, 3, 4] and model.epochs.per_epoch == passes * BATCHES


def test_windows_one_by_one_begin_an_epoch_when_many_come_again() -> None:
    model = TINPUTinyMLQATFxModule(network(), total_epochs=4).train()
    for at in (*range(40), 0, 0, 1, *range(40, 80)):  # a few come twice
        model(FEATURES[at : at + 1])
    assert model.epochs.per_epoch is None
    for at in range(40):
        model(FEATURES[at : at + 1])
    assert model.epochs.per_epoch == 83


@pytest.mark.parametrize("when", ["in the first epoch", "later"])
def test_epochs_go_on_being_counted_where_a_state_is_taken_up(when: str) -> None:
    model = TINPUTinyMLQATFxModule(network(), total_epochs=6).train()
    optimizer = sgd(model)
    if when == "later":
        epoch(model, optimizer)
        epoch(model, optimizer)
    for start in range(0, 3 * BATCH, BATCH):
        nn.functional.cross_entropy(model(FEATURES[start : start + BATCH]), LABELS[start : start + BATCH]).backward()
    other = TINPUTinyMLQATFxModule(network(), total_epochs=6)
    other.load_state_dict(torch.load(saved(model), weights_only=True))
    train(other, 6)
    assert other.epochs.per_epoch == BATCHES and other.norms_frozen
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.convert()


def test_a_few_windows_that_are_alike_begin_none() -> None:
    model = TINPUTinyMLQATFxModule(network(), total_epochs=4).train()
    optimizer = sgd(model)
    for start in range(0, len(FEATURES) - BATCH, BATCH):
        features = FEATURES[start : start + BATCH].clone()
        features[: BATCH // 2] = FEATURES[0]
        nn.functional.cross_entropy(model(features), LABELS[start : start + BATCH]).backward()
        optimizer.step()
    assert model.epochs.per_epoch is None and model.epochs.done == 0


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
@pytest.mark.filterwarnings("ignore:evaluated before a batch came")
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
    with pytest.warns(UserWarning, match="weight bits were chosen for each layer: 1 "):
        model = train(TINPUTinyMLQATFxModule(network(), asked, total_epochs=1), 1)
    layers = model.network.layers()
    sizes = [part.weight.numel() for part in layers]
    assert model.bits_of == {part.step.name: part.bits for part in layers}
    assert sum(part.bits * size for part, size in zip(layers, sizes, strict=True)) <= 4 * sum(sizes)
    assert torch.equal(model.convert()(TEST), model(TEST).detach())


@pytest.mark.parametrize("budget", [{"mean_bits": 2.5}, {"weight_bytes": 150}, {"tolerance": 0.05}])
@pytest.mark.filterwarnings("ignore:weight bits were chosen", "ignore:.*FAR FROM THE FLOAT ONE")
def test_bits_by_layer_have_the_pipelines_budgets(budget: dict[str, float]) -> None:
    model = calibrate(TINPUTinyMLPTQFxModule(network(), {"auto_quantization": budget}, finetune=False))
    graph = model.convert().graph
    weights = [node for node in graph.nodes if node.op in ("conv", "linear")]
    bits = {node.name: int(str(node.attributes["weight_bits"])) for node in weights}
    sizes = {node.name: node.constants["weight"].size for node in weights}
    total = sum(bits[name] * sizes[name] for name in bits)
    if "mean_bits" in budget:
        assert total <= 2.5 * sum(sizes.values())
    elif "weight_bytes" in budget:
        assert total <= 8 * 150
    assert min(bits.values()) < 8


def test_a_mean_of_eight_bits_is_said_to_choose_nothing() -> None:
    with pytest.warns(UserWarning, match="leaves nothing to choose"):
        TINPUTinyMLPTQFxModule(network(), {"auto_quantization": True})


class Ended(nn.Module):
    """A network that ends in a softmax, as a script that trains with another loss has it."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.end = network(), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.body(x))


ENDS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "log_softmax": (lambda x: nn.functional.log_softmax(x, 1), nn.functional.nll_loss),
    "softmax": (lambda x: x.softmax(-1), lambda x, y: nn.functional.nll_loss(torch.log(x), y)),
    "module": (nn.LogSoftmax(dim=1), nn.functional.nll_loss),
}


@pytest.mark.parametrize("end", list(ENDS))
@pytest.mark.parametrize("wrapper", QAT)
def test_a_softmax_at_the_end_stays_for_the_loss_and_does_not_ship(wrapper: type[Wrapper], end: str) -> None:
    function, loss = ENDS[end]
    with pytest.warns(UserWarning, match="in training mode they end in it as before"):
        model = wrapper(Ended(function), total_epochs=2)
        optimizer, losses = sgd(model), []
        for _ in range(2):
            model.train()
            for start in range(0, len(FEATURES), BATCH):
                optimizer.zero_grad()
                found = loss(model(FEATURES[start : start + BATCH]), LABELS[start : start + BATCH])
                found.backward()
                optimizer.step()
                losses.append(float(found.detach()))
            model.eval()
    assert min(losses) >= 0  # log-probabilities, from the first step to the last
    assert losses[-1] < losses[0]
    converted = model.convert()
    with torch.no_grad():
        assert torch.equal(converted(TEST), model(TEST))
        assert not torch.allclose(converted(TEST).exp().sum(1), torch.ones(len(TEST)))
    assert accuracy(converted) > 0.95


def test_a_softmax_that_something_is_moved_behind_is_refused_before_training() -> None:
    model = TINPUTinyMLQATFxModule(Ended(lambda x: x.softmax(1)[:, :2]), total_epochs=1)
    with pytest.raises(QuantizationError, match="Let the softmax be the last"):
        model(FEATURES[:4])


class Uneven(nn.Module):
    """Two values of very different size in one tensor: 8 bits with one scale cannot hold both."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, (5, 1)), nn.ReLU())
        self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return self.fc(self.norm(torch.cat([y * 40, y / 40], 1)).mean((2, 3)))


def test_a_network_that_8_bits_cannot_hold_is_named_before_it_is_trained() -> None:
    module = Uneven()
    module.train()
    with torch.no_grad():
        for _ in range(60):
            module(FEATURES)
    with pytest.warns(UserWarning, match="before training: .*FAR FROM THE FLOAT ONE"):
        train(GenericTinyMLQATFxModule(module.eval(), total_epochs=1), 1)


def test_the_last_epoch_is_over_when_its_evaluation_begins() -> None:
    model = TINPUTinyMLQATFxModule(network(), total_epochs=2, num_batch_norm_update_epochs=2)
    optimizer = sgd(model)
    for _ in range(2):
        model.train()
        epoch(model, optimizer)
        model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.convert()


def test_scales_that_were_to_stay_and_followed_to_the_end_are_said() -> None:
    options: dict[str, Any] = {"num_observer_update_epochs": 2, "num_batch_norm_update_epochs": False}
    model = train(TINPUTinyMLQATFxModule(network(), total_epochs=4, **options), 4, shifted=True)
    with pytest.warns(UserWarning, match="scales, to stay after 2, followed to the end"):
        model.convert()


def test_verbose_is_seen_in_a_plain_script() -> None:
    script = (
        "import torch\nfrom torch import nn\nfrom flowlab_tinpu.torchmodelopt import TINPUTinyMLPTQFxModule\n"
        "model = TINPUTinyMLPTQFxModule(nn.Sequential(nn.Flatten(), nn.Linear(8, 2)), verbose=True)\n"
        "model(torch.randn(20, 1, 8, 1))\nprint(model.measure_stats())\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "flowlab.quant: scales chosen from 20 windows" in found.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"qconfig_type": {"auto_quantization": {}}}, "one budget is given"),
        ({"qconfig_type": {"auto_quantization": {"mean_bits": 3, "tolerance": 1}}}, "one budget is given"),
        ({"qconfig_type": {"auto_quantization": {"bits": 3}}}, "no key 'bits'"),
        ({"qconfig_type": {"auto_quantization": {"mean_bits": -1}}}, "-1 is no number above 0"),
        ({"example_inputs": ()}, "example_inputs: 0 of them"),
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


# --- what scripts do besides ----------------------------------------------------------------------


@pytest.mark.parametrize("early", [True, False], ids=["before training", "once scales are there"])
@pytest.mark.parametrize("buffers", [True, False])
@pytest.mark.filterwarnings("ignore:.*weights changed", "ignore:the loop was seen")
def test_an_average_over_the_training_ships_what_it_evaluates(early: bool, buffers: bool) -> None:
    model = TINPUTinyMLQATFxModule(network(), total_epochs=3)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    average: AveragedModel | None = None
    for _ in range(3):
        model.train()
        for start in range(0, len(FEATURES), BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(
                model(FEATURES[start : start + BATCH]), LABELS[start : start + BATCH]
            ).backward()
            optimizer.step()
            if average is None and (early or model.network is not None):
                average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=buffers)
            elif average is not None:
                average.update_parameters(model)
        model.eval()
    assert average is not None
    average.eval()
    with torch.no_grad():
        found = average(TEST)
    assert torch.equal(found, average.module.convert()(TEST))
    assert float((found.argmax(1) == TEST_LABELS).float().mean()) >= accuracy(model) - 0.02


def test_an_average_whose_wrapper_is_gone_chooses_its_own_scales() -> None:
    model = train(TINPUTinyMLQATFxModule(network(), total_epochs=1), 1)
    other = pickle.loads(pickle.dumps(model))
    before = dict(other.network.scales.scale)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
        found = other(TEST)
    assert other.network.scales.scale != before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(found, other.convert()(TEST))


@pytest.mark.parametrize("wrapper", QAT)
def test_evaluation_in_inference_mode_leaves_a_wrapper_that_trains_on(wrapper: type[Wrapper]) -> None:
    model = wrapper(network(), total_epochs=8)
    optimizer = sgd(model)
    for number in range(3):
        model.train()
        for start in range(0, 40, 8):  # fewer windows than the first scales need
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(FEATURES[start : start + 8]), LABELS[start : start + 8]).backward()
            optimizer.step()
        with torch.inference_mode():
            model.eval()(TEST)
            best = copy.deepcopy(model) if number == 1 else model
    epoch(best.train(), sgd(best))
    with torch.inference_mode():
        found = best.eval()(TEST)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(found, best.convert()(TEST))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wrapper", (*QAT, *PTQ))
def test_autocast_changes_nothing(wrapper: type[Wrapper], dtype: torch.dtype) -> None:
    model = wrapper(network(), total_epochs=1)
    with torch.autocast("cpu", dtype=dtype):
        if wrapper in QAT:
            train(model, 1)
        else:
            calibrate(model)
        found = model(TEST)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted = model.convert()
        shipped = converted(TEST)
    assert torch.equal(shipped, converted(TEST))
    if wrapper in QAT:
        assert torch.equal(found, shipped)


def test_the_state_of_another_network_changes_nothing() -> None:
    source = train(TINPUTinyMLQATFxModule(network(), total_epochs=1), 1)
    for other in (
        nn.Sequential(nn.Flatten(), nn.Linear(96, 3)),
        nn.Sequential(nn.Conv2d(1, 7, (5, 1)), nn.BatchNorm2d(7), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ):
        model = TINPUTinyMLQATFxModule(other, total_epochs=1)
        before = {name: value.clone() for name, value in model.module.state_dict().items()}
        with pytest.raises(QuantizationError, match="that of another network, and nothing of it was taken"):
            model.load_state_dict(source.state_dict())
        assert all(torch.equal(before[name], value) for name, value in model.module.state_dict().items())
        assert model.network is None


def pruned() -> nn.Module:
    module = network()
    prune.l1_unstructured(module[1], "weight", 0.5)  # type: ignore[index]
    return module


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (pruned, "prune.remove"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "run one batch through the model"),
    ],
)
def test_what_cannot_be_copied_is_refused_with_the_cure(module: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        TINPUTinyMLQATFxModule(module(), total_epochs=1)


class Named(nn.Module):
    """Outputs as somebody puts them together."""

    def __init__(self, together: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.body, self.other, self.together = nn.Linear(8, 3), nn.Linear(8, 2), together

    def forward(self, x: Tensor) -> Any:
        flat = torch.flatten(x, 1)
        return self.together(self.body(flat), self.other(flat))


class Pair(NamedTuple):
    """Two outputs with names."""

    first: Tensor
    second: Tensor


@pytest.mark.parametrize(
    ("together", "said"),
    [
        (Pair, "the named tuple Pair: return a plain tuple"),
        (lambda a, b: {0: a, 1: b}, "the key 0: names of outputs are texts"),
        (lambda a, b: {"input": a, "z": b}, "output 'input': the name is that of the input"),
    ],
)
def test_names_of_outputs_that_cannot_be_are_refused_at_the_first_batch(
    together: Callable[..., Any], said: str
) -> None:
    with pytest.raises(GraphError, match=said):
        TINPUTinyMLPTQFxModule(Named(together))(torch.zeros(4, 1, 8, 1))


def test_an_output_may_have_the_name_of_a_layer_that_it_is_not(tmp_path: Path) -> None:
    model = TINPUTinyMLPTQFxModule(Named(lambda a, b: {"other": a, "body": b}), finetune=False)
    features = torch.randn(40, 1, 8, 1, generator=torch.Generator().manual_seed(1))
    model(features)
    converted = model.convert()
    converted.export(features[:1], tmp_path / "model.onnx")
    found = onnx(tmp_path / "model.onnx", features)
    assert {name: value.shape[1] for name, value in found.items()} == {"other": 3, "body": 2}
    assert all(np.array_equal(found[name], value.numpy()) for name, value in converted(features).items())
    whole = model.convert(output_int=True).graph
    assert same(import_onnx(export_onnx(whole)), whole)


def test_what_is_no_file_no_window_and_no_tensor_is_said(tmp_path: Path) -> None:
    model = calibrate(TINPUTinyMLPTQFxModule(network())).convert()
    for filename in ("", ".", "/", None, io.BytesIO(), "a\0b"):
        with pytest.raises(OptionError, match="filename"):
            model.export(TEST[:1], filename)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="input_names"):
        model.export(TEST[:1], tmp_path / "model.onnx", input_names=3)  # type: ignore[arg-type]
    with pytest.raises(QuantizationError, match="the batch is empty"):
        model(TEST[:0])
    with pytest.raises(QuantizationError, match="real numbers are expected"):
        model(TEST + 1j)
    with pytest.raises(QuantizationError, match="two tensors are compared"):
        TINPUTinyMLPTQFxModule(network()).measure_stats({"a": TEST}, {"a": TEST})  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="epoch: -1"):
        TINPUTinyMLQATFxModule(network(), total_epochs=1).begin_epoch(-1, 4)
