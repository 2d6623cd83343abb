"""The one training loop, for every problem, float and quantization-aware.

Decisions that a reader may wonder about:

* Every epoch visits each training window once, in an order drawn from (seed, epoch). Classes are not balanced: neither
  does the vendor's toolchain, and a balanced sampler would change what the accuracy on unbalanced data means.
* The best epoch is the one with the best validation metric, and of equal ones the *later*; its weights are what the
  module ends with, and so what is exported.
* A teacher (the float network, of one that is quantized) is asked once for each training window, before the first
  epoch; its outputs are kept.
* Nothing is random but through (seed, epoch), so a checkpoint needs no generator's state: weights, optimizer and best
  epoch are all there is. What a module keeps beside its state is brought back by ``begin_epoch`` of the last epoch
  that is done. So a resumed training ends with the same bits as an undisturbed one.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from flowlab.contracts import GOES_ON
from flowlab.errors import DataError, OptionError, StageError, unknown_name
from flowlab.faults import fault_point
from flowlab.learn.checkpoint import load_checkpoint, save_checkpoint
from flowlab.learn.determinism import epoch_seed, seeded
from flowlab.learn.lengthwise import lengthwise
from flowlab.learn.optimizer import make_optimizer
from flowlab.learn.problems import PROBLEMS, Problem
from flowlab.learn.schedule import CYCLES, Cycle, learning_rate

Progress = Callable[[str, float], None]
PREDICT_BATCH = 1024


@dataclass(frozen=True)
class FitData:
    """What a training sees: features float32 ``(N, channel, height, width)``, targets int64 ``(N,)``."""

    train_features: NDArray[np.float32]
    train_targets: NDArray[np.int64]
    val_features: NDArray[np.float32]
    val_targets: NDArray[np.int64]


@dataclass(frozen=True)
class FitSettings:
    """How to train. ``epochs`` may be 0: then the module stays as it is, and is measured.

    ``lr_scheduler`` may be ``onecyclelr``: it follows the steps and not the epochs, and has ``cycle`` and no warm-up.
    ``distillation`` is the share of the loss that a teacher has, softened by ``temperature``; it is 0 without one.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str = "sgd"
    weight_decay: float = 1e-4
    lr_scheduler: str = "cosineannealinglr"
    warmup_epochs: int = 1
    seed: int = 0
    threads: int = 1
    problem: str = "classification"
    distillation: float = 0.0
    temperature: float = 3.0
    cycle: Cycle = field(default_factory=Cycle)


class History(TypedDict):
    """What happened, a row an epoch.

    ``epoch`` (from 1), ``learning_rate``, and ``train_loss``, ``train_<metric>``, ``val_loss``, ``val_<metric>``. The
    training split is measured while the weights still move, the validation split at the epoch's end; a validation loss
    that is not finite is left out.
    """

    epochs: list[dict[str, float]]
    best_epoch: int  # 0: no epoch was trained
    best_value: float  # the validation metric of that epoch
    warnings: list[str]


@dataclass
class _Run:
    """A training under way."""

    module: torch.nn.Module
    optimizer: torch.optim.Optimizer
    problem: Problem
    settings: FitSettings
    checkpoint: Path | None
    every: int  # epochs from one checkpoint to the next
    progress: Progress
    taught: torch.Tensor | None = None  # a teacher's outputs, one row a training window
    rows: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = 0.0
    best_state: dict[str, Any] = field(default_factory=dict)


def fit(
    module: torch.nn.Module,
    data: FitData,
    settings: FitSettings,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 1,
    progress: Progress = lambda what, done: None,
    teacher: torch.nn.Module | None = None,
) -> History:
    """Train a module in place; it ends in eval mode with the weights of its best epoch.

    The loop calls ``module.train()`` and ``module.eval()`` once each epoch, and before that
    ``module.begin_epoch(epoch, epochs)`` (from 0) where the module has it; that call, and not a count of its own, is
    how a module that changes with the epochs stays right after a restart: there it is told of the last epoch that is
    done, then gets that epoch's state, then goes on.

    Args:
        module: float32 ``(batch, channel, height, width)`` -> ``(batch, outputs)``.
        data: both splits.
        settings: how; the same settings, data and initial module give the same bits.
        checkpoint: a file that is written after epochs, and continued from where it fits.
        checkpoint_every: epochs from one checkpoint to the next, 1 or more; one more is written after the last epoch.
        progress: called after each epoch with a sentence and the fraction done.
        teacher: what ``settings.distillation`` learns from, a module of the same inputs and outputs.

    Raises:
        DataError: if a split is empty or not finite; it names the split.
        OptionError: if the loss is no number; it names the epoch.
        OptionError: for a name of problem, optimizer or schedule that does not exist.
    """
    problem = PROBLEMS.get(settings.problem)
    if problem is None:
        raise OptionError(unknown_name("problem", settings.problem, PROBLEMS))
    _check(data)
    before = (torch.from_numpy(np.require(x, requirements="W")) for x in (data.train_features, data.val_features))
    taught = None
    if teacher is not None and settings.distillation > 0 and settings.epochs:
        with seeded(settings.seed, settings.threads):
            taught = torch.from_numpy(predict(teacher, data.train_features))
    with seeded(settings.seed, settings.threads), lengthwise(module, *before) as (train, val):
        optimizer = make_optimizer(
            settings.optimizer, module.parameters(), settings.learning_rate, settings.weight_decay
        )
        run = _Run(module, optimizer, problem, settings, checkpoint, checkpoint_every, progress, taught)
        _train(run, train, val, data)
        if run.best_epoch:
            module.load_state_dict(run.best_state)
        else:
            run.best_value, _ = _measure(run, val, data.val_targets)
        module.eval()
    return History(epochs=run.rows, best_epoch=run.best_epoch, best_value=run.best_value, warnings=_warnings(run, data))


def predict(module: torch.nn.Module, features: NDArray[np.float32], batch: int = PREDICT_BATCH) -> NDArray[Any]:
    """The module's outputs in eval mode, ``(N, outputs)``, a batch at a time; its mode is as before afterwards."""
    was_training = module.training
    module.eval()
    outputs = _outputs(module, torch.from_numpy(np.require(features, requirements="W")), batch)
    module.train(was_training)
    return outputs


def _check(data: FitData) -> None:
    for split, features, targets in (
        ("training", data.train_features, data.train_targets),
        ("validation", data.val_features, data.val_targets),
    ):
        if len(features) == 0:
            raise DataError(f"the {split} split is empty: training needs at least one window in it")
        if len(features) != len(targets):
            raise StageError(f"the {split} split has {len(features)} windows and {len(targets)} targets")
        finite = np.isfinite(features).reshape(len(features), -1).all(axis=1)
        if not finite.all():
            raise DataError(
                f"the {split} split has NaN or infinite features (first in window {int(finite.argmin())}, "
                f"{int((~finite).sum())} of {len(features)} windows): look at the recordings and at log_threshold"
            )


def _train(run: _Run, train: torch.Tensor, val: torch.Tensor, data: FitData) -> None:
    settings, checkpoint = run.settings, run.checkpoint
    targets = torch.from_numpy(data.train_targets.astype(np.int64))
    identity = _identity(run.module, data, settings, run.taught)
    damaged: list[str] = []
    _resume(run, load_checkpoint(checkpoint, identity, damaged.append))
    if run.rows or damaged:
        told = "; ".join([f"{GOES_ON} after epoch {len(run.rows)} of {settings.epochs}", *damaged])
        run.progress(told, len(run.rows) / max(1, settings.epochs))
    for epoch in range(len(run.rows), settings.epochs):
        loss, reached = _epoch(run, epoch, train, targets)
        value, val_loss = _measure(run, val, data.val_targets)
        metric = run.problem.metric
        row = {"epoch": epoch + 1, "train_loss": loss, f"train_{metric}": reached, f"val_{metric}": value}
        if math.isfinite(val_loss):
            row["val_loss"] = val_loss
        run.rows.append({**row, "learning_rate": run.optimizer.param_groups[0]["lr"]})
        if not run.best_epoch or run.problem.at_least_as_good(value, run.best_value):
            run.best_epoch, run.best_value = epoch + 1, value
            run.best_state = copy.deepcopy(run.module.state_dict())
        if checkpoint is not None and ((epoch + 1) % run.every == 0 or epoch + 1 == settings.epochs):
            save_checkpoint(checkpoint, _state(run, identity))
        done = f"epoch {epoch + 1} of {settings.epochs}: loss {loss:.4f}, validation {run.problem.metric} {value:.4f}"
        run.progress(done, (epoch + 1) / settings.epochs)
        fault_point("epoch")


def _epoch(run: _Run, epoch: int, features: torch.Tensor, targets: torch.Tensor) -> tuple[float, float]:
    """Train one epoch; the mean loss over its windows, and the metric of the outputs that it was computed from."""
    settings, module, optimizer = run.settings, run.module, run.optimizer
    seed = epoch_seed(settings.seed, epoch)
    torch.manual_seed(seed)  # dropout
    cycles = settings.lr_scheduler.lower() == CYCLES
    if not cycles:
        _set_rate(
            optimizer,
            learning_rate(
                settings.learning_rate, epoch, settings.epochs, settings.lr_scheduler, settings.warmup_epochs
            ),
        )
    _begin(run, epoch)
    module.train()
    total = 0.0
    seen: list[tuple[NDArray[Any], NDArray[np.int64]]] = []
    order = list(batches(len(targets), settings.batch_size, seed))
    for step, chosen in enumerate(order):
        if cycles:
            position = (epoch + step / len(order)) / settings.epochs
            _set_rate(optimizer, settings.learning_rate * settings.cycle.factor(position))
        optimizer.zero_grad()
        outputs = module(features[chosen])
        loss = _loss(run, outputs, targets, chosen)
        if not math.isfinite(value := loss.item()):
            raise OptionError(
                f"epoch {epoch + 1}: the loss is {value}. A lower training.learning_rate (now "
                f"{settings.learning_rate:g}) is the usual cure; features of very different size another cause"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        fault_point("batch")
        total += value * len(chosen)
        seen.append((outputs.detach().numpy(), targets[chosen].numpy()))
    said, meant = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    return total / len(targets), run.problem.measure(said, meant)[run.problem.metric]


def _begin(run: _Run, epoch: int) -> None:
    begin = getattr(run.module, "begin_epoch", None)
    if callable(begin):
        begin(epoch, run.settings.epochs)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _loss(run: _Run, outputs: torch.Tensor, targets: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    loss = run.problem.loss(outputs, targets[chosen])
    if run.taught is None:
        return loss
    if run.taught.shape[1:] != outputs.shape[1:]:
        raise StageError(
            f"the teacher's outputs are {tuple(run.taught.shape[1:])} a window, and the network's "
            f"{tuple(outputs.shape[1:])}: set distillation to 0"
        )
    share, temperature = run.settings.distillation, run.settings.temperature
    return (1 - share) * loss + share * run.problem.likeness(outputs, run.taught[chosen], temperature)


def batches(count: int, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Indices of each batch, every window once; a last batch of one joins its neighbour (one has no variance)."""
    order = torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).permutation(count))
    starts = list(range(0, count, size))
    if count > 1 and len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    for start, end in zip(starts, [*starts[1:], count], strict=True):
        yield order[start:end]


def _measure(run: _Run, features: torch.Tensor, targets: NDArray[np.int64]) -> tuple[float, float]:
    """Metric and loss in eval mode."""
    run.module.eval()
    outputs = _outputs(run.module, features, PREDICT_BATCH)
    loss = run.problem.loss(torch.from_numpy(outputs), torch.from_numpy(targets.astype(np.int64)))
    return run.problem.measure(outputs, targets)[run.problem.metric], loss.item()


def _outputs(module: torch.nn.Module, features: torch.Tensor, batch: int) -> NDArray[Any]:
    with torch.no_grad():
        parts = [module(part).numpy() for part in torch.split(features, batch)]
    return np.concatenate(parts)


def _identity(module: torch.nn.Module, data: FitData, settings: FitSettings, taught: torch.Tensor | None) -> str:
    """What a checkpoint must have been made from to be continued: settings, data, teacher, and the module as given."""
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    for array in (data.train_features, data.train_targets, data.val_features, data.val_targets):
        digest.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    if taught is not None:
        digest.update(taught.numpy().tobytes())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        if isinstance(tensor, torch.Tensor):
            digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _state(run: _Run, identity: str) -> dict[str, Any]:
    return {
        "identity": identity,
        "module": run.module.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "rows": run.rows,
        "best_epoch": run.best_epoch,
        "best_value": run.best_value,
        "best_state": run.best_state,
    }


def _resume(run: _Run, state: dict[str, Any] | None) -> None:
    if state is None:
        return
    _begin(run, len(state["rows"]) - 1)  # before the state: what it does to weights was done long ago
    run.module.load_state_dict(state["module"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.rows, run.best_state = list(state["rows"]), state["best_state"]
    run.best_epoch, run.best_value = state["best_epoch"], state["best_value"]


def _warnings(run: _Run, data: FitData) -> list[str]:
    chance = run.problem.chance(data.val_targets)
    learned = run.best_value > chance if run.problem.higher_is_better else run.best_value < chance
    if learned or run.settings.epochs == 0:
        return []
    return [
        f"THE NETWORK HAS LEARNED NOTHING: its best validation {run.problem.metric} is {run.best_value:.4f}, and "
        f"up to {chance:.4f} is chance. Try more epochs, another learning rate, or other features"
    ]
