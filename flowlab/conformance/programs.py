"""Programs of a target held against the interpreter: what its rules take lowers, and runs to the bit.

A difference is explained where a known mistake explains all of it: another rounding, a shift that is one off, a result
that wraps, a bias left out.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowlab.compiler import interpreter
from flowlab.compiler.number_format import ROUNDINGS, scale_down
from flowlab.compiler.pipeline import place_for
from flowlab.compiler.trace import layer_crcs, unpadded
from flowlab.conformance.networks import KINDS, drawn, features_for
from flowlab.contracts import Core, Execution, Golden, LowerJob, NumberFormat, Outcome, Program, Target
from flowlab.errors import FlowlabError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowlab.compiler.ir import Graph, Node
    from flowlab.compiler.place import Placement

    Array = NDArray[Any]

TRIES = 60  # networks that are drawn until the rules take one
CPU = "cpu"  # the format of a target that no accelerator has
MOVES = ("take", "flatten", "reshape")  # they have no cure: they are part of what splits a layer
SITUATIONS = ("tie", "negative tie", "saturation below", "saturation above")


@dataclass
class Checked:
    """What a target was checked with: networks, layers by kind and unit, and what its requantizations met."""

    networks: int = 0
    layers: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    refused: dict[str, str] = field(default_factory=dict)  # kinds of which the rules took no ordinary layer, and why
    executions: dict[str, str] = field(default_factory=dict)  # by name: "ran", or why it did not


@dataclass(frozen=True)
class Subject:
    """A target with its core and options, and how errors call it."""

    target: Target
    core: Core
    options: Any

    @property
    def who(self) -> str:
        """How errors call it."""
        return f"target '{self.target.name}'"


@dataclass(frozen=True)
class Case:
    """A placed network with what it is run on, and what the interpreter makes of it."""

    name: str
    placement: Placement
    features: NDArray[np.float32]
    values: Mapping[str, Array]

    @property
    def cpu_layers(self) -> list[str]:
        """The layers that the accelerator does not take."""
        return [row.name for row in self.placement.rows if row.unit == "cpu" and row.reason]


def check_programs(subject: Subject, networks: int, only: Sequence[str] | None = None) -> Checked:
    """Place, lower and run random networks in each of a target's number formats.

    Args:
        subject: the target.
        networks: how many are lowered and run in each format.
        only: names of the executions that run; None for all that are not missing here.

    Raises:
        AssertionError: with a sentence that says what is wrong.
    """
    checked, target, who = Checked(), subject.target, subject.who
    chosen = [one for one in target.executions() if only is None or one.name in only]
    running = []
    for execution in chosen:
        reason = execution.missing()
        checked.executions[execution.name] = reason or "ran"
        running += [] if reason else [execution]
    with tempfile.TemporaryDirectory() as folder:
        for key in target.formats:
            for case in _cases(subject, key, networks, checked):
                out = Path(folder) / str(checked.networks)
                program = _lowered(subject, case, out)
                if program is None:
                    continue
                checked.networks += 1
                _meet(case.placement.graph, case.values, checked)
                for execution in running:
                    _run(Runner(who, execution, out / "scratch"), program, case, first=checked.networks == 1)
    if target.formats:
        assert checked.networks, f"{who}: its `lower` refuses every network that was drawn in its number formats"
    return checked


# --- networks and rules -------------------------------------------------------------------------


def _cases(subject: Subject, key: str, networks: int, checked: Checked) -> Iterator[Case]:
    """Networks for a format, by kind of layer in turn and then a chain; those that the rules take where any are."""
    target = subject.target
    off = "the number format of any CPU" if key == CPU else ""
    rules = () if off else target.rules()
    spoken = {kind for rule in rules for kind in rule.layers}
    kinds = [kind for kind in KINDS if not rules or kind in spoken]
    widths = list(target.formats[key].by_weight_bits)
    for at in range(networks):
        kind = (*kinds, "")[at % (len(kinds) + 1)]
        bits = widths[at % len(widths)]
        case = _drawn_case(subject, Wanted(target.formats[key], kind, bits, TRIES * at, off, bool(rules)))
        if case is None:
            continue
        if rules and kind and all(row.unit == "cpu" for row in case.placement.rows):
            checked.refused[kind] = case.placement.rows[-1].reason
            assert set(kinds) - set(checked.refused), (
                f"{subject.who}: its rules take no ordinary layer of any kind; of {kind}: {checked.refused[kind]}"
            )
        checked.layers.update(f"{row.layer} {row.unit}" for row in case.placement.rows)
        yield case


@dataclass(frozen=True)
class Wanted:
    """What is drawn: a layer of a kind, or a chain for the kind ""; from which seed on; whether the rules are asked."""

    format: NumberFormat
    kind: str
    bits: int
    seed: int
    off: str
    rules: bool


def _drawn_case(subject: Subject, wanted: Wanted) -> Case | None:
    """The first network whose layers the accelerator takes all; else the last one that could be drawn."""
    last = None
    for seed in range(wanted.seed, wanted.seed + TRIES):
        graph = drawn(wanted.format, wanted.kind, wanted.bits, seed)
        if graph is None:
            continue
        placement = _placed(subject, graph, wanted.off)
        what = wanted.kind or "a chain"
        last = f"network {seed} ({what}, {wanted.bits}-bit weights, format '{wanted.format.name}')", graph, placement
        if not wanted.rules or all(row.unit != "cpu" for row in placement.rows):
            break
    if last is None:
        return None
    name, graph, placement = last
    features = features_for(graph, wanted.seed)
    return Case(name, placement, features, interpreter.run(placement.graph, features))


def _placed(subject: Subject, graph: Graph, off: str) -> Placement:
    """Where the rules put a network's layers; every layer that they refuse has a reason and a cure."""
    try:
        placement = place_for(subject.target, graph, off)
    except FlowlabError as error:
        raise AssertionError(f"{subject.who}: its passes fail on a network in its number format: {error}") from None
    except Exception as error:  # noqa: BLE001 - what a rule raises is what is being looked for
        raise AssertionError(f"{subject.who}: a rule or pass raises {_said(error)}") from None
    for row in placement.rows:
        if off or row.unit != "cpu" or not subject.target.rules():
            continue
        where = f"{subject.who}: its rules refuse a layer ({row.layer}, {row.shape})"
        assert row.reason, f"{where} and give no reason: a rule's docstring is empty"
        assert row.cure or row.layer in MOVES, f"{where} without a cure: '{row.reason}'"
    return placement


# --- lowering -----------------------------------------------------------------------------------


def _lowered(subject: Subject, case: Case, out: Path) -> Program | None:
    """The program of a network; None where the target refuses one that has layers on the CPU, and says which."""
    graph, who = case.placement.graph, subject.who
    entry = next(node for node in graph.nodes if node.op == "quantize")
    golden = Golden(
        features=case.features,
        inputs=unpadded(entry, case.values[entry.name])[:, : case.features.shape[1]],
        outputs={name: case.values[value].astype(np.int32) for name, value in graph.outputs.items()},
        layer_crc={name: crc.tolist() for name, crc in layer_crcs(graph, case.values).items()},
        windows=case.features[..., 0],
    )
    job = LowerJob(
        graph=graph, golden=golden, skip_normalize=False, core=subject.core, feature_c=None, classes=("a", "b"),
        source_sha256="0" * 64, out=out, options=subject.options,
    )  # fmt: skip
    try:
        program = subject.target.lower(job)
    except FlowlabError as error:
        on_cpu = case.cpu_layers
        assert on_cpu, f"{who}: its rules take every layer of {case.name}, and `lower` refuses what they took: {error}"
        assert any(name in str(error) for name in on_cpu), (
            f"{who}: `lower` refuses {case.name} and names none of its layers on the CPU: {error}"
        )
        return None
    except Exception as error:  # noqa: BLE001 - what a plugin raises is what is being looked for
        raise AssertionError(f"{who}: `lower` raises {_said(error)}; errors are FlowlabError") from None
    for name, path in program.files.items():
        assert path.is_file(), f"{who}: `lower` says that it wrote '{name}', and there is no such file"
        assert path.is_relative_to(out), f"{who}: `lower` wrote '{name}' outside of the folder that it was given"
    return program


# --- executions ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runner:
    """An execution with the program that it runs."""

    who: str
    execution: Execution
    scratch: Path

    @property
    def what(self) -> str:
        """How errors call it."""
        return f"{self.who}: execution '{self.execution.name}'"

    def run(self, program: Program, features: NDArray[np.float32]) -> Outcome:
        """What it computes."""
        try:
            return self.execution.run(program.files, features, self.scratch)
        except Exception as error:  # noqa: BLE001 - what a plugin raises is what is being looked for
            raise AssertionError(f"{self.what} fails: {_said(error)}") from None

    def refuses(self, program: Program, features: NDArray[np.float32], what: str) -> None:
        """It raises a `FlowlabError` for what is wrong."""
        try:
            self.execution.run(program.files, features, self.scratch)
        except FlowlabError:
            return
        except Exception as error:  # noqa: BLE001
            raise AssertionError(f"{self.what} raises {_said(error)} for {what}; errors are FlowlabError") from None
        raise AssertionError(f"{self.what} takes {what} without a word")


def _run(runner: Runner, program: Program, case: Case, *, first: bool) -> None:
    outcome = runner.run(program, case.features)
    _compare(runner.what, case, outcome)
    if not first:
        return
    parts = [runner.run(program, part) for part in (case.features[:1], case.features[1:])]
    for name, array in outcome.outputs.items():
        together = np.concatenate([part.outputs[name] for part in parts])
        assert np.array_equal(together, array), f"{runner.what} gives other integers where a batch is fed in two parts"
    longer = np.concatenate([case.features, case.features[:, :, :1]], axis=2)
    runner.refuses(program, longer, "features of another shape")
    runner.refuses(_damaged(program, runner.scratch), case.features, "a program cut off in the middle")


def _damaged(program: Program, scratch: Path) -> Program:
    """The same files, each cut off in the middle."""
    folder = scratch / "damaged"
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, path in program.files.items():
        data = path.read_bytes()
        files[name] = folder / path.name
        files[name].write_bytes(data[: len(data) // 2])
    return replace(program, files=files)


def _compare(what: str, case: Case, outcome: Outcome) -> None:
    """Every integer of every output, then the checksums of the layers that the execution traced."""
    graph = case.placement.graph
    assert set(outcome.outputs) == set(graph.outputs), (
        f"{what} has the outputs {sorted(outcome.outputs)}, and the graph {sorted(graph.outputs)}"
    )
    right = layer_crcs(graph, case.values)
    wrong = [name for name in right if name in outcome.trace and not np.array_equal(outcome.trace[name], right[name])]
    for name, value in graph.outputs.items():
        found, wanted = np.asarray(outcome.outputs[name]), case.values[value].astype(np.int64)
        assert np.issubdtype(found.dtype, np.integer), f"{what}: output '{name}' is {found.dtype}, not whole numbers"
        assert found.shape == wanted.shape, f"{what}: output '{name}' has shape {found.shape}, not {wanted.shape}"
        if not np.array_equal(found, wanted):
            at = tuple(np.argwhere(found != wanted)[0])
            layer = wrong[0] if wrong else value
            raise AssertionError(
                f"{what} and the interpreter differ on {case.name}, first at layer '{layer}', in "
                f"{int((found != wanted).sum())} of {wanted.size} values, as {found[at]} for {wanted[at]}"
                f"{_explained(graph, value, case.values, found)}"
            )
    assert not wrong, f"{what} on {case.name}: its trace of layer '{wrong[0]}' has another checksum"


# --- what a difference is -----------------------------------------------------------------------


def _explained(graph: Graph, value: str, values: Mapping[str, Array], found: Array) -> str:
    """The known mistake that makes these very integers, or an empty text."""
    node = graph.node(value)
    if node.op != "requantize":
        return ""
    for said, made in _mistakes(node, values[node.inputs[0]].astype(np.int64)):
        if np.array_equal(made, found):
            return f": {said}"
    return ": its sums, bias, multiplier or shift are others"


def _mistakes(node: Node, total: Array) -> Iterator[tuple[str, Array]]:
    bias, multiplier, shift = (_column(node, key, total) for key in ("bias", "multiplier", "shift"))
    low, high = (int(str(node.attributes[key])) for key in ("low", "high"))
    rounding = str(node.attributes["rounding"])
    before = bool(node.attributes["bias_before_multiply"])

    def made(total: Array, bias: Array, shift: Array, rounding: str) -> Array:
        scaled: Array = scale_down(total + bias if before else total, multiplier, shift, rounding)
        return scaled + (0 if before else bias) + node.type.zero_point

    for other in ROUNDINGS:
        if other != rounding:
            said = f"it rounds '{other}', and the format says '{rounding}'"
            yield said, np.clip(made(total, bias, shift, other), low, high)
    for by, word in ((1, "more"), (-1, "less")):
        yield f"it shifts by one {word}", np.clip(made(total, bias, shift + by, rounding), low, high)
    yield "it leaves the bias out", np.clip(made(total, bias * 0, shift, rounding), low, high)
    plain = made(total, bias, shift, rounding)
    dtype = np.dtype(node.type.dtype)
    yield "it wraps around where it should saturate", plain.astype(dtype).astype(np.int64)
    yield "it does not saturate", plain
    yield "it saturates below alone", np.maximum(plain, low)
    yield "it saturates above alone", np.minimum(plain, high)


def _column(node: Node, key: str, like: Array) -> Array:
    return node.constants[key].astype(np.int64).reshape(1, -1, *(1,) * (like.ndim - 2))


def _meet(graph: Graph, values: Mapping[str, Array], checked: Checked) -> None:
    """Count what the requantizations of a network met."""
    for node in graph.nodes:
        if node.op != "requantize":
            continue
        total = values[node.inputs[0]].astype(np.int64)
        bias, multiplier, shift = (_column(node, key, total) for key in ("bias", "multiplier", "shift"))
        low, high = (int(str(node.attributes[key])) for key in ("low", "high"))
        product = (total + (bias if node.attributes["bias_before_multiply"] else 0)) * multiplier
        right = np.maximum(shift, 0)
        tie = (right > 0) & ((product & ((np.int64(1) << right) - 1)) == (np.int64(1) << np.maximum(right - 1, 0)))
        plain = product >> right
        inside = (plain > low) & (plain < high)
        found: dict[str, Array] = {
            "tie": tie & inside & (product > 0),
            "negative tie": tie & inside & (product < 0),
            "saturation below": plain < low,
            "saturation above": plain > high,
        }
        checked.met.update({name: int(array.sum()) for name, array in found.items()})


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
