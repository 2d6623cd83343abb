"""Random small networks over everything that can be quantized; the generator counts what it makes.

A network is drawn from its seed alone, part by part, on a sample that runs along: what does not fit the shapes at hand
is drawn again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_PLACES, MOST_CHANNELS = 40, 8
SAMPLE = 16  # windows that run along, and give norms their statistics
TABLES: tuple[Callable[[], nn.Module], ...] = (
    nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Hardswish, nn.ELU, nn.Softplus, nn.Hardsigmoid,
)  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A network in evaluation mode, the shape of its input without the batch, and how often each kind is in it."""

    module: nn.Module
    shape: tuple[int, ...]
    counted: Counter[str]


class RandomNetwork(nn.Module):
    """Calls in order, each with the values that it reads; several outputs are a tuple."""

    def __init__(self, calls: Sequence[tuple[Callable[..., Any], tuple[int, ...]]], outputs: Sequence[int]) -> None:
        super().__init__()
        self.own = nn.ModuleList(list(dict.fromkeys(call for call, _ in calls if isinstance(call, nn.Module))))
        self.calls, self.outputs = tuple(calls), tuple(outputs)

    def forward(self, x: Tensor) -> Any:
        """(batch, ...) -> one output, or a tuple."""
        values = [x]
        for call, sources in self.calls:
            values.append(call(*(values[source] for source in sources)))
        found = tuple(values[place] for place in self.outputs)
        return found if len(found) > 1 else found[0]


def draw(seed: int) -> Drawn:
    """The network of a seed."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        return _Drawing(seed).whole()


class _Drawing:
    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.dims = int(self.random.integers(1, 3))
        places = (
            (int(self.random.integers(9, 25)),) if self.dims == 1 else tuple(self.random.integers(4, 8, 2).tolist())
        )
        self.shape = (int(self.random.integers(1, 4)), *places)
        self.values: list[Tensor] = [torch.randn(SAMPLE, *self.shape)]
        self.calls: list[tuple[Callable[..., Any], tuple[int, ...]]] = []
        self.counted: Counter[str] = Counter()
        self.at = 0
        self.relu = nn.ReLU()

    # --- the walk ----------------------------------------------------------------------------------

    def whole(self) -> Drawn:
        if self.chance(0.3):
            self.norm("norm in front")
        for _ in range(int(self.random.integers(1, 5))):
            self.part(self.spatial())
        if self.dims == 1 and self.now.shape[2] <= 8 and self.chance(0.8):
            self.recurrent()
        else:
            self.part([self.flatten, self.view, self.mean, self.mean])
        if self.now.ndim > 2:
            self.flatten()
        for _ in range(int(self.random.integers(0, 3))):
            self.part(self.flat())
        trunk, outputs = self.at, []
        for _ in range(2 if self.chance(0.2) else 1):
            self.at = trunk
            self.linear(int(self.random.integers(2, 5)))
            outputs.append(self.at)
        if len(outputs) > 1:
            self.counted["several outputs"] += 1
        return Drawn(RandomNetwork(self.calls, outputs).eval(), self.shape, self.counted)

    def spatial(self) -> list[Callable[[], None]]:
        often = [self.conv, self.conv, self.conv, self.conv]
        return [
            *often, self.transposed, self.shared, self.residual, self.cat, self.gate, self.squeeze, self.table,
            self.clip, self.max_pool, self.average_pool, self.adaptive, self.upsample, self.cut, self.norm_alone,
        ]  # fmt: skip

    def flat(self) -> list[Callable[[], None]]:
        return [self.hidden, self.hidden, self.shared_linear, self.table, self.clip, self.cat, self.gate, self.dropout]

    def part(self, kinds: Sequence[Callable[[], None]]) -> None:
        """One of them; what the shapes do not allow changes nothing, and another is drawn."""
        for _ in range(20):
            before = len(self.values), len(self.calls), self.at, self.counted.copy()
            try:
                self.pick(kinds)()
            except (RuntimeError, ValueError):
                pass
            else:
                small = self.now[0].numel() <= MOST_PLACES * MOST_CHANNELS and self.now[0].numel() > 0
                if small and (self.now.ndim < 3 or self.now.shape[1] <= 2 * MOST_CHANNELS):
                    return
            del self.values[before[0] :], self.calls[before[1] :]
            self.at, self.counted = before[2], before[3]

    # --- pieces --------------------------------------------------------------------------------------

    @property
    def now(self) -> Tensor:
        return self.values[self.at]

    @property
    def channels(self) -> int:
        return int(self.now.shape[1])

    def chance(self, part: float) -> bool:
        return bool(self.random.random() < part)

    def pick(self, among: Sequence[Any]) -> Any:
        return among[int(self.random.integers(len(among)))]

    def call(self, kind: str, call: Callable[..., Any], *sources: int) -> None:
        read = sources or (self.at,)
        module = call.eval() if isinstance(call, nn.Module) else call
        self.values.append(module(*(self.values[source] for source in read)))
        self.calls.append((module, read))
        self.at = len(self.values) - 1
        self.counted[kind] += 1

    def of(self, name: str) -> Any:
        """The class of this many dimensions."""
        return getattr(nn, f"{name}{self.dims}d")

    def norm(self, kind: str) -> None:
        found = (nn.BatchNorm1d if self.now.ndim < 4 else nn.BatchNorm2d)(self.channels)
        axes = tuple(each for each in range(self.now.ndim) if each != 1)
        spread = self.now.std(axes).clamp(min=0.05)
        found.running_mean = self.now.mean(axes) + torch.randn(self.channels) * 0.1 * spread
        found.running_var = (spread * torch.empty(self.channels).uniform_(0.7, 1.4)) ** 2
        found.weight.copy_(torch.empty(self.channels).uniform_(0.5, 1.5) * torch.sign(torch.randn(self.channels)))
        found.bias.copy_(torch.randn(self.channels) * 0.3)
        self.call(kind, found)

    def after(self) -> None:
        """What stands behind a layer: a norm or none, then an activation or none."""
        if self.chance(0.6):
            self.norm("norm behind a layer")
        drawn = self.random.random()
        if drawn < 0.15:
            self.call("relu module", nn.ReLU())
        elif drawn < 0.3:
            self.call("relu function", F.relu)
        elif drawn < 0.45:
            self.call("relu method", lambda x: x.relu())
        elif drawn < 0.6:
            self.call("relu reused", self.relu)
        elif drawn < 0.75:
            self.table()
        elif drawn < 0.85:
            self.clip()

    def conv(self) -> None:
        channels = self.channels
        kind, groups, out = "conv", 1, int(self.random.integers(1, MOST_CHANNELS + 1))
        if channels > 1 and self.chance(0.5):
            kind, groups = ("depthwise conv", channels) if channels % 2 or self.chance(0.5) else ("grouped conv", 2)
            out = groups * int(self.random.integers(1, 3))
        dilation = 2 if self.chance(0.25) else 1
        stride = int(self.random.integers(1, 3))
        kernel = tuple(self.random.integers(1, 4, self.dims).tolist())
        padding = tuple(self.random.integers(0, 2, self.dims).tolist())
        where = {"dilation": dilation, "stride": stride, "padding": padding, "groups": groups}
        self.call(kind, self.of("Conv")(channels, out, kernel, bias=self.chance(0.5), **where))
        self.counted["dilated conv"] += dilation > 1
        self.counted[f"conv of {self.dims} dimensions"] += 1
        self.after()

    def transposed(self) -> None:
        out, stride = int(self.random.integers(1, 5)), int(self.random.integers(1, 3))
        self.call("transposed conv", self.of("ConvTranspose")(self.channels, out, 3, stride=stride, padding=1))
        self.after()

    def shared(self) -> None:
        layer = self.of("Conv")(self.channels, self.channels, 3, padding=1)
        self.call("conv", layer)
        self.call("relu function", F.relu)
        self.call("layer used twice", layer)

    def shared_linear(self) -> None:
        layer = nn.Linear(self.channels, self.channels)
        self.call("linear", layer)
        self.table()
        self.call("layer used twice", layer)

    def residual(self) -> None:
        start = self.at
        self.call("conv", self.of("Conv")(self.channels, self.channels, 3, padding=1))
        self.after()
        self.call("add", self.pick((torch.add, lambda a, b: a + b)), start, self.at)
        if self.chance(0.5):
            self.call("relu reused", self.relu)

    def cat(self) -> None:
        if self.now.ndim < 3:
            return self.cat_flat()
        start = self.at
        self.call("conv", self.of("Conv")(self.channels, int(self.random.integers(1, 4)), 3, padding=1))
        self.after()
        return self.call("cat", lambda a, b: torch.cat([a, b], 1), start, self.at)

    def cat_flat(self) -> None:
        start = self.at
        self.call("linear", nn.Linear(self.channels, 3))
        self.call("cat", lambda a, b: torch.cat((a, b), dim=1), start, self.at)

    def gate(self) -> None:
        start = self.at
        layer = nn.Linear if self.now.ndim < 3 else (lambda one, two: self.of("Conv")(one, two, 1))
        self.call("linear" if self.now.ndim < 3 else "conv", layer(self.channels, self.channels))
        self.call("table", nn.Sigmoid())
        self.call("multiply", torch.mul, start, self.at)

    def squeeze(self) -> None:
        start, ones = self.at, (1,) * self.dims
        self.call("adaptive pool", self.of("AdaptiveAvgPool")(1))
        self.call("conv", self.of("Conv")(self.channels, self.channels, ones))
        self.call("table", self.pick((nn.Sigmoid, nn.Hardsigmoid))())
        self.call("multiply by channel", lambda a, b: a * b, start, self.at)

    def table(self) -> None:
        self.call("table", self.pick(TABLES)())

    def clip(self) -> None:
        low, high = -float(self.random.uniform(0.3, 1.5)), float(self.random.uniform(0.3, 1.5))
        kinds = (nn.ReLU6(), nn.Hardtanh(low, high), lambda x: x.clamp(low, high), lambda x: torch.clamp(x, min=0))
        self.call("clip", self.pick(kinds))

    def max_pool(self) -> None:
        kernel = int(self.random.integers(2, 4))
        padding = int(self.random.integers(0, 2))
        self.call("max pool", self.of("MaxPool")(kernel, stride=int(self.random.integers(1, 4)), padding=padding))

    def average_pool(self) -> None:
        kernel = tuple(self.random.integers(1, 6, self.dims).tolist())
        self.call("average pool", self.of("AvgPool")(kernel))
        area = int(np.prod(kernel))
        self.counted["area that is no power of two"] += area & (area - 1) > 0

    def adaptive(self) -> None:
        places = int(self.random.integers(1, 4))
        if any(size < places for size in self.now.shape[2:]):
            raise ValueError("larger than what it is made of")
        self.call("adaptive pool", self.of("AdaptiveAvgPool")(places))

    def mean(self) -> None:
        area = int(self.now[0, 0].numel())
        self.call("mean", lambda x: x.mean(tuple(range(2, self.dims + 2))))
        self.counted["area that is no power of two"] += area & (area - 1) > 0

    def upsample(self) -> None:
        kinds = ("nearest", "linear" if self.dims == 1 else "bilinear")
        kind = self.pick(kinds)
        self.call(f"upsample {kinds.index(kind)}", nn.Upsample(scale_factor=int(self.random.integers(2, 4)), mode=kind))

    def cut(self) -> None:
        if self.channels < 2:
            raise ValueError("nothing to cut")
        kept = int(self.random.integers(1, self.channels))
        self.call("cut", self.pick((lambda x: x[:, :kept], lambda x: x[:, kept:], lambda x: torch.chunk(x, 2, 1)[0])))

    def norm_alone(self) -> None:
        self.norm("norm alone")

    def flatten(self) -> None:
        self.call("flatten", self.pick((nn.Flatten(), lambda x: torch.flatten(x, 1), lambda x: x.flatten(1))))

    def view(self) -> None:
        self.call("view", self.pick((lambda x: x.reshape(x.shape[0], -1), lambda x: x.view(x.size(0), -1))))

    def hidden(self) -> None:
        self.linear(int(self.random.integers(2, 9)))
        self.after()

    def linear(self, outputs: int) -> None:
        self.call("linear", nn.Linear(self.channels, outputs, bias=self.chance(0.8)))

    def dropout(self) -> None:
        self.call("dropout", nn.Dropout(0.3))

    def recurrent(self) -> None:
        kind = self.pick((nn.LSTM, nn.GRU))
        self.call("turned", lambda x: x.permute(0, 2, 1))
        layer = kind(self.now.shape[2], 3, batch_first=True)
        self.call(kind.__name__, _Last(layer))


class _Last(nn.Module):
    """The last place of a recurrent layer's series."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(batch, place, channel) -> (batch, hidden)."""
        found: Tensor = self.layer(x)[0][:, -1]
        return found
