from __future__ import annotations

import torch

from flowlab.quant.fake_quantize import floor_clip, lookup, round_clip


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
