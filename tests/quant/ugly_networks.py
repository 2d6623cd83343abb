"""Ordinary networks of every kind, each with its input shape, and a small synthetic set to train them on.

The kinds are those on which another toolkit was measured: of 68 it gets 28 right, 6 nearly, 19 wrong without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

CLASSES, LENGTH = 4, 64
SERIES = (1, LENGTH, 1)
IMAGE = (1, 16, 16)
Forward = Callable[[Any, torch.Tensor], Any]


class Net(nn.Module):
    """A network whose forward is given."""

    def __init__(self, forward: Forward, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.body = forward

    def forward(self, x: torch.Tensor) -> Any:
        return self.body(self, x)


@dataclass(frozen=True)
class Data:
    """Windows of one shape: features float32, labels."""

    train: tuple[torch.Tensor, torch.Tensor]
    test: torch.Tensor


def spectra(shape: tuple[int, ...], count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log spectra of harmonics with a class's own side bands, folded into the shape; values as of decibels."""
    random = np.random.default_rng(seed)
    size = int(np.prod(shape))
    labels = random.integers(0, CLASSES, count)
    place = np.arange(size)[None, :]
    base, width = random.uniform(size / 14, size / 10, (count, 1)), size / 90
    power = np.full((count, size), 1e-3) * random.gamma(2.0, 0.5, (count, size))
    for order in range(1, 6):
        power += np.exp(-(((place - base * order) / width) ** 2)) / order
        side = base * np.choose(labels, [0.0, 0.22, 0.5, 0.36])[:, None]
        power += 0.4 * (side > 0) * np.exp(-(((place - base * order - side) / width) ** 2)) / order
    features = (10 * np.log10(power) + random.normal(0, 1.0, (count, 1))).astype(np.float32)
    return torch.from_numpy(features.reshape(count, *shape)), torch.from_numpy(labels)


@cache
def data(shape: tuple[int, ...]) -> Data:
    """768 windows to train on, 300 to test."""
    return Data(spectra(shape, 768, 1), spectra(shape, 300, 2)[0])


def trained(module: nn.Module, shape: tuple[int, ...], epochs: int = 12) -> nn.Module:
    """The module in eval mode after a short training on `spectra`; every output learns the classes it has room for."""
    torch.manual_seed(0)
    features, labels = data(shape).train
    optimizer = torch.optim.Adam(module.parameters(), 0.005)
    for _ in range(epochs):
        module.train()
        for batch in torch.randperm(len(features)).split(64):
            loss = torch.stack([part_loss(part, labels[batch]) for part in parts(module(features[batch]))]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return module.eval()


def parts(outputs: Any) -> list[torch.Tensor]:
    """The outputs of a network as a list."""
    if isinstance(outputs, dict):
        return list(outputs.values())
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


def part_loss(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy over what stands behind the batch; one number a window learns the label itself."""
    flat = output.flatten(1) if output.ndim > 1 else output[:, None]
    if flat.shape[1] == 1:
        return F.mse_loss(flat[:, 0], labels.float())
    return F.cross_entropy(flat, labels % flat.shape[1])


def block(
    inside: int, outside: int, kernel: int = 5, stride: int = 2, act: nn.Module | None = None, **more: Any
) -> nn.Sequential:
    """Convolution, batch norm and activation along the height."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, (kernel, 1), (stride, 1), (kernel // 2, 0), **more),
        nn.BatchNorm2d(outside),
        act or nn.ReLU(),
    )


def head(inside: int = 16) -> nn.Sequential:
    """Global average and classifier."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, CLASSES))


def plain(*middle: nn.Module, act: Callable[[], nn.Module] = nn.ReLU, tail: nn.Module | None = None) -> nn.Sequential:
    """Two blocks behind a batch norm, something in the middle, a head."""
    return nn.Sequential(nn.BatchNorm2d(1), block(1, 8, act=act()), *middle, block(8, 16, act=act()), tail or head())


def residual(behind: Callable[[torch.Tensor], torch.Tensor], shortcut: nn.Module | None = None) -> Net:
    return Net(
        lambda m, x: m.h(behind(m.b(m.a(m.n(x))) + m.s(m.a(m.n(x))))),
        n=nn.BatchNorm2d(1),
        a=block(1, 16),
        b=nn.Sequential(nn.Conv2d(16, 16, (3, 1), padding=(1, 0)), nn.BatchNorm2d(16)),
        s=shortcut or nn.Identity(),
        h=head(),
    )


def deep_residual(depth: int) -> nn.Module:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (
                block(16, 16, 3, 1),
                nn.Sequential(nn.Conv2d(16, 16, (3, 1), padding=(1, 0)), nn.BatchNorm2d(16)),
            )
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.b(self.a(x))
            y += x
            return self.relu(y)

    return nn.Sequential(nn.BatchNorm2d(1), block(1, 16), *(Block() for _ in range(depth)), head())


def squeeze_excite(gate: nn.Module) -> Net:
    return Net(
        lambda m, x: m.h((y := m.a(m.n(x))) * m.g(m.e(F.relu(m.q(y.mean((2, 3), keepdim=True)))))),
        n=nn.BatchNorm2d(1),
        a=block(1, 16),
        q=nn.Conv2d(16, 4, 1),
        e=nn.Conv2d(4, 16, 1),
        g=gate,
        h=head(),
    )


def series(forward: Forward, **layers: nn.Module) -> Net:
    return Net(forward, n=nn.BatchNorm2d(1), **layers)


def image(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(1), *layers)


def shuffled(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = m.a(m.n(x))
    n, c, h, w = y.shape
    y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
    return m.h(m.b(y))


def dense(m: Any, x: torch.Tensor) -> torch.Tensor:
    values = [m.a(m.n(x))]
    for layer in (m.b, m.c, m.d):
        values.append(layer(torch.cat(values, 1)))
    return m.h(torch.cat(values, 1))


def unet(m: Any, x: torch.Tensor) -> torch.Tensor:
    top = m.a(m.n(x))
    low = m.b(F.max_pool2d(top, (2, 1)))
    return m.h(m.c(torch.cat([top, m.u(low)], 1)))


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
    "Hardsigmoid": nn.Hardsigmoid,
    "Hardswish": nn.Hardswish,
    "Tanh": nn.Tanh,
    "Softplus": nn.Softplus,
    "GELU": nn.GELU,
    "ELU": nn.ELU,
    "Mish": nn.Mish,
    "LeakyReLU(0.2)": lambda: nn.LeakyReLU(0.2),
    "PReLU": nn.PReLU,
    "ReLU6": nn.ReLU6,
    "Hardtanh": nn.Hardtanh,
    "SELU": nn.SELU,
    "Softsign": nn.Softsign,
}
RIGHT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "baseline": (plain, SERIES),
    "no leading batch norm": (lambda: nn.Sequential(block(1, 8), block(8, 16), head()), SERIES),
    **{f"activation {name}": (lambda act=act: plain(act=act), SERIES) for name, act in ACTIVATIONS.items()},
    "PReLU by channel": (lambda: plain(nn.PReLU(8)), SERIES),
    "residual add, no ReLU after": (lambda: residual(lambda y: y), SERIES),
    "residual add and ReLU": (lambda: residual(F.relu), SERIES),
    "residual add, 1x1 shortcut and ReLU": (lambda: residual(torch.relu, nn.Conv2d(16, 16, 1)), SERIES),
    "deep residual": (lambda: deep_residual(5), SERIES),
    "residual of values and their mean": (
        lambda: series(
            lambda m, x: m.h((y := m.a(m.n(x))) - y.mean(2, keepdim=True)),
            a=block(1, 16),
            h=nn.Sequential(block(16, 16), head()),
        ),
        (1, 60, 1),
    ),
    "torch.cat of two branches": (
        lambda: series(
            lambda m, x: m.h(torch.cat([m.a(m.n(x)), m.b(m.n(x))], 1)), a=block(1, 8), b=block(1, 8, 3), h=head()
        ),
        SERIES,
    ),
    "cat of a ReLU and a tanh": (
        lambda: series(
            lambda m, x: m.h(torch.cat([m.a(m.n(x)), m.b(m.n(x))], 1)),
            a=block(1, 8),
            b=block(1, 8, 3, act=nn.Tanh()),
            h=head(),
        ),
        SERIES,
    ),
    "dense connections": (
        lambda: series(
            dense, a=block(1, 8), b=block(8, 8, 3, 1), c=block(16, 8, 3, 1), d=block(24, 8, 3, 1), h=head(32)
        ),
        SERIES,
    ),
    "inception": (
        lambda: series(
            lambda m, x: m.h(torch.cat([m.a(y := m.n(x)), m.b(y), F.max_pool2d(m.c(y), (3, 1), 1, (1, 0))], 1)),
            a=block(1, 4, 1, 1),
            b=block(1, 8, 5, 1),
            c=block(1, 4, 3, 1),
            h=head(),
        ),
        SERIES,
    ),
    "MaxPool2d((3,1),(2,1))": (lambda: plain(nn.MaxPool2d((3, 1), (2, 1))), SERIES),
    "AvgPool2d((3,1),(2,1))": (lambda: plain(nn.AvgPool2d((3, 1), (2, 1))), SERIES),
    "AvgPool2d without its padding": (
        lambda: plain(nn.AvgPool2d((3, 1), (2, 1), (1, 0), count_include_pad=False)),
        SERIES,
    ),
    "AvgPool2d(kernel_size=1)": (lambda: plain(nn.AvgPool2d(1)), SERIES),
    "MaxPool2d, ceil mode": (lambda: plain(nn.MaxPool2d((3, 1), (3, 1), ceil_mode=True)), SERIES),
    "MaxPool2d(2) on a width of 2": (
        lambda: nn.Sequential(nn.BatchNorm2d(1), block(1, 8), nn.MaxPool2d(2), block(8, 16), head()),
        (1, 32, 2),
    ),
    "AdaptiveAvgPool2d((4,1)) and Flatten": (
        lambda: plain(tail=nn.Sequential(nn.AdaptiveAvgPool2d((4, 1)), nn.Flatten(), nn.Linear(64, CLASSES))),
        SERIES,
    ),
    "AdaptiveAvgPool2d((5,1)), uneven": (
        lambda: plain(tail=nn.Sequential(nn.AdaptiveAvgPool2d((5, 1)), nn.Flatten(), nn.Linear(80, CLASSES))),
        SERIES,
    ),
    "AdaptiveMaxPool2d": (
        lambda: plain(tail=nn.Sequential(nn.AdaptiveMaxPool2d((3, 1)), nn.Flatten(), nn.Linear(48, CLASSES))),
        SERIES,
    ),
    "an average over an area that is no power of two": (plain, (1, 44, 1)),
    "Flatten and Linear": (lambda: plain(tail=nn.Sequential(nn.Flatten(), nn.Linear(256, CLASSES))), SERIES),
    "BN, Flatten, Linear": (
        lambda: nn.Sequential(
            nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(LENGTH, 32), nn.ReLU(), nn.Linear(32, CLASSES)
        ),
        SERIES,
    ),
    "MLP without a norm": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(LENGTH, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES)
        ),
        SERIES,
    ),
    "MLP with BatchNorm1d": (
        lambda: nn.Sequential(
            nn.BatchNorm2d(1),
            nn.Flatten(),
            nn.Linear(LENGTH, 32),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Linear(32, CLASSES),
        ),
        SERIES,
    ),
    "BatchNorm1d behind the flattening": (
        lambda: plain(tail=nn.Sequential(nn.Flatten(), nn.BatchNorm1d(256), nn.Linear(256, CLASSES))),
        SERIES,
    ),
    "x.view(N, -1) and Linear": (
        lambda: series(
            lambda m, x: m.f((y := m.b(m.a(m.n(x)))).view(y.size(0), -1)),
            a=block(1, 8),
            b=block(8, 16),
            f=nn.Linear(256, CLASSES),
        ),
        SERIES,
    ),
    "x.reshape and functional ReLU": (
        lambda: series(
            lambda m, x: m.g(F.relu(m.f(m.b(m.a(m.n(x))).reshape(x.shape[0], -1)))),
            a=block(1, 8),
            b=block(8, 16),
            f=nn.Linear(256, 16),
            g=nn.Linear(16, CLASSES),
        ),
        SERIES,
    ),
    "two heads": (
        lambda: series(
            lambda m, x: (m.h(y := m.b(m.a(m.n(x)))), m.g(y)),
            a=block(1, 8),
            b=block(8, 16),
            h=head(),
            g=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)),
        ),
        SERIES,
    ),
    "three outputs by name": (
        lambda: series(
            lambda m, x: {"class": m.h(y := m.b(m.a(m.n(x)))), "early": m.e(m.a(m.n(x))), "level": m.g(y)},
            a=block(1, 8),
            b=block(8, 16),
            h=head(),
            e=head(8),
            g=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 1)),
        ),
        SERIES,
    ),
    "Linear without bias": (
        lambda: plain(tail=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES, bias=False))),
        SERIES,
    ),
    "the same block applied twice": (
        lambda: series(lambda m, x: m.h(m.b(m.b(m.a(m.n(x))))), a=block(1, 16), b=block(16, 16, 3, 1), h=head()),
        SERIES,
    ),
    "one ReLU used everywhere": (
        lambda: series(
            lambda m, x: m.h(m.r(m.b(m.r(m.a(m.n(x)))))),
            a=nn.Conv2d(1, 8, (5, 1), (2, 1)),
            b=nn.Conv2d(8, 16, (5, 1), (2, 1)),
            r=nn.ReLU(),
            h=head(),
        ),
        SERIES,
    ),
    "Conv1d, 4-D in, squeeze": (
        lambda: series(
            lambda m, x: m.f(F.relu(m.k(m.c(m.n(x).squeeze(-1)))).mean(-1)),
            c=nn.Conv1d(1, 16, 5, 2),
            k=nn.BatchNorm1d(16),
            f=nn.Linear(16, CLASSES),
        ),
        SERIES,
    ),
    "Conv1d, 3-D in": (
        lambda: nn.Sequential(
            nn.BatchNorm1d(1),
            nn.Conv1d(1, 8, 5, 2, 2),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(8, 16, 3, dilation=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(16, CLASSES),
        ),
        (1, LENGTH),
    ),
    "a wavenet": (
        lambda: series(
            lambda m, x: m.h(torch.tanh(m.f(y := m.a(m.n(x)))) * torch.sigmoid(m.g(y)) + y),
            a=block(1, 16),
            f=nn.Conv2d(16, 16, (3, 1), padding=(2, 0), dilation=(2, 1)),
            g=nn.Conv2d(16, 16, (3, 1), padding=(2, 0), dilation=(2, 1)),
            h=head(),
        ),
        SERIES,
    ),
    "FC of 8 inputs": (lambda: nn.Sequential(nn.BatchNorm2d(1), block(1, 8), head(8)), SERIES),
    "depthwise and pointwise": (lambda: plain(block(8, 8, 3, 1, groups=8), block(8, 8, 1, 1)), SERIES),
    "grouped convolution and a channel shuffle": (
        lambda: series(shuffled, a=block(1, 8), b=block(8, 16, 3, groups=2), h=head()),
        SERIES,
    ),
    "convolution without batch norm": (
        lambda: nn.Sequential(
            nn.BatchNorm2d(1),
            nn.Conv2d(1, 8, (5, 1), (2, 1)),
            nn.ReLU(),
            nn.Conv2d(8, 16, (5, 1), (2, 1)),
            nn.ReLU(),
            head(),
        ),
        SERIES,
    ),
    "convolution and batch norm without ReLU": (lambda: plain(act=nn.Identity), SERIES),
    "ReLU before the batch norm": (
        lambda: nn.Sequential(
            nn.BatchNorm2d(1), nn.Conv2d(1, 8, (5, 1), (2, 1)), nn.ReLU(), nn.BatchNorm2d(8), block(8, 16), head()
        ),
        SERIES,
    ),
    "pre-activation": (
        lambda: nn.Sequential(
            nn.BatchNorm2d(1),
            nn.Conv2d(1, 8, (5, 1), (2, 1)),
            nn.BatchNorm2d(8),
            nn.MaxPool2d((2, 1)),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, (3, 1)),
            head(),
        ),
        SERIES,
    ),
    "dropout before FC": (
        lambda: plain(
            tail=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, CLASSES))
        ),
        SERIES,
    ),
    "functional dropout": (
        lambda: series(lambda m, x: m.h(F.dropout(m.a(m.n(x)), 0.2, m.training)), a=block(1, 16), h=head()),
        SERIES,
    ),
    "softmax at the end": (lambda: plain(tail=nn.Sequential(head(), nn.Softmax(1))), SERIES),
    "log_softmax at the end": (
        lambda: series(lambda m, x: F.log_softmax(m.h(m.a(m.n(x))), 1), a=block(1, 16), h=head()),
        SERIES,
    ),
    "ConvTranspose2d": (lambda: plain(nn.ConvTranspose2d(8, 8, (4, 1), (2, 1), (1, 0)), nn.ReLU()), SERIES),
    "Upsample nearest": (lambda: plain(nn.Upsample(scale_factor=(2, 1))), SERIES),
    "Upsample bilinear": (
        lambda: image(
            nn.Conv2d(1, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(8, 16, 3, 2),
            nn.ReLU(),
            head(),
        ),
        IMAGE,
    ),
    "a U-net": (
        lambda: series(
            unet,
            a=block(1, 8, 3, 1),
            b=block(8, 8, 3, 1),
            u=nn.ConvTranspose2d(8, 8, (2, 1), (2, 1)),
            c=block(16, 16, 3, 1),
            h=head(),
        ),
        SERIES,
    ),
    "kernel (101,1)": (
        lambda: nn.Sequential(nn.BatchNorm2d(1), block(1, 8, 101, 2), block(8, 16), head()),
        (1, 128, 1),
    ),
    "kernel 9x9 and MaxPool 8x8 on an image": (
        lambda: image(
            nn.Conv2d(1, 8, 9, padding=4),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(8),
            nn.Flatten(),
            nn.Linear(32, CLASSES),
        ),
        IMAGE,
    ),
    "CNN, MaxPool, Flatten, Linear-ReLU-Linear": (
        lambda: plain(
            tail=nn.Sequential(
                nn.MaxPool2d((2, 1)), nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, CLASSES)
            )
        ),
        SERIES,
    ),
    "an image network": (
        lambda: image(
            nn.Conv2d(1, 8, 3, padding="same", bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(8, 16, 3, 2),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            head(),
        ),
        IMAGE,
    ),
    "MobileNet block": (
        lambda: series(
            lambda m, x: m.h((y := m.a(m.n(x))) + m.l(m.d(m.e(y)))),
            a=block(1, 16),
            e=block(16, 32, 1, 1, nn.ReLU6()),
            d=block(32, 32, 3, 1, nn.ReLU6(), groups=32),
            l=block(32, 16, 1, 1, nn.Identity()),
            h=head(),
        ),
        SERIES,
    ),
    "squeeze-excite, sigmoid": (lambda: squeeze_excite(nn.Sigmoid()), SERIES),
    "squeeze-excite, hardsigmoid": (lambda: squeeze_excite(nn.Hardsigmoid()), SERIES),
    "mean over dims": (
        lambda: series(
            lambda m, x: m.f(m.b(m.a(m.n(x))).mean(dim=(2, 3))), a=block(1, 8), b=block(8, 16), f=nn.Linear(16, CLASSES)
        ),
        SERIES,
    ),
    "mean over the height alone": (
        lambda: nn.Sequential(
            nn.BatchNorm2d(1),
            Net(lambda m, x: m.f(m.c(x).relu().mean(2).flatten(1)), c=nn.Conv2d(1, 8, 3, 2), f=nn.Linear(56, CLASSES)),
        ),
        IMAGE,
    ),
    "constants": (
        lambda: series(
            lambda m, x: m.h(1 - m.a((x + 40) / 30) * 0.5), a=block(1, 16), h=nn.Sequential(block(16, 16), head())
        ),
        SERIES,
    ),
    "slices and flips": (
        lambda: series(
            lambda m, x: m.h(m.b(m.a(m.n(x))[:, :, 2:-2:2].flip(2))), a=block(1, 8), b=block(8, 16), h=head()
        ),
        SERIES,
    ),
    "maximum and mean pooled together": (
        lambda: series(
            lambda m, x: m.f(torch.cat([(y := m.b(m.a(m.n(x)))).mean((2, 3)), y.amax((2, 3))], 1)),
            a=block(1, 8),
            b=block(8, 16),
            f=nn.Linear(32, CLASSES),
        ),
        SERIES,
    ),
    "a product of two branches": (
        lambda: series(lambda m, x: m.h(m.a(m.n(x)) * m.b(m.n(x))), a=block(1, 16), b=block(1, 16, 3), h=head()),
        SERIES,
    ),
    "GLU": (
        lambda: series(
            lambda m, x: m.h(F.glu(m.a(m.n(x)), 1)),
            a=nn.Sequential(nn.Conv2d(1, 32, (5, 1), (2, 1)), nn.BatchNorm2d(32)),
            h=head(),
        ),
        SERIES,
    ),
    "two channels": (lambda: nn.Sequential(nn.BatchNorm2d(2), block(2, 8), block(8, 16), head()), (2, 48, 1)),
    "regression": (
        lambda: series(
            lambda m, x: m.f(m.b(m.a(m.n(x))).flatten(1)).squeeze(1), a=block(1, 8), b=block(8, 16), f=nn.Linear(256, 1)
        ),
        SERIES,
    ),
    "an autoencoder": (
        lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(LENGTH, 16), nn.ReLU(), nn.Linear(16, LENGTH)),
        SERIES,
    ),
}
RECURRENT: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: nn.LSTM(8, 8, batch_first=True),
    "two LSTM layers": lambda: nn.LSTM(8, 8, num_layers=2, batch_first=True),
    "LSTM in both directions": lambda: nn.LSTM(8, 4, batch_first=True, bidirectional=True),
    "GRU": lambda: nn.GRU(8, 8, batch_first=True),
    "RNN": lambda: nn.RNN(8, 8, batch_first=True),
}


def recurrent(layer: nn.Module) -> Net:
    """A convolution that shortens the series, a recurrent layer, and a classifier of its last state."""
    return series(
        lambda m, x: m.f(m.l(m.a(m.n(x)).squeeze(-1).transpose(1, 2))[0][:, -1]),
        a=block(1, 8, 8, 4),
        l=layer,
        f=nn.Linear(8, CLASSES),
    )


RIGHT |= {name: (lambda make=make: recurrent(make()), SERIES) for name, make in RECURRENT.items()}  # type: ignore[misc]
REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "GRUCell": (
        lambda: Net(lambda m, x: m.f(m.l(x.flatten(1))), l=nn.GRUCell(LENGTH, 8), f=nn.Linear(8, CLASSES)),
        SERIES,
        "'l' .*nn.GRU",
    ),
    "LayerNorm": (lambda: nn.Sequential(block(1, 8), nn.LayerNorm([32, 1]), head(8)), SERIES, "'1' .*BatchNorm"),
    "GroupNorm": (lambda: nn.Sequential(block(1, 8), nn.GroupNorm(2, 8), head(8)), SERIES, "'1' .*BatchNorm"),
    "softmax inside": (lambda: nn.Sequential(block(1, 8), nn.Softmax(1), head(8)), SERIES, "'1' .*sigmoid gate"),
    "attention": (
        lambda: Net(lambda m, x: m.h(m.a(x) @ m.a(x).transpose(2, 3)), a=block(1, 8), h=head(8)),
        SERIES,
        "attention",
    ),
    "a quotient": (
        lambda: Net(lambda m, x: m.h(m.a(x) / (m.a(x) + 1)), a=block(1, 8), h=head(8)),
        SERIES,
        "divides by",
    ),
}


SLOW = {"activation Hardsigmoid": 40, **dict.fromkeys(RECURRENT, 40)}


def build(name: str, epochs: int = 0) -> tuple[nn.Module, tuple[int, ...]]:
    """A network by its name, trained, with its input's shape.

    Slow ones are trained longer: before they have learned anything, some windows lie where the float network itself
    gives something else for a hundredth of noise. (Behind hard sigmoids, after 24 epochs, the two largest outputs of
    every fifth window are less than a step of 8 bits apart; after 40, those of every hundredth.)
    """
    make, shape = RIGHT[name]
    torch.manual_seed(0)
    return trained(make(), shape, epochs or SLOW.get(name, 12)), shape
