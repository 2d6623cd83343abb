"""Stage ``compile``: from the placed graph to the files that ship for a device, and the memory that they take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from flowlab.contracts import (
    Core,
    FeatureExtractor,
    Golden,
    LowerJob,
    Plugin,
    Program,
    Stage,
    StageJob,
    StageResult,
    Target,
)
from flowlab.stages import extract
from flowlab.stages.choice import NO_FORMAT, chosen_format, compile_settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowlab.compiler.ir import Graph

CONTAINER = "model.flnp"
NOTE = "constants and activations; code is not counted, since no compiler of the device has seen it"


@dataclass(frozen=True)
class CompileOptions:
    """The keys of ``compilation`` with presets applied, and what the device's entry point takes."""

    skip_normalize: bool
    settings: Mapping[str, Any] = field(default_factory=dict)


def options(config: Any, catalogue: Any) -> CompileOptions:
    """Copy them: a quantized network takes the quantized input, a float one takes features."""
    quantized = chosen_format(config, catalogue) != NO_FORMAT
    return CompileOptions(quantized and config.skip_normalize, compile_settings(config))


def plugins(config: Any, catalogue: Any) -> Mapping[str, tuple[Plugin, Any]]:
    """The device, the core that it names, and the extractor, whose C ships with the program."""
    target = catalogue.get("target", config.common.target_device)
    core = catalogue.get("core", target.core)
    given = config.options_for("common", "target_device")
    own = {"target": (target, catalogue.options(target, given)), "core": (core, catalogue.options(core, {}))}
    return {**own, **extract.plugins(config, catalogue)}


def tools(config: Any, catalogue: Any) -> Mapping[str, str]:
    """What the device runs besides, with its version, or that it is absent."""
    return cast(Target, catalogue.get("target", config.common.target_device)).tools()


STAGE = Stage(
    name="compile",
    run="flowlab.stages.compile:run",
    needs=("placed_graph", "golden", "feature_spec", "quantized_onnx"),
    optional=("windows",),
    makes=("program", "memory"),
    options=options,
    plugins=plugins,
    code=(
        "flowlab.stages.compile",
        "flowlab.stages.choice",
        "flowlab.stages.extract",
        "flowlab.compiler",
        "flowlab.signal.features_file",
    ),
    libraries=("numpy", "pyarrow"),
    tools=tools,
)


def run(job: StageJob) -> StageResult:
    """Lower the graph for the target and write down what lies where.

    Raises:
        ProgramError: if a program cannot hold the graph, or does not fit the device.
    """
    from flowlab.compiler.text import parse_graph

    target = cast(Target, job.plugins["target"])
    spec = json.loads(job.input("feature_spec").read_text(encoding="utf-8"))
    golden, warnings = _golden(job)
    graph = parse_graph(job.input("placed_graph").read_text(encoding="utf-8"))
    program = target.lower(
        LowerJob(
            graph=graph,
            golden=golden,
            skip_normalize=job.options.skip_normalize,
            core=cast(Core, job.plugins["core"]),
            feature_c=_feature_c(job, spec),
            classes=tuple(spec["classes"]),
            source_sha256=_sha256(job),
            out=job.out / "program",
            settings=job.options.settings,
            options=job.plugin_options["target"],
            feature_spec=spec,
            onnx=job.input("quantized_onnx"),
            **getattr(job.options, "places", {}),
        )
    )
    warnings += program.warnings
    memory = {**_memory(program, target), "arena": arena(program, graph), "warnings": warnings}
    path = job.out / "memory.json"
    path.write_text(json.dumps(memory, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    small = {key: memory[key] for key in ("packed_bytes", "program_bytes", "needed")}
    small["tools"] = dict(program.tools)
    return StageResult(
        files={"program": program.files, "memory": {"memory.json": path}},
        metrics=small,
        warnings=tuple(warnings),
    )


def _feature_c(job: StageJob, spec: Mapping[str, Any]) -> str | None:
    """The extractor's own C, where it has one; a network that is compiled by itself has no extractor."""
    extractor = job.plugins.get("feature_extractor")
    if not isinstance(extractor, FeatureExtractor):
        return None
    channels, length = spec["window"]
    return extractor.emit_c((channels, length), job.plugin_options["feature_extractor"])


def _sha256(job: StageJob) -> str:
    import hashlib

    return hashlib.sha256(job.input("quantized_onnx").read_bytes()).hexdigest()


def _memory(program: Program, target: Target) -> dict[str, Any]:
    """What lies where, against what there is; a region whose size nobody states is null."""
    needed = {region: sum(parts.values()) for region, parts in program.memory.items()}
    available = {region: target.memory.get(region) for region in needed}
    container = next((path for name, path in program.files.items() if name.endswith(".flnp")), None)
    return {
        "regions": {region: dict(parts) for region, parts in program.memory.items()},
        "needed": needed,
        "available": available,
        "fits": all(size is None or needed[region] <= size for region, size in available.items()),
        "note": NOTE,
        "silicon": target.silicon if program.uses_accelerator else "",
        "packed_bytes": program.packed_bytes,
        "flash_weights": program.packed_bytes if program.flash_weights is None else program.flash_weights,
        "program_bytes": container.stat().st_size if container else None,
    }


def arena(program: Program, graph: Graph) -> dict[str, Any] | None:
    """Where each layer's output lies while it is needed, read from the program's bytes; None where it has none."""
    from flowlab.compiler.memory_map import memory_map
    from flowlab.compiler.program import parse
    from flowlab.compiler.trace import layer_named

    if CONTAINER not in program.files:
        return None
    container = parse(program.files[CONTAINER].read_bytes())
    return memory_map(container, lambda name: layer_named(graph, name)).to_json()


def _golden(job: StageJob) -> tuple[Golden, list[str]]:
    """The golden vectors with the raw windows behind them; a vector without its window gets zeros, which is said.

    Where the plan has no raw windows at all, nothing stands behind the network's inputs, and nothing is said.
    """
    import numpy as np

    from flowlab.signal import features_file

    with np.load(job.input("golden"), allow_pickle=False) as found:
        values = {name: found[name] for name in found.files}
    if "windows" in job.inputs:
        table = features_file.read(job.input("windows"))
        raw, lacking = _raw_windows(table.features, table.index, values["index"])
    else:  # a network from elsewhere: its inputs are all that there is
        raw, lacking = np.zeros((len(values["index"]), 1, 1), np.float32), 0
    outputs = {name.removeprefix("output/"): values[name] for name in values if name.startswith("output/")}
    crc = {name.removeprefix("crc/"): values[name] for name in values if name.startswith("crc/")}
    said = [f"{lacking} golden vectors ship without their raw window: raw_input_test holds zeros"] if lacking else []
    return Golden(values["features"], values["inputs"], outputs, crc, raw), said


def _raw_windows(
    windows: NDArray[np.float32], rows: NDArray[np.int64] | None, wanted: NDArray[np.int64]
) -> tuple[NDArray[np.float32], int]:
    """The windows of these rows of the test split, and how many of them are not there."""
    import numpy as np

    at = {int(row): place for place, row in enumerate(rows if rows is not None else ())}
    raw = np.zeros((len(wanted), *windows.shape[1:]), np.float32)
    lacking = 0
    for place, row in enumerate(wanted):
        if int(row) in at:
            raw[place] = windows[at[int(row)]]
        else:
            lacking += 1
    return raw, lacking
