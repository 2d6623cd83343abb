"""Stage ``validate`` for a network from elsewhere: placed, run, and held against what the file itself gives.

A quantized network is also read back from its ONNX and held against it in ONNX Runtime, bit for bit. A network of
integers is its own ONNX: what was read of it is held against the file in ONNX Runtime.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from flowlab.contracts import BITS, NumberFormat, StageJob, StageResult, Target
from flowlab.errors import GraphError
from flowlab.stages import validate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowlab.compiler.ir import Graph

    Outputs = Mapping[str, NDArray[Any]]

ANY_CPU = "integers of any CPU"


@dataclass(frozen=True)
class OwnValidateOptions:
    """The quantizer's number format, by value, and those of the device's accelerator."""

    format: NumberFormat
    accelerator: tuple[NumberFormat, ...]


@dataclass(frozen=True)
class _Held:
    """What the outputs were held against: the reference's, the rows of the table, and which vectors ship."""

    reference: Outputs
    rows: tuple[Mapping[str, Any], ...]
    shipped: NDArray[np.int64]
    standing: Mapping[str, Any]


def run(job: StageJob) -> StageResult:
    """Place the graph, interpret it, and compare.

    Raises:
        AgreementError: if the ONNX says another graph, or interpreter and ONNX Runtime differ.
        GraphError: if the graph breaks a law, or its integers are those of another network than the file.
    """
    from flowlab.compiler.pipeline import place_for
    from flowlab.compiler.place import place
    from flowlab.compiler.text import parse_graph, print_graph
    from flowlab.compiler.verify import verify
    from flowlab.signal import features_file

    target = cast(Target, job.plugins["target"])
    graph = parse_graph(job.input("graph").read_text(encoding="utf-8"))
    story = json.loads(job.input("own_network").read_text(encoding="utf-8"))
    model = job.input("quantized_onnx").read_bytes()
    if not story["integers"]:
        verify(graph, job.options.format)
        validate.check_import(graph, model)
    off = _off(job.options, target, graph, given=story["integers"])
    placement = place_for(target, graph, off)
    features = features_file.read(job.input("features_test")).features
    job.progress(f"interpreter on {len(features)} windows", 0.1)
    values, crcs = validate.interpret(placement.graph, features)
    job.progress(f"ONNX Runtime on {len(features)} windows", 0.6)
    own = _own_outputs(job)
    if story["integers"]:
        held = _against_file(graph, values, own, exact=story["exact"])
    else:
        held = _against_runtime(graph, model, features, values, own)
    warnings = () if off else placement.sentences()  # of integers of any CPU nobody expects more
    agreement = {
        "vectors": len(features), "mismatches": 0, "comparison": BITS, "executions": list(held.rows),
    }  # fmt: skip
    described = {
        **validate.placement_table(place(graph, target.rules(), target.unit_name, off), placement),
        "unit": target.unit_name,
        "agreement": agreement,
        "warnings": list(warnings),
    }
    files = {
        "placed_graph": job.out / "graph.txt",
        "placement": job.out / "placement.json",
        "golden": job.out / "golden.npz",
        "interpreter_outputs": job.out / "interpreter_outputs.npz",
        "own_standing": job.out / "own_standing.json",
    }
    files["placed_graph"].write_text(print_graph(placement.graph), encoding="utf-8")
    for role, value in (("placement", described), ("own_standing", held.standing)):
        files[role].write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    validate.save(files["golden"], validate.golden(placement.graph, features, held.shipped, held.reference, crcs))
    validate.save(files["interpreter_outputs"], validate.kept(values, crcs, {}))
    return StageResult(
        files={role: {path.name: path} for role, path in files.items()},
        metrics={
            "agreement": agreement,
            "npu_share": placement.npu_share,
            "cpu_layers": [row.name for row in placement.rows if row.unit == "cpu"],
            "standing": dict(held.standing),
        },
        warnings=warnings,
    )


def _own_outputs(job: StageJob) -> Outputs:
    import numpy as np

    with np.load(job.input("own_outputs"), allow_pickle=False) as found:
        return {name.removeprefix("output/"): found[name] for name in found.files}


def _against_file(graph: Graph, values: Outputs, own: Outputs, *, exact: bool) -> _Held:
    """Integers of the file's own, against the file; vectors ship that ONNX Runtime confirms, before all others."""
    import numpy as np

    from flowlab.stages.own.integers import compared

    stand = compared(graph, values, own, exact=exact)
    standing = {"sentence": stand.sentence(), "equal": stand.equal, "steps": stand.steps, "agree": None, "error": 0.0}
    shipped = np.array(stand.first(validate.GOLDEN_VECTORS), np.int64)
    return _Held(values, (validate.reference_row(validate.EXECUTIONS[1], stand.windows),), shipped, standing)


def _against_runtime(graph: Graph, model: bytes, features: NDArray[np.float32], values: Outputs, own: Outputs) -> _Held:
    """Integers that were made here, against their ONNX to the bit, and against the float network's outputs."""
    import numpy as np

    runtime = validate.integers_where_meant(graph, validate.run_onnx(model, features, list(graph.outputs)))

    def layer(vector: int) -> str | None:
        return validate.first_layer(graph, model, features[vector : vector + 1])

    rows = (
        validate.reference_row(validate.EXECUTIONS[0], len(features)),
        validate.compare(validate.EXECUTIONS[1], values, runtime, layer),
    )
    agree, error = _against(own, graph, runtime)
    standing = {"sentence": "", "equal": None, "steps": None, "agree": agree, "error": error}
    return _Held(runtime, rows, np.arange(min(validate.GOLDEN_VECTORS, len(features))), standing)


def _against(floats: Outputs, integers: Graph, runtime: Outputs) -> tuple[float | None, float]:
    """Share of windows with the same largest output (None for outputs of one number), and relative L2 error."""
    import numpy as np

    shares, errors = [], []
    for (name, right), (other, found) in zip(floats.items(), runtime.items(), strict=True):
        scale = integers.type_of(integers.outputs[other]).scale if found.dtype.kind == "i" else 1.0
        real = found.reshape(len(found), -1).astype(np.float64) * scale
        wanted = right.reshape(len(right), -1).astype(np.float64)
        if real.shape != wanted.shape:
            raise GraphError(
                f"output '{name}' has {wanted.shape[1]} numbers a window in ONNX Runtime, not {real.shape[1]}"
            )
        errors.append(float(np.linalg.norm(real - wanted) / max(float(np.linalg.norm(wanted)), 1e-30)))
        if wanted.shape[1] > 1:
            shares.append(float((real.argmax(axis=1) == wanted.argmax(axis=1)).mean()))
    return (min(shares) if shares else None), max(errors)


def _off(asked: OwnValidateOptions, target: Target, integers: Graph, *, given: bool) -> str:
    """Why the device's accelerator takes no layer of these integers; empty where it may."""
    from flowlab.stages.own.integers import why_not

    own = asked.accelerator
    if not own or integers.metadata.get("number_format") in {one.name for one in own}:
        return "" if own else ANY_CPU
    if not given:
        return ANY_CPU
    return f"not the integers of the {target.unit_name}: {why_not(integers, own[0])}"
