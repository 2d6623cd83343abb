"""The hooks by which packages bring things to flowlab: a page to read to its end.

Every hook takes no argument and returns a sequence of what it brings.
A package announces a module with such functions under the entry-point group ``flowlab``::

    [project.entry-points.flowlab]
    my_package = "my_package.plugin"

and marks each function with `hookimpl`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from flowlab.contracts import Core, Dataset, FeatureExtractor, Model, Preset, Quantizer, Reader, Target

hookspec = pluggy.HookspecMarker("flowlab")
hookimpl = pluggy.HookimplMarker("flowlab")


@hookspec
def flowlab_readers() -> Sequence[Reader]:  # type: ignore[empty-body]
    """File formats for recordings, each with the suffixes that it reads."""


@hookspec
def flowlab_datasets() -> Sequence[Dataset]:  # type: ignore[empty-body]
    """Named datasets that make their own recordings."""


@hookspec
def flowlab_feature_extractors() -> Sequence[FeatureExtractor]:  # type: ignore[empty-body]
    """Whole chains from windows to network inputs."""


@hookspec
def flowlab_models() -> Sequence[Model]:  # type: ignore[empty-body]
    """Networks."""


@hookspec
def flowlab_quantizers() -> Sequence[Quantizer]:  # type: ignore[empty-body]
    """Ways from a float model to an integer graph."""


@hookspec
def flowlab_cores() -> Sequence[Core]:  # type: ignore[empty-body]
    """Processor cores, as data."""


@hookspec
def flowlab_targets() -> Sequence[Target]:  # type: ignore[empty-body]
    """Devices."""


@hookspec
def flowlab_presets() -> Sequence[Preset]:  # type: ignore[empty-body]
    """Values under a name: feature presets, compile presets, example configs."""
