from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowlab.report import axes
from flowlab.report.bars import stacked
from flowlab.report.charts import (
    HEIGHT,
    WAVE_HEIGHT,
    WIDTH,
    Line,
    confusion,
    curve,
    roc,
    roc_zoom,
    standalone,
    training_curve,
    wave,
)
from tests.report.conftest import history, roc_curve

numbers = st.floats(-1e9, 1e9)
small = st.floats(1e-9, 1e9)
positive = st.floats(axes.SMALLEST, axes.LARGEST)


def coordinates(svg: str) -> list[tuple[float, float]]:
    pairs = re.findall(r'points="([^"]*)"', svg)
    return [tuple(map(float, pair.split(","))) for line in pairs for pair in line.split()]  # type: ignore[misc]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter() if element.tag.endswith("text")]


@given(st.lists(numbers, min_size=1, max_size=40), st.booleans())
@example([5e-324], True)
@example([1e-310, 1.0], True)
@example([1e-300, 1e9], True)
def test_a_curve_is_well_formed_and_inside_its_frame(values: list[float], log: bool) -> None:
    svg = curve("Loss", [Line("float", "a", [(i + 1.0, value) for i, value in enumerate(values)])], log=log)
    ET.fromstring(svg)
    for x, y in coordinates(svg):
        assert -0.1 <= x <= WIDTH + 0.1
        assert -0.1 <= y <= HEIGHT + 0.1


@given(st.lists(st.lists(numbers, max_size=30), max_size=4), st.integers(1, 9))
def test_a_window_is_well_formed_and_inside_its_frame(channels: list[list[float]], step: int) -> None:
    svg = wave("arc", channels, "sample", step)
    ET.fromstring(svg)
    assert all(0 <= x <= WIDTH and 0 <= y <= WAVE_HEIGHT for x, y in coordinates(svg))


@given(small, small)
def test_an_axis_holds_its_range_and_writes_few_numbers(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    for axis in (axes.round_steps(low, high), axes.decades(low, high), axes.inside(low, high)):
        assert_holds(axis, low, high)


@given(positive, positive)
@example(axes.SMALLEST, axes.LARGEST)
@example(axes.SMALLEST, axes.SMALLEST)
@example(axes.LARGEST, axes.LARGEST)
def test_decades_hold_their_range_however_long_it_is(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    assert_holds(axes.decades(low, high), low, high)


def assert_holds(axis: axes.Axis, low: float, high: float) -> None:
    assert -1e-6 <= axis.share(low) <= axis.share(high) <= 1 + 1e-6
    assert 1 <= len(axis.ticks) <= 20
    assert all(-1e-6 <= axis.share(value) <= 1 + 1e-6 for value, _ in axis.ticks)


@given(st.integers(0, 5), st.integers(0, 100_000))
def test_epochs_are_written_as_whole_numbers_and_few_of_them(first: int, more: int) -> None:
    axis = axes.whole_numbers(first, first + more)
    assert 1 <= len(axis.ticks) <= 11
    assert all(value == int(value) and first <= value <= max(first + more, first + 1) for value, _ in axis.ticks)


@pytest.mark.parametrize(
    ("low", "high", "written"),
    [
        (0.91, 0.99, ["0.90", "0.92", "0.94", "0.96", "0.98", "1.00"]),
        (0.0, 100.0, ["0", "25", "50", "75", "100"]),
        (-1.0, 1.0, ["-1.0", "-0.5", "0", "0.5", "1.0"]),
        (5.0, 5.0, ["4.6", "4.8", "5.0", "5.2", "5.4"]),
    ],
)
def test_numbers_on_an_axis_are_round(low: float, high: float, written: list[str]) -> None:
    assert [text for _, text in axes.round_steps(low, high).ticks] == written


def test_what_is_not_finite_is_left_out() -> None:
    svg = curve("Loss", [Line("float", "a", [(1.0, math.nan), (2.0, 0.5), (3.0, math.inf), (4.0, 0.25)])])
    assert "nan" not in svg
    assert "inf" not in svg.replace("info", "")
    assert len(coordinates(svg)) == 2


def test_a_chart_without_points_says_so() -> None:
    assert "no epoch was trained" in curve("Loss", [Line("float", "a", [])])


def test_a_title_is_escaped() -> None:
    assert "<b>" not in curve("<b>", [Line("x", "a", [(1.0, 1.0)])])
    assert "<b>" not in wave("<b>", [[0.0]], "<b>")
    assert "<b>" not in stacked("<b>", [("<b>", 1)])
    assert "<b>" not in confusion("<b>", ["<b>", "x"], [[1, 2], [3, 4]])
    assert "<b>" not in roc("<b>", [("a", roc_curve("<b>", 0.9, 1))])


def test_a_mark_shows_what_it_is() -> None:
    svg = curve("Accuracy", [Line("float", "a", [(1.0, 0.5), (2.0, 0.9)])], marks=[(2.0, 0.9, "best epoch: 2")])
    assert "<title>best epoch: 2</title>" in svg


def test_one_epoch_is_a_dot() -> None:
    assert '<circle class="line a"' in curve("Loss", [Line("float", "a", [(1.0, 0.5)])])


def test_a_training_curve_has_both_splits_of_both_trainings_one_behind_the_other() -> None:
    svg = training_curve("accuracy", history(30, 0.6), history(10, 0.95), (28, 9))
    assert len(re.findall("<polyline", svg)) == 4
    assert svg.count('class="mark"') == 2
    assert "kept: epoch 9 of the quantized training" in svg
    assert 'class="split"' in svg
    lines = [line.split() for line in re.findall(r'points="([^"]*)"', svg)]
    assert [len(line) for line in lines] == [30, 30, 10, 10]
    assert float(lines[3][0].split(",")[0]) > float(lines[1][-1].split(",")[0])
    assert {"1", "40", "epoch"} <= set(texts(svg))


def test_a_loss_that_falls_far_is_drawn_by_decades() -> None:
    rows = [{"epoch": i + 1, "train_loss": 2.0 * 0.5**i, "val_loss": 2.0 * 0.5**i} for i in range(12)]
    assert {"0.001", "0.01", "0.1", "1", "10"} <= set(texts(training_curve("loss", rows)))
    flat = [{"epoch": i + 1, "train_loss": 1.0 - 0.05 * i} for i in range(12)]
    assert "0.01" not in texts(training_curve("loss", flat))


def test_a_confusion_matrix_is_drawn_with_its_counts() -> None:
    svg = confusion("Quantized", ["arc", "a class with a long name"], [[1131, 21], [0, 1148]])
    assert {"1,131", "21", "0", "1,148", "Quantized", "arc", "a class with a …"} <= set(texts(svg))
    assert (svg.count('class="cell right"'), svg.count('class="cell wrong"'), svg.count('class="cell"')) == (2, 1, 1)


def test_pictures_can_stand_alone() -> None:
    for svg in (
        training_curve("loss", history(5, 0.6)),
        confusion("x", ["a", "b"], [[1, 0], [0, 1]]),
        roc("x", [("a", roc_curve("a", 0.9, 1))]),
    ):
        alone = standalone(svg)
        assert ET.fromstring(alone).tag == "{http://www.w3.org/2000/svg}svg"
        assert "<style>" in alone


def found(*points: tuple[int, int, float]) -> dict[str, Any]:
    return {"class": "a", "positives": 100, "negatives": 1000, "auc": 0.9, "points": [list(point) for point in points]}


def test_good_curves_are_shown_near_the_corner_and_poor_ones_whole() -> None:
    assert roc_zoom([found((2, 99, 3), (1000, 100, -9))]) == 0.05
    assert roc_zoom([found((400, 60, 3), (1000, 100, -9))]) == 1.0
    assert roc_zoom([found((2, 99, 3), (1000, 100, -9)), found((400, 60, 3), (1000, 100, -9))]) == 1.0
    assert roc_zoom([]) == 1.0
    assert roc_zoom([found((2, 99, 3), (300, 100, 0), (1000, 100, -9))]) == 0.5  # what the network says is seen


def test_a_curve_against_the_rest_starts_in_the_corner_and_marks_what_is_said() -> None:
    svg = roc("a", [("a", found((100, 80, 3), (200, 90, 0), (1000, 100, -9)))])
    wide, high = 250 - 18 - 52, 250 - 44 - 8  # of which 4 % lie outside the axes
    assert coordinates(svg)[0] == pytest.approx((wide * 0.04 / 1.04, high), abs=0.06)
    assert coordinates(svg)[-1] == pytest.approx((wide, high * 0.04 / 1.04), abs=0.06)
    x, y = re.findall(r'class="mark a" cx="([^"]*)" cy="([^"]*)"', svg)[0]
    assert (float(x), float(y)) == pytest.approx((wide * 0.24 / 1.04, high * 0.14 / 1.04), abs=0.06)  # 20 % and 90 %


@given(st.lists(st.integers(0, 10**6), max_size=12))
def test_the_parts_of_a_bar_fill_it(sizes: list[int]) -> None:
    svg = stacked("memory", [(f"part {i}", size) for i, size in enumerate(sizes)])
    widths = [float(text) for text in re.findall(r'class="s\d(?: again)?" x="[^"]*" y="0" width="([^"]*)"', svg)]
    assert len(widths) == sum(size > 0 for size in sizes)
    assert not widths or sum(widths) == pytest.approx(WIDTH, abs=0.6 * len(widths))


def test_a_bar_is_drawn_to_the_scale_of_the_whole() -> None:
    svg = stacked("flash", [("weights", 250)], 1000)
    assert 'width="100.00"' in svg
