"""Curves of one class against the rest."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.learn.roc import FEWEST, POINTS, curves, lead

CLASSES = ("a", "b", "c", "d")


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Outputs with many ties (integers) or few (floats), and targets."""
    classes, count = draw(st.integers(2, 4)), draw(st.integers(1, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    outputs = rng.normal(size=(count, classes)) * draw(st.sampled_from([0.5, 3.0, 60.0]))
    targets = rng.integers(0, classes, count)
    outputs[np.arange(count), targets] += draw(st.sampled_from([0.0, 1.0, 40.0]))
    kind = draw(st.sampled_from([np.float32, np.int32]))
    return outputs.astype(kind), targets.astype(np.int64), CLASSES[:classes]


@given(answers())
def test_the_area_is_the_chance_that_a_window_of_the_class_leads_one_of_another(found) -> None:
    outputs, targets, _ = found
    for at, curve in enumerate(curves(*found)):
        score, own = lead(outputs, at), targets == at
        pairs = score[own][:, None] - score[~own][None, :]
        if pairs.size:
            assert curve["auc"] == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
        else:
            assert curve["auc"] is None
        assert (curve["positives"], curve["negatives"]) == (own.sum(), (~own).sum())


@given(answers())
def test_every_point_is_what_its_threshold_gives(found) -> None:
    outputs, targets, _ = found
    for at, curve in enumerate(curves(*found)):
        score, own = lead(outputs, at), targets == at
        for false, true, threshold in curve["points"]:
            assert (false, true) == ((score[~own] >= threshold).sum(), (score[own] >= threshold).sum())
        assert curve["points"][-1][:2] == [curve["negatives"], curve["positives"]]
        thresholds = [row[2] for row in curve["points"]]
        assert thresholds == sorted(thresholds, reverse=True)


@given(answers())
def test_the_class_that_is_said_is_one_of_the_points(found) -> None:
    outputs, targets, _ = found
    for at, curve in enumerate(curves(*found)):
        score, own = lead(outputs, at), targets == at
        said = [((score[~own] >= 0).sum()), ((score[own] >= 0).sum())]
        assert said == [0, 0] or said in [row[:2] for row in curve["points"]]


@pytest.mark.parametrize("classes", [2, 5, 10])
def test_curves_stay_small_and_are_plain_json(classes: int) -> None:
    rng = np.random.default_rng(1)
    outputs = rng.normal(size=(5000, classes)).astype(np.float32)
    made = curves(outputs, rng.integers(0, classes, 5000), [str(i) for i in range(classes)])
    assert len(made) == (1 if classes == 2 else classes)
    for curve in made:
        assert 10 < len(curve["points"]) <= max(FEWEST, POINTS // len(made))
    assert len(json.dumps(made)) < 12_000


def test_a_perfect_network_has_an_area_of_one_and_two_corners() -> None:
    outputs = np.array([[9, 1], [7, 2], [1, 5], [0, 9]], np.int32)
    (curve,) = curves(outputs, np.array([0, 0, 1, 1]), ("a", "b"))
    assert curve == {"class": "a", "positives": 2, "negatives": 2, "auc": 1.0, "points": [[0, 2, 5], [2, 2, -9]]}


def test_integers_do_not_overflow() -> None:
    outputs = np.array([[127, -128], [-128, 127]], np.int8)
    assert lead(outputs, 0).tolist() == [255, -255]


def test_one_output_has_no_curve() -> None:
    assert curves(np.zeros((3, 1)), np.zeros(3, np.int64), ("a",)) == []
