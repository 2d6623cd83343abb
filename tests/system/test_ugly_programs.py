"""Many ordinary networks as programs: the simulator and C on the host give the graph's integers, layer by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quant.ugly_measure import canonical, job_of
from quant.ugly_networks import RIGHT, build, data

from flowlab.compiler import emit_c, emit_runner, interpreter
from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.fast_c.emit import emit
from flowlab.compiler.fast_c.source import STYLES
from flowlab.compiler.importer import import_onnx
from flowlab.compiler.ir import Graph
from flowlab.compiler.lower import lower
from flowlab.compiler.pipeline import place_for
from flowlab.compiler.program import encode
from flowlab.compiler.text import same
from flowlab.compiler.trace import layer_crcs
from flowlab.compiler.unbuilt import unbuilt
from flowlab.cpu import host_compiler
from flowlab.cpu.host_c import HostC
from flowlab.quant.ptq import post_training
from flowlab_tinpu.devices import TARGETS
from flowlab_tinpu.number_format import NPU
from flowlab_tinpu.simulator import simulate

pytestmark = pytest.mark.system

DEVICE = next(target for target in TARGETS if target.name == "F28P55")
WINDOWS = 24


def quantized(name: str) -> tuple[Graph, np.ndarray]:
    """Integers of a network by its scales alone, and windows in the graph's shape."""
    module, shape = build(name)
    graph = post_training(job_of(module, shape, NPU), "test").graph
    return graph, canonical(data(shape).test[:WINDOWS], shape)


def one_output(graph: Graph) -> bool:
    return len(graph.outputs) == 1


@pytest.mark.parametrize("name", RIGHT)
def test_it_runs_as_a_program_and_as_c(name: str, tmp_path: Path) -> None:
    assert host_compiler.find() is not None
    graph, features = quantized(name)
    said = unbuilt(graph)
    assert all("a run trains one" in one for one in said), said
    assert same(import_onnx(export_onnx(graph, {})), graph)
    placed = place_for(DEVICE, graph).graph
    values = interpreter.run(graph, features)
    crcs = layer_crcs(placed, interpreter.run(placed, features))
    container = lower(placed, "ab" * 32)
    found = simulate(encode(container), features)
    for output, value in graph.outputs.items():
        wanted = values[value]
        assert np.array_equal(
            found[f"output/{output}"], wanted.astype(np.int32) if wanted.dtype.kind != "f" else wanted
        )
    assert {key.removeprefix("crc/") for key in found if key.startswith("crc/")} == set(crcs)
    assert [layer for layer, crc in crcs.items() if not np.array_equal(found[f"crc/{layer}"], crc)] == []

    style = STYLES[list(RIGHT).index(name) % len(STYLES)]
    plain = emit_c.emit_c(container, skip_normalize=True)
    for kind, made in (("plain", plain), (style, emit(container, style, skip_normalize=True).texts)):
        folder = tmp_path / kind
        folder.mkdir()
        texts = {**made, **emit_runner.emit_runner(container, skip_normalize=True)}
        program = {file: folder / file for file in texts}
        for file, text in texts.items():
            program[file].write_text(text)
        outcome = HostC().run(program, features, folder / "scratch")
        for output, value in graph.outputs.items():
            assert np.array_equal(outcome.outputs[output], values[value]), kind
        assert [layer for layer, crc in crcs.items() if not np.array_equal(outcome.trace[layer], crc)] == [], kind
