"""Quantization-aware training never ruins a network: from any float checkpoint, for any number of epochs.

``make test-slow`` runs the whole matrix, ``make test-system`` its short trainings of one seed.
"""

from __future__ import annotations

import copy
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowlab.config import load_mapping
from flowlab.contracts import StageJob
from flowlab.learn.determinism import seeded
from flowlab.learn.loop import FitData, FitSettings, fit, predict
from flowlab.plugins import load
from flowlab.stages import quantize

pytestmark = pytest.mark.system

CATALOGUE = load()
MODEL, MOST_LOST = "CLS_4k_NPU", 0.05  # of accuracy, below post-training quantization of the same network
WHOLE = "FLOWLAB_SLOW" in os.environ
EPOCHS = (1, 2, 3, 10, 50) if WHOLE else (1, 2, 3)
SEEDS = range(3 if WHOLE else 1)
FLOAT = {"sgd": FitSettings(30, 64, 0.1, "sgd"), "adam": FitSettings(30, 64, 0.01, "adam", 0.0)}


@cache
def data() -> tuple[FitData, np.ndarray, np.ndarray]:
    """Digits: training windows, a tenth of them to choose epochs by, and test windows with their classes."""
    recordings = list(CATALOGUE.get("dataset", "digits64").recordings(7, None))  # type: ignore[attr-defined]
    classes = sorted({one.label for one in recordings})
    both = []
    for name in ("train", "test"):
        ones = [one for one in recordings if one.split == name]
        both.append((np.stack([one.samples.T[:, :, None] for one in ones]), [classes.index(one.label) for one in ones]))
    (features, labels), (test, expected) = ((values, np.array(numbers)) for values, numbers in both)
    held = len(labels) // 10
    return FitData(features[held:], labels[held:], features[:held], labels[:held]), test, expected


@cache
def checkpoint(optimizer: str, seed: int) -> torch.nn.Module:
    plugin: Any = CATALOGUE.get("model", MODEL)
    train, test, expected = data()
    with seeded(seed, 1):
        module = plugin.build(train.train_features.shape[1:], 10, CATALOGUE.options(plugin, {}))
        fit(module, train, FLOAT[optimizer])
    assert accuracy(module, test, expected) > 0.93
    return module.eval()


def accuracy(module: Any, features: np.ndarray, labels: np.ndarray) -> float:
    return float((predict(module, features).argmax(1) == labels).mean())


def shipped(optimizer: str, seed: int, folder: Path, **training: Any) -> float:
    """Accuracy of the integers that a quantizer makes of a checkpoint, by way of the stage."""
    values = {section: dict(keys) for section, keys in CATALOGUE.preset("example", "demo").values.items()}
    values["training"] |= {"model_name": MODEL, "seed": seed, "quantization": 2, "batch_size": 64, **training}
    config = load_mapping(values, CATALOGUE)
    plugins = quantize.plugins(config, CATALOGUE)
    train, test, expected = data()
    job = StageJob(
        inputs={},
        options=quantize.options(config, CATALOGUE),
        plugins={kind: one for kind, (one, _) in plugins.items()},
        plugin_options={kind: given for kind, (_, given) in plugins.items()},
        out=folder,
        scratch=folder,
        progress=lambda what, done: None,
    )
    with seeded(seed, 1):
        found, _ = quantize.quantize(job, copy.deepcopy(checkpoint(optimizer, seed)), train)
    return accuracy(found.module, test, expected)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("optimizer", list(FLOAT))
def test_no_training_is_much_worse_than_none(optimizer: str, seed: int, bits: int, tmp_path: Path) -> None:
    width = {"quantization_weight_bitwidth": bits}
    least = shipped(optimizer, seed, tmp_path, quantization_method="PTQ", **width) - MOST_LOST
    reached = {}
    for epochs in EPOCHS:
        (tmp_path / str(epochs)).mkdir()
        keys = {"quantization_method": "QAT", "quantization_epochs": epochs, **width}
        reached[epochs] = shipped(optimizer, seed, tmp_path / str(epochs), **keys)
    print(f"{optimizer} seed {seed} {bits} bits: at least {least:.4f}, reached {reached}")
    assert min(reached.values()) >= least, reached
