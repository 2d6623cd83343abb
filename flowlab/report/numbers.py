"""The numbers of the page for programs: the same that ``flowlab run --json`` prints, from the same small files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from flowlab.report.facts import ReportFacts

FLOAT_BYTES = 4  # of one float32 parameter
BITS = "bit for bit"  # how integers are compared


def numbers(facts: ReportFacts) -> dict[str, Any]:
    """What a run found, under the keys that ``flowlab run --json`` has for it.

    ``metrics``, ``quantization``, ``agreement``, ``sizes`` and ``warnings``.
    """
    memory, parameters = facts.memory or {}, facts.metrics_train.get("parameters")
    return {
        "metrics": {
            "float": facts.metrics_train.get("test"),
            "quantized": facts.metrics_quantize.get("test"),
            "simulated": (facts.metrics_simulate or {}).get("test"),
        },
        "quantization": {
            **facts.metrics_quantize.get("quantization", {}),
            "int8": facts.metrics_quantize.get("int8"),
        },
        "agreement": _agreement(facts),
        "sizes": {
            "float_bytes": None if parameters is None else FLOAT_BYTES * parameters,
            "packed_bytes": memory.get("packed_bytes"),
            "onnx_bytes": facts.file_bytes.get("quantized_onnx"),
            "program_bytes": memory.get("program_bytes"),
        },
        "warnings": list(dict.fromkeys(text for texts in warnings(facts).values() for text in texts)),
    }


def warnings(facts: ReportFacts) -> dict[str, list[str]]:
    """What was warned, by who said it: the config, then the stages in order; a sentence stands where it is new."""
    documents: Mapping[str, Mapping[str, Any] | None] = {
        "config": facts.notes,
        "ingest": facts.splits,
        "extract": facts.feature_spec,
        "inspect": facts.gate,
        "train": facts.metrics_train,
        "quantize": facts.metrics_quantize,
        "validate": facts.placement,
        "compile": facts.memory,
    }
    said: dict[str, list[str]] = {}
    seen: set[str] = set()
    for who, document in documents.items():
        new = [str(text) for text in (document or {}).get("warnings") or () if text not in seen]
        seen.update(new)
        if new:
            said[who] = list(dict.fromkeys(new))
    return said


def block(facts: ReportFacts) -> Markup:
    """The numbers as JSON that may stand in a page: no text in it can end the element around it."""
    text = json.dumps(numbers(facts), ensure_ascii=True, sort_keys=True, indent=1)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704 - escaped above


def _agreement(facts: ReportFacts) -> dict[str, Any]:
    found = [part for part in (facts.placement.get("agreement"), facts.agreement) if part]
    return {
        "vectors": max((part.get("vectors", 0) for part in found), default=0),
        "mismatches": sum(part.get("mismatches", 0) for part in found),
        "comparison": next((part["comparison"] for part in found if "comparison" in part), BITS),
        "executions": list(dict.fromkeys(str(one["name"]) for part in found for one in part.get("executions", ()))),
        "not_run": [
            {"name": one["name"], "reason": one["reason"]} for part in found for one in part.get("not_run", ())
        ],
    }
