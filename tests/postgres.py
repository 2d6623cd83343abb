"""A PostgreSQL server of a test's own, in a folder of its own, on 127.0.0.1: what Debian's package installs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "prefect"
ACCOUNT = "postgres"  # it refuses to run as root; the package brings this account


def programs() -> Path | None:
    """The folder of its programs, or None where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda one: int(one.parts[-3]))
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    return Path(on_path).resolve().parent if on_path else None


@contextmanager
def served(place: Path) -> Iterator[str]:
    """Yield the URL of an empty database, as SQLAlchemy writes it; it ends with the block.

    Args:
        place: from `programs`.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = Path(tempfile.mkdtemp(prefix="flowlab-postgres-"))
    as_user = ["runuser", "-u", ACCOUNT, "--"] if os.getuid() == 0 else []
    if as_user:
        shutil.chown(home, ACCOUNT, ACCOUNT)
    data = home / "data"

    def do(*words: str) -> None:
        done = subprocess.run([*as_user, *words], cwd=home, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"

    try:
        do(str(place / "initdb"), "-D", str(data), "-A", "trust", "-U", USER, "--no-sync", "-E", "UTF8")
        options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = str(home / "log")
        start = [*as_user, str(place / "pg_ctl"), "-D", str(data), "-o", options, "-l", log, "-w", "start"]
        silent = subprocess.DEVNULL  # a pipe would stay open as long as the server
        subprocess.run(start, cwd=home, stdout=silent, stderr=silent, check=True)
        for database, sql in (("postgres", "create database prefect"), ("prefect", "create extension pg_trgm")):
            do(str(place / "psql"), "-h", "127.0.0.1", "-p", str(port), "-U", USER, "-d", database, "-c", sql)
        yield f"postgresql+asyncpg://{USER}@127.0.0.1:{port}/prefect"
    finally:
        subprocess.run(
            [*as_user, str(place / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop"],
            cwd=home, capture_output=True, check=False,
        )  # fmt: skip
        shutil.rmtree(home, ignore_errors=True)
