"""The work of the stage: a state dict in, a state dict with more zeros out."""

from __future__ import annotations

import torch

from flowlab.contracts import StageJob, StageResult
from flowlab_pruning.plugin import PruneOptions

Weights = dict[str, torch.Tensor]


def run(job: StageJob) -> StageResult:
    """Read the trained weights, prune them, write them under the same name."""
    source = job.input("float_model")
    state = torch.load(source, weights_only=True, map_location="cpu")
    pruned = prune(state, job.options)
    target = job.out / source.name
    with target.open("wb") as file:  # not by name: torch would write the name into the file
        torch.save({**state, **pruned}, file)
    zeros = {name: int((weight == 0).sum()) for name, weight in pruned.items()}
    total = sum(weight.numel() for weight in pruned.values())
    return StageResult(
        {"float_model": {source.name: target}},
        metrics={"amount": job.options.amount, "weights": total, "zeros": sum(zeros.values()), "by_layer": zeros},
        warnings=(f"pruning: {sum(zeros.values()):,} of {total:,} weights are zero now",),
    )


def prune(state: Weights, options: PruneOptions) -> Weights:
    """The weights of convolutions and linear layers, the smallest of them zero; of equal ones the first."""
    weights = {name: value for name, value in state.items() if value.is_floating_point() and value.ndim >= 2}
    if options.scope == "layer":
        return {name: _smallest_zero([weight], options.amount)[0] for name, weight in weights.items()}
    return dict(zip(weights, _smallest_zero(list(weights.values()), options.amount), strict=True))


def _smallest_zero(weights: list[torch.Tensor], amount: float) -> list[torch.Tensor]:
    if not weights:
        return []
    flat = torch.cat([weight.flatten() for weight in weights])
    order = flat.abs().argsort(stable=True)
    flat[order[: int(amount * len(flat))]] = 0.0
    parts = flat.split([weight.numel() for weight in weights])
    return [part.reshape(weight.shape).clone() for part, weight in zip(parts, weights, strict=True)]
