"""Stage ``quantize`` for a network from elsewhere: scales after training, from its own inputs.

A network of integers keeps those that it has: it passes, prepared for a program.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.contracts import NumberFormat, QuantizeJob, Quantizer, StageJob, StageResult
from flowlab.errors import QuantizationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowlab.compiler.ir import Graph

ACTIVATION_BITS, SEED, THREADS = 8, 0, 1


@dataclass(frozen=True)
class OwnQuantizeOptions:
    """What decides a quantization: ``format`` is the quantizer's, ``accelerator`` those of the device's accelerator."""

    device: str
    format: NumberFormat
    accelerator: tuple[NumberFormat, ...]
    weight_bits: int
    output_int: bool


@dataclass(frozen=True)
class _Made:
    graph: Graph
    onnx: bytes
    files: Mapping[str, tuple[str, bytes]]
    warnings: tuple[str, ...] = ()
    account: Mapping[str, Any] = field(default_factory=dict)


def run(job: StageJob) -> StageResult:
    """The integer graph and its ONNX.

    Raises:
        OptionError: for what would change a network of integers.
        QuantizationError: with every problem of the network.
    """
    from flowlab.compiler.ir import is_float
    from flowlab.compiler.text import parse_graph, print_graph

    graph = parse_graph(job.input("own_graph").read_text(encoding="utf-8"))
    made = _quantized(job, graph) if is_float(graph) else _kept(job, graph)
    metrics = {"quantization": made.account, "warnings": list(made.warnings)}
    files = {
        "graph": ("graph.txt", print_graph(made.graph).encode()),
        "quantized_onnx": ("best_model.onnx", made.onnx),
        "metrics_quantize": ("metrics_quantize.json", (json.dumps(metrics, indent=1, sort_keys=True) + "\n").encode()),
        **made.files,
    }
    written: dict[str, dict[str, Path]] = {"quantization_config": {}, "quantized_weights": {}}
    for role, (name, content) in files.items():
        (job.out / role).mkdir()
        (job.out / role / name).write_bytes(content)
        written[role] = {name: job.out / role / name}
    return StageResult(written, {"quantization": made.account}, made.warnings)


def _kept(job: StageJob, graph: Graph) -> _Made:
    """Integers of another tool's, as they are."""
    from flowlab.stages.own.integers import check_asked, prepared

    asked: OwnQuantizeOptions = job.options
    name = json.loads(job.input("own_network").read_text(encoding="utf-8"))["name"]
    check_asked(name, asked.weight_bits, output_int=asked.output_int)
    return _Made(prepared(graph, asked.accelerator), job.input("own_onnx").read_bytes(), {})


def _quantized(job: StageJob, graph: Graph) -> _Made:
    from flowlab.compiler.export_onnx import export_onnx
    from flowlab.learn.determinism import seeded
    from flowlab.quant.quantization_config import Account, print_config
    from flowlab.quant.rebuild import weights_bytes
    from flowlab.signal import features_file

    asked: OwnQuantizeOptions = job.options
    windows = features_file.read(job.input("features_train")).features
    quantizer = job.plugins["quantizer"]
    assert isinstance(quantizer, Quantizer)
    job.progress(f"{quantizer.name} on {len(windows)} windows", 0.1)
    with seeded(SEED, THREADS):
        found = quantizer.quantize(_job(job, quantizer, graph, windows), job.plugin_options["quantizer"])
    account = Account(
        quantizer=quantizer.name,
        method="PTQ",
        number_format=asked.format.name,
        requested_weight_bits=asked.weight_bits,
        requested_activation_bits=ACTIVATION_BITS,
        weight_bits=asked.weight_bits,
        activation_bits=ACTIVATION_BITS,
        calibration_count=len(windows),
        calibration_seed=SEED,
        seed=SEED,
        epochs=0,
        output_int=asked.output_int,
        onnx_metadata=dict(found.graph.metadata),
    )
    return _Made(
        found.graph,
        export_onnx(found.graph, account.onnx_metadata),
        {
            "quantization_config": ("quantization_config.yaml", print_config(account, found.graph).encode()),
            "quantized_weights": ("best_model.pt", weights_bytes(found.graph)),
        },
        tuple(found.warnings),
        account.summary(),
    )


def _job(job: StageJob, quantizer: Quantizer, graph: Graph, windows: Any) -> QuantizeJob:
    """What the quantizer is asked for: there is no module, only the graph.

    Raises:
        QuantizationError: with every problem that can be said before.
    """
    from flowlab.compiler.rewrite import replace_nodes
    from flowlab.compiler.unbuilt import unbuilt

    asked: OwnQuantizeOptions = job.options
    bits = asked.weight_bits
    graph = replace_nodes(
        graph, lambda node: node.with_attributes(weight_bits=bits) if node.op in ("conv", "linear") else node
    )
    problems = (*quantizer.check(graph, asked.format, job.plugin_options["quantizer"]), *unbuilt(graph))
    if problems:
        name = json.loads(job.input("own_network").read_text(encoding="utf-8"))["name"]
        raise QuantizationError(
            f"{name} cannot be quantized by {quantizer.name} for {asked.device}:\n"
            + "\n".join(f"  * {problem}" for problem in problems)
        )
    return QuantizeJob(
        model=None,  # type: ignore[arg-type]  # there is only the graph
        graph=graph,
        format=asked.format,
        weight_bits=bits,
        activation_bits=ACTIVATION_BITS,
        calibration=windows,
        fit=_no_fit,
        output_int=asked.output_int,
        scratch=job.scratch,
        seed=SEED,
        progress=job.progress,
        finetune=bits < ACTIVATION_BITS,
    )


def _no_fit(module: Any) -> Mapping[str, Any]:
    raise AssertionError("nothing is trained here")
