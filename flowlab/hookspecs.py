"""The hooks by which packages bring things to flowlab, and watch it: a page to read to its end.

A hook that brings takes no argument and returns a sequence of what it brings.
A hook that watches gets one frozen value of its own and returns nothing: it sees and cannot change.
A package announces a module with such functions under the entry-point group ``flowlab``::

    [project.entry-points.flowlab]
    my_package = "my_package.plugin"

and marks each function with `hookimpl`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from flowlab.contracts import (
    Core,
    Dataset,
    FeatureExtractor,
    Model,
    Preset,
    Quantizer,
    Reader,
    RunEnded,
    RunStarted,
    Stage,
    StageEnded,
    StageFailed,
    StageStarted,
    Target,
)

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


@hookspec
def flowlab_stages() -> Sequence[Stage]:  # type: ignore[empty-body]
    """Steps of the plan, each in it only where the config has its section."""


@hookspec
def flowlab_before_run(run: RunStarted) -> None:
    """A run begins. Called in the process that runs it, before its first stage."""


@hookspec
def flowlab_after_run(run: RunEnded) -> None:
    """A run is over, however it ended. A killed process tells nothing."""


@hookspec
def flowlab_before_stage(stage: StageStarted) -> None:
    """A stage begins. Called in the thread that runs it."""


@hookspec
def flowlab_after_stage(stage: StageEnded) -> None:
    """A stage has its result, made now or found in the store."""


@hookspec
def flowlab_stage_failed(stage: StageFailed) -> None:
    """A stage raised."""
