"""Training along the width."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flowlab.learn.layers import AveragePool, Conv, Dense, MaxPool, build_network
from flowlab.learn.lengthwise import keeps_width, lengthwise

ROWS = (
    Conv(8, (5, 1), (2, 1)),
    Conv(8, (3, 1), depthwise=True),
    MaxPool((3, 1), (2, 1)),
    Conv(12, (1, 1)),
    AveragePool((4, 1)),
    Dense(16),
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return build_network(ROWS, (2, 64, 1), 3)


def test_the_function_is_the_same_inside_and_outside() -> None:
    module, features = network(), torch.randn(5, 2, 64, 1)
    module.eval()
    outside = module(features)
    with lengthwise(module, features) as (turned,):
        assert turned.shape == (5, 2, 1, 64)
        assert torch.allclose(module(turned), outside, atol=1e-5)
    assert torch.equal(module(features), outside)


def test_the_module_comes_back_with_its_shapes_and_parameters() -> None:
    module = network()
    before = [(id(p), tuple(p.shape)) for p in module.parameters()]
    text, state = repr(module), {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(RuntimeError), lengthwise(module, torch.randn(5, 2, 64, 1)):
        raise RuntimeError
    assert [(id(p), tuple(p.shape)) for p in module.parameters()] == before
    assert repr(module) == text
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_a_training_step_inside_changes_the_module_outside_alike() -> None:
    features, targets = torch.randn(16, 2, 64, 1), torch.arange(16) % 3
    plain, turned = network(), network()
    for module in (plain, turned):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        with lengthwise(module, features) if module is turned else _as_it_is(features) as (x,):
            nn.functional.cross_entropy(module(x), targets).backward()
            optimizer.step()
    for one, other in zip(plain.parameters(), turned.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


class _as_it_is:
    def __init__(self, features: torch.Tensor) -> None:
        self.features = features

    def __enter__(self) -> tuple[torch.Tensor]:
        return (self.features,)

    def __exit__(self, *error: object) -> None:
        return None


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, (3, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean((2, 3))


@pytest.mark.parametrize(
    "module",
    [
        Custom(),
        nn.Sequential(Custom()),
        nn.Sequential(nn.Conv2d(1, 4, (3, 3), padding=1)),
        nn.Sequential(nn.Conv2d(1, 4, (3, 1), padding="same")),
        nn.Sequential(nn.MaxPool2d(3, padding=1)),
        nn.Sequential(nn.AdaptiveAvgPool2d((1, 2))),
    ],
)
def test_what_is_not_plain_is_left_alone(module: nn.Module) -> None:
    assert not keeps_width(module)
    features = torch.randn(2, 1, 8, 1)
    with lengthwise(module, features) as (same,):
        assert same is features


def test_images_are_left_alone() -> None:
    features = torch.randn(2, 1, 8, 8)
    with lengthwise(nn.Sequential(nn.Conv2d(1, 4, (3, 1))), features) as (same,):
        assert same is features
