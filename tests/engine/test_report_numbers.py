"""What `flowlab run --json` says and what the report's page carries are collected apart, and are equal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowlab.engine.local import Done
from flowlab.engine.result import result_of
from flowlab.report.facts import ReportFacts
from flowlab.report.page import render
from flowlab.store.records import Record, Stored
from flowlab.store.store import Store
from tests.report.conftest import make_facts
from tests.report.test_page import block

# Which stage's record holds which document, and in which of its metrics the agreement stands.
MADE_BY = {
    "ingest": "splits",
    "extract": "feature_spec",
    "inspect": "gate",
    "train": "metrics_train",
    "quantize": "metrics_quantize",
    "validate": "placement",
    "compile": "memory",
    "simulate": "metrics_simulate",
}


def done(facts: ReportFacts, store: Store) -> dict[str, Done]:
    """Records as the stages would have left them."""
    found = {}
    for stage, role in MADE_BY.items():
        document: Mapping[str, Any] | None = getattr(facts, role)
        if document is None:
            continue
        sha, size = store.objects.add_bytes(json.dumps(document).encode())
        outputs = {role: {f"{role}.json": Stored(sha, size)}}
        if stage == "quantize":
            outputs["quantized_onnx"] = {"best_model.onnx": Stored(sha, facts.file_bytes["quantized_onnx"])}
        if stage == "simulate":
            outputs["costs"] = {"costs.json": Stored(*store.objects.add_bytes(json.dumps(facts.costs).encode()))}
        agreement = facts.placement.get("agreement") if stage == "validate" else facts.agreement
        metrics = {"agreement": agreement} if stage in {"validate", "simulate"} and agreement else {}
        record = Record(stage, "", {}, outputs, metrics, tuple(document.get("warnings", ())), {})
        found[stage] = Done(record, cached=False, seconds=0.0)
    return found


def warned(facts: ReportFacts) -> ReportFacts:
    layer = "layer 'x' runs on the CPU"
    return replace(
        facts,
        gate={**facts.gate, "warnings": [layer]},
        metrics_train={**facts.metrics_train, "warnings": ["THE NETWORK HAS LEARNED NOTHING"]},
        metrics_quantize={**facts.metrics_quantize, "warnings": ["shift of layer 'x' is at its limit"]},
        placement={**facts.placement, "warnings": [layer, "layer 'y' runs on the CPU"]},
        memory={**(facts.memory or {}), "warnings": ["2 golden vectors ship without their raw window"]},
    )


def unmeasured(facts: ReportFacts) -> ReportFacts:
    return replace(
        facts,
        metrics_train={**facts.metrics_train, "test": None},
        metrics_quantize={**facts.metrics_quantize, "test": None},
        metrics_simulate=None,
        costs=None,
        agreement=None,
        memory=None,
    )


@pytest.mark.parametrize("change", [lambda facts: facts, warned, unmeasured], ids=["as it is", "warned", "unmeasured"])
def test_the_numbers_of_the_page_are_those_of_json(tmp_path: Path, change: Any) -> None:
    facts: ReportFacts = change(make_facts())
    store = Store(tmp_path)
    result = result_of(
        "a run",
        "local",
        done(facts, store),
        store,
        folder=tmp_path,
        artifacts={},
        warnings=tuple(facts.notes["warnings"]),
        about={},
    )
    printed = json.loads(json.dumps(result.to_json()))
    page = json.loads(block(render(facts)))
    assert page == {key: printed[key] for key in page}
    assert set(page) == {"metrics", "quantization", "agreement", "sizes", "measured", "costs", "warnings"}
