"""The named datasets. Light: the generators are imported when they are asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flowlab.contracts import Dataset, NoOptions, Recording


class DcArcFault(Dataset):
    """Two classes of DC current, made from a seed; stands in for the dataset of the same name."""

    name = "dc_arc_fault_example_dsk"
    summary = "synthetic DC arc faults: five loads, one of them only in the test split; classes arc and normal"
    Options = NoOptions
    synthetic = True
    libraries = ("numpy",)
    code = ("flowlab_zoo.arc_fault", "flowlab_zoo.datasets")

    def recordings(self, seed: int, options: Any) -> Iterator[Recording]:
        """Yield 1264 recordings of 8192 samples with their split; float32 amperes, shape ``(8192, 1)``."""
        from flowlab_zoo.arc_fault import recordings

        return recordings(seed)


class Vibrations(Dataset):
    """Log spectra of vibrations, six kinds: what quantizers are compared on."""

    name = "synfft"
    summary = "synthetic vibrations of six kinds as 8000 log spectra of 256 bins: a float network misses one in twenty"
    Options = NoOptions
    synthetic = True
    libraries = ("numpy",)
    code = ("flowlab_zoo.spectra", "flowlab_zoo.datasets")

    def recordings(self, seed: int, options: Any) -> Iterator[Recording]:
        """Yield 6000 recordings for training and 2000 for the test; float32, shape ``(256, 1)``."""
        from flowlab_zoo.spectra import vibrations

        return vibrations(seed)


class Digits(Dataset):
    """Written digits as series of 64 points."""

    name = "digits64"
    summary = "scikit-learn's written digits of 8 x 8 points as series of 64 (needs the extra flowlab[bench])"
    Options = NoOptions
    libraries = ("numpy", "scikit-learn")
    code = ("flowlab_zoo.spectra", "flowlab_zoo.datasets")

    def recordings(self, seed: int, options: Any) -> Iterator[Recording]:
        """Yield 1347 recordings for training and 450 for the test; float32, shape ``(64, 1)``."""
        from flowlab_zoo.spectra import digits

        return digits(seed)


DATASETS: tuple[Dataset, ...] = (DcArcFault(), Vibrations(), Digits())
