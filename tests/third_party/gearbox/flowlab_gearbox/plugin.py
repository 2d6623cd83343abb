"""What flowlab-gearbox brings: a dataset, an extractor, a model, a core and a preset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowlab.contracts import Core, Dataset, FeatureExtractor, Model, Preset, Recording
from flowlab.errors import OptionError
from flowlab.hookspecs import hookimpl

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True)
class TeethOptions:
    """How the gears are."""

    teeth: int = 17
    loads: tuple[float, ...] = (0.5, 1.0)


class Gearbox(Dataset):
    """Two gears, one with a broken tooth."""

    name = "gearbox"
    summary = "vibration of two gears, one with a broken tooth"
    Options = TeethOptions
    synthetic = True
    libraries = ("numpy",)

    def recordings(self, seed: int, options: TeethOptions) -> Iterator[Recording]:
        import numpy as np

        random = np.random.default_rng(seed)
        time = np.arange(400) / 400
        for number, load in enumerate(options.loads):
            for label, broken in (("whole", 0.0), ("broken", 2.0)):
                wave = load * np.sin(2 * np.pi * options.teeth * time) + broken * (np.arange(400) % 40 == 0)
                samples = (wave + 0.05 * random.standard_normal(400)).astype(np.float32)[:, None]
                yield Recording(f"{label}-{number}", label, samples, ("vibration",))


@dataclass(frozen=True)
class EnvelopeOptions:
    """How many windows of the rectified signal make one feature."""

    step: int = 4


class Envelope(FeatureExtractor):
    """The mean of the rectified signal over steps."""

    name = "envelope"
    Options = EnvelopeOptions
    libraries = ("numpy",)

    def shape(self, window: tuple[int, int], options: EnvelopeOptions) -> tuple[int, int, int]:
        channels, length = window
        if length % options.step:
            raise OptionError(f"envelope: step {options.step} does not divide the window's {length} samples")
        return channels, length // options.step, 1

    def extract(self, windows: NDArray[np.float32], options: EnvelopeOptions) -> NDArray[np.float32]:
        import numpy as np

        count, channels, length = windows.shape
        steps = np.abs(windows).reshape(count, channels, length // options.step, options.step)
        return steps.mean(axis=3, dtype=np.float32)[..., None]


class TinyNet(Model):
    """One convolution and one linear layer."""

    name = "gear_net"
    libraries = ("torch",)

    def build(self, shape: tuple[int, int, int], outputs: int, options: Any) -> torch.nn.Module:
        from torch import nn

        channels, height, _ = shape
        return nn.Sequential(
            nn.Conv2d(channels, 4, (3, 1), padding=(1, 0)), nn.ReLU(), nn.Flatten(), nn.Linear(4 * height, outputs)
        )


class GearCore(Core):
    """A core as data."""

    name = "gear-m0"
    triple = "thumbv6m-none-eabi"


@hookimpl
def flowlab_datasets() -> Sequence[Dataset]:
    return [Gearbox()]


@hookimpl
def flowlab_feature_extractors() -> Sequence[FeatureExtractor]:
    return [Envelope()]


@hookimpl
def flowlab_models() -> Sequence[Model]:
    return [TinyNet()]


@hookimpl
def flowlab_cores() -> Sequence[Core]:
    return [GearCore()]


@hookimpl
def flowlab_presets() -> Sequence[Preset]:
    return [Preset("feature_extraction", "gear_envelope", {"feature_extraction_name": "envelope"})]
