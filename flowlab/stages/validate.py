"""Stage ``validate``: the graph read back from its ONNX, placed, and three executions held against each other.

Torch, ONNX Runtime and the graph's interpreter share no kernel; every integer of every test vector must be equal. The
numbers of a float graph obey the float law instead (`flowlab.compiler.agreement`), with ONNX Runtime as the reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flowlab.contracts import BITS, FLOAT, NumberFormat, Plugin, Stage, StageJob, StageResult, Target
from flowlab.errors import AgreementError, DataError
from flowlab.stages.choice import accelerator_off, chosen_format

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowlab.compiler.ir import Graph
    from flowlab.compiler.place import Placement

    Outputs = Mapping[str, NDArray[Any]]

GOLDEN_VECTORS = 8
EXECUTIONS = ("ONNX Runtime", "interpreter", "torch")  # what is compared here, on every device
BATCH = 256


@dataclass(frozen=True)
class ValidateOptions:
    """The number format that the graph must obey, by value, and why the accelerator is not used, if it is not."""

    format: NumberFormat
    accelerator_off: str = ""


def options(config: Any, catalogue: Any) -> ValidateOptions:
    """Copy them."""
    return ValidateOptions(chosen_format(config, catalogue), accelerator_off(config, catalogue))


def plugins(config: Any, catalogue: Any) -> Mapping[str, tuple[Plugin, Any]]:
    """The device."""
    target = catalogue.get("target", config.common.target_device)
    return {"target": (target, catalogue.options(target, config.options_for("common", "target_device")))}


STAGE = Stage(
    name="validate",
    run="flowlab.stages.validate:run",
    needs=("graph", "quantized_onnx", "features_test", "torch_outputs"),
    makes=("placed_graph", "placement", "golden", "interpreter_outputs"),
    options=options,
    plugins=plugins,
    code=("flowlab.stages.validate", "flowlab.stages.choice", "flowlab.compiler", "flowlab.signal.features_file"),
    libraries=("numpy", "pyarrow", "onnx", "onnxruntime"),
)


def run(job: StageJob) -> StageResult:
    """Read the ONNX back, pad and place, run everything and compare.

    Raises:
        AgreementError: if the ONNX says another graph, or executions differ: it names output, vector and layer.
        GraphError: if the graph breaks a law or the number format.
        DataError: if there is no test vector.
    """
    import numpy as np

    from flowlab.compiler.ir import is_float
    from flowlab.compiler.pipeline import place_for
    from flowlab.compiler.place import place
    from flowlab.compiler.text import parse_graph, print_graph
    from flowlab.compiler.verify import verify
    from flowlab.signal import features_file

    target = cast(Target, job.plugins["target"])
    graph = parse_graph(job.input("graph").read_text(encoding="utf-8"))
    verify(graph, job.options.format)
    model = job.input("quantized_onnx").read_bytes()
    check_import(graph, model)
    off = job.options.accelerator_off
    before = place(graph, target.rules(), target.unit_name, off)
    placement = place_for(target, graph, off)
    table = features_file.read(job.input("features_test"))
    if len(table.features) == 0:
        raise DataError("the test split has no windows, so no execution can be compared: give it a larger fraction")
    job.progress("interpreter", 0.1)
    values, crcs = interpret(placement.graph, table.features)
    job.progress("ONNX Runtime", 0.6)
    runtime = integers_where_meant(graph, run_onnx(model, table.features, list(graph.outputs)))
    with np.load(job.input("torch_outputs"), allow_pickle=False) as found:
        torch_outputs = {name: found[name] for name in found.files}

    floats = is_float(graph)

    def layer(vector: int) -> str | None:
        return first_layer(graph, model, table.features[vector : vector + 1])

    rows = [
        compare(EXECUTIONS[1], values, runtime, layer, floats=floats),
        compare(EXECUTIONS[2], torch_outputs, runtime, floats=floats),
    ]

    files = {
        "placed_graph": job.out / "graph.txt",
        "placement": job.out / "placement.json",
        "golden": job.out / "golden.npz",
        "interpreter_outputs": job.out / "interpreter_outputs.npz",
    }
    files["placed_graph"].write_text(print_graph(placement.graph), encoding="utf-8")
    agreement = {
        "vectors": len(table.features),
        "mismatches": 0,
        "comparison": FLOAT if floats else BITS,
        "executions": [reference_row(EXECUTIONS[0], len(table.features), floats=floats), *rows],
    }
    warnings = () if off else placement.sentences()  # what the config itself asks for is no surprise
    described = {
        **placement_table(before, placement),
        "unit": target.unit_name,
        "agreement": agreement,
        "warnings": list(warnings),
    }
    files["placement"].write_text(json.dumps(described, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    chosen = golden_rows(table.labels)
    save(files["golden"], golden(placement.graph, table.features, chosen, runtime, crcs))
    save(files["interpreter_outputs"], kept(values, crcs, runtime if floats else {}))
    return StageResult(
        files={role: {path.name: path} for role, path in files.items()},
        metrics={
            "agreement": agreement,
            "npu_share": placement.npu_share,
            "cpu_layers": [row.name for row in placement.rows if row.unit == "cpu"],
        },
        warnings=warnings,
    )


# --- the graph and its ONNX -----------------------------------------------------------------------


def check_import(graph: Graph, model: bytes) -> None:
    """The exported ONNX, read back, is the quantizer's graph, to the letter.

    Raises:
        AgreementError: with the first line of the text forms that differs.
    """
    from flowlab.compiler.importer import import_onnx
    from flowlab.compiler.text import print_graph

    wanted, found = print_graph(graph).splitlines(), print_graph(import_onnx(model)).splitlines()
    if wanted == found:
        return
    line = next((at for at, (left, right) in enumerate(zip(wanted, found, strict=False)) if left != right), None)
    at = min(len(wanted), len(found)) if line is None else line
    shown = [(text[at] if at < len(text) else "(nothing)")[:200] for text in (wanted, found)]
    raise AgreementError(
        f"the exported ONNX is not the quantizer's graph: line {at + 1} of the text form is {shown[1]!r} "
        f"when read back, and should be {shown[0]!r}"
    )


def placement_table(before: Placement, after: Placement) -> dict[str, Any]:
    """The layer table as JSON, and what padding cost."""
    added = {
        key: sum(getattr(row, key) for row in after.rows) - sum(getattr(row, key) for row in before.rows)
        for key in ("macs", "weight_bytes")
    }
    return {
        "layers": [asdict(row) for row in after.rows],
        "npu_share": after.npu_share,
        "macs": dict(after.macs),
        "padding": {
            "layers": [row.name for row in after.rows if row.padding],
            **added,
        },
    }


# --- executions ---------------------------------------------------------------------------------


def interpret(graph: Graph, features: NDArray[np.float32]) -> tuple[Outputs, dict[str, NDArray[np.uint32]]]:
    """The graph's outputs and every layer's checksum for all vectors, by the interpreter."""
    import numpy as np

    from flowlab.compiler import interpreter
    from flowlab.compiler.trace import layer_crcs

    outputs: dict[str, list[NDArray[Any]]] = {}
    crcs: dict[str, list[NDArray[np.uint32]]] = {}
    for start in range(0, max(len(features), 1), BATCH):
        values = interpreter.run(graph, features[start : start + BATCH])
        for name, value in graph.outputs.items():
            outputs.setdefault(name, []).append(_plain(values[value]))
        for node, crc in layer_crcs(graph, values).items():
            crcs.setdefault(node, []).append(crc)
    return (
        {name: np.concatenate(parts) for name, parts in outputs.items()},
        {node: np.concatenate(parts) for node, parts in crcs.items()},
    )


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Integers as int32, floats as float32: how outputs are kept."""
    return array.astype("float32" if array.dtype.kind == "f" else "int32")


def session_of(model: bytes, *, optimized: bool = True) -> Any:
    """An ONNX Runtime session on one thread of the CPU; not ``optimized``: every operation as the file has it."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    if not optimized:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def run_onnx(model: bytes, features: NDArray[np.float32], names: list[str]) -> Outputs:
    """Tensors by name from ONNX Runtime, as it returns them."""
    import numpy as np

    session = session_of(model)
    (source,) = session.get_inputs()
    parts = [
        session.run(names, {source.name: np.ascontiguousarray(features[start : start + BATCH])})
        for start in range(0, max(len(features), 1), BATCH)
    ]
    return {name: np.concatenate([part[at] for part in parts]) for at, name in enumerate(names)}


def integers_where_meant(graph: Graph, outputs: Outputs) -> Outputs:
    """int32 for the outputs that are integers in the graph, which lie in float tensors in ONNX.

    Raises:
        AgreementError: if one of them is not whole.
    """
    made: dict[str, NDArray[Any]] = {}
    for name, array in outputs.items():
        made[name] = array
        if graph.type_of(graph.outputs[name]).dtype != "float32":
            made[name] = array.astype("int32")
            if (made[name] != array).any():
                raise AgreementError(f"output '{name}' of ONNX Runtime is not whole numbers")
    return made


def compare(
    name: str,
    found: Outputs,
    runtime: Outputs,
    first_layer: Callable[[int], str | None] = lambda vector: None,
    *,
    floats: bool = False,
) -> dict[str, Any]:
    """A row of the agreement table: every number of every vector is that of ONNX Runtime.

    Args:
        name: of the execution.
        found: its outputs.
        runtime: those of ONNX Runtime.
        first_layer: names the first layer that differs on a vector, where it can be found.
        floats: whether the float law holds instead of equality.

    Raises:
        AgreementError: naming execution, output, vector and layer.
    """
    from flowlab.compiler.agreement import largest_difference

    wrong = mismatches(found, runtime, name, floats=floats)
    if not wrong.any():
        row = {"name": name, "vectors": len(wrong), "mismatches": 0, "first_difference": None}
        if not floats:
            return {**row, "comparison": BITS}
        largest = max(largest_difference(runtime[output], found[output]) for output in runtime)
        return {**row, "comparison": FLOAT, "largest_difference": largest}
    vector = int(wrong.argmax())
    where = first_layer(vector)
    layer = f", first at layer '{where}'" if where else ""
    output = next(each for each in runtime if _differs(found[each], runtime[each], floats)[vector])
    raise AgreementError(
        f"{name} and ONNX Runtime differ in {int(wrong.sum())} of {len(wrong)} vectors; vector {vector}, output "
        f"'{output}'{layer}: {found[output][vector].ravel()[:8].tolist()} and "
        f"{runtime[output][vector].ravel()[:8].tolist()}"
    )


def _equal(left: NDArray[Any], right: NDArray[Any]) -> bool:
    return left.shape == right.shape and bool((left == right).all())


def _differs(found: NDArray[Any], right: NDArray[Any], floats: bool) -> NDArray[np.bool_]:
    """By vector: any number is another one, or, of floats, the float law is broken."""
    from flowlab.compiler.agreement import float_differs

    if floats:
        return float_differs(right, found)
    wrong: NDArray[np.bool_] = (found != right).reshape(len(right), -1).any(axis=1)
    return wrong


def mismatches(found: Outputs, right: Outputs, name: str, *, floats: bool = False) -> NDArray[np.bool_]:
    """Which vectors differ in any number of any output, bool (vector,); ``floats``: which break the float law.

    Raises:
        AgreementError: if the outputs' names or shapes differ.
    """
    import numpy as np

    if set(found) != set(right):
        raise AgreementError(f"{name} has the outputs {sorted(found)}, and ONNX Runtime {sorted(right)}")
    wrong = np.zeros(len(next(iter(right.values()))), bool)
    for output, array in right.items():
        if found[output].shape != array.shape:
            raise AgreementError(
                f"output '{output}' of {name} has shape {found[output].shape}, and of ONNX Runtime {array.shape}"
            )
        wrong |= _differs(found[output], array, floats)
    return wrong


def first_layer(graph: Graph, model: bytes, feature: NDArray[np.float32]) -> str | None:
    """The first layer at which interpreter and ONNX Runtime differ on one vector, or None where none is named alike."""
    import onnx

    from flowlab.compiler import interpreter
    from flowlab.compiler.agreement import float_differs
    from flowlab.compiler.ir import is_float
    from flowlab.compiler.trace import traced

    proto = onnx.load_model_from_string(model)
    tensors = {node.name: node.output[0] for node in proto.graph.node}
    known = {value.name for value in proto.graph.output}
    floats = is_float(graph)
    watched = [node.name for node in (graph.nodes if floats else traced(graph)) if node.name in tensors]
    for name in watched:
        if tensors[name] not in known:
            proto.graph.output.append(onnx.helper.make_tensor_value_info(tensors[name], onnx.TensorProto.FLOAT, None))
    runtime = run_onnx(proto.SerializeToString(), feature, [tensors[name] for name in watched])
    values = interpreter.run(graph, feature)
    for name in watched:
        left, right = values[name], runtime[tensors[name]]
        if float_differs(right, left).any() if floats else not _equal(left, right):
            return name
    return None


def reference_row(name: str, vectors: int, *, floats: bool = False) -> dict[str, Any]:
    """The row of the execution that all others are held against."""
    row = {"name": name, "vectors": vectors, "mismatches": 0, "first_difference": None}
    return {**row, "comparison": FLOAT if floats else BITS}


def kept(values: Outputs, crcs: Mapping[str, NDArray[np.uint32]], reference: Outputs) -> dict[str, NDArray[Any]]:
    """What simulate compares with: the interpreter's outputs and checksums, of floats ONNX Runtime's outputs too."""
    kept = {f"output/{name}": array for name, array in values.items()}
    kept |= {f"crc/{node}": crc for node, crc in crcs.items()}
    return kept | {f"reference/{name}": _plain(array) for name, array in reference.items()}


# --- golden vectors -----------------------------------------------------------------------------


def golden_rows(labels: NDArray[np.int64], count: int = GOLDEN_VECTORS) -> NDArray[np.int64]:
    """The first windows of every class in turn, ``count`` in all where there are so many, ascending."""
    import numpy as np

    queues = [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)]
    chosen: list[int] = []
    while len(chosen) < count and any(queues):
        chosen += [queue.pop(0) for queue in queues if queue]
    return np.array(sorted(chosen[:count]), np.int64)


def golden(
    graph: Graph,
    features: NDArray[np.float32],
    rows: NDArray[np.int64],
    runtime: Outputs,
    crcs: Mapping[str, NDArray[np.uint32]],
) -> dict[str, NDArray[Any]]:
    """The vectors of these rows as compile reads them: features, quantized inputs, outputs, checksums."""
    import numpy as np

    from flowlab.compiler import interpreter
    from flowlab.compiler.ops import INPUT_STEPS
    from flowlab.compiler.trace import unpadded

    picked = np.ascontiguousarray(features[rows])
    values = interpreter.run(graph, picked)
    entry = next((node for node in graph.nodes if node.op in INPUT_STEPS), None)
    inputs = picked if entry is None else unpadded(entry, values[entry.name])[:, : picked.shape[1]]
    arrays: dict[str, NDArray[Any]] = {"features": picked, "inputs": inputs, "index": rows}
    arrays |= {f"output/{name}": _plain(array[rows]) for name, array in runtime.items()}
    return arrays | {f"crc/{node}": crc[rows] for node, crc in crcs.items()}


def save(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Arrays by name in one file."""
    import numpy as np

    np.savez(path, allow_pickle=False, **arrays)
