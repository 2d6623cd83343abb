"""Objects: files named by the sha256 of their content."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from flowlab.errors import StoreError
from flowlab.store.files import LocalFiles, sync_folder, temporary_name
from flowlab.store.stat_cache import StatCache, sha256_of

NAME = re.compile(r"[0-9a-f]{64}")  # any other leads out of the folder
# Every object has the same old mtime, so that any later write changes it: its hash can be remembered at once.
OLD_S = 946_684_800  # 2000-01-01 UTC


class DamagedObject(StoreError):  # noqa: N818 - the name says what is the matter
    """An object is lost, or its content does not match its name; it has been moved aside."""

    def __init__(self, sha256: str, found: str) -> None:
        super().__init__(f"object {sha256[:12]}: {found}. It is made again by the stage that makes it")
        self.sha256 = sha256
        self.found = found


class Objects:
    """The folder ``objects/`` of a store."""

    def __init__(self, root: Path, stats: StatCache) -> None:
        self._root = root
        self._files = LocalFiles(root)
        self._stats = stats

    def path(self, sha256: str) -> Path:
        """Where an object lies, whether or not it is there."""
        return self._root / self.key(sha256)

    def add(self, path: Path, *, move: bool = False) -> tuple[str, int]:
        """Take a file in, atomically; returns (sha256, size in bytes).

        With ``move`` the file itself is renamed into the store (it must lie on the same file system).
        """
        sha = sha256_of(path)
        size = path.stat().st_size
        if not self.is_here(sha):
            self.settle(path if move else self._copy(path), sha)
        return sha, size

    def add_bytes(self, data: bytes) -> tuple[str, int]:
        """Take bytes in; returns (sha256, size in bytes). Nothing is written where the object is there already."""
        sha = hashlib.sha256(data).hexdigest()
        if self.holds(sha):
            return sha, len(data)
        staged = self.staged()
        try:
            staged.write_bytes(data)
            return self.add(staged, move=True)
        finally:
            staged.unlink(missing_ok=True)

    def holds(self, sha256: str) -> bool:
        """Whether the object is there and its content matches its name, by the stat cache.

        One that does not match is moved aside.
        """
        return self.is_here(sha256)

    def is_here(self, sha256: str) -> bool:
        """The same of this machine's own copy."""
        if not NAME.fullmatch(sha256):
            return False
        path = self.path(sha256)
        try:
            if self._stats.sha256(path) == sha256 or self._stats.rehash(path) == sha256:
                return True
        except IsADirectoryError:
            pass
        except OSError:
            return False
        self._files.move_aside(self.key(sha256))
        return False

    def fetched(self, sha256: str) -> Path:
        """The path of an object that the store holds; where that is remote, this machine's copy.

        Raises:
            DamagedObject: when a remote one is lost or wrong.
        """
        return self.path(sha256)

    def verified(self, sha256: str) -> Path:
        """The path of an object whose bytes were hashed just now.

        Raises:
            DamagedObject: when it is lost or wrong; a wrong one is moved aside.
        """
        if not NAME.fullmatch(sha256):
            raise DamagedObject(sha256, "that is no name of an object")
        path = self.path(sha256)
        try:
            found = self._stats.rehash(path)
        except OSError:
            raise DamagedObject(sha256, "it is not in the store") from None
        if found != sha256:
            size = path.stat().st_size
            self._files.move_aside(self.key(sha256))
            raise DamagedObject(sha256, f"its content ({size} bytes) has the hash {found[:12]}")
        return path

    def forget(self, sha256: str) -> None:
        """Another machine found the object lost: what is known of it here does not hold."""

    def key(self, sha256: str) -> str:
        """Where an object lies in its store, relative to the root."""
        return f"objects/{sha256[:2]}/{sha256}"

    def settle(self, staged: Path, sha256: str) -> None:
        """Rename a whole file with this hash to its place."""
        target = self.path(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.chmod(0o444)
        os.utime(staged, (OLD_S, OLD_S))
        with staged.open("rb") as file:
            os.fsync(file.fileno())
        staged.replace(target)
        sync_folder(target.parent)
        with suppress(FileNotFoundError):  # a clean-up took it again: nothing names it yet
            self._stats.rehash(target)

    def staged(self) -> Path:
        """A name for a file that is to become an object."""
        folder = self._root / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / temporary_name()

    def _copy(self, path: Path) -> Path:
        staged = self.staged()
        try:
            shutil.copyfile(path, staged)
        except BaseException:  # a full disk, or a Ctrl-C: nothing half stays
            staged.unlink(missing_ok=True)
            raise
        return staged
