"""Networks with split layers: one and the same integers in every execution, from ONNX Runtime to the emulated core."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from integer_graphs import features_of
from plugins.test_tinpu_split import DEVICE, grouped

from flowlab.compiler import emit_c, emit_runner, interpreter
from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.fast_c.emit import emit
from flowlab.compiler.fast_c.source import STYLES
from flowlab.compiler.lower import lower
from flowlab.compiler.pipeline import place_for
from flowlab.compiler.program import encode
from flowlab.compiler.trace import layer_crcs
from flowlab.cpu import cross_compiler, emulated_core, host_compiler
from flowlab.cpu.host_c import HostC
from flowlab.stages.validate import compare, integers_where_meant, run_onnx
from flowlab_cores.cores import CORES
from flowlab_tinpu.simulator import simulate

pytestmark = pytest.mark.system

M33 = next(core for core in CORES if core.name == "Cortex-M33")


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_every_execution_gives_the_integers_of_the_whole_network(bits: int, tmp_path: Path) -> None:
    assert host_compiler.find() is not None
    graph = grouped(bits)
    features = features_of(graph, 12)
    wanted = run_onnx(export_onnx(graph, {}), features, list(graph.outputs))
    runtime = integers_where_meant(graph, wanted)
    placed = place_for(DEVICE, graph).graph
    assert any("part_of" in node.attributes for node in placed.nodes)
    values = interpreter.run(placed, features)
    compare("interpreter", {name: values[value].astype("int32") for name, value in placed.outputs.items()}, runtime)
    container = lower(placed, "ab" * 32)
    crcs = layer_crcs(placed, values)
    found = simulate(encode(container), features)
    compare("simulator", {name: found[f"output/{name}"] for name in runtime}, runtime)
    assert [name for name, crc in crcs.items() if not np.array_equal(found[f"crc/{name}"], crc)] == []

    made = {"plain": emit_c.emit_c(container, skip_normalize=True)}
    made |= {style: dict(emit(container, style, skip_normalize=True).texts) for style in STYLES}
    for kind, texts in made.items():
        folder = tmp_path / kind
        (folder / "emulated").mkdir(parents=True)
        runners = [emit_runner.emit_runner(container, skip_normalize=True)]
        runners.append(emit_runner.emit_device(container, M33, {}, skip_normalize=True))
        program = {}
        for name, text in {**texts, **runners[0], **runners[1]}.items():
            program[name] = folder / name
            program[name].write_text(text)
        outcomes = [HostC().run(program, features, folder / "scratch")]
        compiler = cross_compiler.zig()
        assert compiler is not None
        outcomes.append(emulated_core.build_and_run(compiler, program, features, folder / "emulated"))
        for outcome in outcomes:
            compare(kind, outcome.outputs, runtime)
            assert [name for name, crc in crcs.items() if not np.array_equal(outcome.trace[name], crc)] == []
