"""Stage ``simulate``: run the program in every way that exists here, and hold every integer against the interpreter.

The program of a float graph runs in those ways that run floats. Its outputs obey the float law
(`flowlab.compiler.agreement`) and are held against those of ONNX Runtime, which validate kept beside the
interpreter's: a tolerance against the interpreter, which has one itself, would be two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

from flowlab.contracts import BITS, FLOAT, Costs, Execution, Outcome, Plugin, Stage, StageJob, StageResult, Target
from flowlab.errors import AgreementError, StageError

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph

ABSENT = "absent"
INTEGERS_ONLY = "it runs integers only"
NO_PROBLEM = ""  # of windows that nobody labelled: nothing is measured


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
    return {"target": (target, catalogue.options(target, config.options_for("common", "target_device")))}


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
        "flowlab.compiler.ir",
        "flowlab.compiler.place",
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
    from flowlab.compiler.ir import is_float
    from flowlab.compiler.text import parse_graph
    from flowlab.compiler.trace import traced
    from flowlab.signal import features_file

    target = cast(Target, job.plugins["target"])
    graph = parse_graph(job.input("placed_graph").read_text(encoding="utf-8"))
    table = features_file.read(job.input("features_test"))
    floats = is_float(graph)
    reference = _reference(job, "reference/" if floats else "output/")
    not_run = _not_run(target, floats)
    present = [one for one in target.executions() if one.name not in {row["name"] for row in not_run}]
    if not present:
        raise StageError(f"no execution of {target.name} runs here: {not_run}")
    order = [node.name for node in traced(graph)]
    rows, outcomes = [], []
    for step, execution in enumerate(present):
        job.progress(f"{execution.name} on {len(table.features)} vectors", step / len(present))
        outcome = _outcome(execution, job, table.features)
        if floats:
            rows.append(compare_floats(execution.name, reference, outcome))
        else:
            rows.append(compare_execution(execution.name, reference, outcome, order))
        outcomes.append(outcome)
    agreement = {
        "vectors": len(table.features),
        "mismatches": 0,
        "comparison": FLOAT if floats else BITS,
        "executions": rows,
        "not_run": not_run,
    }
    cycles = next((outcome.cycles for outcome in outcomes if outcome.cycles is not None), None)
    measured = {
        row["name"]: by_layer(graph, one.measured) for row, one in zip(rows, outcomes, strict=True) if one.measured
    }
    metrics = _metrics(job, outcomes[0], table.labels)
    _write(job, "agreement.json", agreement)
    found = {**costs(graph, cycles, measured, accelerator=bool(target.rules())), **foreseen(target.costs(graph))}
    _write(job, "costs.json", found)
    _write(job, "metrics_simulate.json", metrics)
    _write_outputs(job, outcomes[0])
    names = ("outputs.npz", "agreement.json", "costs.json", "metrics_simulate.json")
    return StageResult(
        files={role: {name: job.out / name} for role, name in zip(STAGE.makes, names, strict=True)},
        metrics={"simulated": metrics["test"], "agreement": agreement},
    )


def _reference(job: StageJob, prefix: str) -> Outcome:
    import numpy as np

    with np.load(job.input("interpreter_outputs"), allow_pickle=False) as found:
        outputs = {name.removeprefix(prefix): found[name] for name in found.files if name.startswith(prefix)}
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
    row = {"name": name, "vectors": result.vectors, "mismatches": 0, "first_difference": None}
    return {**row, "comparison": BITS}


def compare_floats(name: str, reference: Outcome, found: Outcome) -> dict[str, Any]:
    """The row of an execution whose floats obey the float law on every vector.

    Raises:
        AgreementError: naming the first vector that breaks it, with its numbers, and how many do.
    """
    from flowlab.compiler import agreement

    try:
        result = agreement.compare_floats(reference, found)
    except AgreementError as error:
        raise AgreementError(f"execution '{name}': {error}") from error
    if result.first is not None:
        output, vector = result.first.node, result.first.vector
        shown = [one.outputs[output][vector].ravel()[:8].tolist() for one in (found, reference)]
        raise AgreementError(
            f"execution '{name}' differs from ONNX Runtime on {result.mismatches} of {result.vectors} vectors, by more "
            f"than {agreement.TOLERANCE:g} of the vector's largest output, or in its class; vector {vector}, output "
            f"'{output}': {shown[0]} and {shown[1]}. The C or its compiler is wrong: the program is not used"
        )
    largest = max(
        agreement.largest_difference(right, found.outputs[output]) for output, right in reference.outputs.items()
    )
    row = {"name": name, "vectors": result.vectors, "mismatches": 0, "first_difference": None}
    return {**row, "comparison": FLOAT, "largest_difference": largest}


def _not_run(target: Target, floats: bool) -> list[dict[str, str]]:
    """What does not run here, each with its reason; a float program asks for an execution that runs floats."""
    rows = []
    for one in target.executions():
        reason = one.missing() or (INTEGERS_ONLY if floats and not one.floats else None)
        if reason is not None:
            rows.append({"name": one.name, "reason": reason})
    return rows


def by_layer(graph: Graph, measured: Mapping[str, Any]) -> dict[str, Any]:
    """What an execution counted, its layers under the names that the layer table has."""
    from flowlab.compiler.trace import layer_named

    layers = {layer_named(graph, name): count for name, count in measured.get("layers", {}).items()}
    return {**measured, "layers": layers} if layers else dict(measured)


def costs(
    graph: Graph, cycles: int | None, measured: Mapping[str, Mapping[str, Any]], *, accelerator: bool
) -> dict[str, Any]:
    """Multiply-accumulates by unit, from the placed graph; cycles and what else was counted where it was.

    ``npu_share`` means what it means in the placement: None where the device has no accelerator.
    """
    from flowlab.compiler.place import share, work

    by_unit = work(graph)
    return {
        "macs_npu": by_unit["npu"],
        "macs_cpu": by_unit["cpu"],
        "npu_share": share(by_unit, accelerator=accelerator),
        "cycles": cycles,
        "measured": {name: dict(values) for name, values in measured.items()},
        "note": "multiply-accumulates of convolutions and fully connected layers, those by padded zeros not counted"
        + ("" if cycles is not None else "; no execution here counts cycles of the device"),
    }


def foreseen(found: Costs) -> dict[str, Any]:
    """What the device's plugin knows without running anything: ``model`` and ``estimate``, each or None."""
    model = found.model and {**asdict(found.model), "cycles": sum(found.model.by_layer.values())}
    return {
        "model": model,
        "estimate": found.estimate and {**asdict(found.estimate), "outside": [*found.estimate.outside]},
    }


def _metrics(job: StageJob, outcome: Outcome, labels: Any) -> dict[str, Any]:
    """The problem's metrics and the confusion of the first output (named ``output`` where there are several)."""
    if job.options.problem == NO_PROBLEM:
        return {"test": None, "confusion": None, "classes": []}
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
    """As ``numpy.savez`` does, whose own arguments' names are none that an output could have."""
    import zipfile

    import numpy as np

    with zipfile.ZipFile(job.out / "outputs.npz", "w") as archive:
        for name in sorted(outcome.outputs):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(outcome.outputs[name]), allow_pickle=False)
