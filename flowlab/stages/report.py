"""Stage ``report``: from the small files of all stages to one page for people."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowlab.contracts import Stage, StageJob, StageResult

if TYPE_CHECKING:
    from flowlab.report.facts import Example

MAX_POINTS = 400  # of a drawn window: more is not seen
PACKS = "opt_for_space=true"  # in the compiler's target string, key compilation.target
SIZES = ("float_onnx", "quantized_onnx")
DOCUMENTS = (
    "feature_spec",
    "splits",
    "gate",
    "metrics_train",
    "metrics_quantize",
    "placement",
    "notes",
    "memory",
    "agreement",
    "costs",
    "metrics_simulate",
)


@dataclass(frozen=True)
class ReportOptions:
    """How the device's accelerator is called, and whether the compile preset packs weights below 8 bits."""

    unit_name: str
    packs_below_8: bool


def options(config: Any, catalogue: Any) -> ReportOptions:
    """Copy them from the target and from what the compile preset asks of the compiler."""
    target = catalogue.get("target", config.common.target_device)
    return ReportOptions(target.unit_name, PACKS in (config.compilation.target or ""))


STAGE = Stage(
    name="report",
    run="flowlab.stages.report:run",
    needs=(
        "feature_spec",
        "splits",
        "windows",
        "gate",
        "metrics_train",
        "metrics_quantize",
        "quantization_config",
        "float_onnx",
        "quantized_onnx",
        "placement",
        "notes",
    ),
    optional=("memory", "agreement", "costs", "metrics_simulate"),
    makes=("report",),
    options=options,
    code=("flowlab.stages.report", "flowlab.report", "flowlab.signal.features_file"),
    libraries=("jinja2", "numpy", "pyarrow"),
)


def run(job: StageJob) -> StageResult:
    """Write ``report.html``: the same inputs give the same bytes."""
    import yaml

    from flowlab.report.facts import ReportFacts
    from flowlab.report.page import render

    asked: ReportOptions = job.options
    documents = {
        role: json.loads(job.input(role).read_text(encoding="utf-8")) for role in DOCUMENTS if role in job.inputs
    }
    facts = ReportFacts(
        **documents,
        quantization_config=yaml.safe_load(job.input("quantization_config").read_text(encoding="utf-8")),
        examples=_examples(job, documents["feature_spec"]["classes"]),
        file_bytes={role: job.input(role).stat().st_size for role in SIZES},
        unit_name=asked.unit_name,
        packs_below_8=asked.packs_below_8,
    )
    path = job.out / "report.html"
    path.write_text(render(facts), encoding="utf-8")
    return StageResult(files={"report": {"report.html": path}})


def _examples(job: StageJob, classes: list[str]) -> list[Example]:
    """The first raw window of each class, thinned out to what can be seen."""
    from flowlab.report.facts import Example
    from flowlab.signal import features_file

    table = features_file.read(job.input("windows"))
    found = []
    for number, label in enumerate(classes):
        rows = (table.labels == number).nonzero()[0]
        if len(rows):
            window = table.features[rows[0]]  # (channel, length)
            step = max(1, -(-window.shape[1] // MAX_POINTS))
            found.append(Example(str(label), window[:, ::step].tolist()))
    return found
