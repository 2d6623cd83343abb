"""What a run has to say: one JSON object for programs, ten lines for people. Read from the records' small files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.contracts import FLOAT
from flowlab.engine.gates import Gate
from flowlab.engine.local import Done
from flowlab.report import costs, numbers
from flowlab.store.records import Record
from flowlab.store.run_folder import Artifact
from flowlab.store.store import Store

if TYPE_CHECKING:
    from flowlab.engine.promote import Promotion

WITHIN = "within 1e-5 of the largest output"


@dataclass(frozen=True)
class RunResult:
    """The result of one run. The keys of `to_json` are a promise to other programs."""

    run: str
    engine: str
    stages: tuple[Mapping[str, Any], ...]
    metrics: Mapping[str, Any]
    quantization: Mapping[str, Any]
    agreement: Mapping[str, Any]
    sizes: Mapping[str, int | None]
    artifacts: Mapping[str, tuple[Mapping[str, str], ...]]
    warnings: tuple[str, ...]
    report: Path | None
    folder: Path
    about: Mapping[str, Any]  # for people only
    gates: tuple[Gate, ...] = ()
    measured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    costs: Mapping[str, Any] = field(default_factory=dict)
    promotion: Promotion | None = None

    def to_json(self) -> dict[str, Any]:
        """What `flowlab run --json` prints; every key is always there."""
        return {
            "run": self.run,
            "engine": self.engine,
            "stages": [dict(stage) for stage in self.stages],
            "metrics": dict(self.metrics),
            "quantization": dict(self.quantization),
            "agreement": dict(self.agreement),
            "sizes": dict(self.sizes),
            "measured": {name: dict(values) for name, values in self.measured.items()},
            "costs": costs.foreseen(self.costs),
            "artifacts": {role: [dict(file) for file in files] for role, files in self.artifacts.items()},
            "warnings": list(self.warnings),
            "report": str(self.report) if self.report else None,
            "gates": [gate.to_json() for gate in self.gates],
            "promotion": self.promotion.to_json() if self.promotion else None,
        }

    def summary(self) -> tuple[tuple[str, str], ...]:
        """Nine lines, and more for an accelerator, an emulated core, and known costs: a name and a text each."""
        ran = [stage for stage in self.stages if not stage["cached"]]
        seconds = sum(stage["seconds"] for stage in self.stages)
        return (
            ("run", f"{self.run}, engine {self.engine}"),
            ("stages", f"{len(ran)} run, {len(self.stages) - len(ran)} cached, {seconds:.1f} s"),
            ("data", _data_text(self.about)),
            ("model", _model_text(self.about)),
            ("float", _metrics_text(self.metrics["float"])),
            ("quantized", _metrics_text(self.metrics["quantized"])),
            ("simulated", _metrics_text(self.metrics["simulated"])),
            ("agreement", _agreement_text(self.agreement)),
            *((("silicon", str(self.about["silicon"])),) if self.about.get("silicon") else ()),
            ("sizes", _sizes_text(self.sizes)),
            *(("core", _core_text(values)) for values in self.measured.values()),
            *((("costs", text),) if (text := costs.line(self.costs)) else ()),
            *((("promotion", _promotion_text(self.promotion)),) if self.promotion else ()),
        )


def result_of(
    run: str,
    engine: str,
    done: Mapping[str, Done],
    store: Store,
    *,
    folder: Path,
    artifacts: Mapping[str, Sequence[Artifact]],
    warnings: tuple[str, ...],
    about: Mapping[str, Any],
    gates: tuple[Gate, ...] = (),
) -> RunResult:
    """Collect what the records of a finished run say.

    Args:
        run: its name.
        engine: what ran it: ``prefect``, ``local``, or ``none`` when everything was cached.
        done: the stages in order.
        store: where their files are.
        folder: the run's folder.
        artifacts: every file of every role: its copy for people, or its object.
        warnings: of the config.
        about: what the command line knows: dataset, model, synthetic.
        gates: the limits that were set, passed or missed.
    """
    records = {name: one.record for name, one in done.items()}
    small = SmallFiles(records, store)
    train, quantized = small.read("metrics_train"), small.read("metrics_quantize")
    spec = small.read("feature_spec")
    report = next((one.path for one in artifacts.get("report", ())), None)
    return RunResult(
        run=run,
        engine=engine,
        stages=tuple({"name": name, "cached": one.cached, "seconds": one.seconds} for name, one in done.items()),
        metrics=numbers.metrics(train, quantized, small.read("metrics_simulate")),
        quantization=numbers.quantization(train, quantized),
        agreement=agreement_of(records),
        sizes=numbers.sizes(train, small.read("memory"), _size_of(records, "quantized_onnx", ".onnx")),
        artifacts={
            role: tuple({"name": one.name, "path": str(one.path), "sha256": one.sha256} for one in files)
            for role, files in artifacts.items()
        },
        warnings=tuple(
            dict.fromkeys((*warnings, *(text for record in records.values() for text in record.warnings)))
        ),  # inspect and validate may say the same of a layer
        report=report,
        folder=folder,
        about={
            **about,
            **spec,
            "parameters": train.get("parameters"),
            "npu_share": _npu_share(small),
            "silicon": small.read("memory").get("silicon", ""),
        },
        gates=gates,
        measured=small.read("costs").get("measured", {}),
        costs=costs.foreseen(small.read("costs")),
    )


class SmallFiles:
    """The JSON files of a run's roles; a role that no stage made reads as an empty object."""

    def __init__(self, records: Mapping[str, Record], store: Store) -> None:
        self._files = {role: files for record in records.values() for role, files in record.outputs.items()}
        self._store = store

    def read(self, role: str) -> dict[str, Any]:
        """The role's only JSON file."""
        files = self._files.get(role, {})
        names = [name for name in files if name.endswith(".json")]
        if not names:
            return {}
        value = json.loads(self._store.objects.verified(files[names[0]].sha256).read_bytes())
        return value if isinstance(value, dict) else {}


def agreement_of(records: Mapping[str, Record]) -> dict[str, Any]:
    """What all stages that compared executions say together: `flowlab.report.numbers.agreement`."""
    return numbers.agreement([one.metrics["agreement"] for one in records.values() if "agreement" in one.metrics])


def _size_of(records: Mapping[str, Record], role: str, suffix: str) -> int | None:
    for record in records.values():
        for name, stored in record.outputs.get(role, {}).items():
            if name.endswith(suffix):
                return stored.size
    return None


def _npu_share(small: SmallFiles) -> float | None:
    share = small.read("placement").get("npu_share")
    return share if isinstance(share, (int, float)) else None


# --- for people ---------------------------------------------------------------------------------


def _data_text(about: Mapping[str, Any]) -> str:
    counts = about.get("counts") or {}
    windows = ", ".join(f"{counts[split]} {split}" for split in ("train", "val", "test") if split in counts)
    synthetic = " (synthetic)" if about.get("synthetic") else ""
    classes = len(about.get("classes") or ())
    return f"{about.get('dataset', '')}{synthetic}: {windows or 'no'} windows, {classes} classes"


def _model_text(about: Mapping[str, Any]) -> str:
    parameters = about.get("parameters")
    size = f", {parameters:,} parameters" if parameters else ""
    share = about.get("npu_share")
    where = f", {share:.1%} of its multiplications on the accelerator" if share is not None else ""
    return f"{about.get('model', '')}{size} for {about.get('device', '')}{where}"


def _metrics_text(metrics: Mapping[str, Any] | None) -> str:
    if not metrics:
        return "not measured"
    texts = [
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}" for name, value in metrics.items()
    ]
    return f"{', '.join(texts)} on the test split"


def _agreement_text(agreement: Mapping[str, Any]) -> str:
    missing = "".join(f"; {one['name']} not run: {one['reason']}" for one in agreement["not_run"])
    if not agreement["executions"]:
        return f"nothing was compared{missing}"
    who = ", ".join(agreement["executions"])
    how = f", {FLOAT}, {WITHIN}" if agreement.get("comparison") == FLOAT else ""
    return f"{agreement['mismatches']} mismatches in {agreement['vectors']} vectors{how} ({who}{missing})"


def _core_text(measured: Mapping[str, Any]) -> str:
    flash = measured["text_bytes"] + measured["rodata_bytes"]
    return (
        f"{measured['core']}, every layer in C: {measured['instructions']:,} instructions a window, {flash:,} bytes of "
        f"code and constants, {measured['stack_bytes']:,} of stack ({measured['compiler']})"
    )


def _promotion_text(found: Promotion) -> str:
    return f"{'promoted' if found.promoted else 'not promoted'}: {found.reason}"


def _sizes_text(sizes: Mapping[str, int | None]) -> str:
    texts = [f"{name.removesuffix('_bytes')} {size:,}" for name, size in sizes.items() if size is not None]
    return f"{', '.join(texts)} bytes" if texts else "none"
