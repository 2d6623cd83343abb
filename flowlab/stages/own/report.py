"""Stage ``report`` for a network from elsewhere: the same page, without what only a training knows."""

from __future__ import annotations

import json
from dataclasses import dataclass

from flowlab.contracts import StageJob, StageResult

DOCUMENTS = ("own_network", "own_standing", "feature_spec", "metrics_quantize", "placement", "memory", "agreement",
             "costs", "notes")  # fmt: skip


@dataclass(frozen=True)
class OwnReportOptions:
    """How the device's accelerator is called."""

    unit_name: str


def run(job: StageJob) -> StageResult:
    """Write ``report.html`` and ``layers.csv``: the same inputs give the same bytes."""
    import yaml

    from flowlab.report import layer_table, tables
    from flowlab.report.facts import ReportFacts
    from flowlab.report.page import render

    read = {role: json.loads(job.input(role).read_text(encoding="utf-8")) for role in DOCUMENTS}
    story, standing = read.pop("own_network"), read.pop("own_standing")
    config = job.inputs["quantization_config"]
    facts = ReportFacts(
        **read,
        splits={},
        gate={"problems": []},
        metrics_train={} if story["integers"] else {"parameters": story["parameters"]},
        quantization_config=yaml.safe_load(job.input("quantization_config").read_text(encoding="utf-8"))
        if config
        else {},
        file_bytes={"quantized_onnx": job.input("quantized_onnx").stat().st_size},
        unit_name=job.options.unit_name,
        elsewhere={**story, "standing": standing},
    )
    path = job.out / "report.html"
    path.write_text(render(facts), encoding="utf-8")
    layers = job.out / "layers.csv"
    layers.write_text(layer_table.to_csv(tables.layer_rows(facts)), encoding="utf-8", newline="")
    return StageResult(files={"report": {"report.html": path}, "layers": {"layers.csv": layers}})
