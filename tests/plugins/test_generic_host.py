from __future__ import annotations

from pathlib import Path

import numpy as np
from integer_graphs import awkward_graph, features_of

from flowlab.compiler import interpreter
from flowlab.compiler.number_format import GENERIC
from flowlab.compiler.program import parse
from flowlab.compiler.trace import layer_crcs
from flowlab.contracts import Golden, LowerJob
from flowlab_cores.cores import CORES
from flowlab_generic.host import HostCore, HostTarget


def test_the_host_takes_any_integer_graph_as_c(tmp_path: Path) -> None:
    graph = awkward_graph()
    features = features_of(graph, 2)
    values = interpreter.run(graph, features)
    outputs = {name: values[value] for name, value in graph.outputs.items()}
    golden = Golden(features, values["quantize"], outputs, layer_crcs(graph, values), np.ones((2, 1, 4), np.float32))
    made = HostTarget().lower(LowerJob(graph, golden, False, HostCore(), None, ("a", "b", "c"), "ab" * 32, tmp_path))
    assert set(made.files) == {
        "model.flnp", "model.c", "model.h", "test_vector.c", "test_vector.h", "main.c", "host_runner.c",
    }  # fmt: skip
    assert parse(made.files["model.flnp"].read_bytes()).golden is not None
    assert [one.name for one in HostTarget().executions()] == ["host C"]


def test_the_host_has_no_accelerator_and_no_limit() -> None:
    target = HostTarget()
    assert (target.rules(), target.passes(), target.memory, target.quantizers) == ((), (), {}, {})
    assert target.formats == {"cpu": GENERIC}
    assert target.core == HostCore().name


def test_cores_have_names_of_their_own_and_the_widths_of_their_makers() -> None:
    by_name = {core.name: core for core in CORES}
    assert len(by_name) == len(CORES)
    assert {name for name, core in by_name.items() if core.char_bits == 16} == {"C28x", "C28x-FPU64"}
    for core in CORES:
        assert bool(core.cross_flags) == bool(core.emulated_as) == core.name.startswith("Cortex")
        assert set(core.cross_flags) in (set(), {"zig", "arm-none-eabi-gcc"})
