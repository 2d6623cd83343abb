"""Rows, groups and fronts of a sweep's table."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.report import sweep_page
from flowlab.report.sweep_rows import WORDS, Group, Row, Table, csv_lines, front, shown_rows, table_of, times

EMPTY = dict.fromkeys(("metric", *WORDS))


def row(bits: str, seed: str, **values: Any) -> Row:
    return Row({"training.bits": bits, "training.seed": seed}, "Completed", {**EMPTY, **values}, f"run-{bits}-{seed}")


def table(*rows: Row, **baseline: str) -> Table:
    axes = ["training.bits", "training.seed"]
    against = {f"training.{key}": label for key, label in baseline.items()}
    return table_of("accuracy", axes, ["training.seed"], rows, against)


ROWS = (
    row("8", "0", metric=0.9, flash_bytes=800, instructions=100, weight_bytes=400),
    row("8", "1", metric=0.8, flash_bytes=800, instructions=100, weight_bytes=400),
    row("4", "0", metric=0.9, flash_bytes=500, instructions=150, weight_bytes=200),
    row("4", "1", metric=0.8, flash_bytes=500, instructions=150, weight_bytes=200),
    row("2", "0", metric=0.5, flash_bytes=600, instructions=150, weight_bytes=100),
    row("2", "1", metric=0.5, flash_bytes=600, instructions=150, weight_bytes=100),
)


def test_cells_that_differ_in_their_seed_alone_are_one_group() -> None:
    found = table(*ROWS)
    assert [group.labels for group in found.groups] == [{"training.bits": bits} for bits in ("8", "4", "2")]
    assert found.groups[0].values["metric"] == pytest.approx(0.85)
    assert found.groups[0].spread == {"metric": pytest.approx(0.1 / 2**0.5)}
    assert found.groups[2].spread == {}


def test_the_front_is_what_no_other_beats_in_both() -> None:
    found = table(*ROWS)
    assert (found.size, found.speed) == ("flash_bytes", "instructions")
    assert [(one.front, one.fast) for one in found.groups] == [(False, True), (True, False), (False, False)]


def test_a_value_that_one_group_lacks_makes_no_front() -> None:
    found = table(*ROWS[:2], row("4", "0", metric=0.9, weight_bytes=200))
    assert (found.size, found.speed) == ("weight_bytes", "")


def test_a_baseline_says_how_much_smaller_faster_and_worse() -> None:
    _, four, two = table(*ROWS, bits="8").groups
    assert (four.smaller, four.faster, four.lost) == (2.0, pytest.approx(100 / 150), 0.0)
    assert (two.smaller, two.lost) == (4.0, pytest.approx(0.35))
    assert times(four.smaller) == "2x"


def test_a_cell_without_a_result_counts_as_failed_and_changes_no_mean() -> None:
    failed = Row({"training.bits": "8", "training.seed": "1"}, "Failed", {}, "run", "it broke")
    (group,) = table(ROWS[0], failed).groups
    assert (group.cells, group.failed, group.values["metric"]) == (2, 1, 0.9)
    header, rows = shown_rows(table(ROWS[0], failed))
    assert dict(zip(header, rows[0], strict=True))["state"] == "1 of 2 failed"


points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12)


@given(points)
def test_every_point_is_on_the_front_or_beaten_by_one_that_is(points: list[tuple[int, int]]) -> None:
    groups = [Group({}, 1, 0, {"flash_bytes": cost, "metric": reached}) for cost, reached in points]
    on_front = front(groups, "flash_bytes")
    assert on_front
    for number, (cost, reached) in enumerate(points):
        better = [
            other
            for other in on_front
            if points[other][0] <= cost and points[other][1] >= reached and points[other] != (cost, reached)
        ]
        assert (number in on_front) == (not better)


def test_the_csv_has_every_cell_as_it_is() -> None:
    text = io.StringIO()
    csv.writer(text).writerows(csv_lines(table(*ROWS)))
    read = list(csv.DictReader(io.StringIO(text.getvalue())))
    assert [(one["training.bits"], one["training.seed"], float(one["accuracy"])) for one in read] == [
        (one.labels["training.bits"], one.labels["training.seed"], one.values["metric"]) for one in ROWS
    ]
    assert {one["ram_bytes"] for one in read} == {""}


def test_the_page_escapes_what_comes_from_outside() -> None:
    evil = "<script>alert(1)</script>"
    found = table(Row({"training.bits": evil, "training.seed": "0"}, "Failed", {}, evil, evil, "x"), *ROWS)
    page = sweep_page.render(evil, "run", found, {"sweep": evil})
    assert "<script>alert" not in page
    assert page.count("<script") == 1
    assert set(sweep_page.plots(found)) == {"size.svg", "speed.svg"}


def test_a_sweep_in_which_nothing_was_measured_has_a_page_without_plots() -> None:
    failed = Row({"training.bits": "8", "training.seed": "0"}, "Failed", {}, "run", "it broke")
    found = table(failed)
    assert sweep_page.plots(found) == {}
    assert "it broke" in sweep_page.render("name", "run", found, {})
