"""What flowlab-pruning brings: one stage, in a plan only where the config has the section ``pruning``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flowlab.contracts import Stage
from flowlab.hookspecs import hookimpl


@dataclass(frozen=True)
class PruneOptions:
    """The keys of the section.

    ``amount``: the share of weights that become zero, 0 to below 1. ``scope``: counted in each layer by itself, or in
    all layers together, where narrow layers lose less.
    """

    amount: float = 0.3
    scope: Literal["layer", "network"] = "layer"

    def __post_init__(self) -> None:
        if not 0 <= self.amount < 1:
            raise ValueError(f"amount is {self.amount}, expected 0 to below 1")


PRUNE = Stage(
    name="prune",
    run="flowlab_pruning.prune:run",
    rewrites=("float_model",),
    section="pruning",
    Options=PruneOptions,
    libraries=("torch",),
    torch=True,
    summary="the smallest weights become zero",
)


@hookimpl
def flowlab_stages() -> Sequence[Stage]:
    return [PRUNE]
