from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from flowlab.report.facts import Example, ReportFacts
from flowlab.report.page import render
from tests.report.conftest import CPU, LAYERS, PADDED, roc_curve

Changed = Callable[..., ReportFacts]

VOID = {"meta", "link", "br", "hr", "img", "wbr"}
DATA = {"type": "application/json", "id": "facts"}  # the one script element: numbers, which nothing runs


class Outline(HTMLParser):
    """Checks that tags nest, and collects what a page would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag in {"iframe", "object", "embed"} or (tag == "script" and dict(attrs) != DATA):
            self.outside.append(tag)
        for name, value in attrs:
            if name in {"src", "href"} and value != "data:,":
                (self.links if str(value).startswith("#") else self.outside).append(f"{name}={value}")
            if name.startswith("on"):
                self.outside.append(name)
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(page: str) -> Outline:
    found = Outline()
    found.feed(page)
    found.close()
    assert found.open == []
    return found


def text(page: str) -> str:
    body = re.sub(r"<style>.*?</style>|<script.*?</script>|<wbr>", "", page, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_the_page_is_whole_and_fetches_nothing(facts: ReportFacts) -> None:
    page = render(facts)
    found = outline(page)
    assert found.outside == []
    assert "@import" not in page
    assert "url(" not in page
    assert found.ids == list(dict.fromkeys(found.ids))
    sections = ("next", "warnings", "what", "data", "accuracy", "training", "layers", "sizes", "agreement")
    assert found.links == [f"href=#{name}" for name in sections]
    assert set(sections) <= set(found.ids)


def test_every_table_has_a_caption_and_every_picture_a_name(facts: ReportFacts) -> None:
    page = render(facts)
    tables = re.findall(r"<table.*?</table>", page, flags=re.S)
    assert len(tables) > 8
    assert all("<caption" in table for table in tables)
    assert all("aria-label=" in svg or " x=" in svg for svg in re.findall(r"<svg[^>]*>", page))


def test_equal_facts_give_equal_bytes(facts: ReportFacts) -> None:
    assert render(facts) == render(facts)


def test_synthetic_data_and_the_open_model_are_said_at_the_top(facts: ReportFacts, changed: Changed) -> None:
    shown = text(render(facts))
    assert shown.index("Synthetic data.") < shown.index("What was run")
    assert shown.index("Open model of the NPU.") < shown.index("What was run")
    real = changed(
        feature_spec={**facts.feature_spec, "synthetic": False},
        placement={"layers": [{**row, "unit": "cpu"} for row in LAYERS], "npu_share": 0.0},
    )
    shown = text(render(real))
    assert "Synthetic data" not in shown
    assert "Open model" not in shown


def test_accuracies_stand_side_by_side_with_what_is_wrong(facts: ReportFacts) -> None:
    shown = text(render(facts))
    assert "float float32 network, in torch 98.91 % 25 2,304 –" in shown
    assert "quantized its integers, before they become a program 98.78 % 28 2,304 -0.13 points" in shown
    assert (
        "simulated the program's bytes, on the simulator 98.78 % 28 2,304 -0.13 points".replace("'", "&#39;") in shown
    )


def test_both_confusion_matrices_are_shown_and_a_third_where_it_differs(facts: ReportFacts, changed: Changed) -> None:
    shown = text(render(facts))
    assert "Float: 25 of 2,304 wrong" in shown
    assert "Quantized and simulated: 28 of 2,304 wrong" in shown
    other = changed(metrics_simulate={"test": {"accuracy": 0.5}, "confusion": [[600, 552], [600, 552]]})
    shown = text(render(other))
    assert "Quantized: 28 of 2,304 wrong" in shown
    assert "Simulated: 1,152 of 2,304 wrong" in shown


def test_sizes_of_weights_and_of_files_are_kept_apart(facts: ReportFacts) -> None:
    shown = text(render(facts))
    weights = shown.index("Weights float32")
    files = shown.index("Files float ONNX")
    assert weights < shown.index("15,392 bytes") < shown.index("3,496 bytes") < files
    assert files < shown.index("18,012 bytes") < shown.index("19,544 bytes") < shown.index("4,500 bytes")
    assert "ONNX does not shrink: it carries the integers in float32 tensors" in shown
    assert "The program packs weights of fewer than 8 bits, whatever the compile preset says" in shown
    assert "asks the device's own compiler for the same, which changes nothing at 8 bits, as here." in shown


def test_what_an_emulated_core_counted_has_a_table_and_a_column(facts: ReportFacts, changed: Changed) -> None:
    assert "On an emulated core" not in text(render(facts))
    assert "instructions in C" not in text(render(facts))
    measured = {
        "core": "Cortex-M33", "compiler": "ziglang 0.17.1 -O3", "kernels": "speed",
        "instructions": 119142, "instructions_least": 119142,
        "layers": {LAYERS[0]["name"]: 10159}, "stack_bytes": 176, "network_bytes": 11078, "text_bytes": 4522,
        "rodata_bytes": 7244, "data_bytes": 0, "bss_bytes": 4410,
    }  # fmt: skip
    shown = text(render(changed(costs={**(facts.costs or {}), "measured": {"emulated core": measured}})))
    assert (
        "instructions for one window counted, not estimated; the same for every window that was counted 119,142"
        in shown
    )
    assert "network alone bytes of both, without the input step 11,078" in shown
    assert "instructions in C" in shown and "10,159" in shown


def test_a_cpu_layer_has_reason_and_cure_and_padding_its_cost(changed: Changed) -> None:
    padding = {"layers": ["tail.conv"], "macs": 1380, "weight_bytes": 138}
    shown = text(render(changed(placement={"layers": [*LAYERS, PADDED, CPU], "npu_share": 0.93, "padding": padding})))
    assert "Why not the NPU: the NPU has no layer for &#39;table&#39;. Cure: use ReLU" in shown
    assert "Padded: 5 -&gt; 8 input channels" in shown
    assert "Padding costs 1,380 multiply-accumulates and 138 bytes of weights in all." in shown
    assert "93.0 % of the multiplications run on the NPU." in shown


def test_agreement_names_what_ran_and_what_did_not_with_the_reason(facts: ReportFacts, changed: Changed) -> None:
    shown = text(render(facts))
    for name in ("onnxruntime", "torch", "simulator", "host C"):
        assert f"{name} 2,304 0 none" in shown
    assert "in 2,304 test vectors, 4 executions" in shown
    assert "emulated core not run: no emulator is installed" in shown
    assert "Every output integer of every execution is the same on all 2,304 test vectors." in shown
    silicon = "The program runs on an open model of the unit."
    assert silicon not in shown
    assert silicon in text(render(changed(memory={**(facts.memory or {}), "silicon": silicon})))
    first = {"node": "features.7.bnorm", "vector": 17}
    row = {"name": "simulator", "vectors": 2304, "mismatches": 3, "first_difference": first}
    shown = text(render(changed(agreement={"vectors": 2304, "mismatches": 3, "executions": [row], "not_run": []})))
    assert "On 3 of 2,304 test vectors an execution computes other integers." in shown
    assert "layer features.7.bnorm , vector 17" in shown


def test_how_quantization_went_is_said(changed: Changed, facts: ReportFacts) -> None:
    said = "adam, highest rate 0.01, norms live for 7 of 10 epochs"
    assert f"Quantization: {said}." in text(
        render(changed(metrics_quantize={**facts.metrics_quantize, "recipe": said}))
    )


def test_bits_chosen_by_layer_are_a_table(facts: ReportFacts, changed: Changed) -> None:
    row = {"layer": "conv1", "weights": 40, "bits": 8, "sensitivity": {"2": 4.32896, "4": 0.06389, "8": 0.00067}}
    mixed = {"mean_bits": 3.94, "weight_bytes": 1784.0, "measured": True, "layers": [row]}
    shown = text(render(changed(metrics_quantize={**facts.metrics_quantize, "mixed": mixed})))
    assert "3.94 bits of a weight on average" in shown
    assert "conv1 40 8 4.32896 0.06389 0.00067" in " ".join(shown.split())
    assert "bits of a weight on average" not in text(render(facts))


def test_bits_of_the_edges_are_a_table_without_costs(facts: ReportFacts, changed: Changed) -> None:
    rows = [{"layer": name, "weights": 40, "bits": bits, "sensitivity": {}} for name, bits in (("in", 8), ("conv2", 2))]
    mixed = {"mean_bits": 5.0, "weight_bytes": 50.0, "measured": False, "layers": rows}
    config = {**facts.quantization_config, "weight_bits": 8, "requested_weight_bits": 2}
    metrics = {**facts.metrics_quantize, "mixed": mixed}
    shown = " ".join(text(render(changed(metrics_quantize=metrics, quantization_config=config))).split())
    assert "weights 5.00 bits on average, by layer: see below" in shown
    assert "5.00 bits of a weight on average: first and last layer have bits of their own" in shown
    assert "in 40 8 conv2 40 2" in shown
    assert "cost of 2" not in shown
    assert "asked for: 2" not in shown


def test_requested_and_effective_widths_are_shown(facts: ReportFacts) -> None:
    assert "activations 8 bits (asked for: 4)" in text(render(facts))


def test_stages_that_did_not_run_leave_a_page_that_says_so(facts: ReportFacts, changed: Changed) -> None:
    bare = changed(
        memory=None,
        agreement=None,
        costs=None,
        metrics_simulate=None,
        examples=(),
        integer_curves=(),
        metrics_train={**facts.metrics_train, "history": [], "test": None, "confusion": None, "roc": []},
        metrics_quantize={**facts.metrics_quantize, "history": [], "test": None, "confusion": None},
    )
    page = render(bare)
    outline(page)
    shown = text(page)
    assert "The program itself was not run: simulation is off in this run." in shown
    assert "The test split was not measured" in shown
    assert "no epoch was trained" in shown
    assert "Memory of the device" not in shown
    assert "ROC" not in shown


def test_a_device_without_an_accelerator_has_no_share_of_one(facts: ReportFacts, changed: Changed) -> None:
    placement = {"layers": [{**row, "unit": "cpu"} for row in LAYERS], "npu_share": None}
    costs = {**(facts.costs or {}), "macs_npu": 0, "macs_cpu": 91200, "npu_share": None}
    shown = text(render(changed(placement=placement, costs=costs, unit_name="CPU")))
    assert "The device has no accelerator: every layer runs on the CPU." in shown
    assert "Work for one window 91,200 multiply-accumulates on the CPU." in shown
    assert "of the multiplications run on" not in shown
    assert "91,200 multiply-accumulates on the NPU, 0 on the CPU." in text(render(facts))


def test_mode_0_says_float_everywhere(facts: ReportFacts, changed: Changed) -> None:
    off = "quantization: 0; set 2 for the NPU"
    part = {"vectors": 2304, "mismatches": 0, "comparison": "float"}
    close = {"name": "host C", "vectors": 2304, "mismatches": 0, "first_difference": None, "largest_difference": 3.1e-7}
    page = render(
        changed(
            metrics_quantize={"val": {"accuracy": 0.9913}, "test": None, "confusion": None, "history": []},
            quantization_config={"quantizer": "none", "method": "none", "weight_bits": 32, "activation_bits": 32},
            placement={
                "layers": [{**row, "unit": "cpu", "reason": off} for row in LAYERS],
                "npu_share": 0.0,
                "agreement": {**part, "executions": [{**close, "name": "ONNX Runtime"}]},
            },
            agreement={**part, "executions": [close], "not_run": [{"name": "core", "reason": "it runs integers only"}]},
            integer_curves=(),
        )
    )
    outline(page)
    shown = text(page)
    assert "accuracy, quantized – nothing was quantized" in shown
    assert "Nothing was quantized in this run" in shown
    assert "within 1e-5 of the vector&#39;s largest output" in shown
    assert "at most 3.1e-07 of the largest output" in shown
    assert shown.count(off) == 1 and f"for one reason: {off}" in shown
    assert "float32 this run 15,392 1 × 0 % 98.91 %" in shown
    assert "ROC" in shown and "integers</span>" not in page
    assert "packed for the device" not in shown and "ONNX does not shrink" not in shown


def test_the_int8_file_is_compared_with_the_exact_form(facts: ReportFacts, changed: Changed) -> None:
    int8 = {"vectors": 2304, "different": 12, "max_steps": 1}
    shown = text(render(changed(metrics_quantize={**facts.metrics_quantize, "int8": int8})))
    assert "12 of 2,304 vectors differ from the exact form, by at most 1 steps of the output" in shown
    assert "best_model_int8.onnx" not in text(render(facts))


def test_curves_have_areas_and_thresholds_of_the_integers(facts: ReportFacts) -> None:
    shown = text(render(facts))
    assert "arc 0.99871 0.99872 98.18 % 1.82 % ≥ 16 95.57 % ≥ 36 78.12 %" in shown


def test_equal_outputs_are_told_where_curve_and_matrix_count_otherwise(facts: ReportFacts, changed: Changed) -> None:
    note = "Where outputs are equal, a window counts for each of their classes here"
    alike = changed(metrics_quantize={**facts.metrics_quantize, "confusion": [[1131, 21], [21, 1131]]})
    assert note not in text(render(alike))
    for matrix in ([[1130, 22], [21, 1131]], [[1131, 21], [20, 1132]]):
        other = changed(metrics_quantize={**facts.metrics_quantize, "confusion": matrix})
        assert note in text(render(other))


def test_a_class_that_is_never_said_is_found_in_no_window(changed: Changed) -> None:
    never = {**roc_curve("arc", 0.7, 4), "points": [[0, 10, -3], [1152, 1152, -36]]}
    assert "arc 0.99871 0.70000 0.00 % 0.00 %" in text(render(changed(integer_curves=[never])))


def with_lines(facts: ReportFacts, columns: list[str], shape: list[int], lines: int, drawn: int = 256) -> str:
    spec = {**facts.feature_spec, "columns": columns, "shape": shape}
    channels = [[float(i), 0.0] for i in range(len(columns))]
    one = Example("arc", channels, 1, [[0.0] * drawn for _ in range(lines)])
    page = render(replace(facts, feature_spec=spec, examples=[one]))
    outline(page)
    return page


def legends(page: str) -> list[list[tuple[str, str]]]:
    """Colour and name of each line of the example windows' legends."""
    section = page.partition("A window of each class")[2].partition("</section>")[0]
    found = re.findall(r'<p class="legend">(.*?)</p>', section, flags=re.S)
    return [re.findall(r'<span class="(w\d)"></span>([^<]*)</span>', one) for one in found]


def test_the_channels_of_a_window_are_told_apart(facts: ReportFacts) -> None:
    page = with_lines(facts, ["x_g", "y_g", "<z>"], [3, 256, 1], 3)
    assert legends(page) == [[("w0", "x_g"), ("w1", "y_g"), ("w2", "&lt;z&gt;")]]
    assert page.count('class="line w2 thin"') == 2  # the window's and its feature's
    assert legends(render(facts)) == []  # one line


def test_every_colour_of_a_line_is_in_the_style_sheet(facts: ReportFacts) -> None:
    page = with_lines(facts, [f"c{i}" for i in range(8)], [8, 256, 1], 4)
    used = set(re.findall(r'class="(?:line )?(w\d)', page))
    assert used == {f"w{i}" for i in range(8)}
    assert all(f".line.{name}, .key > .{name} {{" in page for name in used)


def test_lines_of_a_feature_that_are_no_channels_have_names_of_their_own(facts: ReportFacts) -> None:
    page = with_lines(facts, ["x", "y"], [1, 256, 3], 3)
    names = [[("w0", "x"), ("w1", "y")], [(f"w{i}", f"channel 1, column {i + 1}") for i in range(3)]]
    assert legends(page) == names


def test_what_is_not_drawn_of_an_example_is_said(facts: ReportFacts) -> None:
    shown = text(with_lines(facts, [f"c{i}" for i in range(12)], [12, 1024, 1], 4, drawn=400))
    assert "Of the 12 channels the first 8 are drawn." in shown
    assert "Of the 12 lines of a feature the first 4 are drawn." in shown
    assert "Of the 1,024 values of each of its lines the first 400 are drawn." in shown
    assert "are drawn" not in text(render(facts))


def test_ten_classes_are_drawn_too(facts: ReportFacts, changed: Changed) -> None:
    names = [f"class {i}" for i in range(14)]
    page = render(
        changed(
            feature_spec={**facts.feature_spec, "classes": names, "counts_by_class": {"train": [1] * 14}},
            metrics_train={
                **facts.metrics_train,
                "confusion": [[int(i == j) * 9 for j in range(14)] for i in range(14)],
                "roc": [roc_curve(name, 0.9 + i / 1000, 0.5) for i, name in enumerate(names)],
            },
            metrics_quantize={**facts.metrics_quantize, "confusion": None},
            metrics_simulate=None,
        )
    )
    outline(page)
    assert page.count('aria-label="ROC of') == 12
    assert "2 more classes, with larger areas, are in the table only" in text(page)


def test_memory_is_said_by_part_and_drawn_to_scale(facts: ReportFacts) -> None:
    page = render(facts)
    assert "flash 4,288 1,048,576 0.4 % 1,044,288 weights 3,496" in text(page)
    assert "biases, multipliers, shifts and the input step 792" in text(page)
    assert "arena: activations 2,048" in text(page)
    assert 'aria-label="ram: 2,304 of 135,168 bytes used"' in page
    assert "memory fits flash 0.4 %, ram 1.7 %" in text(page)


def test_warnings_stand_with_who_said_them(facts: ReportFacts, changed: Changed) -> None:
    shown = text(render(facts))
    assert "What was warned config activation bits 4 -&gt; 8" in shown
    assert "ingest the data are synthetic extract the transforms run in this order" in shown
    quiet = changed(
        notes={**facts.notes, "warnings": []},
        splits={**facts.splits, "warnings": []},
        feature_spec={**facts.feature_spec, "warnings": []},
    )
    assert "Nothing was warned of, by the config or by any stage." in text(render(quiet))


def block(page: str) -> str:
    """What the element for programs holds."""
    (found,) = re.findall(r'<script type="application/json" id="facts">(.*?)</script>', page, flags=re.S)
    return str(found)


def hostile(value: Any) -> Any:
    """The same document with markup in every text and every key that is data."""
    if isinstance(value, dict):
        return {key: hostile(one) for key, one in value.items()}
    if isinstance(value, list):
        return [hostile(one) for one in value]
    return f'<script>alert("{value}")</script>' if isinstance(value, str) else value


def test_markup_in_any_text_stays_text(facts: ReportFacts, changed: Changed) -> None:
    names = ("feature_spec", "metrics_train", "placement", "notes", "agreement", "memory", "costs", "gate")
    documents = {name: hostile(getattr(facts, name)) for name in names}
    documents["splits"] = hostile(facts.splits)
    documents["quantization_config"] = hostile(facts.quantization_config)
    documents["integer_curves"] = hostile(list(facts.integer_curves))
    documents["trained_quantizer"] = ("<script>",)
    examples = [Example('"><script>alert(1)</script>', [[0.0, 1.0]])]
    page = render(changed(**documents, examples=examples, unit_name="<b>NPU</b>"))
    assert outline(page).outside == []
    assert page.count("<script") == page.count("</script") == 1
    assert "<b>NPU</b>" not in page
    assert json.loads(block(page))["warnings"]


def test_real_splits_with_fractions_and_a_seed_are_worded(facts: ReportFacts, changed: Changed) -> None:
    drawn = {
        **facts.splits,
        "method": "amongst_files",
        "seed": 42,
        "fractions": {"train": 0.6, "val": 0.3, "test": 0.1},
    }
    shown = text(render(changed(splits=drawn)))
    assert "each whole recording drawn into one split, seed 42" in shown
    assert "training 54 60 % 6,912" in shown
    assert "arc 27 3,456 50.0 % 13 1,728 50.0 % 9 1,152 50.0 %" in shown


def test_nothing_compared_is_not_called_agreement(changed: Changed) -> None:
    shown = text(render(changed(agreement=None, placement={"layers": LAYERS, "npu_share": 1.0})))
    assert "nothing ran No execution ran, so nothing was compared." in shown


def test_sections_of_the_overview_stand_in_the_order_of_a_config(facts: ReportFacts, changed: Changed) -> None:
    jumbled = dict(sorted(facts.notes["overview"].items()))
    shown = text(render(changed(notes={"warnings": [], "overview": jumbled})))
    places = [shown.index(f"{name}:") for name in ("common", "dataset", "training", "compilation")]
    assert places == sorted(places)


def test_lists_and_switches_of_the_features_are_written_as_a_person_would(facts: ReportFacts, changed: Changed) -> None:
    features = {"dc_remove": False, "feat_ext_transform": ["RAW_FE", "CONCAT"], "frame_size": 256, "stride_size": 1.0}
    overview = {**facts.notes["overview"], "data_processing_feature_extraction": features}
    shown = text(render(changed(notes={"warnings": [], "overview": overview})))
    assert "dc_remove false feat_ext_transform RAW_FE, CONCAT frame_size 256 stride_size 1" in shown


def test_what_was_mended_or_left_out_when_reading_is_said_with_the_data(facts: ReportFacts, changed: Changed) -> None:
    said = {**facts.splits, "warnings": ["two recordings were left out"]}
    assert "two recordings were left out" in render(changed(splits=said))
    assert "two recordings were left out" not in render(facts)
