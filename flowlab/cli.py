"""The command line, and the one file that prints.

Start-up is light: nothing heavy is imported on the way to ``--help``, ``plan``, or a run that is wholly cached.
An error that a user can cause is one text on stderr and the exit code of its kind (`flowlab.errors`), no traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from flowlab import __version__
from flowlab.errors import EXIT_CODES, FAILED, INTERRUPTED, UNUSABLE, ConfigError, FlowlabError, GateError, PluginError

ARTIFACTS = Path("artifacts")
PREFECT_HOME = ARTIFACTS / ".prefect"
SHOWN = 3  # files that a hint names
PRESETS = ("feature_extraction", "compile", "example", "bench")  # kinds of presets
CONFIG_ENDS = (".yaml", ".yml")
A_RUN = (
    "a run's name, or how it begins; a dataset's name, or 'latest', for its newest completed run ('latest~1': the one "
    "before); a run's folder"
)
REQUIRE = "fail unless this execution of the program ran here"
LISTED = {
    "targets": "list the devices: accelerator, core, clock, memory, quantizers; of one device, its compile presets",
    "models": "list the networks: parameters, multiplications, and what they are for",
    "features": "list feature extractors and presets: samples of a window, frames, features",
    "quantizers": "list the quantizers: method, number format, options",
}

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

    from flowlab.engine.result import RunResult
    from flowlab.engine.session import Asked
    from flowlab.engine.store_replay import Replayed
    from flowlab.plugins import Catalogue
    from flowlab.store.store import Store


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    _open_streams()
    try:
        arguments = _arguments(argv)
        command: Callable[[argparse.Namespace], int] = arguments.command
        code = command(arguments)
        sys.stdout.flush()  # here, where a full disk or a closed pipe is an error with a name
        return code
    except FlowlabError as error:
        _say(f"flowlab: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        _say("flowlab: stopped. Finished stages are in the store: the next run goes on from there.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return FAILED
    except OSError as error:  # of a disk, not of the data: those are named where they are read
        _say(f"flowlab: {_refused(error)}", file=sys.stderr)
        _drop_output()
        return UNUSABLE


# --- commands -----------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    return _run_config(arguments, *_config(arguments))


def _demo(arguments: argparse.Namespace) -> int:
    return _run_config(arguments, *_demo_config(arguments))


def _run_config(arguments: argparse.Namespace, config: Any, catalogue: Catalogue) -> int:
    from flowlab.engine.run import first_lines, run

    asked = _asked(arguments, config, catalogue)
    if arguments.json:
        with _stdout_for_json_only() as out:
            result, missed = _outcome(lambda: run(config, catalogue, asked))
            print(json.dumps(result.to_json(), indent=2), file=out)
    else:
        said = first_lines(config, catalogue)
        _say_all(said)
        with _watch() as watch:
            result, missed = _outcome(lambda: run(config, catalogue, asked, watch))
        _print_result(result, said)
    if missed is not None:
        raise missed
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    from flowlab.config.sweep import load_sweep
    from flowlab.engine.sweep import run_sweep, survey_sweep
    from flowlab.plugins import load as load_plugins

    catalogue = load_plugins()
    sweep = load_sweep(Path(arguments.sweep), arguments.set, catalogue)
    asked = _asked_for_cells(arguments, sweep, catalogue)
    if arguments.plan:
        plan, cached = survey_sweep(sweep, catalogue, asked)
        return _shown_as(arguments, plan.to_json(cached), plan.lines(cached))
    if arguments.json:
        with _stdout_for_json_only() as out:
            result = run_sweep(sweep, catalogue, asked, jobs=arguments.jobs)
            print(json.dumps(result.to_json(), indent=2), file=out)
        return result.exit_code
    with _SweepTable() as watch:
        result = run_sweep(sweep, catalogue, asked, watch, arguments.jobs)
    _say()
    _say_all(result.lines())
    _say(f"files       {_shown(result.folder)}", flush=True)
    return result.exit_code


def _outcome(run: Callable[[], RunResult]) -> tuple[RunResult, GateError | None]:
    """A run's result, and the error of the gates that it missed: what it has to say is said before."""
    try:
        return run(), None
    except GateError as error:
        if error.result is None:
            raise
        return error.result, error


def _plan(arguments: argparse.Namespace) -> int:
    from flowlab.engine.run import quantization, survey

    config, catalogue = _config(arguments)
    statuses = survey(config, catalogue, _asked(arguments, config, catalogue))
    for warning in config.warnings:
        _say(f"warning: {warning}", file=sys.stderr)
    return _shown_as(
        arguments,
        {
            "stages": [status.to_json() for status in statuses],
            "quantization": quantization(config, catalogue),
            "warnings": list(config.warnings),
        },
        [f"{status.stage:<10} {status.text()}" for status in statuses],
    )


def _why(arguments: argparse.Namespace) -> int:
    from flowlab.engine.run import explain

    config, catalogue = _config(arguments)
    found = explain(arguments.stage, config, catalogue, _asked(arguments, config, catalogue), arguments.run)
    return _shown_as(arguments, found.to_json(), found.lines())


def _explain(arguments: argparse.Namespace) -> int:
    from flowlab.engine.run import graph_states

    config, catalogue = _config(arguments) if arguments.configs else _demo_config(arguments)
    found = graph_states(config, catalogue, _asked(arguments, config, catalogue), constants=arguments.constants)
    return _shown_as(arguments, found.to_json(), found.lines())


def _config_show(arguments: argparse.Namespace) -> int:
    from flowlab.config.explained import explained, lines

    config, _ = _config(arguments)
    values = [one for one in explained(config) if one.changed or not arguments.changed]
    for warning in config.warnings:
        _say(f"warning: {warning}", file=sys.stderr)
    return _shown_as(arguments, {"values": [one.to_json() for one in values]}, lines(values))


def _config_parameters(arguments: argparse.Namespace) -> int:
    from flowlab.engine.deploy import parameters

    config, _ = _config(arguments)
    _say(json.dumps(parameters(config)))
    return 0


def _config_keys(arguments: argparse.Namespace) -> int:
    from flowlab.config.reference import markdown

    _say(markdown().rstrip())
    return 0


def _runs(arguments: argparse.Namespace) -> int:
    from flowlab.engine import runs, table
    from flowlab.store.store import open_store

    store = open_store(arguments.store, ARTIFACTS)
    found = runs.past_runs(store, arguments.dataset)
    if not found and not arguments.json:
        what = f" of '{arguments.dataset}'" if arguments.dataset else ""
        place = store.address or _shown(store.root)
        _say(f"no runs{what} in {place}. `flowlab run config.yaml` makes one, `flowlab demo` too")
        return 0
    return _shown_as(
        arguments, {"runs": [one.to_json() for one in found]}, table.lines(runs.TABLE, [one.row() for one in found])
    )


def _store(arguments: argparse.Namespace) -> Store:
    from flowlab.store.store import Store, store_root

    return Store(store_root(arguments.store, ARTIFACTS))


def _store_ls(arguments: argparse.Namespace) -> int:
    from flowlab.engine import table
    from flowlab.store.inventory import TABLE, listing

    found = listing(_store(arguments))
    rows = table.lines(TABLE, [one.row() for one in found.runs]) if found.runs else []
    return _shown_as(arguments, found.to_json(), [*rows, *found.totals()])


def _store_verify(arguments: argparse.Namespace) -> int:
    from flowlab.store.verify import verify

    found = verify(_store(arguments))
    _shown_as(arguments, found.to_json(), found.lines())
    return FAILED if found.findings else 0


def _store_gc(arguments: argparse.Namespace) -> int:
    from flowlab.store.collect import collect

    if arguments.keep_last < 1:
        raise ConfigError(f"--keep-last {arguments.keep_last}: 1 or more runs of each dataset are kept")
    found = collect(_store(arguments), ARTIFACTS, arguments.keep_last, dry=arguments.dry_run)
    return _shown_as(arguments, found.to_json(), found.lines())


def _store_export(arguments: argparse.Namespace) -> int:
    from flowlab.engine.store_export import export
    from flowlab.engine.which_run import which_run
    from flowlab.plugins import load

    run = which_run(arguments.run, arguments.store, ARTIFACTS)
    found = export(run, Path(arguments.out), load(), with_data=arguments.with_data)
    return _shown_as(arguments, found.to_json(), found.lines())


def _store_import(arguments: argparse.Namespace) -> int:
    from flowlab.engine.store_import import import_run

    found = import_run(Path(arguments.archive), _store(arguments))
    return _shown_as(arguments, found.to_json(), found.lines())


def _store_replay(arguments: argparse.Namespace) -> int:
    from flowlab.engine.session import Silent
    from flowlab.engine.store_replay import replay
    from flowlab.plugins import load

    def again(watch: Any) -> Replayed:
        data = Path(arguments.data) if arguments.data else None
        return replay(arguments.run, arguments.store, ARTIFACTS, data=data, catalogue=load(), watch=watch)

    if arguments.json:
        with _stdout_for_json_only() as out:
            found = again(Silent())
            print(json.dumps(found.to_json(), indent=2), file=out)
    else:
        with _watch() as watch:
            found = again(watch)
        _say_all(found.lines())
    return 0 if found.first is None else FAILED


def _compare(arguments: argparse.Namespace) -> int:
    from flowlab.engine.compare import compare
    from flowlab.engine.runs import past_run
    from flowlab.engine.which_run import which_run

    both = [which_run(name, arguments.store, ARTIFACTS) for name in (arguments.first, arguments.second)]
    first, second = (past_run(one.store.runs.read(one.name) or {}, one.store) for one in both)
    found = compare(first, second, (both[0].store, both[1].store))
    return _shown_as(arguments, found.to_json(), found.lines())


def _accuracy(arguments: argparse.Namespace) -> int:
    from flowlab.engine.accuracy import accuracy
    from flowlab.engine.which_run import which_run

    found = accuracy(which_run(arguments.run, arguments.store, ARTIFACTS))
    return _shown_as(arguments, found.to_json(), found.lines())


def _show(arguments: argparse.Namespace) -> int:
    from flowlab.engine.show_program import accelerators, show
    from flowlab.plugins import load

    formats = accelerators(load(), arguments.target) if arguments.bounds else ()
    found = show(Path(arguments.program), bounds=arguments.bounds, formats=formats)
    return _shown_as(arguments, found.to_json(), found.lines())


def _compile(arguments: argparse.Namespace) -> int:
    from flowlab.engine.compile_model import Asked, compile_model
    from flowlab.plugins import load

    options = dict(one.split("=", 1) if "=" in one else (one, "true") for one in arguments.option)
    asked = Asked(
        Path(arguments.model),
        arguments.target,
        Path(arguments.calibration),
        None if arguments.out is None else Path(arguments.out),
        arguments.bits,
        {key: json.loads(value) if value in ("true", "false") else value for key, value in options.items()},
        not arguments.real_outputs,
        arguments.module,
        arguments.store,
        ARTIFACTS,
        tuple(arguments.require),
    )
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: what is half made goes
        signal.signal(number, signal.default_int_handler)
    if arguments.json:
        with _stdout_for_json_only() as out:
            print(json.dumps(compile_model(asked, load()).to_json(), indent=2, default=str), file=out)
        return 0
    with _watch() as watch:
        found = compile_model(asked, load(), watch)
    for warning in found.warnings:
        _say(f"warning: {warning}", file=sys.stderr)
    _say()
    _say_all(found.lines())
    return 0


def _check_device(arguments: argparse.Namespace) -> int:
    from flowlab.engine.check_device import check_device
    from flowlab.engine.which_run import which_run

    run = arguments.run
    if run.endswith(".flnp"):
        program = Path(run)
    else:
        program = which_run(run, arguments.store, ARTIFACTS).file("compile", "program", "model.flnp")
    found = check_device(Path(arguments.log), program)
    return _shown_as(arguments, found.to_json(), found.lines())


def _list(arguments: argparse.Namespace) -> int:
    from flowlab.engine.listings import LISTINGS, compile_presets
    from flowlab.plugins import load

    device = getattr(arguments, "device", None)
    found = compile_presets(load(), device) if device else LISTINGS[arguments.name](load())
    return _shown_as(arguments, found.to_json(), found.lines())


def _doctor(arguments: argparse.Namespace) -> int:
    from flowlab.engine.doctor import doctor
    from flowlab.plugins import load

    found = doctor(load(), arguments.store, ARTIFACTS)
    width = max(len(one.name) for one in found)
    _shown_as(
        arguments,
        {"findings": [one.to_json() for one in found]},
        [f"{one.name:<{width}}  {one.text()}" for one in found],
    )
    return UNUSABLE if any(one.state == "unusable" for one in found) else 0


def _predict(arguments: argparse.Namespace) -> int:
    from flowlab.engine.predict import predict
    from flowlab.engine.which_run import which_run
    from flowlab.plugins import load as load_plugins

    run = which_run(arguments.run, arguments.store, ARTIFACTS)
    files = [Path(name) for name in arguments.recordings]
    found = predict(run, files, load_plugins(), arguments.rate)
    if not arguments.json:
        for warning in found.warnings:
            _say(f"warning: {warning}", file=sys.stderr)
    return _shown_as(arguments, found.to_json(), found.lines())


def _plugins(arguments: argparse.Namespace) -> int:
    from flowlab.plugins import KINDS, load

    catalogue = load()
    if arguments.json:
        print(json.dumps(_plugins_json(catalogue), indent=2))
        return 0
    for kind in KINDS:
        rows = [
            (catalogue.shown_name(kind, one), _module(one.item), str(getattr(one.item, "summary", "")))
            for one in catalogue.of_kind(kind)
        ]
        _print_table(kind.replace("_", " "), rows)
    for kind in PRESETS:
        _print_table(f"{kind.replace('_', ' ')} preset", [(name, "", "") for name in catalogue.preset_names(kind)])
    for package, reason in sorted(catalogue.broken.items()):
        _say(f"broken: {package}: {reason}", file=sys.stderr)
    return 0


def _plugin_new(arguments: argparse.Namespace) -> int:
    from flowlab.engine.new_plugin import new_plugin

    return _say_all(new_plugin(arguments.kind, arguments.package, Path()))


def _plugin_check(arguments: argparse.Namespace) -> int:
    from flowlab.engine.check_plugin import Line, check_plugin, verdict

    lines: list[Line] = []

    def say(line: Line) -> None:
        lines.append(line)
        _say(str(line), flush=True)

    sound = check_plugin(arguments.package, say)
    _say(verdict(lines))
    return 0 if sound else UNUSABLE


def _overhead(arguments: argparse.Namespace) -> int:
    from flowlab.engine.bench_overhead import Asked, measure

    if arguments.rounds < 1:
        raise ConfigError(f"--rounds {arguments.rounds}: 1 or more")
    csv = None if arguments.csv is None else Path(arguments.csv)
    asked = Asked(arguments.configs, arguments.set, arguments.rounds, csv)
    return _say_all(measure(asked, lambda text: _say(text, flush=True)))


def _quantization(arguments: argparse.Namespace) -> int:
    from flowlab.engine.bench_quantization import KINDS, Asked, quantization
    from flowlab.plugins import load

    only = {kind: getattr(arguments, kind) for kind in KINDS}
    asked = Asked(arguments.quick, None if arguments.csv is None else Path(arguments.csv), arguments.seeds, only)
    return _say_all(quantization(asked, load(), lambda text: _say(text, flush=True)))


def _compile_bench(arguments: argparse.Namespace) -> int:
    from flowlab.engine.bench_compile import compiled
    from flowlab.engine.bench_quantization import Asked
    from flowlab.plugins import load

    csv = None if arguments.csv is None else Path(arguments.csv)
    asked = Asked(quick=arguments.quick, csv=csv, only={"model": arguments.model})
    return _say_all(compiled(asked, load(), lambda text: _say(text, flush=True)))


def _up(arguments: argparse.Namespace) -> int:
    from flowlab.engine.daemon import up

    return _say_all(up(PREFECT_HOME, arguments.port, lambda text: _say(text, flush=True)))


def _down(arguments: argparse.Namespace) -> int:
    from flowlab.engine.daemon import down

    return _say_all(down(PREFECT_HOME))


def _deploy(arguments: argparse.Namespace) -> int:
    from flowlab.engine import deploy

    if arguments.configs[:1] == ["run"]:
        return _deploy_run(arguments)
    config, _ = _config(arguments) if arguments.configs else _demo_config(arguments)
    asked = deploy.Asked(config, Path.cwd(), arguments.cron or deploy.CRON, arguments.promote)
    return _say_all(deploy.deploy(asked, PREFECT_HOME, lambda text: _say(text, flush=True)))


def _deploy_run(arguments: argparse.Namespace) -> int:
    from flowlab.engine.deploy_run import deploy_run
    from flowlab.plugins import load

    if len(arguments.configs) != 2:
        raise ConfigError("deploy run: expected one deployment, as in: flowlab deploy run on-demand --set a.b=c")

    def said(text: str) -> None:
        _say(text, flush=True)

    said(deploy_run(arguments.configs[1], arguments.set, load(), PREFECT_HOME, watch=arguments.watch, said=said))
    return 0


def _promote(arguments: argparse.Namespace) -> int:
    from flowlab.engine.promote import promote_by_hand

    _say(promote_by_hand(arguments.run, arguments.store, ARTIFACTS))
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from flowlab.engine.daemon import status

    found = status(PREFECT_HOME)
    if arguments.api:
        if found.api is None:
            raise ConfigError("no server is up. Write `flowlab up`, or name one in PREFECT_API_URL")
        _say(found.api)
        return 0
    return _shown_as(arguments, found.to_json(), [f"{name:<9} {text}" for name, text in found.lines()])


def _plugins_json(catalogue: Catalogue) -> dict[str, Any]:
    from flowlab.plugins import KINDS

    return {
        "plugins": [
            {
                "kind": kind,
                "name": catalogue.shown_name(kind, one),
                "distribution": one.distribution,
                "package": _module(one.item),
                "version": getattr(one.item, "version", ""),
                "summary": getattr(one.item, "summary", ""),
            }
            for kind in KINDS
            for one in catalogue.of_kind(kind)
        ],
        "presets": {kind: list(catalogue.preset_names(kind)) for kind in PRESETS},
        "broken": dict(catalogue.broken),
    }


def _open_streams() -> None:
    """Put a null device where the caller closed a standard stream, before a file of ours gets its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if (stream := getattr(sys, name)) is not None:
            if number and isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a terminal that knows only ASCII
            continue
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
        setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _drop_output() -> None:
    """What standard output still holds has nowhere to go, and must not fail again at the exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return


def _refused(error: OSError) -> str:
    """What the operating system refused: the file, the reason, and what to do."""
    reason = error.strerror or str(error)
    if error.filename is None:
        return (
            f"{reason}. The operating system refused it: check free space, and that the working folder is still there"
        )
    named = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else str(error.filename)
    return (
        f"{named}: {reason}. Check that it is what it should be, its permissions and the free space; "
        "--store names another folder for the store, and artifacts/ lies in the working folder"
    )


# --- from words to values -----------------------------------------------------------------------


def _config(arguments: argparse.Namespace) -> tuple[Any, Catalogue]:
    from flowlab.config import load as load_config
    from flowlab.plugins import load as load_plugins

    _refuse_spaces(arguments.set, arguments.configs)
    if not arguments.configs:
        raise ConfigError(_no_config(arguments))
    catalogue = load_plugins()
    return load_config([Path(name) for name in arguments.configs], arguments.set, catalogue), catalogue


def _refuse_spaces(sets: Sequence[str], words: Sequence[str]) -> None:
    """``--set key = value`` is four words, and the last two would be taken for files. The value may be a secret."""
    open_ended = [one for one in sets if "=" not in one or one.endswith("=")]
    lost = [one for one in words if one.startswith("=") or (open_ended and not one.endswith(CONFIG_ENDS))]
    if lost and sets and not any(Path(one).exists() for one in lost):
        key = (open_ended or sets)[-1].partition("=")[0].strip() or "section.key"
        raise ConfigError(
            f"--set {key}: what stands behind it is neither a part of the setting nor a config. "
            f"Write no space around the =, as in --set {key}=VALUE"
        )


def _no_config(arguments: argparse.Namespace) -> str:
    here = sorted(one.name for one in Path().glob("*.y*ml"))
    words = " ".join(("flowlab", arguments.name, *([arguments.stage] if "stage" in arguments else ())))
    text = f"no config given. Write `{words} {here[0] if here else 'config.yaml'}`; `flowlab demo` needs none"
    return text + (f". Here lie: {', '.join(here[:SHOWN])}{', ...' if len(here) > SHOWN else ''}" if here else "")


def _demo_config(arguments: argparse.Namespace) -> tuple[Any, Catalogue]:
    from flowlab.config import load_mapping
    from flowlab.plugins import load as load_plugins

    catalogue = load_plugins()
    preset = catalogue.preset("example", "demo")
    if preset is None:
        broken = "".join(f" {package}: {reason}." for package, reason in sorted(catalogue.broken.items()))
        raise PluginError(f"no installed package brings the example preset 'demo'.{broken}")
    return load_mapping(preset.values, catalogue, sets=arguments.set, source="demo"), catalogue


def _asked(arguments: argparse.Namespace, config: Any, catalogue: Catalogue) -> Asked:
    from flowlab.engine.gates import check_required
    from flowlab.engine.session import Asked

    asked = Asked(
        engine=getattr(arguments, "engine", None),
        store=arguments.store,
        require=tuple(getattr(arguments, "require", ())),
        artifacts=ARTIFACTS,
        runner=getattr(arguments, "runner", None),
        promote=getattr(arguments, "promote", False),
    )
    check_required(asked.require, config, catalogue)
    if getattr(arguments, "strict", False):
        complaints = [*config.warnings, *(f"{name}: {reason}" for name, reason in sorted(catalogue.broken.items()))]
        if complaints:
            raise ConfigError("--strict: " + "; ".join(complaints))
    return asked


def _asked_for_cells(arguments: argparse.Namespace, sweep: Any, catalogue: Catalogue) -> Asked:
    """The same for a sweep; a name of ``--require`` is looked up for each device of its cells."""
    asked: Asked | None = None
    for cell in sweep.cells if arguments.require or arguments.strict else sweep.cells[:1]:
        asked = _asked(arguments, sweep.config(cell, catalogue), catalogue)
    assert asked is not None  # a sweep has cells
    return asked


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The words, with configs also behind options (``why STAGE --run RUN config.yaml``), which argparse refuses."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and "configs" not in arguments:
        _refuse_spaces(getattr(arguments, "set", ()), rest)
    if rest and ("configs" not in arguments or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.configs += rest
    return arguments


class _Parser(argparse.ArgumentParser):
    """Adds to a help text what only the installed packages know; they are loaded for it, and for nothing else."""

    def format_help(self) -> str:
        for action in self._actions:
            if action.dest == "require":
                from flowlab.engine.gates import executions_of
                from flowlab.plugins import load

                known = ", ".join(executions_of(one.item for one in load().of_kind("target")))
                action.help = f"{REQUIRE}; as the device has them: {known.replace('%', '%%')}"
        return super().format_help()


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="flowlab",
        description="From recordings to a checked NPU program: one YAML file in, a report out.",
        epilog="\n".join(["exit codes:", *(f"  {code:<4}{meaning}" for code, meaning in EXIT_CODES)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"flowlab {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    for add in (_running, _asking, _storing, _from_elsewhere, _installed, _server, _measuring):
        add(commands)
    return parser


def _running(commands: Commands) -> None:
    run = _command(commands, "run", _run, "run a config's stages; what is in the store is not repeated")
    _with_configs(run)
    _with_run_options(run)
    text = "the run takes the place of the dataset's promoted one, if it is not worse on the same test windows"
    run.add_argument("--promote", action="store_true", help=text)

    sweep = _command(commands, "sweep", _sweep, "run a matrix of configs; what is the same in several is done once")
    sweep.add_argument("sweep", metavar="SWEEP", help="a YAML file: a config, and a matrix of what is varied in it")
    _with_sets(sweep)
    _with_run_options(sweep)
    sweep.add_argument("--jobs", type=_count, default=_processors(), metavar="N", help="stages at once; default: CPUs")
    sweep.add_argument("--plan", action="store_true", help="say what would be done, and run nothing")

    demo = _command(commands, "demo", _demo, "run the example, from recordings to a report")
    _with_sets(demo)
    _with_run_options(demo)

    predict = _command(commands, "predict", _predict, "say what a run's program makes of new recordings", json=True)
    predict.add_argument("run", metavar="RUN", help=A_RUN)
    predict.add_argument("recordings", nargs="+", metavar="RECORDING", help="files of the run's columns")
    predict.add_argument("--rate", type=float, metavar="HZ", help="samples a second, to say times in seconds")
    _with_store(predict)


def _asking(commands: Commands) -> None:
    text = "say for every stage whether it is cached, or why it will run"
    _with_configs(_command(commands, "plan", _plan, text, json=True))

    why = _command(commands, "why", _why, "say in what a stage differs from the last run that had it", json=True)
    why.add_argument("stage", metavar="STAGE", help="its name, as in `flowlab plan`")
    _with_configs(why)
    why.add_argument("--run", metavar="RUN", help="compare with this run instead of the dataset's last one")

    text = "print the network of a config that has run in every state, from the float graph to places in memory"
    explained = _command(commands, "explain", _explain, text, json=True)
    _with_configs(explained)
    explained.add_argument("--constants", action="store_true", help="with weights and all other numbers")

    config = commands.add_parser("config", help="look at a config").add_subparsers(metavar="WHAT", required=True)
    show = _command(config, "show", _config_show, "say every value, and where it comes from", json=True)
    show.set_defaults(name="config show")
    _with_configs(show)
    keys = _command(config, "keys", _config_keys, "print every key of a config as a Markdown table")
    keys.set_defaults(name="config keys")
    show.add_argument("--changed", action="store_true", help="only what differs from the built-in default")
    say = "print a config as the parameters of a deployment's run, in JSON"
    given = _command(config, "parameters", _config_parameters, say)
    given.set_defaults(name="config parameters")
    _with_configs(given)

    runs = _command(commands, "runs", _runs, "list the runs in the store, newest first", json=True)
    runs.add_argument("--dataset", metavar="NAME", help="only those of this dataset")
    _with_store(runs)

    text = "say in what two runs differ: config, metrics, sizes, layers, stages"
    promote = _command(commands, "promote", _promote, "make a run the promoted one of its dataset, whatever it reaches")
    promote.add_argument("run", metavar="RUN", help=A_RUN)
    _with_store(promote)

    both = _command(commands, "compare", _compare, text, json=True)
    both.add_argument("first", metavar="RUN", help=A_RUN)
    both.add_argument("second", metavar="RUN", help="the other one")
    _with_store(both)

    text = "say where a run's accuracy went, step by step and layer by layer, and what to change"
    accuracy = _command(commands, "accuracy", _accuracy, text, json=True)
    accuracy.add_argument("run", metavar="RUN", help=A_RUN)
    _with_store(accuracy)

    text = "print a program: its layers, where they run, what they take"
    program = _command(commands, "show", _show, text, json=True)
    program.add_argument("program", metavar="MODEL.FLNP", help="a program file of a run")
    program.add_argument("--bounds", action="store_true", help="how wide its sums, biases and products can become")
    text = "whose accelerator's registers --bounds holds them against (default: what all that are installed agree on)"
    program.add_argument("--target", metavar="DEVICE", help=text)
    text = "compare what a board printed, running main.c, with what the program must give"
    device = _command(commands, "check-device", _check_device, text, json=True)
    device.add_argument("log", metavar="LOG", help="all that the board printed")
    device.add_argument("run", nargs="?", default="latest", metavar="RUN", help="whose program; or a model.flnp")
    _with_store(device)


def _storing(commands: Commands) -> None:
    store = commands.add_parser("store", help="look after the store").add_subparsers(metavar="WHAT", required=True)
    say = "list what the store holds: runs, records, objects, with their bytes"
    _with_store(_command(store, "ls", _store_ls, say, json=True))
    say = "hash everything anew; say what is damaged, whom it hits, and what to do (exit code 1)"
    _with_store(_command(store, "verify", _store_verify, say, json=True))
    collected = _command(store, "gc", _store_gc, "remove what no kept run needs", json=True)
    say = "completed runs of each dataset that are kept; 'latest', 'promoted' and runs that go on are kept anyway"
    collected.add_argument("--keep-last", type=int, required=True, metavar="N", help=say)
    collected.add_argument("--dry-run", action="store_true", help="only say what would go")
    _with_store(collected)
    say = "write a run with config, model, program, golden vectors, records and hashes of its data as one zip"
    exported = _command(store, "export", _store_export, say, json=True)
    exported.add_argument("run", metavar="RUN", help=A_RUN)
    exported.add_argument("out", metavar="OUT.zip", help="the file; there must be none of this name")
    exported.add_argument("--with-data", action="store_true", help="put the data's files in too")
    _with_store(exported)
    imported = _command(store, "import", _store_import, "take an exported run in, every hash checked", json=True)
    imported.add_argument("archive", metavar="OUT.zip", help="what `flowlab store export` wrote")
    _with_store(imported)
    say = "run a run's config here from nothing and compare every hash (exit code 1: it names the first that differs)"
    replayed = _command(store, "replay", _store_replay, say, json=True)
    replayed.add_argument("run", metavar="RUN|OUT.zip", help="an exported archive, or a run in the store")
    replayed.add_argument("--data", metavar="PATH", help="the data, where the config's path does not lead to them here")
    _with_store(replayed)


def _from_elsewhere(commands: Commands) -> None:
    text = "quantize, place, compile and run a network that was trained elsewhere"
    compiled = _command(commands, "compile", _compile, text, json=True)
    compiled.add_argument("model", metavar="MODEL", help="a network of one input: .onnx, .pt2, or .pt and --module")
    compiled.add_argument("--module", metavar="PACKAGE:NAME", help="what makes a state dict's module; it is imported")
    compiled.add_argument("--target", required=True, metavar="DEVICE", help="as in `flowlab targets`")
    compiled.add_argument("--calibration", required=True, metavar="WINDOWS.npy", help="some hundred of its own inputs")
    text = "a folder that gets copies, besides artifacts/<name of the file>/<run>/; must not exist"
    compiled.add_argument("--out", metavar="FOLDER", help=text)
    compiled.add_argument("--bits", type=int, default=8, metavar="N", help="of the weights: 8, 4 or 2 (default: 8)")
    compiled.add_argument("--real-outputs", action="store_true", help="end in float32 outputs instead of integers")
    compiled.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the device")
    compiled.add_argument("--require", action="append", default=[], metavar="EXECUTION", help=REQUIRE)
    _with_store(compiled)


def _installed(commands: Commands) -> None:
    for kind, text in LISTED.items():
        listed = _command(commands, kind, _list, text, json=True)
        if kind == "targets":
            listed.add_argument("device", nargs="?", metavar="DEVICE", help="say what each of its compile presets does")
    _command(commands, "plugins", _plugins, "list what is installed, and what of it is broken", json=True)
    plugin = commands.add_parser("plugin", help="write or check a package of your own").add_subparsers(
        metavar="WHAT", required=True
    )
    new = _command(plugin, "new", _plugin_new, "write a package that installs and passes its own tests")
    new.set_defaults(name="plugin new")
    new.add_argument("kind", metavar="KIND", help="quantizer, target, extractor or stage")
    new.add_argument("package", metavar="NAME", help="of the package, its folder and the plugin: my-quantizer")
    check = _command(
        plugin, "check", _plugin_check, "run the conformance checks on all that an installed package brings"
    )
    check.set_defaults(name="plugin check")
    check.add_argument("package", metavar="PACKAGE", help="its distribution, or the module that it announces")
    _with_store(_command(commands, "doctor", _doctor, "look whether all that flowlab needs is here", json=True))


def _server(commands: Commands) -> None:
    up = _command(commands, "up", _up, "start Prefect's server and dashboard for this folder, in the background")
    up.add_argument("--port", type=int, help="its port on 127.0.0.1 (default: 4200, or a free one)")
    _command(commands, "down", _down, "stop the server of `flowlab up`, and say what is left behind")
    deploy = _command(commands, "deploy", _deploy, "give the server deployments of a config, on demand and nightly")
    deploy.add_argument(
        "configs", nargs="*", metavar="CONFIG", help="YAML files; none: the example. 'run NAME': a run of a deployment"
    )
    deploy.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key")
    deploy.add_argument("--cron", metavar="'M H D M W'", help="when the scheduled one runs, UTC (default: '0 2 * * *')")
    deploy.add_argument("--promote", action="store_true", help="runs take the place of the promoted one, if not worse")
    deploy.add_argument("--watch", action="store_true", help="with 'run NAME': wait for its end")
    status = _command(commands, "status", _status, "say which server runs would use, and how it is", json=True)
    status.add_argument("--api", action="store_true", help="print its API's address alone, for PREFECT_API_URL")


def _measuring(commands: Commands) -> None:
    bench = commands.add_parser("bench", help="measure flowlab itself").add_subparsers(metavar="WHAT", required=True)
    text = "what flowlab takes for itself: cached, nine stages on either engine, beside other tools that are here"
    overhead = _command(bench, "overhead", _overhead, text)
    overhead.add_argument("configs", nargs="*", metavar="CONFIG", help="YAML files; none: the example")
    overhead.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key")
    overhead.add_argument("--rounds", type=int, default=5, metavar="N", help="of everything, in turns (default: 5)")
    overhead.add_argument("--csv", metavar="FOLDER", help="write overhead.csv there")
    compile_ = _command(bench, "compile", _compile_bench, "instructions, bytes and stack of programs on emulated cores")
    compile_.add_argument("--quick", action="store_true", help="one network, hardly trained")
    compile_.add_argument("--csv", metavar="FOLDER", help="write compile.csv there")
    compile_.add_argument("--model", action="append", default=[], metavar="NAME", help="this model; may be repeated")
    text = "accuracy, training time and files of every quantization, beside float and other quantizers"
    quantization = _command(bench, "quantization", _quantization, text)
    quantization.add_argument("--quick", action="store_true", help="one seed, one network, few epochs: minutes")
    quantization.add_argument("--csv", metavar="FOLDER", help="write accuracy.csv, speed.csv and files.csv there")
    quantization.add_argument("--seeds", type=int, default=3, metavar="N", help="networks of each kind (default: 3)")
    for kind in ("table", "dataset", "model", "row"):
        said = f"measure this {kind} and no other; may be repeated"
        quantization.add_argument(f"--{kind}", action="append", default=[], metavar="NAME", help=said)


def _command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], text: str, *, json: bool = False
) -> argparse.ArgumentParser:
    """One more command; ``json`` gives it ``--json``."""
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(command=run, name=name)
    if json:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _with_configs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help="YAML files; later ones lie over earlier ones")
    _with_sets(parser)


def _with_sets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key")
    _with_store(parser)


def _with_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store",
        metavar="PATH",
        help="the store: a folder or an address, as s3://bucket/prefix (default: artifacts/.store)",
    )


def _with_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=["prefect", "local"], help="what runs the stages (default: prefect)")
    text = "where the stages run: dask://HOST:PORT, or dask:// for a cluster on this machine (default: in this process)"
    parser.add_argument("--runner", metavar="ADDRESS", help=text)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--strict", action="store_true", help="warnings and broken plugin packages are errors")
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="NAME",
        help=REQUIRE,
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- what people look at ------------------------------------------------------------------------


def _say(text: str = "", file: TextIO | None = None, flush: bool = False) -> None:
    """Print for people: a name that holds control characters moves no cursor and hides nothing."""
    safe = text if text.isprintable() else "".join(map(_safe, text))
    print(safe, file=file, flush=flush)


def _safe(one: str) -> str:
    return one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode("ascii")


def _say_all(lines: Iterable[str]) -> int:
    for line in lines:
        _say(line)
    return 0


def _shown_as(arguments: argparse.Namespace, value: Mapping[str, Any], lines: Iterable[str]) -> int:
    """One JSON object, or lines for people."""
    if arguments.json:
        print(json.dumps(value, indent=2))
        return 0
    return _say_all(lines)


class _Lines:
    """One line for each finished stage: for logs and pipes."""

    def __enter__(self) -> _Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def progress(self, stage: str, what: str, fraction: float) -> None:
        """Only that a killed training goes on, and from where: a log is no place for a moving bar."""
        from flowlab.contracts import GOES_ON

        if what.startswith(GOES_ON):
            _say(f"{stage:<10} {what}", flush=True)

    def finished(self, stage: str, cached: bool, seconds: float) -> None:
        _say(f"{stage:<10} {'cached' if cached else f'{seconds:.1f} s'}", flush=True)


class _Bars:
    """A moving bar for each stage, on a terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bars = Progress(
            TextColumn("{task.fields[stage]:<10}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[what]}", markup=False),
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> _Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def progress(self, stage: str, what: str, fraction: float) -> None:
        self._bars.update(self._task(stage), completed=fraction, what="".join(map(_safe, what)))

    def finished(self, stage: str, cached: bool, seconds: float) -> None:
        task = self._task(stage)
        self._bars.update(task, completed=1.0, what="cached" if cached else "")
        self._bars.stop_task(task)

    def _task(self, stage: str) -> Any:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task("", total=1.0, stage=stage, what="")
        return self._tasks[stage]


class _SweepTable:
    """How far a sweep is: a table that moves on a terminal, else a line for each node that has ended."""

    def __init__(self) -> None:
        self._live: Any = None
        self._state: Any = None

    def __enter__(self) -> _SweepTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def planned(self, counts: Mapping[str, int], cells: int) -> None:
        if not sys.stdout.isatty():
            return
        from rich.live import Live

        from flowlab.engine.sweep_table import SweepTable

        self.__exit__(None, None, None)
        self._state = SweepTable(counts, cells)
        self._live = Live(get_renderable=self._state.drawn, refresh_per_second=4)
        self._live.start()

    def started(self, stage: str, name: str, about: str) -> None:
        if self._state is not None:
            self._state.started(stage, name, about)

    def progress(self, name: str, what: str, fraction: float) -> None:
        if self._state is not None:
            self._state.progress(name, "".join(map(_safe, what)), fraction)

    def ended(self, stage: str, name: str, state: str, seconds: float) -> None:
        if self._state is not None:
            self._state.ended(stage, name, state)
        else:
            _say(f"{name:<14} {f'{seconds:.1f} s' if state == 'done' else state}", flush=True)

    def cell(self, result: Any) -> None:
        if self._state is not None:
            self._state.cell(result.state)
        elif result.error is not None:
            _say(f"{result.state}: {result.cell}: {result.reason}", flush=True)

    def said(self, text: str) -> None:
        _say(text, flush=True)


class _Late:
    """Lines until something moves on a terminal, then bars: a run that is wholly cached never imports rich."""

    def __init__(self) -> None:
        self._lines = _Lines()
        self._bars: _Bars | None = None
        self._moving = sys.stdout.isatty()

    def __enter__(self) -> _Late:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.__exit__(kind, error, trace)

    def progress(self, stage: str, what: str, fraction: float) -> None:
        if self._moving and self._bars is None:
            self._bars = _Bars().__enter__()
        (self._bars or self._lines).progress(stage, what, fraction)

    def finished(self, stage: str, cached: bool, seconds: float) -> None:
        (self._bars or self._lines).finished(stage, cached, seconds)

    def said(self, text: str) -> None:
        _say(text, flush=True)


def _watch() -> _Late:
    return _Late()


@contextmanager
def _stdout_for_json_only() -> Iterator[Any]:
    """Yield the real standard output; whatever else writes there (a library, a compiler) lands on stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as out:
            yield out
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _print_table(kind: str, rows: Sequence[tuple[str, str, str]]) -> None:
    if not rows:
        return
    width = max(len(row[0]) for row in rows)
    _say(f"{kind}:")
    for name, package, summary in rows:
        _say(f"  {name:<{width}}  {package:<16} {summary}".rstrip())


def _print_result(result: RunResult, said: Sequence[str]) -> None:
    """Warnings and summary; a warning that says what the first lines said already is not repeated."""
    headings = {line.partition(":")[0].lower() for line in said}
    for warning in result.warnings:
        if warning.partition(":")[0].lower() not in headings:
            _say(f"warning: {warning}", file=sys.stderr)
    _say()
    for name, text in result.summary():
        _say(f"{name:<11} {text}")
    _say(f"files       {_shown(result.folder)}")
    _say(f"report      {_shown(result.report)}", flush=True)


def _module(item: object) -> str:
    return type(item).__module__.partition(".")[0]


def _shown(path: Path | None) -> str:
    """A path as short as it can be typed."""
    if path is None:
        return "none"
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


if __name__ == "__main__":
    sys.exit(main())
