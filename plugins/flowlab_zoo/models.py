"""The zoo's networks as tables; torch is imported when one is built.

``kernel`` and ``stride`` lie along the series, so a number stands for (number, 1).
The names are the vendor's: they say a family and an order, and not the number of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from flowlab.contracts import Model

if TYPE_CHECKING:
    import torch

    from flowlab.learn.layers import Row

DEFAULTS = {"learning_rate": 0.002, "batch_size": 64, "quantization": 2}
Table = Callable[[], Sequence["Row"]]


class TableModel(Model):
    """A network whose layers are a table."""

    libraries = ("torch",)
    code = ("flowlab_zoo.models", "flowlab.learn.layers")
    defaults = DEFAULTS
    lite = True  # convolutions with ReLU, maximum pools and averages

    def __init__(self, name: str, table: Table, summary: str, larger: str = "") -> None:
        """``table`` makes the rows when a network is built."""
        self.name, self.table, self.summary, self.larger = name, table, summary, larger

    def build(self, shape: tuple[int, int, int], outputs: int, options: Any) -> torch.nn.Module:
        """An ``nn.Sequential`` with torch's own initial weights, drawn from torch's generator."""
        from flowlab.learn.layers import build_network

        return build_network(self.table(), shape, outputs)


def conv(channels: int, kernel: int, stride: int = 1, padding: int | None = None) -> Row:
    """A convolution along the series."""
    from flowlab.learn.layers import Conv

    return Conv(channels, (kernel, 1), (stride, 1), None if padding is None else (padding, 0))


def depthwise(channels: int, kernel: int) -> Row:
    """A convolution along the series, each channel by itself."""
    from flowlab.learn.layers import Conv

    return Conv(channels, (kernel, 1), depthwise=True)


def pool(kernel: int = 3, stride: int = 2) -> Row:
    """The largest of each window along the series."""
    from flowlab.learn.layers import MaxPool

    return MaxPool((kernel, 1), (stride, 1))


def average(height: int = 1) -> Row:
    """The average over the series, or over ``height`` equal parts of it."""
    from flowlab.learn.layers import AveragePool

    return AveragePool((height, 1))


def dense(features: int) -> Row:
    """Fully connected, with batch norm and ReLU."""
    from flowlab.learn.layers import Dense

    return Dense(features)


TABLES: dict[str, Table] = {
    "CLS_100_NPU": lambda: [conv(8, 1), conv(8, 3), average()],
    "CLS_500_NPU": lambda: [conv(8, 5), conv(16, 3), average()],
    "CLS_1k_NPU": lambda: [conv(8, 5), conv(8, 5), pool(), conv(16, 3), average()],
    "CLS_1.2k_NPU": lambda: [conv(8, 5), conv(12, 3), conv(16, 3), average()],
    "CLS_1.5k_NPU": lambda: [conv(12, 5, 2), conv(12, 3, 2), conv(8, 3, 2), conv(16, 3), average()],
    "CLS_1.9k_NPU": lambda: [conv(16, 3), conv(16, 3), conv(16, 3), average()],
    "CLS_2k_NPU": lambda: [conv(16, 5), conv(16, 3), pool(), conv(16, 5, 2), conv(32, 5, 2), average()],
    "CLS_2.8k_NPU": lambda: [
        conv(8, 11, 7), conv(8, 7, 3), conv(12, 5), conv(12, 3, 2), conv(16, 3), average(), dense(16),
    ],
    "CLS_3.1k_NPU": lambda: [conv(8, 3, 2, 2), conv(16, 3, 2), conv(20, 3, 2), conv(24, 3), average()],
    "CLS_3.9k_NPU": lambda: [conv(8, 3, 4), conv(28, 3, 2), conv(20, 3, 2), conv(20, 3), average()],
    "CLS_4k_NPU": lambda: [conv(8, 5, 2), conv(8, 3), pool(), conv(16, 5, 2), conv(32, 5, 2), average()],
    "CLS_4.2k_NPU": lambda: [conv(12, 3, 4), conv(24, 3, 2), conv(28, 3), average(), dense(20), dense(16)],
    "CLS_5k_NPU": lambda: [conv(12, 5, 2), conv(16, 5, 2), conv(24, 3, 2), conv(32, 3), average()],
    "CLS_6k_NPU": lambda: [
        conv(16, 3, 4), pool(), depthwise(16, 3), conv(32, 1), pool(), depthwise(32, 3), conv(48, 1), conv(16, 5),
        average(),
    ],
    "CLS_8k_NPU": lambda: [
        conv(16, 5, 2), pool(), depthwise(16, 5), conv(32, 1), pool(), depthwise(32, 5), conv(64, 1), conv(32, 3),
        average(),
    ],
    "CLS_13k_NPU": lambda: [
        conv(8, 5, 2), conv(16, 3, 2), conv(16, 3), conv(32, 3, 2), conv(32, 3), conv(64, 3, 2), average(),
    ],
    "CLS_20k_NPU": lambda: [
        conv(16, 5, 2), conv(32, 3, 2), pool(), depthwise(32, 5), conv(64, 1), conv(64, 3, 2), conv(128, 3),
        conv(64, 3), average(),
    ],
    "CLS_40k_NPU": lambda: [conv(16, 3), conv(40, 5), conv(36, 1), conv(68, 7), average(), dense(120), dense(64)],
    "CLS_55k_NPU": lambda: [
        conv(8, 5, 2), conv(8, 5, 2), pool(4, 4), conv(16, 5), conv(16, 5, 2), pool(4), conv(32, 5), conv(32, 3),
        pool(4), conv(64, 5), pool(4), conv(64, 5), pool(2), conv(64, 3),
    ],
}  # fmt: skip
SAME = {  # names under which the vendor brings a network once more
    "ECG_55k_NPU": "CLS_55k_NPU",
    "ElectricalFault_model_40k_t": "CLS_40k_NPU",
    "GearboxFault_model_1.2k_t": "CLS_1.2k_NPU",
    "GearboxFault_model_1.5k_t": "CLS_1.5k_NPU",
}


def cls_4k() -> Sequence[Row]:
    """The older public 4k network, whose average keeps four parts of the series."""
    return [conv(8, 7, 2), pool(), conv(16, 5, 2), conv(32, 5, 2), average(4)]


LADDER = (  # the family by number of parameters, which is not the order of the names
    *("CLS_100_NPU", "CLS_500_NPU", "CLS_1k_NPU", "CLS_1.2k_NPU", "CLS_1.5k_NPU", "CLS_1.9k_NPU", "CLS_2.8k_NPU"),
    *("CLS_3.1k_NPU", "CLS_4k_NPU", "CLS_3.9k_NPU", "CLS_4.2k_NPU", "CLS_5k_NPU", "CLS_2k_NPU", "CLS_6k_NPU"),
    *("CLS_8k_NPU", "CLS_13k_NPU", "CLS_40k_NPU", "CLS_55k_NPU", "CLS_20k_NPU"),
)
LARGER = dict(pairwise(LADDER))


def _alike(name: str, other: str, table: Table, summary: str) -> Model:
    """A network beside the family, with that one's next larger of which ``other`` is."""
    return TableModel(name, table, summary, LARGER.get(other, ""))


MODELS: tuple[Model, ...] = (
    *(_alike(name, name, table, "classification of series, made for the NPU") for name, table in TABLES.items()),
    *(_alike(name, other, TABLES[other], f"the network of {other}") for name, other in SAME.items()),
    _alike(
        "CLS_4k", "CLS_4k_NPU", cls_4k, "the public 4k_t network: average over four parts of the series, 128 features"
    ),
)
