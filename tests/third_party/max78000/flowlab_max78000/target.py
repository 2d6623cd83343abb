"""The device: number format, memory, how a graph becomes ``model.m78``, its simulator, and a model of its cycles."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.contracts import (
    Costs, Execution, LayerRow, LowerJob, ModelCycles, NumberFormat, Outcome, Program, Requantize, Target,
)  # fmt: skip
from flowlab.errors import ProgramError
from flowlab_max78000.rules import RULES

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph, Node
    from flowlab.compiler.rules import Rule

# "output_shift" is -15 .. 15 beside a division by 128, whatever the weights' width (README of ai8x-training), so a
# shift to the right of -8 .. 22; biases are 8 bits, multiplied by 128 (izer/quantize.py of ai8x-synthesis).
WIDTH = Requantize(multiplier_bits=0, shift=(-8, 22), bias_bits=8, bias_shift=7)
FORMAT = NumberFormat(
    "max78000",
    {8: WIDTH, 4: WIDTH, 2: WIDTH},
    power_of_two_scales={8: True, 4: True, 2: True},
    per="layer",
    unsigned_after_relu=False,
    rounding="half_up",
)
# Published: 64 processors with 768 kernels of 9 bytes each, "442 KB"; 512 KB of data in 16 instances; 2 KB of biases
# (MAX78000 data sheet, and "Hardware and Resources" in the README of ai8x-training).
PROCESSORS = 64
MEMORY = {"weights": 64 * 768 * 9, "data": 512 * 1024, "bias": 2048}
CHANNEL_BYTES = MEMORY["data"] // PROCESSORS  # of one channel: what a processor reads
MOST_LAYERS = 32


class Simulator(Execution):
    """The program's bytes on a model of the machine, in a fresh process."""

    name = "simulator"

    def run(self, program: Mapping[str, Path], features: Any, scratch: Path) -> Outcome:
        """Run ``model.m78``."""
        import tempfile

        import numpy as np

        from flowlab.cpu.process import run_tool

        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            given, results = Path(folder) / "features.npy", Path(folder) / "results.npz"
            np.save(given, np.ascontiguousarray(features, np.float32), allow_pickle=False)
            command = [sys.executable, "-P", "-m", "flowlab_max78000.simulator", program["model.m78"], given, results]
            run_tool([str(part) for part in command], timeout_s=1800)
            with np.load(results, allow_pickle=False) as found:
                parts = {kind: {} for kind in ("output", "crc")}
                for name in found.files:
                    parts[name.partition("/")[0]][name.partition("/")[2]] = found[name]
        return Outcome(parts["output"], parts["crc"])


class Max78000(Target):
    """MAX78000: a Cortex-M4 with an accelerator of 64 processors."""

    name = "MAX78000"
    summary = "Cortex-M4 with a convolution accelerator of 64 processors, weights of 8, 4 and 2 bits"
    formats: Mapping[str, NumberFormat] = {"npu": FORMAT}
    quantizers: Mapping[str, str] = {"QAT": "max78000_qat", "PTQ": "max78000_ptq"}
    core = "max78000-m4"
    memory: Mapping[str, int] = MEMORY
    clock_hz = 100_000_000
    unit_name = "accelerator"
    silicon = "model.m78 runs on a model of the accelerator; ai8x-synthesis makes the registers of the device."
    code = ("flowlab_max78000", "flowlab.compiler", "flowlab.cpu")
    libraries = ("numpy",)

    def rules(self) -> tuple[Rule, ...]:
        """The accelerator's rules."""
        return RULES

    def executions(self) -> tuple[Execution, ...]:
        """The simulator."""
        return (Simulator(),)

    def costs(self, graph: Graph) -> Costs:
        """A cycle for each output of each 64 input channels: all 9 places of a kernel are multiplied at once."""
        layers = {node.name: _cycles(graph, node) for node in graph.nodes if node.op in ("conv", "linear")}
        found = ModelCycles("cycles of a model of MAX78000", layers, 9 * PROCESSORS, {"processors": PROCESSORS})
        return Costs(found if layers else None)

    def lower(self, job: LowerJob) -> Program:
        """A graph whose layers are all on the accelerator -> ``model.m78``."""
        from flowlab.compiler.allocate import require_fit
        from flowlab_max78000.program import encode

        graph = job.graph
        for node in graph.nodes:
            if node.attributes.get("unit") == "cpu" or node.op not in LOWERED:
                raise ProgramError(f"MAX78000: layer '{node.name}' ({node.op}) is not on the accelerator, which runs all")
        if sum(node.op in ("conv", "linear") for node in graph.nodes) > MOST_LAYERS:
            raise ProgramError(f"MAX78000: more than {MOST_LAYERS} layers")
        layers = [made for node in graph.nodes if (made := LOWERED[node.op](graph, node)) is not None]
        ((output, _),) = graph.outputs.items()
        memory = {
            "weights": {one.name: one.arrays["weight"].size * one.bits // 8 for one in layers if "weight" in one.arrays},
            "data": {"activations": _data_bytes(graph)},
            "bias": {one.name: one.arrays["bias"].size for one in layers if "weight" in one.arrays},
        }
        require_fit(memory, MEMORY, self.name)
        job.out.mkdir(parents=True, exist_ok=True)
        path = job.out / "model.m78"
        path.write_bytes(encode(graph.inputs[0].type.shape, output, layers))
        return Program({path.name: path}, memory, _rows(graph, memory["weights"]), sum(memory["weights"].values()))


def _cycles(graph: Graph, node: Node) -> int:
    outputs = 1
    for extent in node.type.shape:
        outputs *= extent
    return outputs * -(-graph.type_of(node.inputs[0]).shape[0] // PROCESSORS)


def _rows(graph: Graph, weights: Mapping[str, int]) -> tuple[LayerRow, ...]:
    from flowlab.compiler.place import place

    return place(graph, RULES, Max78000.unit_name).rows


def _data_bytes(graph: Graph) -> int:
    """The most that a layer reads and writes, in all processors' memories; a channel has a 64th of them.

    Raises:
        ProgramError: where the rows of a channel, or of several in one processor, do not fit its memory.
    """
    most = 0
    for node in graph.nodes:
        if node.type.dtype == "int8" and node.op not in ("quantize", "flatten"):
            source = node if node.op == "max_pool" else graph.node(node.inputs[0])
            shapes = [(*shape, 1, 1)[:3] for shape in (graph.type_of(source.inputs[0]).shape, node.type.shape)]
            words = sum(height * width * -(-channels // PROCESSORS) for channels, height, width in shapes)
            if words > CHANNEL_BYTES:
                raise ProgramError(
                    f"MAX78000: layer '{source.name}' reads and writes {words} bytes a processor, which has "
                    f"{CHANNEL_BYTES}. Use shorter windows or a pool before it"
                )
            most = max(most, sum(height * width * channels for channels, height, width in shapes))
    return most


def _of_sum(graph: Graph, node: Node) -> Any:
    """A convolution or product with its requantization, which is one layer of the machine."""
    from flowlab_max78000.program import Layer

    total, has = graph.node(node.inputs[0]), node.attributes
    if total.op not in ("conv", "linear"):
        raise ProgramError(f"MAX78000: layer '{total.name}' ({total.op}) is no convolution")
    bias = (node.constants["bias"] >> WIDTH.bias_shift).astype("int8")
    if (bias.astype(int) << WIDTH.bias_shift != node.constants["bias"]).any() or has["rounding"] != FORMAT.rounding:
        raise ProgramError(f"layer '{node.name}': its numbers are not of number format '{FORMAT.name}'; quantize again")
    shift = int(node.constants["shift"][0])
    layer = Layer(total.op, node.name, bits=total.attributes["weight_bits"], shift=shift, low=has["low"], high=has["high"])
    layer.arrays = {"weight": total.constants["weight"], "bias": bias}
    if total.op == "conv":
        layer.kernel, layer.padding = total.constants["weight"].shape[2:], total.attributes["padding"]
    return layer


def _plain(op: str) -> Any:
    def made(graph: Graph, node: Node) -> Any:
        from flowlab_max78000.program import Layer

        has = {key: value for key, value in node.attributes.items() if key in ("kernel", "stride", "low", "high", "scale")}
        return Layer(op, node.name, **has, arrays=dict(node.constants))

    return made


def _nothing(graph: Graph, node: Node) -> None:
    """Part of the layer behind it."""


LOWERED: Mapping[str, Any] = {
    "quantize": _plain("quantize"), "max_pool": _plain("pool"), "dequantize": _plain("dequantize"),
    "requantize": _of_sum, "conv": _nothing, "linear": _nothing, "flatten": _nothing,
}  # fmt: skip
