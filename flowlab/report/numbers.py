"""What a run found, as the page's numbers for programs and as ``flowlab run --json`` says it. Light."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flowlab.contracts import BITS
from flowlab.report import costs
from flowlab.report.class_falls import worst_fall

if TYPE_CHECKING:
    from markupsafe import Markup

    from flowlab.report.facts import ReportFacts

Document = Mapping[str, Any]
FLOAT_BYTES = 4  # of one float32 parameter


def numbers(facts: ReportFacts) -> dict[str, Any]:
    """What a run found, under the keys that ``flowlab run --json`` has for it.

    ``metrics``, ``quantization``, ``agreement``, ``sizes``, ``measured``, ``costs`` and ``warnings``.
    """
    parts = (facts.placement.get("agreement"), facts.agreement)
    return {
        "metrics": metrics(facts.metrics_train, facts.metrics_quantize, facts.metrics_simulate or {}),
        "quantization": quantization(facts.metrics_train, facts.metrics_quantize),
        "agreement": agreement([part for part in parts if part]),
        "sizes": sizes(facts.metrics_train, facts.memory or {}, facts.file_bytes.get("quantized_onnx")),
        "measured": (facts.costs or {}).get("measured", {}),
        "costs": costs.foreseen(facts.costs or {}),
        "warnings": list(dict.fromkeys(text for texts in warnings(facts).values() for text in texts)),
    }


def warnings(facts: ReportFacts) -> dict[str, list[str]]:
    """What was warned, by who said it: the config, then the stages in order; a sentence stands where it is new."""
    documents: Mapping[str, Mapping[str, Any] | None] = {
        "config": facts.notes,
        "ingest": facts.splits,
        "extract": facts.feature_spec,
        "import": facts.elsewhere,
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


def metrics(train: Document, quantized: Document, simulated: Document) -> dict[str, Any]:
    """On the test split, by the network's form; None where it was not measured."""
    return {"float": train.get("test"), "quantized": quantized.get("test"), "simulated": simulated.get("test")}


def quantization(train: Document, quantized: Document) -> dict[str, Any]:
    """Quantizer, method and widths, how the second ONNX file differs from the exact one, and the `worst_fall`."""
    fall = worst_fall(train, quantized)
    return {
        **quantized.get("quantization", {}),
        "int8": quantized.get("int8"),
        "worst_class_fall": fall.to_json() if fall else None,
    }


def agreement(parts: Sequence[Document]) -> dict[str, Any]:
    """What all stages that compared executions say together: names, the most vectors, the sum of mismatches.

    Returns ``vectors``, ``mismatches``, ``comparison`` (how: ``bit for bit``, or ``float`` within a tolerance),
    ``executions`` (names that ran) and ``not_run`` (name and reason).
    """
    names = [one["name"] if isinstance(one, Mapping) else str(one) for one in _all(parts, "executions")]
    return {
        "vectors": max((part.get("vectors", 0) for part in parts), default=0),
        "mismatches": sum(part.get("mismatches", 0) for part in parts),
        "comparison": next((part["comparison"] for part in parts if "comparison" in part), BITS),
        "executions": list(dict.fromkeys(names)),
        "not_run": [{"name": one["name"], "reason": one["reason"]} for one in _all(parts, "not_run")],
    }


def sizes(train: Document, memory: Document, onnx_bytes: int | None) -> dict[str, int | None]:
    """In bytes: the float parameters, the packed weights, the ONNX file, the program's file."""
    parameters = train.get("parameters")
    return {
        "float_bytes": None if parameters is None else FLOAT_BYTES * parameters,
        "packed_bytes": memory.get("packed_bytes"),
        "onnx_bytes": onnx_bytes,
        "program_bytes": memory.get("program_bytes"),
    }


def _all(parts: Sequence[Document], key: str) -> Iterable[Any]:
    return (one for part in parts for one in part.get(key, ()))


def block(facts: ReportFacts) -> Markup:
    """The numbers as JSON that may stand in a page: no text in it can end the element around it."""
    from markupsafe import Markup

    text = json.dumps(numbers(facts), ensure_ascii=True, sort_keys=True, indent=1)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704 - escaped above
