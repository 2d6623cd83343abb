"""Three numbers that are never mixed, in words."""

from __future__ import annotations

from collections.abc import Callable

from flowlab.report import costs
from flowlab.report.facts import ReportFacts
from flowlab.report.page import render
from tests.report.conftest import ESTIMATE, LAYERS, MODEL
from tests.report.test_page import text

Changed = Callable[..., ReportFacts]
NONE = {**ESTIMATE, "cycles": None, "band": 0.0, "reason": "no public data of weights of 4 bits"}


def test_the_model_s_cycles_are_never_called_the_device_s() -> None:
    (row,) = costs.rows({"model": MODEL})
    assert row[0] == "cycles, model NPU" and row[1] == "9,403" and "its cycles are not the device's" in row[2]
    assert costs.line({"model": MODEL}) == "model NPU 9,403 cycles"


def test_an_estimate_has_its_band_and_what_it_rests_on() -> None:
    (row,) = costs.rows({"estimate": ESTIMATE})
    assert row[1] == "131,000 ± 18 %"
    assert (
        "fitted to 11 figures that the vendor published" in row[2] and "by 18 % at most and by 7 % on average" in row[2]
    )
    assert costs.line({"estimate": ESTIMATE}) == "estimate 131,000 ± 18 % cycles of the vendor's code on the NPU"


def test_without_public_data_there_is_the_reason_and_no_number() -> None:
    (row,) = costs.rows({"estimate": NONE})
    assert row[1] == "–" and "no public data of weights of 4 bits" in row[2] and "figures that" not in row[2]
    assert costs.line({"estimate": NONE}) == (
        "no estimate of the vendor's code on the NPU: no public data of weights of 4 bits"
    )
    assert not any(sign.isdigit() for sign in row[1])


def test_a_network_outside_of_the_figures_says_in_what() -> None:
    far = {**ESTIMATE, "outside": ["40,000 outputs of layers, where the figures have 1,604 to 12,418"]}
    assert "Outside of them: 40,000 outputs" in costs.rows({"estimate": far})[0][2]
    assert costs.line({"estimate": far}).endswith("40,000 outputs of layers, where the figures have 1,604 to 12,418")


def test_a_target_that_knows_nothing_adds_no_line() -> None:
    assert costs.line({}) == "" and costs.rows({}) == []
    assert costs.foreseen({}) == {"model": None, "estimate": None}


def test_the_page_shows_all_three_side_by_side(facts: ReportFacts, changed: Changed) -> None:
    measured = {
        "core": "Cortex-M33", "compiler": "zig", "kernels": "speed", "instructions": 119142,
        "instructions_least": 119142, "layers": {LAYERS[0]["name"]: 10159}, "stack_bytes": 1, "network_bytes": 1,
        "text_bytes": 1, "rodata_bytes": 1, "data_bytes": 0, "bss_bytes": 1,
    }  # fmt: skip
    shown = text(render(changed(costs={**(facts.costs or {}), "measured": {"emulated core": measured}})))
    at = [
        shown.index(one) for one in ("instructions counted: every layer in C", "cycles, model NPU", "cycles, estimate")
    ]
    assert at == sorted(at)
    assert "119,142" in shown and "9,403" in shown and "131,000 ± 18 %" in shown


def test_the_layers_have_model_cycles_their_part_and_the_array_s_use(facts: ReportFacts) -> None:
    shown = text(render(facts))
    assert "layer unit MACs part model NPU, cycles part array in use arena bytes" in shown
    assert "features.0 NPU 5,120 5.6 % 1,610 17.1 % 20 % 1,024" in shown  # 5,120 of 16 x 1,610 multiplications
    assert "16 multiply-accumulates a cycle at most; its cycles are not the device's." in shown


def test_the_arena_is_drawn_with_a_box_for_each_tensor(facts: ReportFacts, changed: Changed) -> None:
    page = render(facts)
    assert page.count('class="box ') == len(LAYERS)
    assert 'aria-label="arena of 2,048 bytes while 8 layers run"' in page
    assert "features.0: 1,024 bytes from byte 0, layers 2 to 3" in page
    assert "The arena while layers run" in text(page) and "plans its own" not in page
    without = render(changed(memory={**(facts.memory or {}), "arena": None}))
    assert "The arena while layers run" not in without and "arena bytes" not in without
    own = {"flash": {"x": 1}, "ram": {"arena": 3000}}
    assert "the C of this device plans its own, 3,000 bytes" in text(
        render(changed(memory={**(facts.memory or {}), "regions": own}))
    )
