"""The page of a network that was trained elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowlab.report import elsewhere
from flowlab.report.facts import ReportFacts
from flowlab.report.page import render

STORY = {
    "name": "mine.onnx", "form": "ONNX", "integers": False, "exact": False, "by": "the file in ONNX Runtime",
    "parameters": 3848, "shape": [2, 64], "given": 400, "calibrated": 266, "windows": 134, "apart": True,
    "warnings": ["mine.onnx: ends in Softmax, which is left out"],
    "standing": {"agree": 0.985, "error": 0.0223, "sentence": "", "equal": None, "steps": None},
}  # fmt: skip
KEPT = {**STORY, "integers": True, "standing": {**STORY["standing"], "agree": None, "error": 0.0, "equal": 130,
        "sentence": "equal to the file in ONNX Runtime in 130 of 134 windows"}}  # fmt: skip


@pytest.fixture
def page(changed: Callable[..., ReportFacts]) -> Callable[[dict[str, Any]], str]:
    def shown(story: dict[str, Any], **documents: Any) -> str:
        quantized = {"warnings": [], "quantization": {}}
        spec = {"shape": story["shape"], "window": [], "options": {}, "classes": []}
        nothing = {"feature_spec": spec, "splits": {}, "gate": {"problems": []}, "metrics_quantize": quantized}
        train = {} if story["integers"] else {"parameters": story["parameters"]}
        config = {} if story["integers"] else {"method": "PTQ", "weight_bits": 8, "calibration_count": 266}
        more = {"metrics_train": train, "quantization_config": config, "metrics_simulate": None, "examples": ()}
        return render(changed(elsewhere=story, integer_curves=(), packs_below_8=False, **nothing, **more, **documents))

    return shown


def test_what_only_a_training_knows_is_left_out_and_said(page: Callable[..., str]) -> None:
    shown = page(STORY)
    assert "no accuracy is known" in shown and "98.5%" in shown and "0.0223" in shown
    for absent in ('id="accuracy"', 'id="training"', 'id="data"', 'id="next"', 'id="widths"', "float ONNX"):
        assert absent not in shown
    for there in ('id="layers"', 'id="sizes"', 'id="arena"', 'id="agreement"', "266 windows of its own inputs"):
        assert there in shown
    assert "mine.onnx: ends in Softmax" in shown
    assert "2 × 64" in shown and "3,848, batch norms included" in shown


def test_every_link_of_the_page_leads_somewhere(page: Callable[..., str]) -> None:
    import re

    shown = page(STORY)
    links = set(re.findall(r'href="#([\w-]+)"', shown))
    assert links and links <= set(re.findall(r'id="([\w-]+)"', shown))


def test_integers_of_another_tool_s_say_how_many_windows_are_equal(page: Callable[..., str]) -> None:
    shown = page(KEPT)
    assert "130 of 134" in shown and "The integers are the file&#39;s own." in shown
    assert "The quantized ONNX does not shrink" not in shown and "3,848" not in shown


def test_too_few_windows_are_said_to_be_the_same() -> None:
    assert elsewhere.sentence({**STORY, "apart": False}).endswith("266 windows; these are the same.")
    assert elsewhere.sentence(STORY).endswith("these are others.")
    one = {**STORY, "standing": {**STORY["standing"], "agree": None}}
    assert "largest output" not in elsewhere.sentence(one) and len(elsewhere.tiles(one)) == 1


def test_names_from_outside_are_escaped(page: Callable[..., str]) -> None:
    shown = page({**STORY, "name": "<b>.onnx"})
    assert "<b>.onnx" not in shown and "&lt;b&gt;.onnx" in shown
