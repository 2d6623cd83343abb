"""`flowlab compile model.onnx`: a network that was trained elsewhere, quantized, placed, compiled and run for a device.

No recordings and no training: the network is a float ONNX file, or one of torch's, and a few hundred of its own inputs
say how large its values become. From there the plan is that of a run (`flowlab.stages.own`), with its store, its folder
and its page; what the integers give is held against the file's own outputs in ONNX Runtime or torch, and every
execution against the interpreter, bit for bit.
A file of integers is taken as it is (`flowlab.stages.own.integers`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.contracts import Target
from flowlab.engine import session as run_session
from flowlab.engine import table
from flowlab.engine.gates import check_required
from flowlab.engine.local import run_local
from flowlab.engine.own_plan import keep_own_notes, prepare_own
from flowlab.engine.result import RunResult, SmallFiles
from flowlab.errors import ConfigError, OptionError
from flowlab.report import costs
from flowlab.stages.own.declared import OwnConfig
from flowlab.stages.own.network import check_form
from flowlab.store.store import open_store

if TYPE_CHECKING:
    from flowlab.plugins import Catalogue
    from flowlab.store.objects import Objects

WIDTHS = (8, 4, 2)
LAYERS = ("layer", "operation", "unit", "shape", "MACs", "weights", "reason and cure")
ENGINE, CACHED = "local", "none"
COPIES = (("quantized_onnx", ""), ("layers", ""), ("report", ""), ("program", "program"))  # of roles, in --out


@dataclass(frozen=True)
class Asked:
    """What is compiled, for which device, and where it goes; ``out``: a folder that gets copies besides the run's."""

    model: Path
    target: str
    calibration: Path
    out: Path | None = None
    bits: int = 8
    options: Mapping[str, Any] = field(default_factory=dict)  # the target's own
    output_int: bool = True
    module: str | None = None  # package.module:name, which makes the module of a state dict
    store: str | None = None
    artifacts: Path = Path("artifacts")
    require: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compiled:
    """What came of it. ``agree``: share of windows whose largest output is the float file's; ``error``: relative L2."""

    asked: Asked
    run: str
    folder: Path
    report: Path | None
    stages: tuple[Mapping[str, Any], ...]
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
        return {**own, **found, "folder": str(self.folder), "report": str(self.report)}

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
        cached = sum(1 for one in self.stages if one["cached"])
        seconds = sum(one["seconds"] for one in self.stages)
        return [
            *table.lines(LAYERS, [_cells(row) for row in self.rows]),
            "",
            f"run         {self.run}",
            f"stages      {len(self.stages) - cached} run, {cached} cached, {seconds:.1f} s",
            f"network     {self.asked.model} for {self.asked.target}, weights of {widths}{share}",
            f"integers    {self.integers or chosen}",
            f"agreement   0 mismatches in {self.windows} windows ({', '.join(self.executions)}{missing})",
            *([f"silicon     {self.silicon}"] if self.silicon else []),
            f"sizes       {sizes} bytes",
            *core,
            *([f"costs       {text}"] if (text := costs.line(self.costs)) else []),
            f"files       {_shown(self.asked.out or self.folder)}: {', '.join(self.files)}",
            f"report      {_shown(self.report)}",
        ]


def _shown(path: Path | None) -> str:
    """A path as short as it can be typed."""
    here = Path.cwd()
    return str(path.relative_to(here) if path is not None and path.is_relative_to(here) else path)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    why = " ".join(part for part in (row["reason"], row["cure"]) if part)
    numbers = [f"{row[key]:,}" if row[key] else "" for key in ("macs", "weight_bytes")]
    return (row["name"], row["layer"], row["unit"].upper(), row["shape"], *numbers, why)


def compile_model(asked: Asked, catalogue: Catalogue, watch: run_session.Watch | None = None) -> Compiled:
    """Do what of it is not in the store; ``out`` appears whole, or not at all.

    Raises:
        ConfigError: for a folder that is there already, or a required execution that the device has not.
        OptionError: for a width that does not exist, or what would change a network of integers.
        DataError: for a model or windows that cannot be read, or do not fit each other.
        GraphError: naming the ONNX node that cannot be expressed.
        QuantizationError: with every problem of the network, or where its integers are another network.
        ProgramError: where it does not fit the device.
        AgreementError: where two executions differ.
        GateError: where what is required did not run here.
    """
    if asked.bits not in WIDTHS:
        raise OptionError(f"--bits {asked.bits}: weights have {', '.join(map(str, WIDTHS))} bits")
    if asked.out is not None and asked.out.exists():
        raise ConfigError(f"--out {asked.out}: is there already. Name a folder that is not, or remove it")
    target = catalogue.get("target", asked.target)
    assert isinstance(target, Target)
    catalogue.options(target, asked.options)
    check_form(asked.model, asked.module)
    config = OwnConfig(
        asked.model.name,
        asked.target,
        asked.options,
        asked.bits,
        asked.output_int,
        asked.module,
        apart=asked.out is not None,
        given=_given(asked),
    )
    check_required(asked.require, config, catalogue)
    session = _begun(asked, config, catalogue, watch or run_session.Silent())
    store = session.store
    try:
        run_local(
            session.prepared,
            lambda node: lambda what, fraction: session.watch.progress(node.name, what, fraction),
            lambda node, done: session.note(node.name, done),
        )
        result = session.finish(CACHED if all(one.cached for one in session.done.values()) else ENGINE)
    except BaseException:
        with suppress(OSError):  # a full disk: the first error is the one to tell
            session.write("Failed")
            store.close()
        raise
    found = _compiled(asked, result, SmallFiles({name: one.record for name, one in session.done.items()}, store))
    if asked.out is not None:
        _copied(asked.out, found, result, store.objects)
    return found


def _given(asked: Asked) -> dict[str, Any]:
    """What was asked for, as `run.json` keeps it and `flowlab compare` shows it."""
    return {
        "compile": {
            "model": str(asked.model),
            "calibration": str(asked.calibration),
            "target": asked.target,
            "bits": asked.bits,
            "module": asked.module,
            "output_int": asked.output_int,
            "options": dict(asked.options),
        }
    }


def _begun(asked: Asked, config: OwnConfig, catalogue: Catalogue, watch: run_session.Watch) -> run_session.Session:
    """A run of its own; what is heavy is imported before, where something is to be done."""
    wanted = run_session.Asked(ENGINE, asked.store, asked.require, asked.artifacts)
    store = open_store(asked.store, asked.artifacts)
    while True:
        prepared = prepare_own(config, asked.model, asked.calibration, catalogue, store)
        if len(prepared.cached()) < len(prepared.plan):
            import onnxruntime  # noqa: F401 - before anything is half made: a signal while it loads is no clean end
        with store.keeping():
            if run_session.starts_whole(prepared, keep_own_notes):
                return run_session.session_of(prepared, catalogue, wanted, watch)


def _compiled(asked: Asked, result: RunResult, small: SmallFiles) -> Compiled:
    """What the run's small files say."""
    story, standing, memory = (small.read(role) for role in ("own_network", "own_standing", "memory"))
    placement = small.read("placement")
    sizes = {
        "ONNX": result.sizes["onnx_bytes"],
        "packed weights": memory["packed_bytes"],
        "program": memory["program_bytes"],
        **memory["needed"],
    }
    program = f"({len(result.artifacts['program'])} files)"
    names: tuple[str, ...]
    if asked.out is None:
        names = ("report.html", "layers.csv", "training/quantization/best_model.onnx", f"compilation/ {program}")
    else:
        names = ("best_model.onnx", "layers.csv", "report.html", "report.json", f"program/ {program}")
    return Compiled(
        asked,
        result.run,
        result.folder,
        result.report,
        result.stages,
        story["windows"],
        standing["agree"],
        standing["error"],
        tuple(placement["layers"]),
        placement["npu_share"],
        placement["unit"],
        tuple(result.agreement["executions"]),
        tuple(result.agreement["not_run"]),
        {name: size for name, size in sizes.items() if size is not None},
        result.measured,
        result.warnings,
        names,
        calibrated=story["calibrated"],
        integers=standing["sentence"],
        costs=costs.foreseen(result.costs),
        arena=memory["arena"],
        by=story["by"],
        silicon=memory["silicon"],
    )


def _copied(out: Path, found: Compiled, result: RunResult, objects: Objects) -> None:
    """Copies in a folder of the user's, beside it made whole, and then renamed."""
    import shutil

    near = next(one for one in out.absolute().parents if one.is_dir())  # no empty folder stays behind
    with tempfile.TemporaryDirectory(dir=near, prefix=".flowlab-compile-") as folder:
        made = Path(folder) / "made"
        for role, place in COPIES:
            for one in result.artifacts[role]:
                (made / place / one["name"]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(objects.verified(one["sha256"]), made / place / one["name"])
        (made / "report.json").write_text(json.dumps(found.to_json(), indent=1, sort_keys=True, default=str) + "\n")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            made.rename(out)
        except OSError as error:
            raise ConfigError(f"--out {out}: {error.strerror}") from None
