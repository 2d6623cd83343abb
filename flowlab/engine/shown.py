"""What a dashboard shows of a run beside its stages: tables, pictures and the report's place. No Prefect here."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from flowlab.engine.result import RunResult
    from flowlab.engine.sweep_result import SweepResult

FORMS = ("float", "quantized", "simulated")
LEGEND = (
    "Solid: validation split. Dashed: training split. The first line is the float network, the second, behind the "
    "dashed rule, the quantized one. Rings: the epochs that were kept."
)
Kind = Literal["table", "markdown", "link"]


@dataclass(frozen=True)
class Shown:
    """One artifact. ``value`` is rows for a table, text for markdown, address and text for a link."""

    kind: Kind
    key: str
    value: Any
    description: str


def key_of(dataset: str, what: str) -> str:
    """An artifact's key: ``<dataset>-<what>`` in small letters, digits and dashes. Equal keys are one series."""
    return re.sub(r"[^a-z0-9]+", "-", f"{dataset}-{what}".lower()).strip("-")


def shown_of(result: RunResult) -> tuple[Shown, ...]:
    """Everything that is published of a finished run; what no stage made is left out."""
    dataset = str(result.about.get("dataset", ""))
    found: list[Shown] = []

    def add(kind: Kind, what: str, value: Any, description: str) -> None:
        found.append(Shown(kind, key_of(dataset, what), value, description))

    add("table", "metrics", metrics_rows(result), f"Run {result.run}: on the test split")
    add("markdown", "summary", summary_text(result), f"Run {result.run}: what it made")
    for what, title, text in pictures(result):
        add("markdown", what, text, f"Run {result.run}: {title}")
    if result.report is not None:
        # the path is the link's text: a browser does not follow a link from a server to a file
        add("link", "report", (result.report.as_uri(), str(result.report)), f"Run {result.run}: the report")
    return tuple(found)


def sweep_shown(result: SweepResult) -> tuple[Shown, ...]:
    """What is published of a sweep: its table, what failed, and where its page lies."""
    from flowlab.report.sweep_rows import shown_rows

    header, rows = shown_rows(result.table)
    found = [dict(zip(header, row, strict=True)) for row in rows]
    about = f"Sweep {result.sweep}, {result.run}"
    shown = [Shown("table", key_of(result.sweep, "sweep"), found, f"{about}: on the test split")]
    if broken := [one for one in result.cells if one.error is not None]:
        text = "\n".join(f"- {one.state}: {_cell(str(one.cell))}: {_cell(one.reason)}" for one in broken)
        shown.append(Shown("markdown", key_of(result.sweep, "failed"), text, f"{about}: what failed"))
    page = result.folder / "sweep.html"
    shown.append(Shown("link", key_of(result.sweep, "page"), (page.as_uri(), str(page)), f"{about}: the page"))
    return tuple(shown)


def metrics_rows(result: RunResult) -> list[dict[str, Any]]:
    """One row for each form of the network that was measured."""
    rows = []
    for form in FORMS:
        values = result.metrics.get(form)
        if values:
            rounded = {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}
            rows.append({"network": form, **rounded})
    return rows


def summary_text(result: RunResult) -> str:
    """The run's lines as a table, its gates and its warnings."""
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {_cell(text)} |" for name, text in result.summary())]
    if result.gates:
        lines += [
            "",
            "Gates:",
            "",
            *(f"- {'passed' if gate.passed else 'MISSED'}: {gate.name}" for gate in result.gates),
        ]
        lines += [f"- {_cell(str(gate.missed))}" for gate in result.gates if not gate.passed]
    if result.warnings:
        lines += ["", "Warnings:", "", *(f"- {_cell(warning)}" for warning in result.warnings)]
    return "\n".join(lines)


def pictures(result: RunResult) -> list[tuple[str, str, str]]:
    """What is drawn: a word for the key, a title, and Markdown with pictures in it."""
    from flowlab.report import charts

    train, quantize = _read(result, "metrics_train"), _read(result, "metrics_quantize")
    drawn: list[tuple[str, str, str]] = []
    history: Sequence[Mapping[str, Any]] = train.get("history") or ()
    if history:
        kept = (int(train.get("best_epoch") or 0), int(quantize.get("best_epoch") or 0))
        after = quantize.get("history") or ()
        curves = {
            f"{quantity.capitalize()} by epoch": charts.training_curve(quantity, history, after, kept)
            for quantity in _quantities(history[0])
        }
        drawn.append(("training", "training curves", _page(curves, LEGEND)))
    last = _read(result, "metrics_simulate") or quantize or train
    classes, matrix = last.get("classes") or train.get("classes"), last.get("confusion")
    if classes and matrix:
        title = "Test split, " + ("simulated program" if "metrics_simulate" in result.artifacts else "network")
        picture = charts.confusion(title, classes, matrix)
        drawn.append(("confusion", "confusion matrix", _page({title: picture}, "Rows: the true class. Columns: said.")))
    return drawn


def _page(pictures_by_title: Mapping[str, str], legend: str) -> str:
    from flowlab.report.charts import standalone

    parts = []
    for title, svg in pictures_by_title.items():
        parts += [f"## {_cell(title)}", f"![{_cell(title)}]({_data_uri(standalone(svg))})"]
    return "\n\n".join([*parts, legend])


def _quantities(row: Mapping[str, Any]) -> list[str]:
    return [name.removeprefix("val_") for name in row if name.startswith("val_")]


def _read(result: RunResult, role: str) -> dict[str, Any]:
    for file in result.artifacts.get(role, ()):
        if file["name"].endswith(".json"):
            with open(file["path"], encoding="utf-8") as stream:  # noqa: PTH123 - the path is text
                value = json.load(stream)
            return value if isinstance(value, dict) else {}
    return {}


def _data_uri(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _cell(text: str) -> str:
    """Text that no table of Markdown takes apart."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
