"""Runs: one asking each, kept in ``runs/<run>/run.json``, which is written before anything else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from flowlab.canonical import canonical_json, digest, read_json
from flowlab.store.files import Files, LocalFiles

State = Literal["Running", "Completed", "Failed"]
KILLED = "Killed"  # how a run is shown whose process ended without a word


def run_name(now: datetime | None = None) -> str:
    """A name for a run: ``<UTC time>-<4 hex>``, the digits being the fraction of the second: names sort by time."""
    moment = now or datetime.now(UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{moment.microsecond * 0x10000 // 1_000_000:04x}"


def this_process() -> dict[str, Any]:
    """What tells this process from every other: host, number, and when it started (the system reuses numbers)."""
    return {"host": os.uname().nodename, "pid": os.getpid(), "start": _started(os.getpid())}


def state_of(run: Mapping[str, Any]) -> str:
    """The state of a run: what ``run.json`` says, or ``Killed`` where it says Running and its process is gone.

    A run of another host, or one that an older version wrote, is taken at its word.
    """
    state = str(run.get("state", ""))
    return KILLED if state == "Running" and is_gone(run) else state


def is_gone(run: Mapping[str, Any]) -> bool:
    """Whether the process of a run has ended; of one on another host nobody here can say so."""
    process = run.get("process")
    if not isinstance(process, Mapping) or process.get("host") != os.uname().nodename:
        return False
    pid = process.get("pid")
    return not (isinstance(pid, int) and _started(pid) is not None and _started(pid) == process.get("start"))


def _started(pid: int) -> int | None:
    """Clock ticks between the system's start and the process's, or None where there is no such process."""
    try:
        fields = (
            Path("/proc", str(pid), "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
        return None if fields[0] == "Z" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


class Runs:
    """The folder ``runs/`` of a store."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: Files = LocalFiles(root)

    def claim(self) -> str:
        """A name that no other run has: makes the run's folder. Runs that start in one second may draw one name."""
        while True:
            name = run_name()
            try:
                (self._root / "runs" / name).mkdir(parents=True)
            except FileExistsError:
                continue
            return name

    def write(self, run: str, dataset: str, state: State, **more: Any) -> None:
        """Write ``run.json``, whole, with a hash of all that it says under ``check``.

        Args:
            run: from `run_name`.
            dataset: the dataset's name; runs of one dataset are compared with each other.
            state: ``Running`` is written first; a run that stays so was killed (`state_of`).
            more: JSON. ``config`` as it was given, ``stages`` with their fingerprints. While it goes on, ``asks`` has
                for each stage the hash of what decides its result but its inputs, and ``objects`` what it starts from:
                what they name is no garbage (`flowlab.store.collect`).
        """
        value = {"run": run, "dataset": dataset, "state": state, **more}
        self._files.replace(f"runs/{run}/run.json", canonical_json({**value, "check": digest(value)}))

    def read(self, run: str) -> Mapping[str, Any] | None:
        """The content of ``run.json``, or None where it is not there or damaged; the folder's name is the run's."""
        try:
            value = read_json(self._files.read(f"runs/{run}/run.json"))
        except (OSError, ValueError):
            return None
        if not (isinstance(value, dict) and isinstance(value.get("dataset"), str)):
            return None
        return {key: one for key, one in value.items() if key != "check"} | {"run": run}

    def newest_first(self, dataset: str | None = None) -> Iterator[Mapping[str, Any]]:
        """The runs of a dataset, or of all."""
        for name in reversed(self.names()):
            value = self.read(name)
            if value is not None and dataset in (None, value.get("dataset")):
                yield value

    def names(self) -> list[str]:
        """The runs' names, oldest first."""
        folder = self._root / "runs"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
