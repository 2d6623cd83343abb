"""`flowlab bench overhead`: what flowlab takes for itself, and beside it other tools for an equal pipeline.

Measured are whole processes, in turns, on this machine as it is: CPU seconds of the process and its children, and wall
seconds. Of Prefect's server, which is up before, nothing is counted.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

from flowlab.engine import bench_others, server, table
from flowlab.engine.bench import measured, overhead
from flowlab.engine.bench_others import Tool
from flowlab.engine.bench_tables import as_csv, writable
from flowlab.errors import FlowlabError

CACHED_BAR_S = 0.3  # wall, of a run in which everything is cached
SERVER_BAR_S = 2.5  # CPU, of nine stages on a server that is up
FRESH, AGAIN = "made", "nothing to do"
LOCAL, PREFECT = "flowlab, local engine", "flowlab, Prefect's server up"
ENGINES = {LOCAL: "local", PREFECT: "prefect"}
HEAD = ("nine tasks that do nothing", "", "wall", "CPU", "times the wall", "times the CPU", "bar")
NINE = (
    "import sys; import flowlab.stages; from flowlab.engine.bench_stages import stages; "
    "flowlab.stages.STAGES = stages(); from flowlab.cli import main; sys.exit(main(sys.argv[1:]))"
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What to measure: rounds of everything, and the folder of ``overhead.csv`` or None."""

    configs: Sequence[str] = ()
    sets: Sequence[str] = ()
    rounds: int = 5
    csv: Path | None = None


@dataclass(frozen=True)
class Row:
    """Medians over the rounds; the ratios are over flowlab's local engine, round by round. ``failed``: why none."""

    who: str
    version: str
    what: str
    wall_s: float = 0.0
    cpu_s: float = 0.0
    wall_ratio: float = 0.0
    cpu_ratio: float = 0.0
    bar: str = ""
    failed: str = ""

    def cells(self) -> tuple[str, ...]:
        """For people."""
        who = f"{self.who} {self.version}".rstrip()
        ratios = f"{self.wall_ratio:.2f}", f"{self.cpu_ratio:.2f}"
        return who, self.what, f"{self.wall_s:.2f} s", f"{self.cpu_s:.2f} s", *ratios, self.bar


Times = dict[tuple[str, str], list[tuple[float, float]]]  # wall and CPU seconds by who and what, a round each


def measure(asked: Asked, say: Say) -> list[str]:
    """All of it; returns lines for people.

    Raises:
        ConfigError: where the CSV cannot be written.
        FlowlabError: when a run of flowlab itself fails.
    """
    if asked.csv is not None:
        writable(asked.csv)
    say("a run of the config in which everything is cached:")
    lines = list(overhead(asked.configs, asked.sets, max(asked.rounds, 3)))
    for line in lines:
        say(f"  {line}")
    rows = list(_rows(asked, say))
    if asked.csv is not None:
        as_csv(asked.csv / "overhead.csv", [one.name for one in fields(Row)], [asdict(one) for one in rows])
    notes = [tool.note for tool in bench_others.TOOLS if tool.note and any(row.who == tool.name for row in rows)]
    absent = [tool.name for tool in bench_others.TOOLS if not any(row.who == tool.name for row in rows)]
    broken = [f"{row.who} {row.version} is not measured: {row.failed}" for row in rows if row.failed]
    said = [f"not installed here, and not measured: {', '.join(absent)}"] if absent else []
    return ["", *table.lines(HEAD, [row.cells() for row in rows if not row.failed]), *notes, *broken, *said, *_busy()]


def _busy() -> list[str]:
    """What wall times are worth here."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load <= cores:
        return []
    return [f"others work on this machine (load {load:.1f} on {cores} cores): wall times are theirs too"]


def _rows(asked: Asked, say: Say) -> Iterator[Row]:
    times: Times = {}
    failed: dict[str, str] = {}
    tools = [(tool, command) for tool in bench_others.TOOLS if (command := bench_others.command_of(tool.name))]
    versions = {tool.name: bench_others.version_of(command) for tool, command in tools}
    with tempfile.TemporaryDirectory(prefix="flowlab-bench-") as folder, _server(Path(folder), say) as api:
        for turn in range(asked.rounds + 1):  # the first fills the caches of the disk and of Python, and is not counted
            say(f"round {turn} of {asked.rounds}")
            found = _flowlab(Path(folder, f"{turn}"), api)
            for tool, command in tools:
                place = Path(folder, f"{turn}", tool.name)
                try:
                    found |= _other(tool, command, versions[tool.name], place)
                except FlowlabError as error:
                    failed[tool.name] = str(error)
            for key, value in found.items() if turn else ():
                times.setdefault(key, []).append(value)
    for (who, what), taken in times.items():
        if who not in failed:
            yield _row(who, versions.get(who, ""), what, taken, times[LOCAL, what])
    for name, reason in failed.items():
        yield Row(name, versions[name], FRESH, failed=reason)


def _row(
    who: str, version: str, what: str, taken: Sequence[tuple[float, float]], own: Sequence[tuple[float, float]]
) -> Row:
    wall, cpu = (median(one[at] for one in taken) for at in (0, 1))
    more, more_cpu = (median(one[at] / base[at] for one, base in zip(taken, own, strict=True)) for at in (0, 1))
    bar = ""
    if (who, what) == (LOCAL, AGAIN):
        bar = f"{CACHED_BAR_S} s wall: {'met' if wall <= CACHED_BAR_S else 'missed'}"
    elif who == PREFECT:
        bar = f"{SERVER_BAR_S} s CPU: {'met' if cpu <= SERVER_BAR_S else 'missed'}"
    return Row(who, version, what, wall, cpu, more, more_cpu, bar)


@contextmanager
def _server(folder: Path, say: Say) -> Iterator[str]:
    """A server of its own, that answers."""
    say("starting Prefect's server")
    home = folder / "prefect"
    with server.temporary_server(home) as api:
        server.wait_until_healthy(api, home)
        yield api


def _flowlab(
    folder: Path, api: str, engines: Mapping[str, str] = ENGINES
) -> dict[tuple[str, str], tuple[float, float]]:
    """Nine stages made and found again, on either engine, each in a folder with a store of its own."""
    found = {}
    for who, engine in engines.items():
        place = folder / engine
        place.mkdir(parents=True)
        command = [sys.executable, "-c", NINE, "demo", "--engine", engine]
        environment = {"PREFECT_API_URL": api}
        found[who, FRESH] = _checked(command, place, environment)
        if not list((place / "artifacts" / ".store" / "records").glob("*/*.json")):
            raise FlowlabError(f"the run to measure made no records in {place}")
        found[who, AGAIN] = _checked(command, place, environment)
    return found


def _other(tool: Tool, command: str, version: str, folder: Path) -> dict[tuple[str, str], tuple[float, float]]:
    folder.mkdir(parents=True)
    bench_others.lay_out(tool, version, folder)
    if tool.before:
        _checked([command, *tool.before], folder, bench_others.QUIET)
    fresh = _checked([command, *tool.fresh], folder, bench_others.QUIET)
    if not bench_others.is_whole(folder):
        raise FlowlabError("it did not make what all others make")
    return {(tool.name, FRESH): fresh, (tool.name, AGAIN): _checked([command, *tool.again], folder, bench_others.QUIET)}


def _checked(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of a command. Raises FlowlabError with its last words when it fails."""
    with tempfile.TemporaryFile() as said:
        wall, cpu, code = measured(command, folder, {**os.environ, **environment}, said)
        said.seek(0)
        words = " ".join(said.read().decode(errors="replace").split())[-300:]
    if code:
        raise FlowlabError(f"{Path(command[0]).name} failed ({code}): {words}")
    return wall, cpu
