"""The file system under a store: the few operations that a store asks of it.

`LocalFiles` is the only one so far; a remote file system has the same four verbs.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from flowlab.faults import fault_point

STALE_S = 86_400  # a temporary name of another host is taken for dead after a day


class Files(Protocol):
    """What a store asks of a file system. Paths are relative to the store's root, with ``/``."""

    def read(self, path: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError."""
        ...

    def replace(self, path: str, data: bytes) -> None:
        """Write a file, whole or not at all; after a power cut it may be gone (nothing waits for the disk)."""
        ...

    def create(self, path: str, data: bytes, fault: str = "") -> bool:
        """Write a file, whole or not at all, unless it exists; False if it does. ``fault`` is met half-way."""
        ...

    def move_aside(self, path: str) -> None:
        """Take a file that cannot be trusted out of the way, and keep it for people to look at."""
        ...


class LocalFiles:
    """A folder: a temporary name, fsync for what must last, then rename or link."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str) -> bytes:
        """See `Files.read`; what is no plain file is an OSError too."""
        with open_plain(self.root / path) as file:
            return file.read()

    def replace(self, path: str, data: bytes) -> None:
        """See `Files.replace`."""
        target = self.root / path
        self._write(target, data, durable=False).replace(target)

    def create(self, path: str, data: bytes, fault: str = "") -> bool:
        """See `Files.create`; a hard link to the temporary file fails where the name is taken."""
        target = self.root / path
        temporary = self._write(target, data, fault, durable=True)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        sync_folder(target.parent)
        return True

    def move_aside(self, path: str) -> None:
        """See `Files.move_aside`; it ends in ``aside/`` under a name of its own."""
        source = self.root / path
        aside = self.root / "aside" / f"{source.name}.{secrets.token_hex(4)}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            source.replace(aside)
        except FileNotFoundError:
            return
        sync_folder(source.parent)

    def _write(self, target: Path, data: bytes, fault: str = "", *, durable: bool) -> Path:
        """Write a temporary file; target's folder exists afterwards."""
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = self.root / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / temporary_name()
        try:
            with temporary.open("xb") as file:
                half = len(data) // 2
                file.write(data[:half])
                if fault:
                    file.flush()
                    fault_point(fault)
                file.write(data[half:])
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
        except BaseException:  # a full disk, or a Ctrl-C: nothing half stays
            temporary.unlink(missing_ok=True)
            raise
        return temporary


def open_plain(path: Path | str) -> BufferedReader:
    """Open a file to read it. Raises OSError, also for a pipe, a device, or a file of the kernel's: those never end."""
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - the caller closes it
    try:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or (found.st_size == 0 and os.read(file.fileno(), 1)):
            raise OSError(errno.EINVAL, "no plain file", str(path))
    except BaseException:
        file.close()
        raise
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # to open a pipe waits for a writer


def temporary_name() -> str:
    """A name in ``tmp/`` that says whose it is: host, process, and a random part."""
    return f"{os.uname().nodename}.{os.getpid()}.{secrets.token_hex(4)}"


def is_stale(path: Path, prefix: str = "") -> bool:
    """Whether the process that made a temporary name, here behind a prefix, has ended."""
    host, _, rest = path.name.removeprefix(prefix).rpartition(".")[0].rpartition(".")
    try:
        if host == os.uname().nodename and rest.isdigit():
            os.kill(int(rest), 0)
            return False
        return time.time() - path.lstat().st_mtime > STALE_S
    except ProcessLookupError:
        return True
    except (PermissionError, FileNotFoundError):
        return False


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
