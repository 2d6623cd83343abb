"""Stage ``report``: from the small files of all stages to one page for people, and a table of layers beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowlab.contracts import Stage, StageJob, StageResult

if TYPE_CHECKING:
    from flowlab.report.facts import Example

MAX_POINTS = 400  # of a drawn line: more is not seen
MAX_LINES = 4  # of a drawn feature
MAX_EXAMPLES = 12  # classes with a window of their own
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
    """How the device's accelerator is called, and whether its compiler is asked to pack weights below 8 bits.

    ``trained_quantizer``: the settings that choose quantization-aware training in place of this run's quantizer.
    ``larger_model``: the next larger one of the model's family, or empty.
    """

    unit_name: str
    packs_below_8: bool
    trained_quantizer: tuple[str, ...] = ()
    larger_model: str = ""


def options(config: Any, catalogue: Any) -> ReportOptions:
    """Copy them from the target and from what the compile preset asks of the compiler."""
    target = catalogue.get("target", config.common.target_device)
    packs = PACKS in (config.compilation.target or "")
    model = catalogue.get("model", config.training.model_name)
    return ReportOptions(target.unit_name, packs, trained_quantizer(config, catalogue), model.larger)


def trained_quantizer(config: Any, catalogue: Any) -> tuple[str, ...]:
    """The settings that choose quantization-aware training for the same number format; none where nobody brings it."""
    from flowlab.config.settings import SHORT_FORMS

    method = "training.quantization_method=QAT"
    if config.training.quantizer is None:
        return (method,)
    named = catalogue.get("quantizer", config.quantizer_name(catalogue))
    own = catalogue.get("target", config.common.target_device).quantizers.get("QAT", "")
    for name in (own, SHORT_FORMS[1]["QAT"]):
        other = catalogue.find("quantizer", name)
        if other is not None and other.trains and other.format == named.format:
            return (f"training.quantizer={name}", method)
    return ()


STAGE = Stage(
    name="report",
    run="flowlab.stages.report:run",
    needs=(
        "feature_spec",
        "splits",
        "windows",
        "features_test",
        "gate",
        "metrics_train",
        "metrics_quantize",
        "quantization_config",
        "float_onnx",
        "quantized_onnx",
        "torch_outputs",
        "placement",
        "notes",
    ),
    optional=("memory", "agreement", "costs", "metrics_simulate"),
    makes=("report", "layers"),
    options=options,
    code=("flowlab.stages.report", "flowlab.report", "flowlab.signal.features_file", "flowlab.learn.roc"),
    libraries=("jinja2", "numpy", "pyarrow"),
)


def run(job: StageJob) -> StageResult:
    """Write ``report.html`` and ``layers.csv``: the same inputs give the same bytes."""
    import yaml

    from flowlab.report import layer_table, tables
    from flowlab.report.facts import ReportFacts
    from flowlab.report.page import render

    asked: ReportOptions = job.options
    documents = {
        role: json.loads(job.input(role).read_text(encoding="utf-8")) for role in DOCUMENTS if role in job.inputs
    }
    classes = documents["feature_spec"]["classes"]
    measured = documents["metrics_quantize"].get("test") is not None
    facts = ReportFacts(
        **documents,
        quantization_config=yaml.safe_load(job.input("quantization_config").read_text(encoding="utf-8")),
        examples=_examples(job, classes),
        integer_curves=_curves(job, classes) if measured else (),
        file_bytes={role: job.input(role).stat().st_size for role in SIZES},
        unit_name=asked.unit_name,
        packs_below_8=asked.packs_below_8,
        trained_quantizer=asked.trained_quantizer,
        larger_model=asked.larger_model,
    )
    path = job.out / "report.html"
    path.write_text(render(facts), encoding="utf-8")
    layers = job.out / "layers.csv"
    layers.write_text(layer_table.to_csv(tables.layer_rows(facts)), encoding="utf-8", newline="")
    return StageResult(files={"report": {"report.html": path}, "layers": {"layers.csv": layers}})


def _examples(job: StageJob, classes: list[str]) -> list[Example]:
    """The first raw window of each class, and its feature, thinned out to what can be seen."""
    from flowlab.report.facts import Example
    from flowlab.signal import features_file

    table = features_file.read(job.input("windows"))
    features = features_file.read(job.input("features_test")).features
    found = []
    for number, label in enumerate(classes[:MAX_EXAMPLES]):
        rows = (table.labels == number).nonzero()[0]
        if len(rows):
            window = table.features[rows[0]]  # (channel, length)
            step = max(1, -(-window.shape[1] // MAX_POINTS))
            feature = features[table.index[rows[0]]] if table.index is not None else None
            found.append(Example(str(label), window[:, ::step].tolist(), step, _lines(feature)))
    return found


def _lines(feature: Any) -> list[list[float]]:
    """A feature (channel, height, width) as a few lines over its height, or over its width where it has no height."""
    if feature is None:
        return []
    channels, height, width = feature.shape
    flat = feature.reshape(channels, width) if height == 1 else feature.transpose(0, 2, 1).reshape(-1, height)
    lines: list[list[float]] = flat[:MAX_LINES, :MAX_POINTS].tolist()
    return lines


def _curves(job: StageJob, classes: list[str]) -> list[dict[str, Any]]:
    """The curves of the integers on the test split: every execution computes the same ones."""
    import numpy as np

    from flowlab.learn.roc import curves
    from flowlab.signal import features_file

    labels = features_file.read(job.input("features_test")).labels
    with np.load(job.input("torch_outputs"), allow_pickle=False) as found:
        name = "output" if "output" in found.files else found.files[0]
        outputs = found[name].reshape(len(labels), -1)
    return curves(outputs, labels, classes)
