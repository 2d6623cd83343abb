"""One self-contained HTML page from the facts: no script, nothing fetched, the same bytes for the same facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowlab.report import tables
from flowlab.report.charts import Line, curve, wave
from flowlab.report.facts import Document, ReportFacts

FOLDER = Path(__file__).parent


def render(facts: ReportFacts) -> str:
    """The report as HTML text. Every value that comes from outside is escaped by the template."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=tables.percent, number=tables.number, bytes=tables.bytes_text)
    return environment.get_template("page.html").render(**_context(facts))


def _context(facts: ReportFacts) -> dict[str, Any]:
    weights, files = tables.size_rows(facts)
    layers = tables.layer_rows(facts)
    counts, checked = tables.proof(facts)
    return {
        "facts": facts,
        "style": (FOLDER / "style.css").read_text(encoding="utf-8"),
        "device": tables.asked(facts, "common", "target_device"),
        "task": tables.asked(facts, "common", "task_type"),
        "model": tables.asked(facts, "training", "model_name"),
        "accuracies": tables.accuracies(facts),
        "confusions": tables.confusions(facts),
        "splits": tables.split_rows(facts),
        "proof_counts": counts,
        "proof_checked": checked,
        "examples": [(one.label, wave(one.label, one.channels)) for one in facts.examples],
        "charts": charts(facts),
        "layers": layers,
        "has_padding": any(row.get("padding") for row in layers),
        "has_reason": any(row.get("reason") or row.get("cure") for row in layers),
        "on_npu": any(row.get("unit") == "npu" for row in layers),
        "weights": weights,
        "files": files,
        "regions": tables.memory_rows(facts),
        "overview": tables.overview(facts),
        "widths": tables.widths(facts),
        "features": tables.feature_rows(facts),
        "verdict": verdict(facts),
        "agreement": tables.agreement(facts),
        "method": tables.METHODS.get(str(facts.splits.get("method")), str(facts.splits.get("method"))),
    }


def charts(facts: ReportFacts) -> dict[str, Any]:
    """Loss and validation accuracy over the epochs; the epochs of quantization follow those of the float network."""
    floats = list(facts.metrics_train.get("history") or ())
    quantized = list(facts.metrics_quantize.get("history") or ())
    lines = {}
    for key in ("train_loss", "val_accuracy"):
        lines[key] = [
            Line("float", "a", _points(floats, key, 0)),
            Line("quantized", "b", _points(quantized, key, len(floats))),
        ]
    marks = []
    for document, rows, before, name in (
        (facts.metrics_train, floats, 0, "float"),
        (facts.metrics_quantize, quantized, len(floats), "quantized"),
    ):
        best = int(document.get("best_epoch") or 0)
        for x, y in _points(rows, "val_accuracy", before):
            if best and x == best + before:
                marks.append((x, y, f"best epoch of the {name} network: {best}, {tables.percent(y)}"))
    return {
        "accuracy": curve("Validation accuracy", lines["val_accuracy"], marks=marks),
        "loss": curve("Training loss", lines["train_loss"]),
        "trained": bool(floats),
        "quantized": bool(quantized),
    }


def verdict(facts: ReportFacts) -> dict[str, Any]:
    """Whether everything that ran agrees: ``state`` is good, bad or open, with a sentence."""
    found = tables.agreement(facts)
    if not found["executions"]:
        return {"state": "open", "short": "nothing ran", "text": "No execution ran, so nothing was compared."}
    vectors, mismatches = found["vectors"], found["mismatches"]
    short = f"{mismatches:,} mismatches"
    text = f"Every output integer of every execution is the same on all {vectors:,} test vectors."
    if mismatches:
        text = f"On {mismatches:,} of {vectors:,} test vectors an execution computes other integers. Use none of this."
    elif facts.agreement is None:
        text += " The program itself was not run: simulation is off in this run."
    return {"state": "bad" if mismatches else "good" if facts.agreement else "open", "short": short, "text": text}


def _points(rows: list[Document], key: str, before: int) -> list[tuple[float, float]]:
    return [
        (float(row.get("epoch", i + 1)) + before, float(row[key]))
        for i, row in enumerate(rows)
        if row.get(key) is not None
    ]
