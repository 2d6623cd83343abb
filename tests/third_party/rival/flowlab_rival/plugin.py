"""What flowlab-rival brings: names that others have too, and one hook that raises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flowlab.contracts import Core, Dataset, Model
from flowlab.hookspecs import hookimpl

if TYPE_CHECKING:
    import torch


class RivalNet(Model):
    """As small as it gets."""

    def __init__(self, name: str) -> None:
        self.name = name

    def build(self, shape: tuple[int, int, int], outputs: int, options: Any) -> torch.nn.Module:
        from torch import nn

        return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], outputs))


class RivalCore(Core):
    """A core as data."""

    name = "rival-m0"


@hookimpl
def flowlab_models() -> Sequence[Model]:
    return [RivalNet("gear_net"), RivalNet("CLS_4k_NPU")]


@hookimpl
def flowlab_datasets() -> Sequence[Dataset]:
    raise OSError("no recordings on this machine")


@hookimpl
def flowlab_cores() -> Sequence[Core]:
    return [RivalCore()]
