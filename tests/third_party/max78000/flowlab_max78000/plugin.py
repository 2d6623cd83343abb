"""What flowlab-max78000 brings: the target, its core, two quantizers in its number format, and a model that fits it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flowlab.contracts import Core, Model, Quantizer, Target
from flowlab.hookspecs import hookimpl
from flowlab.quant.quantizer import IntegerQuantizer

if TYPE_CHECKING:
    import torch


class CortexM4(Core):
    """The processor beside the accelerator."""

    name = "max78000-m4"
    triple = "thumbv7em-none-eabi"
    clock_hz = 100_000_000


class PostTraining(IntegerQuantizer):
    """flowlab's own, in this machine's number format."""

    name = "max78000_ptq"
    summary = "post-training quantization for MAX78000: one shift a layer, nothing is trained"


class QuantizationAware(IntegerQuantizer):
    """The same, and then training."""

    name = "max78000_qat"
    summary = "quantization-aware training for MAX78000: the network trains on with the integers that ship"
    trains = True


class Small(Model):
    """Kernels of 3, stride 1, a pool before each convolution but the first, and a linear layer."""

    name = "CLS_max78000"
    summary = "3 convolutions for MAX78000: kernels of 3, stride 1, pools before them"
    libraries = ("torch",)
    defaults = {"learning_rate": 0.002, "batch_size": 64, "quantization": 2}

    def build(self, shape: tuple[int, int, int], outputs: int, options: Any) -> torch.nn.Module:
        from torch import nn

        channels, height, _ = shape
        layers: list[nn.Module] = [nn.BatchNorm2d(channels)]
        for made in (16, 32, 32):
            layers += [nn.Conv2d(channels, made, (3, 1), padding=(1, 0)), nn.BatchNorm2d(made), nn.ReLU()]
            layers.append(nn.MaxPool2d((4, 1)))
            channels, height = made, height // 4
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height, outputs))


@hookimpl
def flowlab_targets() -> Sequence[Target]:
    """The device."""
    from flowlab_max78000.target import Max78000

    return [Max78000()]


@hookimpl
def flowlab_cores() -> Sequence[Core]:
    """Its processor."""
    return [CortexM4()]


@hookimpl
def flowlab_quantizers() -> Sequence[Quantizer]:
    """PTQ and QAT."""
    return [PostTraining(), QuantizationAware()]


@hookimpl
def flowlab_models() -> Sequence[Model]:
    """A model that fits."""
    return [Small()]
