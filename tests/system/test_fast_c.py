"""Fast C on the host: strict warnings, no undefined behaviour, nothing touched beside the arena, every integer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from compiler.random_graphs import random_features, random_graph
from integer_graphs import (
    Builder,
    awkward_graph,
    example_graph,
    features_of,
    moving_graph,
    narrow_graph,
    wide_input_graph,
)

from flowlab.compiler import emit_runner, interpreter
from flowlab.compiler.fast_c.emit import emit
from flowlab.compiler.fast_c.source import STYLES
from flowlab.compiler.ir import Graph
from flowlab.compiler.lower import lower
from flowlab.compiler.program import Container
from flowlab.compiler.trace import layer_crcs
from flowlab.contracts import Core
from flowlab.cpu import cross_compiler, emulated_core, host_compiler
from flowlab.cpu.host_c import HostC
from flowlab.errors import ProgramError
from flowlab_cores.cores import CORES

pytestmark = pytest.mark.system

SANITIZED = (
    "-std=gnu99", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function",
    "-fsanitize=undefined,address", "-fno-sanitize=alignment",  # Arm cores read words anywhere
    "-fno-sanitize-recover=all",
)  # fmt: skip
RANDOM, FEW = 40, 6
ARM = {core.name: core for core in CORES if core.cross_flags}
LOOPS = {
    ("Cortex-M0+", "bytes"): ("FOUR_PLACES", "TURNS"),
    ("Cortex-M33", "pairs"): ("STEP", "larger"),
    ("Cortex-M33", "quads"): ("windows", "larger4"),
    ("Cortex-R5F", "pairs"): ("STEP", "larger"),
    ("Cortex-R5F", "quads"): ("windows", "larger4"),
}
"""What each style's layers call, on one core of each instruction set."""


def odd_graph() -> Graph:
    """Outputs, places and channels that leave a rest everywhere, in two dimensions, with gaps and groups."""
    builder = Builder((3, 9, 7), 5, multiplier=True)
    builder.conv("one", 7, (3, 3), (1, 2), padding=(1, 1, 1, 1))
    builder.conv("gaps", 5, (2, 3), padding=(0, 2, 1, 2), dilation=(2, 2))
    builder.conv("groups", 15, (3, 1), groups=5, unsigned=False)
    builder.conv("each", 15, (3, 3), groups=15)
    return builder.max_pool("pool", (3, 2), (2, 1), (1, 0, 1, 1)).flatten().linear("fc", 5).graph()


def long_graph(bits: tuple[int, int] = (8, 8)) -> Graph:
    """Runs as long as to need several turns, a rest of them, a word behind them, and places farther than one load."""
    builder = Builder((1, 43, 1), 7, multiplier=True, bits=bits)
    builder.conv("one", 6, (13, 1), padding=(6, 0, 6, 0))
    builder.conv("two", 64, (3, 1), padding=(1, 0, 1, 0))  # nine words
    builder.conv("three", 8, (3, 1), (2, 1), padding=(1, 0, 1, 0))  # 128 numbers to the next place
    builder.max_pool("pool", (3, 1), (1, 1), (1, 0, 1, 0))
    builder.conv("four", 5, (5, 1), padding=(2, 0, 2, 0))
    return builder.conv("five", 6, (13, 1), padding=(6, 0, 6, 0)).flatten().linear("fc", 3).graph()  # 65 numbers


def random_series(seed: int) -> Graph:
    """Convolutions over a series, of any length, width, stride and sign, and pools between them."""
    rng = np.random.default_rng(seed)
    bits = (int(rng.choice([8, 8, 4, 2])), 8)
    shape = (int(rng.integers(1, 5)), int(rng.integers(24, 60)), 1)
    builder = Builder(shape, seed, multiplier=bool(rng.integers(2)), bits=bits)
    for at in range(3):
        kernel, stride, channels = (int(rng.integers(1, most)) for most in (14, 3, 13))
        unsigned, edge = bool(rng.integers(4)), kernel // 2
        builder.conv(f"conv{at}", channels, (kernel, 1), (stride, 1), padding=(edge, 0, edge, 0), unsigned=unsigned)
        if rng.integers(2):
            builder.max_pool(f"pool{at}", (3, 1), (1, 1), (1, 0, 1, 0))
    return builder.flatten().linear("fc", 4).graph()


GRAPHS = {
    "example": example_graph,
    "awkward": awkward_graph,
    "moving": moving_graph,
    "wide input": wide_input_graph,
    "odd": odd_graph,
    "long": long_graph,
    "long 4/8": lambda: long_graph((4, 8)),
    "4/4": lambda: narrow_graph((4, 4)),
    "2/2": lambda: narrow_graph((2, 2)),
    "4/8": lambda: narrow_graph((4, 8)),
    "2/8": lambda: narrow_graph((2, 8)),
}


def lowered(graph: Graph) -> Container | None:
    try:
        return lower(graph, "ab" * 32)
    except ProgramError:
        return None  # a random graph may hold what no program does


def agrees(graph: Graph, container: Container, features: np.ndarray, style: str, folder: Path) -> list[str]:
    """The outputs and layers that differ from the interpreter's."""
    texts = {
        **emit(container, style, skip_normalize=False).texts,
        **emit_runner.emit_runner(container, skip_normalize=False),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    values = interpreter.run(graph, features)
    found = HostC().run({name: folder / name for name in texts}, features, folder / "scratch")
    wrong = [name for name, value in graph.outputs.items() if not np.array_equal(found.outputs[name], values[value])]
    crcs = layer_crcs(graph, values)
    return wrong + [name for name, crc in found.trace.items() if not np.array_equal(crc, crcs[name])]


@pytest.fixture
def sanitized(monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_compiler.find() is not None
    plain = host_compiler.HostCompiler.compile
    monkeypatch.setattr(
        host_compiler.HostCompiler, "compile", lambda self, source, out: plain(self, source, out, flags=SANITIZED)
    )


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", GRAPHS)
def test_every_integer_is_right(name: str, style: str, tmp_path: Path, sanitized: None) -> None:
    graph = GRAPHS[name]()
    container = lowered(graph)
    assert container is not None
    assert agrees(graph, container, features_of(graph, 5), style, tmp_path) == []


@pytest.mark.parametrize("style", STYLES)
def test_every_integer_of_random_networks_is_right(style: str, tmp_path: Path, sanitized: None) -> None:
    ran = 0
    for seed in range(RANDOM):
        graph = random_series(seed) if seed % 4 == 3 else random_graph(seed, True)
        container = lowered(graph)
        if container is None:
            continue
        folder = tmp_path / str(seed)
        folder.mkdir()
        assert agrees(graph, container, random_features(graph, seed, 4), style, folder) == [], seed
        ran += 1
    assert ran >= RANDOM // 2


def agrees_on(
    core: Core,
    graph: Graph,
    features: np.ndarray,
    style: str,
    folder: Path,
    *,
    skip: bool = True,
    optimize: str = "-O3",
) -> list[str]:
    """The same on an emulated core, built by every compiler that is here."""
    container = lowered(graph)
    assert container is not None
    (folder / "scratch").mkdir(parents=True)
    texts = {
        **emit(container, style, skip_normalize=skip).texts,
        **emit_runner.emit_device(container, core, {}, skip_normalize=skip, optimize=optimize),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    values, wrong = interpreter.run(graph, features), []
    crcs = layer_crcs(graph, values)
    for compiler in cross_compiler.found():
        files = {name: folder / name for name in texts}
        found = emulated_core.build_and_run(compiler, files, features, folder / "scratch")
        wrong += [name for name, it in graph.outputs.items() if not np.array_equal(found.outputs[name], values[it])]
        wrong += [name for name, crc in found.trace.items() if not np.array_equal(crc, crcs[name])]
    return wrong


@pytest.mark.parametrize("core", ARM.values(), ids=ARM)
def test_a_network_with_rests_everywhere_is_right_on_every_core(core: Core, tmp_path: Path) -> None:
    """In both forms of its entry point, in every style that suits the core."""
    graph = odd_graph()
    for style in STYLES if core.has_dsp else ("bytes",):
        for skip in (True, False):
            folder = tmp_path / f"{style} {skip}"
            assert agrees_on(core, graph, features_of(graph, 4), style, folder, skip=skip) == []


@pytest.mark.parametrize(
    ("core", "style", "bits"), [*((*one, (8, 8)) for one in LOOPS), ("Cortex-M0+", "bytes", (4, 8))]
)
def test_inner_loops_are_right_instruction_by_instruction_and_in_c(
    core: str, style: str, bits: tuple[int, int], tmp_path: Path
) -> None:
    """Instruction by instruction, which the host cannot run, where the compiler optimizes; in C where it does not."""
    graph = long_graph(bits)
    for optimize in ("-O3", "-Os", "-O0"):
        assert agrees_on(ARM[core], graph, features_of(graph, 3), style, tmp_path / optimize, optimize=optimize) == []
    text = (tmp_path / "-O3" / "model.c").read_text()
    assert all(text.count(f"{name}(") > 2 for name in LOOPS[core, style])


@pytest.mark.parametrize(("core", "style"), LOOPS)
def test_every_integer_of_random_series_is_right_on_a_core(core: str, style: str, tmp_path: Path) -> None:
    for seed in range(FEW):
        graph = random_series(seed)
        assert agrees_on(ARM[core], graph, features_of(graph, 3), style, tmp_path / str(seed)) == [], seed
