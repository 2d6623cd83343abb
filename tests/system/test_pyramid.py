"""Interpreter, simulator, host C and emulated C: each alone gets a program with something small changed, and is found.

What is changed is drawn over all layers; whether it changes anything at all on the vectors says the interpreter. What
does must end in an error that names the layer, in every execution; what does not must end in none.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compiler.random_graphs import random_features, random_graph
from elftools.elf.elffile import ELFFile
from integer_graphs import awkward_graph, example_graph, features_of, moving_graph, narrow_graph, wide_input_graph
from mutations import Mutation, mutations
from networks.exported import exported

from flowlab.compiler import emit_c, emit_runner, interpreter
from flowlab.compiler.fast_c.emit import emit, style_for
from flowlab.compiler.ir import Graph
from flowlab.compiler.lower import lower
from flowlab.compiler.program import Container, Layer, encode, parse, reseal
from flowlab.compiler.trace import layer_crcs, traced
from flowlab.contracts import Core, Outcome
from flowlab.cpu import cross_compiler, emulated_core
from flowlab.cpu.emulated_core import EmulatedCore
from flowlab.cpu.host_c import HostC
from flowlab.engine.compile_model import Asked, compile_model
from flowlab.errors import AgreementError, FlowlabError, GraphError, ProgramError
from flowlab.plugins import load
from flowlab.stages.simulate import compare_execution
from flowlab_cores.cores import CORES
from flowlab_tinpu.simulator import simulate

pytestmark = pytest.mark.system

ARM = {core.name: core for core in CORES if core.cross_flags}
GRAPHS = {
    "8 bits": example_graph, "branches": awkward_graph, "moves": moving_graph, "wide input": wide_input_graph,
    "4 bits": lambda: narrow_graph((4, 4)), "2 bits": lambda: narrow_graph((2, 2)),
    "4 bits on the NPU": lambda: narrow_graph((4, 8), unit="npu"),
    "2 bits on the NPU": lambda: narrow_graph((2, 8), unit="npu"),
}  # fmt: skip
VECTORS, FEW = 40, 6
LIVING = 0.75  # of the mutations of these networks, at least, change something on the vectors
RANDOM, LIVING_RANDOM = 24, 0.5  # random networks, whose channels are often clipped whole


@dataclass(frozen=True, eq=False)
class Case:
    """A network, its vectors, and what the interpreter makes of them."""

    graph: Graph
    features: np.ndarray

    @property
    def order(self) -> list[str]:
        return [node.name for node in traced(self.graph)]

    @property
    def reference(self) -> Outcome:
        return interpreted(self.graph, self.features)


def case_of(name: str, vectors: int = VECTORS) -> Case:
    graph = GRAPHS[name]()
    return Case(graph, features_of(graph, vectors))


def interpreted(graph: Graph, features: np.ndarray) -> Outcome:
    values = interpreter.run(graph, features)
    outputs = {name: values[value] for name, value in graph.outputs.items()}
    wide = {name: each if each.dtype.kind == "f" else each.astype(np.int32) for name, each in outputs.items()}
    return Outcome(wide, layer_crcs(graph, values))


def simulated(program: bytes, features: np.ndarray) -> Outcome:
    found = simulate(program, features)
    parts: dict[str, dict[str, Any]] = {"output": {}, "crc": {}}
    for name, values in found.items():
        kind, _, rest = name.partition("/")
        parts[kind][rest] = values
    return Outcome(parts["output"], parts["crc"])


def lowered(graph: Graph) -> Container:
    return lower(graph, "ab" * 32)


def c_files(container: Container, core: Core | None, kernels: str, folder: Path) -> dict[str, Path]:
    """A program's C for the host, or for a core."""
    style = style_for(core, kernels) if core is not None else None
    texts = (
        dict(emit(container, style, skip_normalize=True).texts)
        if style
        else emit_c.emit_c(container, skip_normalize=True)
    )
    texts |= emit_runner.emit_runner(container, skip_normalize=True)
    if core is not None:
        texts |= emit_runner.emit_device(container, core, {}, skip_normalize=True)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {name: folder / name for name in texts}


def holds(name: str, case: Case, found: Outcome, mutation: Mutation | None, reference: Outcome | None = None) -> None:
    """What lives is named, with the layer; what does not is no difference."""
    right = case.reference if reference is None else reference
    if mutation is None or not mutation.alive:
        assert compare_execution(name, right, found, case.order)["mismatches"] == 0
        return
    with pytest.raises(AgreementError) as error:
        compare_execution(name, right, found, case.order)
    assert f"execution '{name}' differs" in str(error.value), mutation
    assert f"parts first at {mutation.layer}." in str(error.value), (str(mutation), str(error.value))


def chosen(case: Case, seed: int, count: int) -> Sequence[Mutation]:
    """A seeded choice, each kind first."""
    found = list(mutations(case.graph, case.features, seed))
    random = np.random.default_rng(seed)
    random.shuffle(found)  # type: ignore[arg-type]
    kinds = {one.what: one for one in reversed(found)}
    others = [one for one in found if one not in kinds.values()]
    return [*kinds.values(), *others][:count]


@pytest.mark.parametrize("name", GRAPHS)
def test_untouched_all_executions_agree(name: str, tmp_path: Path) -> None:
    case = case_of(name, FEW)
    container = lowered(case.graph)
    holds("simulator", case, simulated(encode(container), case.features), None)
    files = c_files(container, ARM["Cortex-M33"], "speed", tmp_path)
    holds("host C", case, HostC().run(files, case.features, tmp_path / "host"), None)
    holds("emulated core", case, EmulatedCore().run(files, case.features, tmp_path / "core"), None)


def test_random_networks_agree_in_all_executions(tmp_path: Path) -> None:
    ran = 0
    for seed in range(40, 56):
        graph = random_graph(seed, True)
        case = Case(graph, random_features(graph, seed, FEW))
        try:
            container = lowered(graph)
        except ProgramError:
            continue  # it may hold what no program does
        core = list(ARM.values())[seed % len(ARM)]
        files = c_files(container, core, "speed", tmp_path / str(seed))
        holds("simulator", case, simulated(encode(container), case.features), None)
        holds("host C", case, HostC().run(files, case.features, tmp_path / "host"), None)
        holds("emulated core", case, EmulatedCore().run(files, case.features, tmp_path / "core"), None)
        ran += 1
    assert ran >= 8


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize(("name", "target"), [("CLS_1k_NPU", "AM13E2"), ("CLS_ResAdd_3k", "MSPM0G3507")])
def test_models_of_the_zoo_agree_in_all_executions(name: str, target: str, bits: int, tmp_path: Path) -> None:
    catalogue = load()
    model = catalogue.get("model", name)
    torch.manual_seed(0)
    module = model.build((1, 64, 1), 3, model.Options()).eval()  # type: ignore[attr-defined]
    (tmp_path / "net.pt2").write_bytes(exported(module, (1, 64, 1)))
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(0, 1, (120, 1, 64, 1)).astype(np.float32))
    asked = Asked(
        tmp_path / "net.pt2", target, tmp_path / "data.npy", tmp_path / "out", bits, artifacts=tmp_path / "artifacts"
    )
    found = compile_model(asked, catalogue)  # raises where two differ in one integer of one layer
    assert found.executions == ("ONNX Runtime", "interpreter", "simulator", "host C", "emulated core")
    assert found.measured["emulated core"]["kernels"] == "speed"


@pytest.mark.parametrize("name", GRAPHS)
def test_every_mutation_is_found_in_interpreter_and_simulator(name: str) -> None:
    case = case_of(name)
    right = simulated(encode(lowered(case.graph)), case.features)
    found = list(mutations(case.graph, case.features, seed=0, each=4))
    assert np.mean([one.alive for one in found]) >= LIVING
    for one in found:
        holds("interpreter", case, interpreted(one.graph, case.features), one, right)
        holds("simulator", case, simulated(encode(lowered(one.graph)), case.features), one)


def test_every_mutation_of_random_networks_is_found_or_refused_by_name() -> None:
    alive, seen = [], 0
    for seed in range(RANDOM):
        graph = random_graph(seed, True)
        case = Case(graph, random_features(graph, seed, VECTORS))
        try:
            right = simulated(encode(lowered(graph)), case.features)
        except ProgramError:
            continue  # it may hold what no program does
        for one in mutations(graph, case.features, seed):
            try:
                found = simulated(encode(lowered(one.graph)), case.features)
            except (ProgramError, GraphError) as error:
                assert any(word in str(error) for word in (one.node, one.layer)), error
                continue
            holds("interpreter", case, interpreted(one.graph, case.features), one, right)
            holds("simulator", case, found, one)
            alive.append(one.alive)
        seen += 1
    assert seen >= RANDOM // 2 and len(alive) > 200 and np.mean(alive) >= LIVING_RANDOM


@pytest.mark.parametrize("name", GRAPHS)
def test_mutations_are_found_in_host_c(name: str, tmp_path: Path) -> None:
    case = case_of(name)
    for at, one in enumerate(chosen(case, 1, 8)):
        core = ARM["Cortex-M33"] if at % 2 else None  # with the kernels for a core, and in plain C
        files = c_files(lowered(one.graph), core, "speed", tmp_path / str(at))
        holds("host C", case, HostC().run(files, case.features, tmp_path / "scratch"), one)


@pytest.mark.parametrize(
    ("name", "core", "kernels"),
    [("8 bits", "Cortex-M33", "speed"), ("4 bits on the NPU", "Cortex-M0+", "speed"), ("2 bits", "Cortex-M4F", "size")],
)
def test_mutations_are_found_on_emulated_cores(name: str, core: str, kernels: str, tmp_path: Path) -> None:
    case = case_of(name, FEW)
    for at, one in enumerate(chosen(case, 2, 5)):
        files = c_files(lowered(one.graph), ARM[core], kernels, tmp_path / str(at))
        holds("emulated core", case, EmulatedCore().run(files, case.features, tmp_path / "scratch"), one)


# --- bytes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corrupting(cross_compiler.CrossCompiler):
    """Gives what was linked once, with one bit of one constant flipped, as a flash may lose it."""

    linked: Mapping[str, bytes] | None = None
    symbol: str = ""
    byte: int = 0
    bit: int = 0

    def link(self, source: Path, out: Path, *rest: Any, **options: Any) -> None:
        if self.linked is None:
            super().link(source, out, *rest, **options)
            shutil.copyfile(out, source.parents[1] / out.name)
            return
        content = bytearray(self.linked[out.name])
        content[_place(self.linked[out.name], self.symbol) + self.byte] ^= 1 << self.bit
        out.write_bytes(content)


def constants(elf: Path) -> dict[str, int]:
    """Sizes of an ELF file's constants of layers, by their names."""
    with elf.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        return {
            symbol.name: symbol["st_size"]
            for symbol in table.iter_symbols()
            if symbol.name.partition("_")[0] in ("weight", "bias", "shift", "rows") and symbol["st_size"]
        }


def _place(content: bytes, symbol: str) -> int:
    import io

    elf = ELFFile(io.BytesIO(content))
    (found,) = elf.get_section_by_name(".symtab").get_symbol_by_name(symbol)
    section = elf.get_section(found["st_shndx"])
    return int(section["sh_offset"] + found["st_value"] - section["sh_addr"])


def test_a_bit_that_flash_loses_is_found_on_the_emulated_core(tmp_path: Path) -> None:
    """In weights, biases and shifts as they lie in the linked program; the layer is the constant's."""
    case, core, zig = case_of("8 bits", FEW), ARM["Cortex-M33"], cross_compiler.zig()
    assert zig is not None
    container = lowered(case.graph)
    files = c_files(container, core, "speed", tmp_path / "c")
    first, fields = tmp_path / "first", {**vars(zig)}
    first.mkdir()
    holds("emulated core", case, emulated_core.build_and_run(Corrupting(**fields), files, case.features, first), None)
    linked = {name: (tmp_path / name).read_bytes() for name in ("plain.elf", "traced.elf", "bare.elf")}
    random, found = np.random.default_rng(0), 0
    sizes = constants(tmp_path / "plain.elf")
    assert len(sizes) >= 9  # three convolutions; what is small was put into the code
    for symbol, size in sizes.items():
        folder = tmp_path / symbol
        folder.mkdir()
        flip = {"byte": int(random.integers(size)), "bit": int(random.integers(8))}
        corrupting = Corrupting(**fields, linked=linked, symbol=symbol, **flip)
        layer = container.layers[int(symbol.rpartition("_")[2])].name
        outcome = emulated_core.build_and_run(corrupting, files, case.features, folder)
        try:
            compare_execution("emulated core", case.reference, outcome, case.order)
        except AgreementError as error:
            assert f"parts first at {layer}." in str(error)
            found += 1
    assert found >= 0.7 * len(sizes)


def sections(data: bytes) -> dict[str, tuple[int, int]]:
    """Where a container's sections lie."""
    count = struct.unpack_from("<H", data, 52)[0]
    table = [struct.unpack_from("<4sII", data, 64 + 12 * at) for at in range(count)]
    return {tag.decode(): (offset, size) for tag, offset, size in table}


@pytest.mark.parametrize("name", GRAPHS)
def test_every_byte_of_a_program_that_changes_is_refused_or_named(name: str) -> None:
    """The checksum refuses every change; where it was made to fit, the reader or the comparison finds what matters."""
    case = case_of(name)
    good = encode(lowered(case.graph))
    random, named, same = np.random.default_rng(0), 0, 0
    container = parse(good)
    for tag, (offset, size) in sections(good).items():
        for _ in range(12 if size else 0):
            bent = bytearray(good)
            bent[offset + int(random.integers(size))] ^= 1 << int(random.integers(8))
            with pytest.raises(ProgramError, match="the checksum does not fit"):
                parse(bytes(bent))
            try:
                changed = parse(reseal(bytes(bent)))
                found = simulated(reseal(bytes(bent)), case.features)
                compare_execution("simulator", case.reference, found, case.order)
                same += 1
            except AgreementError as error:
                if tag in ("WGHT", "BNRM", "BNRS", "STEP", "LUT8", "TAKE"):
                    layer = changed_layer(container, changed)
                    widened = container.tensors[layer.output].channels < container.tensors[layer.output].shape[0]
                    behind = case.order[case.order.index(layer.name) :]  # a padding shows where it is read
                    assert any(f"parts first at {one}." in str(error) for one in (behind if widened else behind[:1]))
                named += 1
            except FlowlabError:
                named += 1
    assert named > 2 * same


def changed_layer(container: Container, changed: Container) -> Layer:
    """The layer of which a constant is another one."""
    fields = ("weight", "bias", "multiplier", "shift", "entries", "index")
    for one, other in zip(container.layers, changed.layers, strict=True):
        for field in fields:
            values = getattr(one, field)
            if values is not None and not np.array_equal(values, getattr(other, field)):
                return one
    raise AssertionError("no constant of a layer is another one")
