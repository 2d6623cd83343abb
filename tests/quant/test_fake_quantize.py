from __future__ import annotations

import pytest
import torch

from flowlab.quant.fake_quantize import clip_floor, floor_clip, lookup, round_clip, round_scaled, scaled


def test_rounding_gives_whole_numbers_and_lets_every_gradient_through() -> None:
    x = torch.tensor([-300.0, -1.5, 0.4, 0.5, 1.5, 300.0], requires_grad=True)
    y = round_clip(x, -127, 127)
    y.sum().backward()
    assert y.tolist() == [-127.0, -2.0, 0.0, 0.0, 2.0, 127.0]
    assert x.grad is not None
    assert x.grad.tolist() == [1.0] * 6


def test_a_floor_passes_the_gradient_only_where_nothing_is_clipped() -> None:
    x = torch.tensor([-1.0, -0.1, 0.0, 0.9, 255.9, 256.0], requires_grad=True)
    y = floor_clip(x, 0, 255)
    y.sum().backward()
    assert y.tolist() == [0.0, 0.0, 0.0, 0.0, 255.0, 255.0]
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0, 0.0]


def test_a_table_gives_its_entries_and_its_slopes() -> None:
    x = torch.tensor([-128.0, 127.0], requires_grad=True)
    y = lookup(x, torch.arange(256.0) * 2, torch.arange(256.0), -128)
    y.sum().backward()
    assert y.tolist() == [0.0, 510.0]
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 255.0]


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-128, 127), (0, 3)])
def test_clip_and_floor_in_one_are_the_two(low: int, high: int) -> None:
    values = torch.cat([torch.linspace(-300, 300, 6001), torch.arange(-300.0, 300.0), torch.tensor([-1e30, 1e30])])
    one, other = values.clone().requires_grad_(), values.clone().requires_grad_()
    clip_floor(one, low, high).sum().backward()
    floor_clip(other, low, high).sum().backward()
    assert torch.equal(clip_floor(values, low, high), floor_clip(values, low, high))
    assert one.grad is not None
    assert other.grad is not None
    differ = one.grad != other.grad
    assert bool(((values[differ] - low).abs() < 0.01).all())
    assert bool(clip_floor(torch.tensor([torch.nan]), low, high).isnan().all())


def test_a_scale_gets_the_gradient_of_its_rounded_weights() -> None:
    weight = torch.tensor([[0.9, -2.2, 5.0]], requires_grad=True)
    scale = torch.tensor([[1.0]], requires_grad=True)
    (round_scaled(weight, scale, 3) * scale).sum().backward()
    assert weight.grad is not None
    assert scale.grad is not None
    assert weight.grad.tolist() == [[1.0, 1.0, 1.0]]
    assert scale.grad.item() == pytest.approx((1 - 0.9) + (-2 + 2.2) + 3)  # rounding errors, and the limit outside


def test_a_scale_is_trained_by_its_logarithm_and_calmly() -> None:
    finer = torch.zeros(1, requires_grad=True)
    scaled(torch.tensor([2.0]), finer, 0.5).backward()
    assert finer.grad is not None
    assert finer.grad.item() == 1.0
