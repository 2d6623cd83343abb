from __future__ import annotations

import csv
import io
from typing import Any

from flowlab.report.layer_table import COLUMNS, rows, to_csv
from tests.report.conftest import ARENA, CPU, CYCLES, LAYERS, MODEL, PADDED


def table(**costs: Any) -> list[dict[str, Any]]:
    return rows([*LAYERS, PADDED, CPU], {"model": MODEL, "measured": {}, **costs}, ARENA)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_every_layer_has_a_line_and_the_last_one_has_the_sums() -> None:
    found = read(to_csv(table()))
    assert [row["layer"] for row in found] == [*(one["name"] for one in [*LAYERS, PADDED, CPU]), "total"]
    assert found[-1]["macs"] == str(sum(one["macs"] for one in [*LAYERS, PADDED]))
    assert found[-1]["model_cycles"] == str(MODEL["cycles"])
    assert found[-1]["reason"] == found[-1]["utilisation_percent"] == ""


def test_a_layer_says_what_it_costs_and_what_part_of_all_that_is() -> None:
    first = read(to_csv(table()))[0]
    assert (first["operation"], first["unit"], first["output"]) == ("FCONV", "npu", "8x128x1")
    assert first["model_cycles"] == str(CYCLES["features.0"])
    assert first["model_cycles_percent"] == f"{100 * CYCLES['features.0'] / MODEL['cycles']:.1f}"
    assert first["utilisation_percent"] == f"{100 * 5120 / (CYCLES['features.0'] * 16):.1f}"
    assert first["live_bytes"] == "1024" and first["instructions"] == ""


def test_zeros_that_were_added_use_nothing_of_the_array() -> None:
    model = {**MODEL, "by_layer": {**CYCLES, PADDED["name"]: 300}}
    found = read(to_csv(table(model=model)))
    padded = next(row for row in found if row["layer"] == PADDED["name"])
    assert (padded["macs"], padded["zero_macs"], padded["macs_on_npu"]) == ("2880", "1380", "1500")
    assert padded["utilisation_percent"] == f"{100 * 1500 / (300 * 16):.1f}"
    assert found[-1]["zero_macs"] == "1380"


def test_a_cpu_layer_has_reason_and_cure_and_no_cycles_of_the_model() -> None:
    last = read(to_csv(table()))[-2]
    assert last["unit"] == "cpu" and last["macs_on_npu"] == "0"
    assert last["reason"] == CPU["reason"] and last["cure"] == CPU["cure"]
    assert last["model_cycles"] == last["utilisation_percent"] == ""


def test_instructions_stand_beside_cycles_and_are_no_cycles() -> None:
    counted = {"emulated core": {"layers": {"features.0": 300, "features.3": 100}}}
    found = read(to_csv(table(measured=counted)))
    assert [row["instructions"] for row in found[:3]] == ["300", "100", ""]
    assert [row["instructions_percent"] for row in found[:3]] == ["75.0", "25.0", ""]
    assert found[0]["model_cycles"] == str(CYCLES["features.0"])
    assert found[-1]["instructions"] == "400"


def test_without_costs_there_is_a_table_too() -> None:
    found = read(to_csv(rows(LAYERS)))
    assert tuple(found[0]) == COLUMNS
    assert {row["model_cycles"] for row in found} == {row["live_bytes"] for row in found} == {""}


def test_equal_rows_give_equal_text_and_no_cell_is_a_formula() -> None:
    assert to_csv(table()) == to_csv(table())
    hostile = [{**LAYERS[0], "name": '=HYPERLINK("x")', "shape": 'a,"b"\nc'}]
    (first, _) = read(to_csv(rows(hostile)))
    assert first["layer"] == '\'=HYPERLINK("x")' and first["shape"] == 'a,"b"\nc'
