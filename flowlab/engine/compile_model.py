"""`flowlab compile model.onnx`: a network that was trained elsewhere, quantized, placed, compiled and run for a device.

No recordings, no training, no store: the network is a float ONNX file, or one of torch's, and a few hundred of its own
inputs say how large its values become. Quantization, passes, placement, lowering and executions are those of a run;
what the integers give is held against the file's own outputs in ONNX Runtime or torch, and every execution against the
interpreter, bit for bit.
A file of integers is taken as it is (`flowlab.engine.integer_file`).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.contracts import Core, Golden, LowerJob, NumberFormat, QuantizeJob, Quantizer, Target
from flowlab.engine import integer_file, table
from flowlab.engine.own_files import MOST_MODEL, read_array, read_bytes, read_windows
from flowlab.engine.own_network import OwnNetwork, check_form, is_torch, torch_network
from flowlab.errors import ConfigError, GraphError, OptionError, QuantizationError
from flowlab.report import costs, layer_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowlab.compiler.ir import Graph
    from flowlab.compiler.place import Placement
    from flowlab.plugins import Catalogue

    Windows = NDArray[np.float32]

CALIBRATION, VECTORS, GOLDEN = 512, 256, 8  # windows that scales are chosen by, that are run, and that ship
MOST_BATCH = 4096  # that a file may be fixed to
FEWEST, SEED = 48, 0  # windows below which none are kept apart; of the choice
WIDTHS = (8, 4, 2)
ACTIVATION_BITS = 8
WINDOWS = "float32 of the network's own shape behind the windows"
LAYERS = ("layer", "operation", "unit", "shape", "MACs", "weights", "reason and cure")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What is compiled, for which device, and where it goes."""

    model: Path
    target: str
    calibration: Path
    out: Path
    bits: int = 8
    options: Mapping[str, Any] = field(default_factory=dict)  # the target's own
    output_int: bool = True
    module: str | None = None  # package.module:name, which makes the module of a state dict


@dataclass(frozen=True)
class Compiled:
    """What came of it. ``agree``: share of windows whose largest output is the float file's; ``error``: relative L2."""

    asked: Asked
    windows: int
    agree: float | None
    error: float
    rows: tuple[Mapping[str, Any], ...]
    npu_share: float | None
    unit: str
    executions: tuple[str, ...]
    not_run: tuple[Mapping[str, str], ...]
    sizes: Mapping[str, int]
    measured: Mapping[str, Mapping[str, Any]]
    warnings: tuple[str, ...]
    files: tuple[str, ...]
    calibrated: int = 0  # windows that scales were chosen by, a seeded sample; others were tested on
    integers: str = ""  # of a file of integers: how they stand to it in ONNX Runtime
    costs: Mapping[str, Any] = field(default_factory=dict)  # what the target knows of them without running anything
    arena: Mapping[str, Any] | None = None  # where each layer's output lies
    by: str = ""  # what computed the float network
    silicon: str = ""  # what ran in place of the accelerator

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        found = {key: value for key, value in vars(self).items() if key != "asked"}
        asked = self.asked
        own = {"model": str(asked.model), "module": asked.module, "target": asked.target, "bits": asked.bits}
        return {**own, **found}

    def layers(self) -> str:
        """The layer table with what each layer costs, as CSV."""
        return layer_table.to_csv(layer_table.rows(self.rows, {**self.costs, "measured": self.measured}, self.arena))

    def lines(self) -> list[str]:
        """For people."""
        missing = "".join(f"; {one['name']} not run: {one['reason']}" for one in self.not_run)
        share = "" if self.npu_share is None else f", {self.npu_share:.1%} of its multiplications on the {self.unit}"
        same = "" if self.agree is None else f"the same largest output in {self.agree:.1%} of {self.windows} windows, "
        sizes = ", ".join(f"{name} {size:,}" for name, size in self.sizes.items())
        widths = "the bits that the file has" if self.integers else f"{self.asked.bits} bits"
        chosen = (
            f"{same}relative error {self.error:.4f} against {self.by}; scales from "
            f"{self.calibrated} {'others' if self.calibrated != self.windows else 'of them'}"
        )
        core = [
            f"core        {one['core']}, every layer in C: {one['instructions']:,} instructions a window, "
            f"{one['network_bytes']:,} bytes, {one['stack_bytes']:,} of stack ({one['compiler']})"
            for one in self.measured.values()
        ]
        return [
            *table.lines(LAYERS, [_cells(row) for row in self.rows]),
            "",
            f"network     {self.asked.model} for {self.asked.target}, weights of {widths}{share}",
            f"integers    {self.integers or chosen}",
            f"agreement   0 mismatches in {self.windows} windows ({', '.join(self.executions)}{missing})",
            *([f"silicon     {self.silicon}"] if self.silicon else []),
            f"sizes       {sizes} bytes",
            *core,
            *([f"costs       {text}"] if (text := costs.line(self.costs)) else []),
            f"files       {self.asked.out}: {', '.join(self.files)}",
        ]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    why = " ".join(part for part in (row["reason"], row["cure"]) if part)
    numbers = [f"{row[key]:,}" if row[key] else "" for key in ("macs", "weight_bytes")]
    return (row["name"], row["layer"], row["unit"].upper(), row["shape"], *numbers, why)


def compile_model(asked: Asked, catalogue: Catalogue, say: Say) -> Compiled:
    """Do it all; the folder appears whole, or not at all.

    Raises:
        ConfigError: for a folder that is there already, or a width that does not exist.
        DataError: for a model or windows that cannot be read, or do not fit each other.
        GraphError: naming the ONNX node that cannot be expressed.
        QuantizationError: with every problem of the network, or where its integers are another network.
        ProgramError: where it does not fit the device.
        AgreementError: where two executions differ.
    """
    import onnxruntime  # noqa: F401 - before anything is half made: a signal while it loads is no clean end

    if asked.bits not in WIDTHS:
        raise OptionError(f"--bits {asked.bits}: weights have {', '.join(map(str, WIDTHS))} bits")
    if asked.out.exists():
        raise ConfigError(f"--out {asked.out}: is there already. Name a folder that is not, or remove it")
    target = catalogue.get("target", asked.target)
    core = catalogue.get("core", target.core)  # type: ignore[attr-defined]
    assert isinstance(target, Target) and isinstance(core, Core)
    options = catalogue.options(target, asked.options)
    check_form(asked.model, asked.module)
    network = _network(asked, read_bytes(asked.model, MOST_MODEL, "an ONNX file, or one of torch's"))
    graph, said = network.graph, list(network.said)
    windows = read_windows(asked.calibration, graph)
    warned: tuple[str, ...] = ()
    if network.integers:
        integer_file.check_asked(asked.model, asked.bits, output_int=asked.output_int)
        integers = integer_file.prepared(graph, _own(target))
        windows = tested = integer_file.meanings(asked.calibration, graph, windows[:VECTORS])
    else:
        windows, tested = _apart(windows)
        quantizer = _quantizer(catalogue, target)
        say(f"{quantizer.name} on {len(windows)} windows")
        integers, warned = _quantized(quantizer, target.formats[quantizer.format], graph, windows, asked)
    if tested is windows and not network.integers:
        said.append(f"{asked.calibration}: {len(windows)} windows are too few to keep some apart: what is said of the "
                    "integers is said of the windows that chose their scales")  # fmt: skip
    near = next(one for one in asked.out.absolute().parents if one.is_dir())  # no empty folder stays behind
    with tempfile.TemporaryDirectory(dir=near, prefix=".flowlab-compile-") as folder:
        found = _Work(asked, target, core, options, Path(folder).resolve(), say)
        done = replace(
            found.run(network, integers, tested, (*said, *warned)),
            calibrated=len(windows),
            by=network.by,
        )
        made = Path(folder) / "made"
        (made / "report.json").write_text(json.dumps(done.to_json(), indent=1, sort_keys=True, default=str) + "\n")
        (made / "layers.csv").write_text(done.layers(), encoding="utf-8", newline="")
        try:
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            made.rename(asked.out)
        except OSError as error:
            raise ConfigError(f"--out {asked.out}: {error.strerror}") from None
    return done


@dataclass(frozen=True)
class _Work:
    """From an integer graph to files that ran."""

    asked: Asked
    target: Target
    core: Core
    options: Any
    folder: Path
    say: Say

    def run(self, network: OwnNetwork, integers: Graph, windows: Windows, said: Sequence[str]) -> Compiled:
        """Place, lower, run in every way, compare, and write the files."""
        from flowlab.compiler.export_onnx import export_onnx
        from flowlab.compiler.pipeline import place_for
        from flowlab.stages import compile as compile_stage
        from flowlab.stages import simulate, validate

        target, given = self.target, network.integers
        exported = network.model if given else export_onnx(integers, dict(integers.metadata))
        if not given:
            validate.check_import(integers, exported)
        off = _off(target, integers, given=given)
        placement = place_for(target, integers, off)
        self.say("interpreter and ONNX Runtime")
        values, crcs = validate.interpret(placement.graph, windows)
        own = _finite(self.asked.model, network.outputs(windows))
        runtime, against, shipped = values, "", list(range(min(GOLDEN, len(windows))))
        if given:
            stand = integer_file.compared(integers, values, own, exact=integer_file.is_exact(network.model))
            against, shipped = stand.sentence(), stand.first(GOLDEN)
        else:
            found = validate.run_onnx(exported, windows, list(integers.outputs))
            runtime = validate.integers_where_meant(integers, found)
            validate.compare("interpreter", values, runtime)
        made = self.folder / "made"
        golden = golden_of(placement.graph, windows, runtime, crcs, shipped)
        spec = {"shape": list(windows.shape[1:]), "window": [], "options": {}}
        sha = hashlib.sha256(exported).hexdigest()
        made.mkdir()
        onnx = made / "best_model.onnx"
        onnx.write_bytes(exported)
        job = LowerJob(placement.graph, golden, True, self.core, None, (), sha, made / "program", feature_spec=spec)
        job = replace(job, options=self.options, onnx=onnx, onnx_place=onnx.name, program_place="program")
        program = target.lower(job)
        ran, not_run, measured = self._executions(program.files, windows, values, crcs, placement)
        agree, error = (None, 0.0) if given else _against(own, integers, runtime)
        sizes = {
            "ONNX": len(exported),
            "packed weights": program.packed_bytes,
            "program": program.files["model.flnp"].stat().st_size,
            **{region: sum(parts.values()) for region, parts in program.memory.items()},
        }
        warnings = (*said, *(() if off else placement.sentences()), *program.warnings)
        names = ("best_model.onnx", "layers.csv", "report.json", f"program/ ({len(program.files)} files)")
        return Compiled(
            self.asked, len(windows), agree, error, tuple(asdict(row) for row in placement.rows), placement.npu_share,
            target.unit_name, (*(() if given else ("ONNX Runtime",)), "interpreter", *ran), not_run, sizes, measured,
            tuple(dict.fromkeys(warnings)), names, integers=against,
            silicon=target.silicon if program.uses_accelerator else "",
            costs=simulate.foreseen(target.costs(placement.graph)), arena=compile_stage.arena(program, placement.graph),
        )  # fmt: skip

    def _executions(
        self, files: Mapping[str, Path], windows: Windows, values: Mapping[str, Any], crcs: Mapping[str, Any],
        placement: Placement,
    ) -> tuple[list[str], tuple[Mapping[str, str], ...], dict[str, Mapping[str, Any]]]:  # fmt: skip
        from flowlab.compiler.trace import traced
        from flowlab.contracts import Outcome
        from flowlab.stages.simulate import by_layer, compare_execution

        order = [node.name for node in traced(placement.graph)]
        ran: list[str] = []
        not_run: list[Mapping[str, str]] = []
        measured: dict[str, Mapping[str, Any]] = {}
        for one in self.target.executions():
            if reason := one.missing():
                not_run.append({"name": one.name, "reason": reason})
                continue
            self.say(f"{one.name} on {len(windows)} windows")
            outcome = one.run(files, windows, self.folder / one.name.replace(" ", "_"))
            compare_execution(one.name, Outcome(values, crcs), outcome, order)
            ran.append(one.name)
            if outcome.measured:
                measured[one.name] = by_layer(placement.graph, outcome.measured)
        return ran, tuple(not_run), measured


def golden_of(
    placed: Graph, windows: Windows, runtime: Mapping[str, Any], crcs: Mapping[str, Any], rows: Sequence[int]
) -> Golden:
    """Vectors that ship, with ONNX Runtime's outputs; there are no raw windows behind them."""
    import numpy as np

    from flowlab.compiler import interpreter
    from flowlab.compiler.ops import INPUT_STEPS

    first = next(node.name for node in placed.nodes if node.op in INPUT_STEPS)
    kept, features = list(rows), np.ascontiguousarray(windows[list(rows)])
    return Golden(
        features,
        interpreter.run(placed, features)[first],
        {name: values[kept] for name, values in runtime.items()},
        {name: values[kept].tolist() for name, values in crcs.items()},
        np.zeros((len(kept), 1, 1), np.float32),
    )


def _file_outputs(path: Path, model: bytes, windows: Windows, graph: Graph) -> Mapping[str, Any]:
    """What the float file gives in ONNX Runtime.

    Raises:
        GraphError: with ONNX Runtime's words, where it does not run the file.
    """
    from flowlab.compiler.ir import is_float
    from flowlab.stages import validate

    try:
        return _in_batches(validate.session_of(model, optimized=is_float(graph)), windows, list(graph.outputs))
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None
    except Exception as error:  # noqa: BLE001 - ONNX Runtime has kinds of its own
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise GraphError(f"{path}: ONNX Runtime does not run it: {first}") from None


def _finite(path: Path, found: Mapping[str, Any]) -> Mapping[str, Any]:
    import numpy as np

    for name, values in found.items():
        if not np.isfinite(values).all():
            raise GraphError(f"{path}: output '{name}' of the float network is NaN or infinite on its own inputs")
    return found


def _in_batches(session: Any, windows: Windows, names: list[str]) -> dict[str, Any]:
    """Outputs of all windows, as many at once as the file takes: a batch may be fixed in it."""
    import numpy as np

    (given,) = session.get_inputs()
    values = windows[..., 0] if len(given.shape) == windows.ndim - 1 else windows
    batch = given.shape[0] if isinstance(given.shape[0], int) else VECTORS
    if not 1 <= batch <= MOST_BATCH:
        raise GraphError(f"its batch is fixed to {batch}; 1 to {MOST_BATCH} are known")
    parts: dict[str, list[Any]] = {name: [] for name in names}
    for start in range(0, len(values), batch):
        part = values[start : start + batch]
        full = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
        for name, made in zip(names, session.run(names, {given.name: np.ascontiguousarray(full)}), strict=True):
            parts[name].append(made[: len(part)])
    return {name: np.concatenate(made) for name, made in parts.items()}


def _apart(windows: Windows) -> tuple[Windows, Windows]:
    """A seeded sample that scales are chosen by, and others to test on; the same ones where there are too few."""
    import numpy as np

    if len(windows) < FEWEST:
        return windows, windows
    order = np.random.default_rng(SEED).permutation(len(windows))
    chosen = min(CALIBRATION, len(windows) * 2 // 3)
    return windows[np.sort(order[:chosen])], windows[np.sort(order[chosen : chosen + VECTORS])]


def _off(target: Target, integers: Graph, *, given: bool) -> str:
    """Why the device's accelerator takes no layer of these integers; empty where it may."""
    own = _own(target)
    if not own or integers.metadata.get("number_format") in {one.name for one in own}:
        return "" if own else "integers of any CPU"
    if not given:
        return "integers of any CPU"
    return f"not the integers of the {target.unit_name}: {integer_file.why_not(integers, own[0])}"


def _own(target: Target) -> list[Any]:
    """The number formats of the device's accelerator."""
    return [form for name, form in target.formats.items() if name != "cpu"]


def _quantizer(catalogue: Catalogue, target: Target) -> Quantizer:
    """What the device names for quantization after training, else the first that is for any CPU."""
    name = target.quantizers.get("PTQ")
    if name is not None:
        found = catalogue.get("quantizer", name)
        assert isinstance(found, Quantizer)
        return found
    for one in catalogue.of_kind("quantizer"):
        if isinstance(one.item, Quantizer) and one.item.format == "cpu" and not one.item.trains:
            return one.item
    raise OptionError(f"no installed package quantizes for {target.name} after training")


def _quantized(
    quantizer: Quantizer, form: NumberFormat, graph: Graph, windows: Windows, asked: Asked
) -> tuple[Graph, tuple[str, ...]]:
    """The integer graph, and what the quantizer warns of."""
    from flowlab.compiler.rewrite import replace_nodes
    from flowlab.compiler.unbuilt import unbuilt

    options, bits = quantizer.Options(), asked.bits
    graph = replace_nodes(
        graph, lambda node: node.with_attributes(weight_bits=bits) if node.op in ("conv", "linear") else node
    )
    problems = (*quantizer.check(graph, form, options), *unbuilt(graph))
    if problems:
        raise QuantizationError(
            f"{asked.model} cannot be quantized by {quantizer.name} for {asked.target}:\n"
            + "\n".join(f"  * {problem}" for problem in problems)
        )
    with tempfile.TemporaryDirectory() as scratch:
        job = QuantizeJob(
            model=None,  # type: ignore[arg-type]  # there is only the graph
            graph=graph,
            format=form,
            weight_bits=asked.bits,
            activation_bits=ACTIVATION_BITS,
            calibration=windows,
            fit=_no_fit,
            output_int=asked.output_int,
            scratch=Path(scratch),
            seed=0,
            progress=lambda what, done: None,
            finetune=asked.bits < WIDTHS[0],
        )
        found = quantizer.quantize(job, options)
    return found.graph, tuple(found.warnings)


def _no_fit(module: Any) -> Mapping[str, Any]:
    raise AssertionError("nothing is trained here")


def _against(floats: Mapping[str, Any], integers: Graph, runtime: Mapping[str, Any]) -> tuple[float | None, float]:
    """Share of windows with the same largest output (None for outputs of one number), and relative L2 error."""
    import numpy as np

    shares, errors = [], []
    for (name, right), (other, found) in zip(floats.items(), runtime.items(), strict=True):
        scale = integers.type_of(integers.outputs[other]).scale if found.dtype.kind == "i" else 1.0
        real = found.reshape(len(found), -1).astype(np.float64) * scale
        wanted = right.reshape(len(right), -1).astype(np.float64)
        if real.shape != wanted.shape:
            raise GraphError(
                f"output '{name}' has {wanted.shape[1]} numbers a window in ONNX Runtime, not {real.shape[1]}"
            )
        errors.append(float(np.linalg.norm(real - wanted) / max(float(np.linalg.norm(wanted)), 1e-30)))
        if wanted.shape[1] > 1:
            shares.append(float((real.argmax(axis=1) == wanted.argmax(axis=1)).mean()))
    return (min(shares) if shares else None), max(errors)


def _network(asked: Asked, data: bytes) -> OwnNetwork:
    """The file as a float graph of one input, and what the file itself gives."""
    from flowlab.compiler.import_foreign import import_foreign

    path = asked.model
    if is_torch(path):
        return torch_network(path, data, asked.module, lambda: read_array(asked.calibration, WINDOWS).shape[1:])
    try:
        found = import_foreign(data)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None
    said = tuple(f"{path}: {one}" for one in found.said)
    return OwnNetwork(
        found.graph,
        lambda windows: _file_outputs(path, found.model, integer_file.raw(found.graph, windows), found.graph),
        "the file in ONNX Runtime",
        said,
        found.model,
    )
