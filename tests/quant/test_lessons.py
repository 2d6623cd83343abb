"""Learning from the float network inside a loop that does not know of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from networks.tones import tones
from networks.training import trained
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss

from flowlab.errors import OptionError
from flowlab.quant.lessons import Lesson, Lessons, shared
from flowlab_tinpu.torchmodelopt import TINPUTinyMLPTQFxModule, TINPUTinyMLQATFxModule

FOUR_BITS = {"weight": {"bitwidth": 4}}
FEATURES, LABELS = (torch.from_numpy(values) for values in tones(128, 3))


def logits(seed: int, windows: int = 32, classes: int = 4) -> Tensor:
    return 2 * torch.randn(windows, classes, generator=torch.Generator().manual_seed(seed))


def answers(taught: Tensor) -> Tensor:
    """Labels of which the teacher knows most."""
    found = taught.argmax(1)
    found[:4] = (found[:4] + 1) % taught.shape[1]
    return found


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss_scale", [1.0, 1024.0])
def test_the_gradient_is_that_of_both_losses_at_the_users_scale(reduction: str, loss_scale: float) -> None:
    outputs, taught = logits(1).requires_grad_(), logits(2)
    labels = answers(taught)
    lessons = Lessons(0.7, 3.0)
    (loss_scale * cross_entropy(Lesson.apply(outputs, taught, lessons), labels, reduction=reduction)).backward()
    found = outputs.grad
    plain = outputs.detach().clone().requires_grad_()
    divergence = 9.0 * kl_div(
        log_softmax(plain / 3, 1), log_softmax(taught / 3, 1), reduction="batchmean", log_target=True
    )
    if reduction == "sum":
        divergence = divergence * len(labels)
    (loss_scale * (0.3 * cross_entropy(plain, labels, reduction=reduction) + 0.7 * divergence)).backward()
    assert found is not None and plain.grad is not None
    assert torch.allclose(found, plain.grad, rtol=1e-4, atol=1e-5 * float(plain.grad.abs().max()))


def test_windows_that_are_answered_well_are_taught_too() -> None:
    """Their gradient is rounding alone, and says no scale."""
    outputs, taught = logits(1), logits(2)
    labels = answers(taught)
    outputs[4:8] = 0
    outputs[torch.arange(4, 8), labels[4:8]] = 14.0
    gradient = gradient_of(lambda z: cross_entropy(z, labels), outputs)
    assert 0 < float(gradient[4:8].abs().max()) < 1e-6
    lesson = 3 * (torch.softmax(outputs / 3, 1) - torch.softmax(taught / 3, 1)) / len(outputs)
    found = shared(gradient, outputs, taught, Lessons(0.7, 3.0))
    assert torch.allclose(found, 0.3 * gradient + 0.7 * lesson, rtol=1e-3, atol=1e-7)


def test_what_comes_out_is_what_went_in() -> None:
    outputs = logits(1)
    assert torch.equal(Lesson.apply(outputs, logits(2), Lessons(0.7, 3.0)), outputs)


def test_the_gradient_of_another_loss_is_left_alone() -> None:
    outputs, taught = logits(1).requires_grad_(), logits(2)
    mse_loss(Lesson.apply(outputs, taught, Lessons(0.7, 3.0)), logits(3)).backward()
    plain = outputs.detach().clone().requires_grad_()
    mse_loss(plain, logits(3)).backward()
    assert outputs.grad is not None and torch.equal(outputs.grad, plain.grad)


def gradient_of(loss: Any, outputs: Tensor) -> Tensor:
    """What a loss of the outputs sends back."""
    given = outputs.clone().requires_grad_()
    loss(given).backward()
    assert given.grad is not None
    return given.grad


OTHERS = {
    "smoothed labels": lambda z: cross_entropy(z, answers(logits(2)), label_smoothing=0.1),
    "margins": lambda z: nn.functional.multi_margin_loss(z, answers(logits(2))),
    "a centred square": lambda z: ((z - z.mean(1, keepdim=True)) ** 2).mean(),
    "another teacher": lambda z: kl_div(log_softmax(z, 1), torch.softmax(logits(5), 1), reduction="batchmean"),
    "some of the outputs": lambda z: cross_entropy(z[:, :3], answers(logits(2)).clamp_max(2)),
    "one against the rest": lambda z: nn.functional.binary_cross_entropy_with_logits(z, (logits(2) > 0).float()),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_gradients_of_other_losses_are_left_alone_to_the_bit(name: str) -> None:
    outputs = logits(1)
    gradient = gradient_of(OTHERS[name], outputs)
    assert torch.equal(shared(gradient, outputs, logits(2), Lessons(0.7, 3.0)), gradient)


def test_windows_that_the_loss_ignores_stay_ignored_and_a_class_s_weight_is_the_lesson_s() -> None:
    outputs, taught, labels = logits(1), logits(2), answers(logits(2))
    labels[::2] = -100
    weight = torch.tensor([1.0, 5.0, 0.2, 1.0])
    gradient = gradient_of(lambda z: cross_entropy(z, labels, weight, reduction="sum"), outputs)
    lessons = Lessons(0.7, 3.0)
    found = shared(gradient, outputs, taught, lessons)
    assert torch.equal(found[::2], gradient[::2]) and not found[::2].any()
    lesson = 3 * (torch.softmax(outputs / 3, 1) - torch.softmax(taught / 3, 1))
    wanted = 0.3 * gradient[1::2] + 0.7 * weight[labels[1::2], None] * lesson[1::2]
    assert torch.allclose(found[1::2], wanted, rtol=1e-3, atol=1e-6)
    assert lessons.taught_right == float((taught[1::2].argmax(1) == labels[1::2]).float().mean())


def test_nothing_is_learned_from_a_network_that_is_right_less_often() -> None:
    outputs, taught = logits(1), logits(2)
    gradient = (torch.softmax(outputs, 1) - nn.functional.one_hot(outputs.argmax(1), 4)) / len(outputs)
    lessons = Lessons(0.7, 3.0)
    assert torch.equal(shared(gradient, outputs, taught, lessons), gradient)  # this one is always right
    assert lessons.said_right == 1.0 and lessons.taught_right < 0.6 and not lessons.useful


def test_it_forgets_slowly_who_was_right() -> None:
    lessons = Lessons(0.7, 3.0)
    lessons.seen(0.5, 1.0)
    for _ in range(20):
        lessons.seen(1.0, 0.5)
    assert not lessons.useful
    for _ in range(40):
        lessons.seen(1.0, 0.5)
    assert lessons.useful


@pytest.mark.parametrize(
    ("bits", "options", "share"),
    [
        (FOUR_BITS, {}, 0.7),
        ({"weight": {"bitwidth": 2}}, {}, 0.7),
        (None, {}, 0.0),
        (None, {"distillation": 0.5}, 0.5),
        (FOUR_BITS, {"distillation": 0.0}, 0.0),
    ],
)
def test_it_is_learned_from_below_eight_bits_unless_asked_otherwise(
    bits: Any, options: dict[str, float], share: float
) -> None:
    model = TINPUTinyMLQATFxModule(trained(nn.ReLU), bits, total_epochs=2, **options)
    assert model.lessons.share == share
    assert (model._taught_by is not None) == (share > 0)


def test_what_is_not_trained_learns_nothing() -> None:
    assert TINPUTinyMLPTQFxModule(trained(nn.ReLU), FOUR_BITS)._taught_by is None


@pytest.mark.parametrize("share", [-0.1, 1.5, True, "half"])
def test_a_share_that_is_none_is_refused(share: Any) -> None:
    with pytest.raises(OptionError, match="distillation"):
        TINPUTinyMLQATFxModule(trained(nn.ReLU), FOUR_BITS, distillation=share)


def test_the_float_network_is_no_part_of_what_is_trained_or_saved_as_weights() -> None:
    network = trained(nn.ReLU)
    model = TINPUTinyMLQATFxModule(network, FOUR_BITS, total_epochs=2).train()
    assert {id(one) for one in model.parameters()} == {id(one) for one in model.module.parameters()}
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(model(FEATURES), LABELS).backward()
        optimizer.step()
    assert model.lessons.batches > 0
    assert model._taught_by is not None
    assert all(torch.equal(value, before[name]) for name, value in model._taught_by.state_dict().items())
    stranger = trained(nn.ReLU)
    with torch.no_grad():
        for value in stranger.parameters():
            value.mul_(0.5)
    other = TINPUTinyMLQATFxModule(stranger, FOUR_BITS, total_epochs=2)
    other.load_state_dict(model.state_dict())
    assert other._taught_by is not None and other.lessons == model.lessons
    assert all(torch.equal(value, before[name]) for name, value in other._taught_by.state_dict().items())


def test_the_loss_that_the_loop_shows_is_its_own() -> None:
    network = trained(nn.ReLU)
    shown = []
    for share in (0.0, 0.7):
        model = TINPUTinyMLQATFxModule(network, FOUR_BITS, total_epochs=2, distillation=share).train()
        model(FEATURES)
        shown.append(cross_entropy(model(FEATURES), LABELS).item())
    assert shown[0] == shown[1]
