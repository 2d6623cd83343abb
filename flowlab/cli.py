"""The command line, and the one file that prints.

Start-up is light: nothing heavy is imported on the way to ``--help``, ``plan``, or a run that is wholly cached.
An error that a user can cause is one text on stderr and the exit code of its kind (`flowlab.errors`), no traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flowlab import __version__
from flowlab.errors import EXIT_CODES, FAILED, INTERRUPTED, UNUSABLE, ConfigError, FlowlabError, GateError, PluginError

PREFECT_HOME = Path("artifacts") / ".prefect"

if TYPE_CHECKING:
    from flowlab.engine.result import RunResult
    from flowlab.engine.session import Asked
    from flowlab.plugins import Catalogue


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    _open_streams()
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        code = command(arguments)
        sys.stdout.flush()  # here, where a full disk or a closed pipe is an error with a name
        return code
    except FlowlabError as error:
        print(f"flowlab: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("flowlab: stopped. Finished stages are in the store: the next run goes on from there.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return FAILED
    except OSError as error:  # of a disk, not of the data: those are named where they are read
        print(f"flowlab: {_refused(error)}", file=sys.stderr)
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
        for line in first_lines(config, catalogue):
            print(line)
        with _watch() as watch:
            result, missed = _outcome(lambda: run(config, catalogue, asked, watch))
        _print_result(result)
    if missed is not None:
        raise missed
    return 0


def _outcome(run: Callable[[], RunResult]) -> tuple[RunResult, GateError | None]:
    """A run's result, and the error of the gates that it missed: what it has to say is said before."""
    try:
        return run(), None
    except GateError as error:
        if error.result is None:
            raise
        return error.result, error


def _plan(arguments: argparse.Namespace) -> int:
    from flowlab.engine.run import survey

    config, catalogue = _config(arguments)
    statuses = survey(config, catalogue, _asked(arguments, config, catalogue))
    if arguments.json:
        print(json.dumps({"stages": [status.to_json() for status in statuses]}, indent=2))
        return 0
    for status in statuses:
        print(f"{status.stage:<10} {status.text()}")
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from flowlab.engine.predict import predict
    from flowlab.engine.which_run import which_run
    from flowlab.plugins import load as load_plugins

    run = which_run(arguments.run, arguments.store, Path("artifacts"))
    files = [Path(name) for name in arguments.recordings]
    found = predict(run, files, load_plugins(), arguments.rate)
    if arguments.json:
        print(json.dumps(found.to_json(), indent=2))
        return 0
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for line in found.lines():
        print(line)
    return 0


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
    for kind in ("feature_extraction", "compile", "example"):
        _print_table(f"{kind.replace('_', ' ')} preset", [(name, "", "") for name in catalogue.preset_names(kind)])
    for package, reason in sorted(catalogue.broken.items()):
        print(f"broken: {package}: {reason}", file=sys.stderr)
    return 0


def _overhead(arguments: argparse.Namespace) -> int:
    from flowlab.engine.bench import overhead

    for line in overhead(arguments.configs, arguments.set):
        print(line)
    return 0


def _up(arguments: argparse.Namespace) -> int:
    from flowlab.engine.daemon import up

    for line in up(PREFECT_HOME, arguments.port, lambda text: print(text, flush=True)):
        print(line)
    return 0


def _down(arguments: argparse.Namespace) -> int:
    from flowlab.engine.daemon import down

    for line in down(PREFECT_HOME):
        print(line)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from flowlab.engine.daemon import status

    found = status(PREFECT_HOME)
    if arguments.json:
        print(json.dumps(found.to_json(), indent=2))
        return 0
    for name, text in found.lines():
        print(f"{name:<9} {text}")
    return 0


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
        "presets": {kind: list(catalogue.preset_names(kind)) for kind in ("feature_extraction", "compile", "example")},
        "broken": dict(catalogue.broken),
    }


def _open_streams() -> None:
    """Put a null device where the caller closed a standard stream, before a file of ours gets its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
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

    if not arguments.configs:
        raise ConfigError("no config given. Write `flowlab run config.yaml`; `flowlab demo` needs none")
    catalogue = load_plugins()
    return load_config([Path(name) for name in arguments.configs], arguments.set, catalogue), catalogue


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
    from flowlab.engine.session import Asked

    asked = Asked(
        engine=getattr(arguments, "engine", None),
        store=arguments.store,
        require=tuple(getattr(arguments, "require", ())),
        artifacts=Path("artifacts"),
    )
    if getattr(arguments, "strict", False):
        complaints = [*config.warnings, *(f"{name}: {reason}" for name, reason in sorted(catalogue.broken.items()))]
        if complaints:
            raise ConfigError("--strict: " + "; ".join(complaints))
    return asked


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowlab",
        description="From recordings to a checked NPU program: one YAML file in, a report out.",
        epilog="\n".join(["exit codes:", *(f"  {code:<4}{meaning}" for code, meaning in EXIT_CODES)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"flowlab {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="run a config's stages; what is in the store is not repeated")
    _with_configs(run)
    _with_run_options(run)
    run.set_defaults(command=_run)

    plan = commands.add_parser("plan", help="say for every stage whether it is cached, or why it will run")
    _with_configs(plan)
    plan.add_argument("--json", action="store_true", help="print one JSON object")
    plan.set_defaults(command=_plan)

    predict = commands.add_parser("predict", help="say what a run's program makes of new recordings")
    predict.add_argument(
        "run", metavar="RUN", help="a run's name or folder; a dataset's name, or 'latest', for its newest completed run"
    )
    predict.add_argument("recordings", nargs="+", metavar="RECORDING", help="files of the run's columns")
    predict.add_argument("--rate", type=float, metavar="HZ", help="samples a second, to say times in seconds")
    predict.add_argument("--json", action="store_true", help="print one JSON object")
    predict.add_argument("--store", metavar="PATH", help="the store's folder (default: artifacts/.store)")
    predict.set_defaults(command=_predict)

    demo = commands.add_parser("demo", help="run the example, from recordings to a report")
    _with_sets(demo)
    _with_run_options(demo)
    demo.set_defaults(command=_demo)

    plugins = commands.add_parser("plugins", help="list what is installed, and what of it is broken")
    plugins.add_argument("--json", action="store_true", help="print one JSON object")
    plugins.set_defaults(command=_plugins)

    up = commands.add_parser("up", help="start Prefect's server and dashboard for this folder, in the background")
    up.add_argument("--port", type=int, help="its port on 127.0.0.1 (default: 4200, or a free one)")
    up.set_defaults(command=_up)

    down = commands.add_parser("down", help="stop the server of `flowlab up`, and say what is left behind")
    down.set_defaults(command=_down)

    status = commands.add_parser("status", help="say which server runs would use, and how it is")
    status.add_argument("--json", action="store_true", help="print one JSON object")
    status.set_defaults(command=_status)

    bench = commands.add_parser("bench", help="measure flowlab itself").add_subparsers(metavar="WHAT", required=True)
    overhead = bench.add_parser("overhead", help="the time of a run in which everything is cached")
    overhead.add_argument("configs", nargs="*", metavar="CONFIG", help="YAML files; none: the example")
    overhead.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key")
    overhead.set_defaults(command=_overhead)
    return parser


def _with_configs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help="YAML files; later ones lie over earlier ones")
    _with_sets(parser)


def _with_sets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key")
    parser.add_argument("--store", metavar="PATH", help="the store's folder (default: artifacts/.store)")


def _with_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=["prefect", "local"], help="what runs the stages (default: prefect)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--strict", action="store_true", help="warnings and broken plugin packages are errors")
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="NAME",
        help="fail unless this execution of the program ran here",
    )


# --- what people look at ------------------------------------------------------------------------


class _Lines:
    """One line for each finished stage: for logs and pipes."""

    def __enter__(self) -> _Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def progress(self, stage: str, what: str, fraction: float) -> None:
        """Nothing: a log is no place for a moving bar."""

    def finished(self, stage: str, cached: bool, seconds: float) -> None:
        print(f"{stage:<10} {'cached' if cached else f'{seconds:.1f} s'}", flush=True)


class _Bars:
    """A moving bar for each stage, on a terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bars = Progress(
            TextColumn("{task.fields[stage]:<10}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[what]}"),
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
        self._bars.update(self._task(stage), completed=fraction, what=what)

    def finished(self, stage: str, cached: bool, seconds: float) -> None:
        task = self._task(stage)
        self._bars.update(task, completed=1.0, what="cached" if cached else "")
        self._bars.stop_task(task)

    def _task(self, stage: str) -> Any:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task("", total=1.0, stage=stage, what="")
        return self._tasks[stage]


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
        if self._bars is not None:
            self._bars.progress(stage, what, fraction)

    def finished(self, stage: str, cached: bool, seconds: float) -> None:
        (self._bars or self._lines).finished(stage, cached, seconds)

    def said(self, text: str) -> None:
        print(text, flush=True)


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
    print(f"{kind}:")
    for name, package, summary in rows:
        print(f"  {name:<{width}}  {package:<16} {summary}".rstrip())


def _print_result(result: RunResult) -> None:
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print()
    for name, text in result.summary():
        print(f"{name:<11} {text}")
    print(f"report      {_shown(result.report)}", flush=True)


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
