"""What a benchmark asks of another project's quantizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import util
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowlab.learn.loop import FitData, FitSettings, Progress, fit, predict

CALIBRATION, BATCH = 512, 64  # windows that a peer looks at, and of a training step
RATE = 1e-3  # of Adam, as its authors give it


@dataclass(frozen=True)
class PeerJob:
    """``module`` is the trained float network, ``model`` its ONNX; ``epochs`` are those that ours may train for."""

    module: torch.nn.Module
    model: bytes
    data: FitData
    epochs: int
    seed: int

    def calibration(self) -> Iterator[torch.Tensor]:
        """As many windows as ours, in batches."""
        windows = torch.from_numpy(np.array(self.data.train_features[:CALIBRATION]))
        yield from torch.split(windows, BATCH)


@dataclass(frozen=True)
class Peer:
    """One row. ``prepared(job)``: what computes with rounded numbers; ``finished`` of that: what is measured.

    ``trains``: the prepared module is trained in between, by `trained`.
    """

    name: str
    needs: tuple[str, ...]
    prepared: Callable[[PeerJob], Any]
    trains: bool = False
    finished: Callable[[Any], Callable[[NDArray[np.float32]], NDArray[Any]]] | None = None

    def missing(self) -> str:
        """What is not installed, or an empty text."""
        lacking = [name for name in self.needs if util.find_spec(name.partition(".")[0]) is None]
        return f"{', '.join(lacking)} is not installed" if lacking else ""

    def outputs(self, job: PeerJob, features: NDArray[np.float32]) -> NDArray[Any]:
        """Quantize, and run on windows, float32 (window, ...) -> (window, class)."""
        with quiet():
            module = self.prepared(job)
            if self.trains:
                trained(module, job.data, epochs=job.epochs, seed=job.seed)
            run = self.finished(module) if self.finished else _runner(module)
            return run(features)


def trained(
    module: torch.nn.Module,
    data: FitData,
    *,
    epochs: int,
    seed: int,
    batch: int = BATCH,
    progress: Progress = lambda what, done: None,
) -> None:
    """The same loop as ours, by Adam with one cycle, without a teacher: the best epoch is kept."""
    settings = FitSettings(
        epochs, batch, RATE, "adam", weight_decay=0.0, lr_scheduler="onecyclelr", warmup_epochs=0, seed=seed
    )
    fit(module, data, settings, progress=progress)


def _runner(module: torch.nn.Module) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
    return lambda features: predict(module, features)


@contextmanager
def quiet() -> Iterator[None]:
    """Others' advice is not ours to print."""
    import logging
    import warnings

    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
