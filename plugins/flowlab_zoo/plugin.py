"""What flowlab_zoo brings: networks, named datasets and example configs."""

from __future__ import annotations

from collections.abc import Sequence

from flowlab.contracts import Dataset, Model, Preset
from flowlab.hookspecs import hookimpl


@hookimpl
def flowlab_models() -> Sequence[Model]:
    """The networks of the zoo's tables; of the vendor's others the names."""
    from flowlab_zoo import models, residual
    from flowlab_zoo.not_built import NOT_BUILT

    return (*models.MODELS, *residual.MODELS, *NOT_BUILT)


@hookimpl
def flowlab_datasets() -> Sequence[Dataset]:
    """The named datasets that make themselves."""
    from flowlab_zoo.datasets import DATASETS

    return DATASETS


@hookimpl
def flowlab_presets() -> Sequence[Preset]:
    """Example configs, and what benchmarks measure."""
    from flowlab_zoo.bench import QUANTIZATION
    from flowlab_zoo.examples import DEMO

    return (DEMO, QUANTIZATION)
