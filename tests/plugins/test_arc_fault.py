from __future__ import annotations

import hashlib
from collections import Counter
from functools import cache
from itertools import islice

import numpy as np

from flowlab import testing
from flowlab.contracts import NoOptions, Recording
from flowlab.signal import split
from flowlab_zoo import arc_fault
from flowlab_zoo.datasets import DcArcFault

FRAME = 1024


@cache
def recordings() -> tuple[Recording, ...]:
    return tuple(DcArcFault().recordings(42, NoOptions()))


def frames(part: str) -> tuple[np.ndarray, np.ndarray]:
    chosen = [item for item in recordings() if item.split == part]
    windows = np.concatenate([item.samples[:, 0].reshape(-1, FRAME) for item in chosen]).astype(np.float64)
    labels = np.repeat([item.label == "arc" for item in chosen], arc_fault.LENGTH // FRAME)
    return windows, labels


def eight_moments(windows: np.ndarray) -> np.ndarray:
    """Mean, deviation, and the standardised moments 3 to 8, on a logarithmic scale where they span decades."""
    mean = windows.mean(1)
    deviation = windows.std(1)
    z = (windows - mean[:, None]) / deviation[:, None]
    higher = np.stack([(z**k).mean(1) for k in range(3, 9)], axis=1)
    return np.column_stack([mean, np.log(deviation), np.sign(higher) * np.log1p(np.abs(higher))])


def logistic_regression(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Newton's method with a small ridge; weights, the last one without a feature."""
    x = np.column_stack([x, np.ones(len(x))])
    weights = np.zeros(x.shape[1])
    for _ in range(40):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (p - y) / len(y) + 1e-4 * weights
        curvature = (x * (p * (1 - p))[:, None]).T @ x / len(y) + 1e-4 * np.eye(len(weights))
        weights = weights - np.linalg.solve(curvature, gradient)
    return weights


def accuracy_by_moments(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    a, b = eight_moments(train[0]), eight_moments(test[0])
    mean, deviation = a.mean(0), a.std(0)
    weights = logistic_regression((a - mean) / deviation, train[1])
    scores = np.column_stack([(b - mean) / deviation, np.ones(len(b))]) @ weights
    return float(((scores > 0) == test[1]).mean())


def test_moments_of_the_raw_window_do_not_tell_the_classes_apart() -> None:
    assert accuracy_by_moments(frames("train"), frames("test")) <= 0.85


def test_the_regression_on_moments_finds_what_moments_show() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2 == 0
    windows = rng.normal(size=(400, FRAME)) * np.where(labels, 2.0, 1.0)[:, None]
    assert accuracy_by_moments((windows, labels), (windows, labels)) > 0.99


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others() -> None:
    def digest(seed: int) -> str:
        state = hashlib.sha256()
        for item in islice(arc_fault.recordings(seed), 6):
            state.update(item.samples.tobytes())
        return state.hexdigest()

    assert digest(42) == digest(42)
    assert digest(42) != digest(43)


def test_one_load_is_in_the_test_split_only() -> None:
    by_load = {load.name: {item.split for item in recordings() if load.name in item.id} for load in arc_fault.LOADS}
    assert by_load.pop("led_driver") == {"test"}
    assert all(splits == {"train", "val", "test"} for splits in by_load.values())


def test_classes_are_balanced_in_every_split() -> None:
    counts = Counter((item.split, item.label) for item in recordings())
    for part in ("train", "val", "test"):
        assert counts[part, "arc"] == counts[part, "normal"] > 100
    assert {item.label for item in recordings()} == set(arc_fault.CLASSES)


def test_no_sample_is_in_two_splits() -> None:
    assert split.prove(split.given(recordings()))["contents_in_two_splits"] == 0


def test_recordings_are_finite_currents_of_one_column() -> None:
    for item in recordings():
        assert item.samples.shape == (arc_fault.LENGTH, 1)
        assert item.samples.dtype == np.float32
        assert np.isfinite(item.samples).all()
    means = [float(item.samples.mean()) for item in recordings()]
    assert 0 < min(means) < max(means) < 15


def test_the_dataset_says_that_it_is_synthetic() -> None:
    dataset = DcArcFault()
    assert dataset.synthetic
    assert "synthetic" in dataset.summary


def test_the_dataset_passes_the_checks_for_strangers() -> None:
    testing.check_dataset(DcArcFault())
