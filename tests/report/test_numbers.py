from __future__ import annotations

import json
from collections.abc import Callable

from flowlab.report.facts import ReportFacts
from flowlab.report.numbers import block, numbers, warnings
from flowlab.report.page import render
from tests.report import test_page

Changed = Callable[..., ReportFacts]


def test_the_page_carries_its_numbers_for_programs(facts: ReportFacts) -> None:
    read = json.loads(test_page.block(render(facts)))
    assert read == json.loads(json.dumps(numbers(facts)))
    assert read["metrics"]["quantized"] == facts.metrics_quantize["test"]
    assert read["sizes"] == {
        "float_bytes": 15392,
        "packed_bytes": 3496,
        "onnx_bytes": 19544,
        "program_bytes": 4500,
    }
    assert read["agreement"]["executions"] == ["onnxruntime", "torch", "simulator", "host C"]


def test_a_sentence_stands_with_who_said_it_first(facts: ReportFacts, changed: Changed) -> None:
    twice = changed(
        gate={**facts.gate, "warnings": ["layer 'x' runs on the CPU"]},
        placement={**facts.placement, "warnings": ["layer 'x' runs on the CPU", "and another"]},
    )
    said = warnings(twice)
    assert list(said) == ["config", "ingest", "extract", "inspect", "validate"]
    assert said["validate"] == ["and another"]
    assert numbers(twice)["warnings"] == [text for texts in said.values() for text in texts]


def test_no_text_in_it_can_end_the_element_around_it(changed: Changed) -> None:
    hostile = changed(notes={"warnings": ["</script><script>alert(1)</script>", "<!-- & -->"]})
    written = str(block(hostile))
    assert not set("<>&") & set(written)
    assert json.loads(written)["warnings"][:2] == ["</script><script>alert(1)</script>", "<!-- & -->"]


def test_what_did_not_run_is_null(changed: Changed) -> None:
    bare = numbers(changed(memory=None, agreement=None, costs=None, metrics_simulate=None))
    assert bare["metrics"]["simulated"] is None
    assert bare["sizes"]["packed_bytes"] is None and bare["sizes"]["program_bytes"] is None
    assert bare["agreement"]["not_run"] == []
