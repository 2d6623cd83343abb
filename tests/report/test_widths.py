from __future__ import annotations

from collections.abc import Callable

import pytest

from flowlab.report.facts import ReportFacts
from flowlab.report.page import render
from flowlab.report.tables import memory_rows
from flowlab.report.widths import beside_weights, width_rows
from tests.report.test_page import text

Changed = Callable[..., ReportFacts]


def test_bytes_are_parameters_times_bits_by_eight(facts: ReportFacts) -> None:
    rows = {row.name: row for row in width_rows(facts)}
    assert {name: row.bytes for name, row in rows.items()} == {
        "float32": 15392,
        "8 bits": 3848,
        "4 bits": 1924,
        "2 bits": 962,
    }
    assert [row.times for row in rows.values()] == [1, 4, 8, 16]


def test_bytes_are_rounded_up(facts: ReportFacts, changed: Changed) -> None:
    assert width_rows(changed(metrics_train={**facts.metrics_train, "parameters": 9}))[3].bytes == 3


@pytest.mark.parametrize(("bits", "place"), [(8, 1), (4, 2), (2, 3)])
def test_accuracy_stands_only_where_it_was_measured(
    facts: ReportFacts, changed: Changed, bits: int, place: int
) -> None:
    rows = width_rows(changed(quantization_config={**facts.quantization_config, "weight_bits": bits}))
    assert [row.this_run for row in rows] == [i == place for i in range(4)]
    measured = {0: facts.metrics_train["test"]["accuracy"], place: facts.metrics_quantize["test"]["accuracy"]}
    assert {i: row.accuracy for i, row in enumerate(rows) if row.accuracy is not None} == measured


def test_bits_that_differ_by_layer_have_a_row_of_their_own(facts: ReportFacts, changed: Changed) -> None:
    mixed = {"mean_bits": 2.5, "measured": False, "layers": [{"bits": 2}, {"bits": 8}]}
    rows = width_rows(changed(metrics_quantize={**facts.metrics_quantize, "mixed": mixed}))
    assert [row.this_run for row in rows] == [False, False, False, False, True]
    assert (rows[4].name, rows[4].bytes, rows[4].times) == ("2.50 bits on average", -(-3848 * 25 // 80), 12.8)
    assert rows[4].accuracy == facts.metrics_quantize["test"]["accuracy"]


def test_weights_that_take_two_bytes_for_each_on_the_core_are_no_biases(facts: ReportFacts, changed: Changed) -> None:
    memory = {**(facts.memory or {}), "flash_weights": 2 * 3496, "regions": {"flash": {"all": 2 * 3496 + 796}}}
    wide = changed(memory=memory)
    assert beside_weights(wide) == 796
    assert memory_rows(wide)[0]["parts"] == [
        ("weights", 6992),
        ("biases, multipliers, shifts and the input step", 796),
    ]


def test_a_model_whose_parameters_are_not_known_has_no_table(facts: ReportFacts, changed: Changed) -> None:
    unknown = changed(metrics_train={**facts.metrics_train, "parameters": None})
    assert width_rows(unknown) == []
    assert "Float, 8, 4 and 2 bits" not in text(render(unknown))


def test_the_page_says_that_it_is_arithmetic_and_what_is_left_out(facts: ReportFacts) -> None:
    shown = text(render(facts))
    assert "arithmetic, not a measurement. Parameters × bits / 8, with 3,848 parameters" in shown
    assert "8 bits this run 3,848 4 × &lt; 1 % 98.78 %" in shown
    assert "4 bits 1,924 8 × 1–5 % –" in shown
    assert beside_weights(facts) == 792
    assert (
        "792 bytes in this run's program".replace("'", "&#39;") in shown or "792 bytes in this run's program" in shown
    )
