"""What programs take on the devices' own cores: instructions, bytes and stack, counted on emulated cores.

The networks and quantizations are those of `flowlab.engine.bench_quantization`, the devices and kernels what the same
preset's ``compile`` lists: ``target``, ``row`` (a label of its ``rows``), ``kernels``, and by network and compiler the
most ``instructions``, ``network_bytes`` and ``arena_bytes`` that it may take (``bars``). Counts are exact, and a
program that does not give every integer of every layer on the vectors that it is run on has none.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.contracts import Core, Golden, LowerJob, Outcome, Target
from flowlab.engine import table
from flowlab.engine.bench_quantization import Asked, Bench, Plan, arrays, bench_preset, fit_data
from flowlab.engine.bench_tables import as_csv, writable
from flowlab.errors import AgreementError, ConfigError, StageError, unknown_name

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph
    from flowlab.cpu.cross_compiler import CrossCompiler
    from flowlab.plugins import Catalogue

VECTORS = 8
BATCH = 256  # windows that the simulator and ONNX Runtime are timed on
EPOCHS, QUICK_EPOCHS = 50, 2  # of the float network: counts hardly depend on its weights
HEAD = (
    "network",
    "bits",
    "core",
    "kernels",
    "compiler",
    "instructions",
    "a MAC",
    "network bytes",
    "arena",
    "stack",
    "bar",
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Count:
    """One program by one compiler on one core; ``bars`` are the most that it may take, by the field's name."""

    network: str
    row: str
    device: str
    core: str
    kernels: str
    compiler: str
    instructions: int
    macs: int
    network_bytes: int
    arena_bytes: int
    stack_bytes: int
    bars: Mapping[str, int] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Whether every bar is met, or the first that is not."""
        if not self.bars:
            return "–"
        for name, most in self.bars.items():
            if getattr(self, name) > most:
                return f"missed: {name.removesuffix('_bytes')} {most:,}"
        return "met"

    def cells(self) -> tuple[str, ...]:
        """A row of the table for people."""
        return (
            self.network, self.row, self.core, self.kernels, self.compiler, f"{self.instructions:,}",
            f"{self.instructions / self.macs:.2f}", f"{self.network_bytes:,}", f"{self.arena_bytes:,}",
            f"{self.stack_bytes:,}", self.verdict,
        )  # fmt: skip


def compiled(asked: Asked, catalogue: Catalogue, say: Say) -> list[str]:
    """Measure; ``say`` gets a line whenever something is done. Returns the table as lines.

    Raises:
        ConfigError: for a network that the preset has not, or a folder that cannot be written.
        StageError: where there is no compiler or no emulator.
        AgreementError: if a program gives another integer than the graph.
    """
    from flowlab.cpu.emulated_core import EmulatedCore

    if missing := EmulatedCore().missing():
        raise StageError(f"nothing can be counted here: {missing}")
    if asked.csv is not None:
        writable(asked.csv)
    values = bench_preset(catalogue).values
    known = [str(name) for name in values["sets"][0]["models"]]
    for name in asked.only.get("model", ()):
        if name not in known:
            raise ConfigError(f"--model: {unknown_name('model', name, set(known))}")
    plan = Plan(values, asked, catalogue, say)
    data = arrays(catalogue, values["sets"][0])
    counts: list[Count] = []
    said = ["", "exact counts of model_run; network bytes: its code and constants, without the float input step"]
    speeds: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in plan.models(values["sets"][0]):
            bench = Bench(plan, data, name, 0, Path(scratch), epochs=QUICK_EPOCHS if asked.quick else EPOCHS)
            counts += _network(bench, catalogue, Path(scratch), say)
            speeds.append(_simulator(bench, catalogue, Path(scratch)))
    if asked.csv is not None:
        columns = [one.name for one in fields(Count) if one.name != "bars"]
        as_csv(asked.csv / "compile.csv", [*columns, "verdict"], [_flat(one) for one in counts])
    return [*said, *table.lines(HEAD, [one.cells() for one in counts]), "", *speeds]


def _flat(count: Count) -> dict[str, Any]:
    return {**{name: value for name, value in vars(count).items() if name != "bars"}, "verdict": count.verdict}


def _network(bench: Bench, catalogue: Catalogue, scratch: Path, say: Say) -> Iterator[Count]:
    """Every row of the preset's list for one float network; a quantization is made once."""
    rows = {row["label"]: row for row in bench.plan.values["rows"]}
    made: dict[str, Graph] = {}
    for asked in bench.plan.values["compile"]:
        label = asked["row"]
        if label not in made:
            made[label] = bench.quantized(rows[label], fit_data(bench.data))[0].graph
        target = catalogue.get("target", asked["target"])
        core = catalogue.get("core", target.core)  # type: ignore[attr-defined]
        assert isinstance(target, Target) and isinstance(core, Core)
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            yield from _program(bench, made[label], asked, (target, core), Path(folder).resolve())
        say(f"{bench.model} {label}: {asked['kernels']} on {target.core} counted")


def _program(
    bench: Bench, graph: Graph, asked: Mapping[str, Any], device: tuple[Target, Core], folder: Path
) -> Iterator[Count]:
    """One program, by every compiler that is here."""
    from flowlab.cpu import cross_compiler

    target, core = device
    features = bench.data.test[0][:VECTORS]
    job = _job(graph, features, asked["kernels"], device, folder / "program")
    program = target.lower(job)
    for compiler in cross_compiler.found():
        found = _run(compiler, program.files, job.golden, folder / compiler.name).measured
        yield Count(
            bench.model,
            str(asked["row"]),
            target.name,
            core.name,
            str(asked["kernels"]),
            str(found["compiler"]),
            int(found["instructions"]),
            sum(row.macs for row in program.layers),
            int(found["network_bytes"]),
            _arena(program.files["model.h"]),
            int(found["stack_bytes"]),
            asked.get("bars", {}).get(bench.model, {}).get(compiler.name, {}),
        )


def _simulator(bench: Bench, catalogue: Catalogue, scratch: Path) -> str:
    """How fast the simulator of the first device's programs is, beside ONNX Runtime on the same integer graph."""
    from functools import partial
    from importlib import import_module
    from statistics import median

    from flowlab.compiler.export_onnx import export_onnx
    from flowlab.engine.bench_quantization import ROUNDS, timed
    from flowlab.stages.validate import session_of

    asked = bench.plan.values["compile"][0]
    row = next(one for one in bench.plan.values["rows"] if one["label"] == asked["row"])
    graph = bench.quantized(row, fit_data(bench.data))[0].graph
    target = catalogue.get("target", asked["target"])
    core = catalogue.get("core", target.core)  # type: ignore[attr-defined]
    assert isinstance(target, Target) and isinstance(core, Core)
    features = bench.data.test[0][:BATCH]
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        job = _job(graph, features[:VECTORS], asked["kernels"], (target, core), Path(folder) / "program")
        data = target.lower(job).files["model.flnp"].read_bytes()
    module, _, name = bench.plan.values["simulator"]["run"].partition(":")
    simulate = partial(getattr(import_module(module), name), data, features, trace=False)
    runtime = session_of(export_onnx(graph, {}))
    run = partial(runtime.run, None, {runtime.get_inputs()[0].name: features})
    ratios = [timed(run) / timed(simulate) for _ in range(ROUNDS)]
    return (
        f"{bench.model} {asked['row']}: the simulator has {median(ratios):.2f} [{min(ratios):.2f}..{max(ratios):.2f}] "
        f"of ONNX Runtime's speed on the same integers, batch {BATCH}, CPU seconds on one thread (bar: "
        f"{bench.plan.values['simulator']['least']})"
    )


def _arena(header: Path) -> int:
    """What the C itself says."""
    line = next(one for one in header.read_text(encoding="utf-8").splitlines() if "MODEL_ARENA" in one)
    return int(line.split()[2])


def _job(graph: Graph, features: Any, kernels: str, device: tuple[Target, Core], out: Path) -> LowerJob:
    """The graph placed for the device, with the interpreter's integers as golden vectors."""
    from flowlab.compiler.pipeline import place_for

    target, core = device
    placed = place_for(target, graph).graph
    golden = _golden(placed, features)
    return LowerJob(placed, golden, True, core, None, (), "0" * 64, out, options=target.Options(kernels=kernels))


def _golden(placed: Graph, features: Any) -> Golden:
    """All vectors, with the interpreter's integers as outputs; there are no raw windows behind them."""
    import numpy as np

    from flowlab.compiler import interpreter
    from flowlab.compiler.ops import INPUT_STEPS
    from flowlab.stages.validate import interpret

    values, crcs = interpret(placed, features)
    first = next(node.name for node in placed.nodes if node.op in INPUT_STEPS)
    inputs = interpreter.run(placed, features)[first]
    raw = np.zeros((len(features), 1, 1), np.float32)
    return Golden(features, inputs, values, {name: crc.tolist() for name, crc in crcs.items()}, raw)


def _run(compiler: CrossCompiler, files: Mapping[str, Path], golden: Golden, folder: Path) -> Outcome:
    """One compiler's build, every integer compared.

    Raises:
        AgreementError: naming the compiler.
    """
    import numpy as np

    from flowlab.cpu.emulated_core import build_and_run

    folder.mkdir()
    outcome = build_and_run(compiler, files, golden.features, folder)
    same = all(np.array_equal(outcome.outputs[name], values) for name, values in golden.outputs.items())
    same &= all(np.array_equal(crc, golden.layer_crc[name]) for name, crc in outcome.trace.items())
    if not same:
        raise AgreementError(f"{compiler.version}: the program gives other integers than the graph")
    return outcome
