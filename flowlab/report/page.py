"""One self-contained HTML page from the facts: no script, nothing fetched, the same bytes for the same facts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from flowlab.report import bars, costs, elsewhere, numbers, tables, widths
from flowlab.report.charts import ROC_SIZE, WAVES, memory_map, roc, roc_zoom, training_curve, wave
from flowlab.report.facts import Document, Example, ReportFacts
from flowlab.report.next_step import next_step

FOLDER = Path(__file__).parent
WIDE = 5  # classes from which tables by class become compact
ONE = 340  # the size of a curve that stands alone
MAX_CURVES = 12  # charts of curves: the worst are shown


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
    environment.filters.update(breakable=breakable, colour=bars.colour)
    if facts.elsewhere is not None:
        return environment.get_template("elsewhere.html").render(
            **_context(facts), **elsewhere.context(facts.elsewhere)
        )
    return environment.get_template("page.html").render(**_context(facts))


def breakable(text: str) -> Markup:
    """A name that may be broken behind its underscores, and nowhere else."""
    return Markup("_<wbr>").join(str(text).split("_"))


def _context(facts: ReportFacts) -> dict[str, Any]:
    weights, files = tables.size_rows(facts)
    layers = tables.layer_rows(facts)
    counts, checked = tables.proof(facts)
    regions = tables.memory_rows(facts)
    splits = tables.split_rows(facts)
    return {
        "facts": facts,
        "style": (FOLDER / "style.css").read_text(encoding="utf-8"),
        "numbers": numbers.block(facts),
        "warnings": numbers.warnings(facts),
        "next_step": next_step(facts),
        "device": tables.asked(facts, "common", "target_device"),
        "task": tables.asked(facts, "common", "task_type"),
        "model": tables.asked(facts, "training", "model_name"),
        "quantized": tables.quantized(facts),
        "accuracies": tables.accuracies(facts),
        "confusions": tables.confusions(facts),
        "compact": len(facts.feature_spec["classes"]) >= WIDE,
        "curves": curves(facts),
        "curve_rows": tables.curve_rows(facts),
        "ties": tables.ties(facts),
        "splits": splits,
        "balance": balance(facts, splits),
        "by_class": tables.class_rows(facts, splits),
        "proof_counts": counts,
        "proof_checked": checked,
        "examples": [_drawn(one) for one in facts.examples],
        "waves": waves(facts),
        "charts": charts(facts),
        "layers": layers,
        "counted": any(row["instructions"] is not None for row in layers),
        "modelled": any(row["model_cycles"] is not None for row in layers),
        "mapped": any(row["live_bytes"] is not None for row in layers),
        "cost_rows": costs.rows(facts.costs or {}),
        "has_padding": any(row.get("padding") for row in layers),
        "reasons": tables.common_reason(layers),
        "has_reason": any(row.get("reason") or row.get("cure") for row in layers),
        "on_npu": any(row.get("unit") == "npu" for row in layers),
        "weights": weights,
        "widths_in_bytes": widths.width_rows(facts),
        "beside_weights": widths.beside_weights(facts),
        "files": files,
        "regions": [{**row, **_bars(row)} for row in regions],
        "core_rows": tables.core_rows(facts),
        "arena": arena(facts),
        "overview": tables.overview(facts),
        "widths": tables.widths(facts),
        "mixed": tables.mixed_rows(facts),
        "features": tables.feature_rows(facts),
        "verdict": verdict(facts),
        "agreement": tables.agreement(facts),
        "method": tables.METHODS.get(str(facts.splits.get("method")), str(facts.splits.get("method"))),
    }


def charts(facts: ReportFacts) -> dict[str, Any]:
    """Loss and accuracy of both splits over the epochs; those of quantization follow those of the float network."""
    floats = list(facts.metrics_train.get("history") or ())
    quantized = list(facts.metrics_quantize.get("history") or ())
    kept = (
        int(facts.metrics_train.get("best_epoch") or 0),
        int(facts.metrics_quantize.get("best_epoch") or 0),
    )
    return {
        "accuracy": training_curve("accuracy", floats, quantized, kept),
        "loss": training_curve("loss", floats, quantized, kept),
        "trained": bool(floats),
        "quantized": bool(quantized),
    }


def curves(facts: ReportFacts) -> dict[str, Any]:
    """A chart for each class with the lines of both networks, all zoomed alike; the worst where they are many."""
    floats = [one for one in facts.metrics_train.get("roc") or () if one["points"] and one["auc"] is not None]
    integers = {str(one["class"]): one for one in facts.integer_curves if one["points"] and one["auc"] is not None}
    shown = sorted(sorted(floats, key=lambda one: float(one["auc"]))[:MAX_CURVES], key=floats.index)
    both = [*shown, *(integers[name] for name in (str(one["class"]) for one in shown) if name in integers)]
    zoom = roc_zoom(both)
    drawn = []
    for one in shown:
        name = str(one["class"])
        lines: list[tuple[str, Document]] = [("a", one)]
        if name in integers:
            lines.append(("b", integers[name]))
        drawn.append((name, roc(f"ROC of {name} against the rest", lines, zoom, ONE if len(shown) == 1 else ROC_SIZE)))
    return {"drawn": drawn, "zoom": zoom, "left_out": len(floats) - len(shown), "integers": bool(integers)}


def balance(facts: ReportFacts, splits: Sequence[Document]) -> list[tuple[str, Any]]:
    """A bar for each split: the shares of its classes, by windows where they are counted, else by recordings."""
    classes = [str(name) for name in facts.feature_spec["classes"]]
    found = []
    for row in splits:
        counts = [count for count, _ in row["windows_by_class"]] or row["by_class"]
        what = "windows" if row["windows_by_class"] else "recordings"
        parts = [(f"{name}: {count:,} {what}", count) for name, count in zip(classes, counts, strict=False)]
        title = f"{row['split']} split, {what}: " + ", ".join(text for text, _ in parts)
        found.append((row["split"], bars.stacked(title, parts)))
    return found


def waves(facts: ReportFacts) -> dict[str, Any]:
    """What the lines of the example windows and of their features are, in the colours' order; of one nothing is said.

    ``features`` are empty where their lines are the windows' channels too. ``left_out`` are sentences: what of them is
    not drawn.
    """
    if facts.elsewhere is not None:
        return {"windows": [], "features": [], "left_out": []}
    columns = [str(name) for name in facts.feature_spec.get("columns") or ()]
    channels, height, width = facts.feature_spec["shape"]
    drawn = next((one.feature for one in facts.examples if one.feature), ())
    parts, length = (1, width) if height == 1 else (width, height)  # lines of each channel, and their values
    names = [
        f"channel {n // parts + 1}" + (f", column {n % parts + 1}" if parts > 1 else "") for n in range(len(drawn))
    ]
    alike = channels == len(columns) and parts == 1
    left_out = []
    if len(columns) > WAVES:
        left_out.append(f"Of the {len(columns):,} channels the first {WAVES} are drawn.")
    if drawn and channels * parts > len(drawn):
        left_out.append(f"Of the {channels * parts:,} lines of a feature the first {len(drawn)} are drawn.")
    if drawn and length > len(drawn[0]):
        left_out.append(f"Of the {length:,} values of each of its lines the first {len(drawn[0]):,} are drawn.")
    return {
        "windows": columns[:WAVES] if len(columns) > 1 else [],
        "features": names if len(names) > 1 and not alike else [],
        "left_out": left_out,
    }


def arena(facts: ReportFacts) -> dict[str, Any] | None:
    """The memory map, drawn, with its bytes and its tensors; None where no program has one.

    ``own``: bytes of the arena that the device's C plans for itself, where they are others.
    """
    found = (facts.memory or {}).get("arena")
    if not found or not found["tensors"]:
        return None
    title = f"arena of {found['size']:,} bytes while {len(found['layers'])} layers run"
    planned = ((facts.memory or {}).get("regions") or {}).get("ram", {}).get("arena")
    return {
        "drawn": memory_map(title, found["size"], len(found["layers"]), found["tensors"]),
        "size": found["size"],
        "tensors": found["tensors"],
        "own": planned if planned != found["size"] else None,
    }


def verdict(facts: ReportFacts) -> dict[str, Any]:
    """Whether everything that ran agrees: ``state`` is good, bad or open, with a sentence."""
    found = tables.agreement(facts)
    if not found["executions"]:
        return {"state": "open", "short": "nothing ran", "text": "No execution ran, so nothing was compared."}
    vectors, mismatches = found["vectors"], found["mismatches"]
    short = f"{mismatches:,} mismatches"
    if found["floats"]:
        text = (
            f"On all {vectors:,} test vectors every execution is within 1e-5 of the vector's largest output, and says "
            "the same class wherever the two best differ by more than that. Floats are not compared to the bit."
        )
        wrong = "an execution differs by more than that"
    else:
        text = f"Every output integer of every execution is the same on all {vectors:,} test vectors."
        wrong = "an execution computes other integers"
    if mismatches:
        text = f"On {mismatches:,} of {vectors:,} test vectors {wrong}. Use none of this."
    elif facts.agreement is None:
        text += " The program itself was not run: simulation is off in this run."
    text += f" {silicon}" if (silicon := (facts.memory or {}).get("silicon")) else ""
    return {"state": "bad" if mismatches else "good" if facts.agreement else "open", "short": short, "text": text}


def _drawn(one: Example) -> tuple[str, Any, Any]:
    """An example's window and its feature, drawn."""
    every = f" (one of {one.step} is drawn)" if one.step > 1 else ""
    window = wave(f"window of class {one.label}", one.channels[:WAVES], f"sample{every}", one.step)
    feature = wave(f"feature of class {one.label}", one.feature, "place in the feature") if one.feature else None
    return one.label, window, feature


def _bars(row: Document) -> dict[str, Any]:
    """A region's memory to its own scale, and what of it is used, by part."""
    used = bars.stacked(
        f"{row['region']}: {row['needed']:,} of {row['available'] or 0:,} bytes used",
        row["parts"],
        row["available"] or row["needed"],
    )
    return {"to_scale": used, "by_part": bars.stacked(f"{row['region']}: what is used, by part", row["parts"])}
