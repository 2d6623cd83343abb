"""Locks, so that work is done once: between processes of one machine, and between threads of one process."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

AGAIN_S = 0.05  # so soon a lock that was let go is taken


@contextmanager
def held(path: Path, waits: Callable[[], None] = lambda: None, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock file, waiting for it; the system lets go of it when the process dies.

    The file stays: to remove it would let two holders have two files of one name.

    Args:
        path: the lock's file; its folder is made.
        waits: called again and again while another has the lock; what it raises ends the waiting.
        shared: others may hold it too who ask for it so; else nobody.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while not _is_taken(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
            waits()
            time.sleep(AGAIN_S)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock file if nobody has it, without waiting; yields whether it is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield _is_taken(descriptor)
    finally:
        os.close(descriptor)


def _is_taken(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
