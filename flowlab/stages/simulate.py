"""Stage ``simulate``: run the program in every way that exists here, and hold every integer against the interpreter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from flowlab.contracts import Execution, Outcome, Plugin, Stage, StageJob, StageResult, Target
from flowlab.errors import AgreementError, StageError

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph

ABSENT = "absent"


@dataclass(frozen=True)
class SimulateOptions:
    """The problem, whose metrics are measured on the outputs."""

    problem: str


def options(config: Any, catalogue: Any) -> SimulateOptions:
    """The problem of the config's model."""
    model = catalogue.get("model", config.training.model_name)
    return SimulateOptions(model.problems[0])


def plugins(config: Any, catalogue: Any) -> Mapping[str, tuple[Plugin, Any]]:
    """The device."""
    target = catalogue.get("target", config.common.target_device)
    return {"target": (target, catalogue.options(target, {}))}


def tools(config: Any, catalogue: Any) -> Mapping[str, str]:
    """For each execution of the device the version of what it needs, or that it is absent."""
    target = cast(Target, catalogue.get("target", config.common.target_device))
    return {one.name: ABSENT if one.missing() else one.version() for one in target.executions()}


STAGE = Stage(
    name="simulate",
    run="flowlab.stages.simulate:run",
    needs=("program", "placed_graph", "features_test", "interpreter_outputs", "feature_spec"),
    makes=("outputs", "agreement", "costs", "metrics_simulate"),
    options=options,
    plugins=plugins,
    code=(
        "flowlab.stages.simulate",
        "flowlab.compiler.agreement",
        "flowlab.compiler.text",
        "flowlab.compiler.trace",
        "flowlab.signal.features_file",
        "flowlab.learn.problems",
    ),
    libraries=("numpy", "pyarrow"),
    tools=tools,
)


def run(job: StageJob) -> StageResult:
    """Run all executions on all test vectors and compare.

    Raises:
        AgreementError: naming execution, layer and vector of the first difference.
        StageError: if nothing runs here, or an execution fails.
    """
    from flowlab.compiler.text import parse_graph
    from flowlab.compiler.trace import traced
    from flowlab.signal import features_file

    target = cast(Target, job.plugins["target"])
    graph = parse_graph(job.input("placed_graph").read_text(encoding="utf-8"))
    table = features_file.read(job.input("features_test"))
    reference = _reference(job)
    present = [one for one in target.executions() if one.missing() is None]
    if not present:
        raise StageError(f"no execution of {target.name} runs here: {_not_run(target)}")
    order = [node.name for node in traced(graph)]
    rows, outcomes = [], []
    for step, execution in enumerate(present):
        job.progress(f"{execution.name} on {len(table.features)} vectors", step / len(present))
        outcome = _outcome(execution, job, table.features)
        rows.append(compare_execution(execution.name, reference, outcome, order))
        outcomes.append(outcome)
    agreement = {
        "vectors": len(table.features),
        "mismatches": 0,
        "executions": rows,
        "not_run": _not_run(target),
    }
    cycles = next((outcome.cycles for outcome in outcomes if outcome.cycles is not None), None)
    metrics = _metrics(job, outcomes[0], table.labels)
    _write(job, "agreement.json", agreement)
    _write(job, "costs.json", costs(graph, cycles))
    _write(job, "metrics_simulate.json", metrics)
    _write_outputs(job, outcomes[0])
    names = ("outputs.npz", "agreement.json", "costs.json", "metrics_simulate.json")
    return StageResult(
        files={role: {name: job.out / name} for role, name in zip(STAGE.makes, names, strict=True)},
        metrics={"simulated": metrics["test"], "agreement": agreement},
    )


def _reference(job: StageJob) -> Outcome:
    import numpy as np

    with np.load(job.input("interpreter_outputs"), allow_pickle=False) as found:
        outputs = {name.removeprefix("output/"): found[name] for name in found.files if name.startswith("output/")}
        trace = {name.removeprefix("crc/"): found[name] for name in found.files if name.startswith("crc/")}
    return Outcome(outputs, trace)


def _outcome(execution: Execution, job: StageJob, features: Any) -> Outcome:
    """Run one execution; what fails says which one it was."""
    try:
        return execution.run(job.inputs["program"], features, job.scratch / execution.name)
    except StageError as error:
        raise StageError(f"execution '{execution.name}': {error}") from error


def compare_execution(name: str, reference: Outcome, found: Outcome, order: list[str]) -> dict[str, Any]:
    """The row of an execution that agrees on every vector.

    Raises:
        AgreementError: naming the first difference, and how many vectors differ.
    """
    from flowlab.compiler.agreement import compare

    try:
        result = compare(reference, found, order)
    except AgreementError as error:
        raise AgreementError(f"execution '{name}': {error}") from error
    if result.first is not None:
        raise AgreementError(
            f"execution '{name}' differs from the graph interpreter on {result.mismatches} of {result.vectors} "
            f"vectors; vector {result.first.vector} parts first at {result.first.node}. The program, its C or the "
            "compiler is wrong: it is not used"
        )
    return {"name": name, "vectors": result.vectors, "mismatches": 0, "first_difference": None}


def _not_run(target: Target) -> list[dict[str, str]]:
    reasons = ((one.name, one.missing()) for one in target.executions())
    return [{"name": name, "reason": reason} for name, reason in reasons if reason is not None]


def costs(graph: Graph, cycles: int | None) -> dict[str, Any]:
    """Multiply-accumulates by unit, from the placed graph; cycles where an execution counts them."""
    import math

    by_unit = {"npu": 0, "cpu": 0}
    for node in graph.nodes:
        if node.op in ("conv", "linear"):
            work = node.constants["weight"][0].size * math.prod(node.type.shape)
            by_unit["npu" if node.attributes.get("unit") == "npu" else "cpu"] += int(work)
    total = sum(by_unit.values())
    return {
        "macs_npu": by_unit["npu"],
        "macs_cpu": by_unit["cpu"],
        "npu_share": by_unit["npu"] / total if total else 0.0,
        "cycles": cycles,
        "note": "multiply-accumulates of convolutions and fully connected layers, padding included"
        + ("" if cycles is not None else "; no execution here counts cycles"),
    }


def _metrics(job: StageJob, outcome: Outcome, labels: Any) -> dict[str, Any]:
    """The problem's metrics and the confusion of the first output (named ``output`` where there are several)."""
    from flowlab.learn.problems import PROBLEMS, confusion

    spec = json.loads(job.input("feature_spec").read_text(encoding="utf-8"))
    name = "output" if "output" in outcome.outputs else next(iter(outcome.outputs))
    values = outcome.outputs[name].reshape(len(labels), -1)
    problem = PROBLEMS[job.options.problem]
    return {
        "test": problem.measure(values, labels),
        "confusion": confusion(values, labels, len(spec["classes"])),
        "classes": list(spec["classes"]),
    }


def _write(job: StageJob, name: str, value: Any) -> None:
    (job.out / name).write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _write_outputs(job: StageJob, outcome: Outcome) -> None:
    import numpy as np

    with (job.out / "outputs.npz").open("wb") as file:
        np.savez(file, **{name: outcome.outputs[name] for name in sorted(outcome.outputs)})  # type: ignore[arg-type]
