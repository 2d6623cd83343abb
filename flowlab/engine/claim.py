"""Who holds the project's Prefect database: the server of `flowlab up` alone, or the temporary servers of runs.

One small file in the database's folder is both the lock and the note of who holds it.
A server inherits the locked file, so the kernel lets go of it when the process ends, however it ends:
a lock that is free means that what the file says is past.
The server of `flowlab up` holds it exclusively, temporary servers share it, so that both are never there at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from flowlab.canonical import read_json
from flowlab.errors import StageError
from flowlab.store.files import LocalFiles

MODULE = "flowlab.engine.server_process"
FILE = "server.json"
LAST_S = 253_402_300_800  # the year 10000: no server was started later
PATIENCE_S = 5.0  # between the lock and the note lie milliseconds


@dataclass(frozen=True)
class Standing:
    """The server of `flowlab up`: its process, its port on this machine, and when it was started (Unix time)."""

    pid: int
    port: int
    started: float

    @property
    def url(self) -> str:
        """The dashboard."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        """The API."""
        return f"{self.url}/api"


@dataclass
class Hold:
    """A descriptor of the locked file; ``gone`` is a server that the file named and that is no more."""

    descriptor: int
    gone: Standing | None = None

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)

    def note(self, standing: Standing | None) -> None:
        """Write who holds the database, or nothing."""
        text = "" if standing is None else json.dumps(vars(standing))
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, text.encode(), 0)


def find(home: Path) -> Standing | None:
    """The project's server, if its process lives; whether it answers is not asked."""
    if not (home / FILE).is_file():
        return None
    found = find_or_share(home)
    if isinstance(found, Standing):
        return found
    os.close(found.descriptor)
    return None


def find_or_share(home: Path) -> Standing | Hold:
    """The project's server; where there is none, a shared hold on its database, which the caller closes.

    Raises:
        StageError: if the database is held by a server that does not say which it is.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        hold = _locked(home, fcntl.LOCK_SH)
        if hold is not None:
            hold.gone = _noted(home)
            if hold.gone is not None:
                hold.note(None)
            return hold
        standing = _noted(home)
        if standing is not None:
            return standing
        if time.monotonic() > deadline:
            raise StageError(
                f"{home / FILE}: a server holds the project's Prefect database, but the file does not say which. "
                "End that process (`flowlab down` cannot find it), then run again"
            )
        time.sleep(0.05)


def find_or_take(home: Path) -> Standing | Hold:
    """The project's server; where there is none, the only hold on its database, which the caller closes.

    Raises:
        StageError: if a run with a temporary server uses the database.
    """
    home.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        hold = _locked(home, fcntl.LOCK_EX)
        if hold is not None:
            hold.gone = _noted(home)
            return hold
        standing = find(home)
        if standing is not None:
            return standing
        if time.monotonic() > deadline:
            raise StageError(
                f"a run with a temporary server of its own uses the project's Prefect database ({home}). "
                "Wait until it has ended, then write `flowlab up` again"
            )
        time.sleep(0.1)


def is_ours(pid: int, home: Path) -> bool:
    """Whether a process is this project's server: by its command line, since the system gives numbers out again."""
    try:
        words = (Path("/proc") / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return MODULE in words and "up" in words and str(home.resolve()) in words


def _locked(home: Path, how: int) -> Hold | None:
    home.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(home / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return Hold(descriptor)


def _noted(home: Path) -> Standing | None:
    try:
        value = read_json(LocalFiles(home).read(FILE))
        noted = Standing(int(value["pid"]), int(value["port"]), float(value["started"]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None
    possible = noted.pid > 0 and 0 < noted.port < 65536 and 0 <= noted.started < LAST_S
    return noted if possible else None
