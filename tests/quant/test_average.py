"""What ships of a loop whose norms are frozen: the average of its weights, and never one that nobody trained."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks.tones import tones
from networks.training import trained
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from flowlab.compiler.text import print_graph
from flowlab.quant.average import Average, Writes
from flowlab.quant.calibrate import calibrate
from flowlab.quant.fake_network import FakeQuantized
from flowlab.quant.fold import fold
from flowlab.quant.wrapper import Wrapper
from flowlab_tinpu.number_format import NPU
from flowlab_tinpu.torchmodelopt import GenericTinyMLQATFxModule, TINPUTinyMLQATFxModule

FEATURES, LABELS = (torch.from_numpy(values) for values in tones(96, 1))
TEST = torch.from_numpy(tones(50, 9)[0])
BATCH, EPOCHS = 32, 6
FOUR = {"weight": {"bitwidth": 4}}

pytestmark = pytest.mark.filterwarnings("ignore:the loop was seen")


def wrapped(wrapper: type[Wrapper] = TINPUTinyMLQATFxModule, **options: Any) -> Wrapper:
    return wrapper(trained(nn.ReLU), options.pop("qconfig_type", FOUR), total_epochs=EPOCHS, **options)


def train(
    model: Wrapper,
    epochs: int = EPOCHS,
    *,
    between: Callable[[Any], object] = lambda model: None,
    kind: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
) -> Wrapper:
    """As the chapter's script does: ``train()`` once; ends in training mode."""
    optimizer = kind(model.parameters(), lr=0.003)
    model.train()
    for _ in range(epochs):
        for start in range(0, len(FEATURES), BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(
                model(FEATURES[start : start + BATCH]), LABELS[start : start + BATCH]
            ).backward()
            optimizer.step()
        between(model)
    return model


def said(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(TEST)


def pair_of(model: Wrapper) -> tuple[FakeQuantized, FakeQuantized]:
    """What is trained, and what ships."""
    assert model.network is not None
    return model.network, model._shipping()


def weights(model: Wrapper) -> list[Tensor]:
    return [value.detach().clone() for value in model.parameters()]


def as_they_are(model: Wrapper) -> Tensor:
    """What the weights give without an average."""
    assert model.network is not None
    assert model.border is not None
    with torch.no_grad():
        return model.border.outside(model.eval().network(model.border.inside(TEST)), ended=False)


def evaluate(model: Wrapper) -> None:
    said(model)
    model.train()


def test_later_epochs_count_more() -> None:
    module, average = nn.Linear(1, 1, bias=False), Average()
    for value in (1.0, 2.0, 4.0):
        nn.init.constant_(module.weight, value)
        average.add(module)
    assert average.count == 3
    second = 1 + 4 / 5 * (2 - 1)
    assert average.weights["weight"].item() == pytest.approx(second + 4 / 6 * (4 - second))
    assert average.farthest == {"weight": 2.0}
    average.write(module)
    assert torch.equal(module.weight, average.weights["weight"])


def test_writes_that_no_step_made_are_somebody_elses() -> None:
    writes = Writes(5)
    assert writes.by_others(6)
    for versions in (5, 7, 9, 10):  # two of a step, and once one
        writes.batch(versions)
    assert not writes.by_others(12)
    assert writes.by_others(13)
    assert writes.by_others(3)
    writes.seen(12)
    assert not writes.by_others(12)
    assert writes.by_others(13)


@pytest.mark.parametrize(
    ("wrapper", "bits"),
    [(TINPUTinyMLQATFxModule, 8), (TINPUTinyMLQATFxModule, 4), (GenericTinyMLQATFxModule, 2)],
)
@pytest.mark.parametrize("between", [lambda model: None, evaluate], ids=["script", "evaluated"])
def test_an_average_of_what_was_trained_behind_the_freeze_ships(
    wrapper: type[Wrapper], bits: int, between: Callable[[Any], object]
) -> None:
    model = train(wrapped(wrapper, qconfig_type={"weight": {"bitwidth": bits}}, average=True), between=between)
    early = model.convert()
    assert model.training
    found = said(model)
    assert model.average.count == EPOCHS - EPOCHS // 2
    trained_norms, norms = ([part.mean for part in one.layers() if part.has_statistics] for one in pair_of(model))
    assert not any(torch.equal(*pair) for pair in zip(trained_norms, norms, strict=True))
    assert not torch.equal(found, as_they_are(model))
    assert torch.equal(found, model.convert()(TEST))
    assert torch.equal(found, early(TEST))  # converting in training mode ships what evaluation says
    assert max(model.measure_stats().values()) < 1
    assert torch.equal(found, said(model))


@pytest.mark.parametrize("between", [lambda model: None, evaluate], ids=["script", "evaluated"])
def test_what_is_trained_knows_nothing_of_the_average(between: Callable[[Any], object]) -> None:
    models = [wrapped(average=one) for one in (True, False)]
    before = [list(model.parameters()) for model in models]
    for model in models:
        train(model, between=between)
    found = [said(model) for model in models]
    for model, ones in zip(models, before, strict=True):
        assert all(one is other for one, other in zip(model.parameters(), ones, strict=True))
    assert all(torch.equal(*pair) for pair in zip(*map(weights, models), strict=True))
    assert all(torch.equal(*pair) for pair in zip(*(model.module.buffers() for model in models), strict=True))
    assert models[1].average.count == 0
    assert torch.equal(found[1], as_they_are(models[0]))
    assert not torch.equal(*found)


@pytest.mark.parametrize(
    "options",
    [
        {"num_batch_norm_update_epochs": False},
        {"num_batch_norm_update_epochs": EPOCHS},
        {"qconfig_type": None},
        {"average": False},
    ],
)
def test_with_norms_that_are_never_frozen_and_at_8_bits_the_weights_ship_as_they_are(options: dict[str, Any]) -> None:
    model = train(wrapped(**options))
    found = said(model)
    assert model.average.count == 0
    assert torch.equal(found, as_they_are(model))


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_state_a_copy_and_a_pickle_have_the_average(evaluated: bool) -> None:
    model = train(wrapped())
    if evaluated:
        said(model)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = wrapped()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    others = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded]
    found = said(model)
    for other in (*others, copy.deepcopy(others[1])):
        assert torch.equal(said(other), found)
        assert torch.equal(other.convert()(TEST), found)
    for each in (model, *others):
        train(each, 2)
    found = said(model)
    assert not torch.equal(found, as_they_are(model))
    assert all(torch.equal(said(other), found) for other in others)


def test_norms_that_were_measured_before_saving_are_not_measured_again() -> None:
    model = train(wrapped())
    found = said(model)
    state = model.state_dict()
    state["_extra_state"]["kept"] += 1.0  # by other windows they would be others
    other = wrapped()
    other.load_state_dict(state)
    assert torch.equal(said(other), found)


def spoil(model: Wrapper) -> None:
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(0.97)


def spoil_without_trace(model: Wrapper) -> None:
    for value in model.parameters():
        value.data.mul_(0.5)


@pytest.mark.parametrize("write", [spoil, spoil_without_trace])
@pytest.mark.parametrize("evaluated", [True, False])
def test_weights_that_somebody_puts_in_place_ship_as_they_are(
    write: Callable[[Wrapper], None], evaluated: bool
) -> None:
    model = train(wrapped())
    if evaluated:
        said(model)
    write(model)
    early = model.convert()
    found = said(model)
    assert model.average.count == 0
    assert torch.equal(found, as_they_are(model))
    assert torch.equal(found, early(TEST))
    train(model, 2, between=evaluate)
    assert model.average.count == 2  # an average of what is trained from there


def test_a_filter_that_was_set_to_zero_ships_as_zeros() -> None:
    model = train(wrapped())
    layer = next(part for part in model.module.modules() if isinstance(part, nn.Conv2d))
    with torch.no_grad():
        layer.weight[0] = 0.0
    graph = model.convert().graph
    first = next(node for node in graph.nodes if node.op == "conv")
    assert not first.constants["weight"][0].any()
    assert first.constants["weight"][1].any()


def test_weights_that_are_swapped_for_evaluation_are_those_that_are_evaluated() -> None:
    model, found = wrapped(), []

    def between(model: Wrapper) -> None:
        kept = weights(model)
        with torch.no_grad():
            for value in model.parameters():
                value.mul_(1.01)
        found.append(torch.equal(said(model), as_they_are(model)))
        with torch.no_grad():
            for value, one in zip(model.parameters(), kept, strict=True):
                value.copy_(one)
        model.train()

    train(model, between=between)
    assert found == [True] * EPOCHS


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_state_of_weights_alone_ships_as_it_is(evaluated: bool) -> None:
    model = train(wrapped())
    if evaluated:
        said(model)
    weights = model.module.state_dict().items()
    near = {f"module.{name}": value * 1.001 for name, value in weights if not name.startswith("0.")}
    model.load_state_dict(near, strict=False)
    found = said(model)
    assert model.average.count == 0
    assert torch.equal(found, as_they_are(model))


def test_another_average_over_the_training_takes_none_of_ours() -> None:
    model = wrapped()
    train(model, 1)
    other = AveragedModel(model)
    train(model, EPOCHS, between=lambda model: other.update_parameters(model))
    assert model.eval().convert() is not None
    found = said(other)
    assert other.module.average.count == 0
    assert torch.equal(found, other.module.convert()(TEST))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.NAdam])
def test_every_optimizers_steps_are_known_as_such(kind: Callable[..., torch.optim.Optimizer]) -> None:
    model = train(wrapped(), kind=kind)
    said(model)
    assert model.average.count == EPOCHS - EPOCHS // 2


def test_evaluation_keeps_no_gradients_and_leaves_none() -> None:
    model = train(wrapped())
    with torch.inference_mode():
        found = model.eval()(TEST)
    assert torch.equal(found, said(model))
    train(model, 1)
    assert print_graph(model.convert().graph) != ""


# --- the statistics of norms ----------------------------------------------------------------------


def live() -> FakeQuantized:
    module = trained(nn.ReLU)
    model = TINPUTinyMLQATFxModule(module, FOUR, example_inputs=TEST[:1])
    steps = fold(model._traced().graph)
    return FakeQuantized(steps, calibrate(steps, TEST.numpy(), NPU, 4), NPU, 4, live=1.0)


def test_norms_are_measured_on_one_batch_with_the_weights_as_they_are() -> None:
    network = live().eval()
    layers = [part for part in network.layers() if part.has_statistics]
    assert layers
    with torch.no_grad():
        for part in layers:
            part.mean += 1.0
            part.weight *= 1.3
    network.measure_norms(TEST)
    assert network.finished
    assert not network.training
    for part in layers:
        measured, momentum = [part.mean.clone(), part.variance.clone()], part.momentum
        network.measure_norms(TEST)
        assert all(torch.equal(*pair) for pair in zip(measured, (part.mean, part.variance), strict=True))
        assert momentum == part.momentum < 1
    seen = network.values(TEST)
    with torch.no_grad():
        first = layers[0]
        sums = first._sums(_turned(network, seen[first.step.source]), first._live_weight(), first.bias)
    assert torch.allclose(first.mean, sums.transpose(0, 1).flatten(1).mean(1), atol=1e-5)


def test_a_channel_that_stands_still_on_the_batch_keeps_its_statistics() -> None:
    network = live()
    first = next(part for part in network.layers() if part.has_statistics)
    before = first.mean.clone(), first.variance.clone()
    network.measure_norms(torch.zeros_like(TEST))
    assert torch.equal(first.mean, before[0])
    assert torch.equal(first.variance, before[1])


def _turned(network: FakeQuantized, value: Tensor) -> Tensor:
    return value.transpose(2, 3) if network.turned else value
