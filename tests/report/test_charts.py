from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from flowlab.report.charts import HEIGHT, WIDTH, Line, curve, wave

numbers = st.floats(-1e9, 1e9)


def coordinates(svg: str) -> list[tuple[float, float]]:
    pairs = re.findall(r'points="([^"]*)"', svg)
    return [tuple(map(float, pair.split(","))) for line in pairs for pair in line.split()]  # type: ignore[misc]


@given(st.lists(numbers, min_size=1, max_size=40))
def test_a_curve_is_well_formed_and_inside_its_frame(values: list[float]) -> None:
    svg = curve("Loss", [Line("float", "a", [(i + 1.0, value) for i, value in enumerate(values)])])
    ET.fromstring(svg)
    for x, y in coordinates(svg):
        assert -0.1 <= x <= WIDTH + 0.1
        assert -0.1 <= y <= HEIGHT + 0.1


@given(st.lists(st.lists(numbers, max_size=30), max_size=4))
def test_a_window_is_well_formed_and_inside_its_frame(channels: list[list[float]]) -> None:
    svg = wave("arc", channels)
    ET.fromstring(svg)
    assert all(0 <= y <= 84 for _, y in coordinates(svg))


def test_what_is_not_finite_is_left_out() -> None:
    svg = curve("Loss", [Line("float", "a", [(1.0, math.nan), (2.0, 0.5), (3.0, math.inf), (4.0, 0.25)])])
    assert "nan" not in svg
    assert "inf" not in svg.replace("info", "")
    assert len(coordinates(svg)) == 2


def test_a_chart_without_points_says_so() -> None:
    assert "no epoch was trained" in curve("Loss", [Line("float", "a", [])])


def test_a_title_is_escaped() -> None:
    assert "<b>" not in curve("<b>", [Line("x", "a", [(1.0, 1.0)])])
    assert "<b>" not in wave("<b>", [[0.0]])


def test_a_mark_shows_what_it_is() -> None:
    svg = curve("Accuracy", [Line("float", "a", [(1.0, 0.5), (2.0, 0.9)])], marks=[(2.0, 0.9, "best epoch: 2")])
    assert "<title>best epoch: 2</title>" in svg


def test_one_epoch_is_a_dot() -> None:
    assert '<circle class="line a"' in curve("Loss", [Line("float", "a", [(1.0, 0.5)])])
