"""C on emulated cores: every integer, exact counts, and what a core or its memory does not allow."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from compiler.random_graphs import random_graph
from integer_graphs import example_graph, features_of, moving_graph, narrow_graph

from flowlab.compiler import emit_c, emit_runner, interpreter
from flowlab.compiler.fast_c.emit import emit, style_for
from flowlab.compiler.ir import Graph
from flowlab.compiler.lower import lower
from flowlab.compiler.trace import layer_crcs
from flowlab.contracts import Core, Outcome
from flowlab.cpu import cross_compiler
from flowlab.cpu.emulated_core import EmulatedCore
from flowlab.errors import StageError
from flowlab_cores.cores import CORES

ARM = {core.name: core for core in CORES if core.cross_flags}
MEMORY = {"flash": 256 * 1024, "ram": 32 * 1024}
VECTORS = 4


def written(
    graph: Graph, core: Core, folder: Path, kernels: str = "speed", memory: dict[str, int] = MEMORY, **changes: str
) -> dict[str, Path]:
    """A program's files for a core; ``changes`` are texts to put in place of those that are emitted, by old text."""
    container = lower(graph, "ab" * 32)
    style = style_for(core, kernels)
    made = emit_c.emit_c(container, skip_normalize=True)
    if style is not None:
        made = dict(emit(container, style, skip_normalize=True).texts)
    optimize = "-O3" if kernels == "speed" else "-Os"
    texts = made | emit_runner.emit_device(container, core, memory, skip_normalize=True, optimize=optimize)
    for name, text in texts.items():
        for old, new in changes.items():
            text = text.replace(old, new)
        (folder / name).write_text(text)
    return {name: folder / name for name in texts}


def outcome(graph: Graph, core: Core, folder: Path, kernels: str = "speed") -> tuple[Outcome, bool]:
    features = features_of(graph, VECTORS)
    values = interpreter.run(graph, features)
    found = EmulatedCore().run(written(graph, core, folder, kernels), features, folder / "scratch")
    same = all(np.array_equal(found.outputs[name], values[value]) for name, value in graph.outputs.items())
    crcs = layer_crcs(graph, values)
    assert set(found.trace) <= set(crcs)
    return found, same and all(np.array_equal(crc, crcs[name]) for name, crc in found.trace.items())


@pytest.mark.parametrize("core", ARM)
@pytest.mark.parametrize("kernels", ["speed", "size", "plain"])
def test_every_core_gives_every_integer_of_every_layer(core: str, kernels: str, tmp_path: Path) -> None:
    for at, graph in enumerate((example_graph(), moving_graph(), narrow_graph((2, 8)))):
        folder = tmp_path / str(at)
        folder.mkdir()
        found, right = outcome(graph, ARM[core], folder, kernels)
        assert right
        assert found.measured["core"] == core
        assert found.measured["instructions"] >= found.measured["instructions_least"] > 1000
        assert 0 < found.measured["stack_bytes"] < 2000
        assert found.measured["text_bytes"] and found.measured["rodata_bytes"] and found.measured["bss_bytes"]


def test_what_a_compiler_keeps_in_registers_is_traced_as_well(tmp_path: Path) -> None:
    """A network so small that no layer's values need to lie in memory for the next one."""
    assert outcome(random_graph(49, True), ARM["Cortex-M0+"], tmp_path, "plain")[1]


def test_kernels_for_a_core_take_fewer_instructions_and_small_ones_less_flash(tmp_path: Path) -> None:
    counts, flash = {}, {}
    for kernels in ("speed", "size", "plain"):
        folder = tmp_path / kernels
        folder.mkdir()
        measured = outcome(example_graph(), ARM["Cortex-M33"], folder, kernels)[0].measured
        counts[kernels] = measured["instructions"]
        flash[kernels] = measured["text_bytes"] + measured["rodata_bytes"]
    assert counts["speed"] < counts["size"] < counts["plain"]
    assert flash["size"] < flash["speed"]


def test_counts_are_the_same_every_time(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        found.append(outcome(example_graph(), ARM["Cortex-M33"], tmp_path / name)[0].measured)
    assert found[0] == found[1]


def run(files: dict[str, Path], folder: Path) -> None:
    EmulatedCore().run(files, features_of(example_graph(), 2), folder / "scratch")


def inside(code: str) -> dict[str, str]:
    """A change that runs this at the start of the network."""
    return {
        "void model_run(const int_least8_t *input, model_outputs *outputs)\n{": (
            f"void model_run(const int_least8_t *input, model_outputs *outputs)\n{{\n{code}"
        )
    }


def test_an_instruction_that_the_core_has_not_is_found_before_it_runs(tmp_path: Path) -> None:
    """Compiled for a core with more: the emulated one would run some of it all the same."""
    core = ARM["Cortex-M0+"]
    other = Core.__new__(type(core))
    other.__dict__.update(core.__dict__, cross_flags=ARM["Cortex-M33"].cross_flags)
    with pytest.raises(StageError, match=r"the core has no \w+(\.w)? at 0x[0-9a-f]+ \(\w+"):
        run(written(example_graph(), other, tmp_path), tmp_path)


def test_an_instruction_that_the_emulated_core_has_not_stops_it(tmp_path: Path) -> None:
    core = ARM["Cortex-M0+"]
    other = Core.__new__(type(core))
    other.__dict__.update(core.__dict__, cross_flags=ARM["Cortex-M33"].cross_flags, instructions=())
    with pytest.raises(StageError, match=r"(?i)invalid instruction.* at 0x[0-9a-f]+ \(\w+"):
        run(written(example_graph(), other, tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("*(volatile int *)0x40000000 = 1;", r"4 bytes at 0x40000000 that it may not touch at 0x\w+ \(\w+"),
        ("*(volatile int *)(uintptr_t)&model_run = 1;", r"4 bytes at 0x800\w+ that it may not touch"),
        ("for (;;) { __asm__ volatile(\"\"); }", r"device_run did not come back within"),
    ],
)  # fmt: skip
def test_what_leaves_its_memory_or_never_ends_is_stopped(
    code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWLAB_EMULATOR_SECONDS", "0.3")
    with pytest.raises(StageError, match=said):
        run(written(example_graph(), ARM["Cortex-M33"], tmp_path, **inside(code)), tmp_path)


@pytest.mark.parametrize(("memory", "region"), [({"flash": 2048}, "flash"), ({"ram": 256}, "ram")])
def test_a_program_that_does_not_fit_the_device_is_not_linked(
    memory: dict[str, int], region: str, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=f"will not fit in region '{region}'"):
        run(written(example_graph(), ARM["Cortex-M33"], tmp_path, memory=memory), tmp_path)


def test_the_stack_is_what_was_touched(tmp_path: Path) -> None:
    code = 'char deep[5000]; deep[0] = 1; __asm__ volatile("" : : "r"(deep) : "memory");'
    files = written(example_graph(), ARM["Cortex-M33"], tmp_path, **inside(code))
    found = EmulatedCore().run(files, features_of(example_graph(), 2), tmp_path / "scratch")
    assert 5000 <= found.measured["stack_bytes"] < 5600


def test_a_stack_that_runs_into_what_lies_below_it_is_no_result(tmp_path: Path) -> None:
    """It would overwrite activations, and give wrong integers or none."""
    code = 'char deep[3100]; deep[0] = 1; __asm__ volatile("" : : "r"(deep) : "memory");'
    for ram in range(4050, 4301, 50):
        folder = tmp_path / str(ram)
        folder.mkdir()
        files = written(example_graph(), ARM["Cortex-M33"], folder, memory={"ram": ram}, **inside(code))
        with pytest.raises(
            StageError, match=r"the stack needs at least [\d,]+ bytes more than the [\d,]+ that are left"
        ):
            run(files, folder)


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EmulatedCore().missing() is None
    assert "unicorn 2.1" in EmulatedCore().version() and "ziglang 0.17" in EmulatedCore().version()

    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setenv("PATH", "/nowhere")
    assert EmulatedCore().missing() == (
        "ziglang, unicorn, capstone, pyelftools not installed: pip install 'flowlab[emulator]'"
    )


def test_a_wrong_integer_is_seen(tmp_path: Path) -> None:
    graph = example_graph()
    container = lower(graph, "ab" * 32)
    at = next(number for number, layer in enumerate(container.layers) if layer.op == "conv")
    layer = container.layers[at]
    bias = np.asarray(layer.bias).copy()
    bias[0] += 4096
    layers = (*container.layers[:at], replace(layer, bias=bias), *container.layers[at + 1 :])
    made = emit(replace(container, layers=layers), "pairs", skip_normalize=True).texts
    device = emit_runner.emit_device(container, ARM["Cortex-M33"], MEMORY, skip_normalize=True)
    for name, text in (made | device).items():
        (tmp_path / name).write_text(text)
    features = features_of(graph, VECTORS)
    found = EmulatedCore().run({name: tmp_path / name for name in made | device}, features, tmp_path / "scratch")
    crcs = layer_crcs(graph, interpreter.run(graph, features))
    wrong = [name for name, crc in found.trace.items() if not np.array_equal(crc, crcs[name])]
    assert wrong and wrong[0] == layer.name


def test_both_compilers_run_where_both_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one with fewer instructions is the outcome; here the same compiler stands for both, once without effort."""
    zig = cross_compiler.zig()
    assert zig is not None
    slow = replace(zig, version="another compiler", command=(*zig.command, "-fno-inline", "-fno-unroll-loops"))
    monkeypatch.setattr(cross_compiler, "found", lambda: (slow, zig))
    measured = outcome(example_graph(), ARM["Cortex-M33"], tmp_path)[0].measured
    assert measured["compiler"] == f"{zig.version} -O3"
    assert json.loads((tmp_path / "device.json").read_text())["core"] == "Cortex-M33"
