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


DATASETS: tuple[Dataset, ...] = (DcArcFault(),)
