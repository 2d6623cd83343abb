"""A store: objects, records, locks, scratch folders, and what was remembered about files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from flowlab.errors import NotBuiltYet, StoreError
from flowlab.store.downloads import Downloads
from flowlab.store.files import LocalFiles, is_stale, temporary_name
from flowlab.store.locks import held, held_if_free
from flowlab.store.objects import Objects
from flowlab.store.records import Record, Records
from flowlab.store.runs import Runs
from flowlab.store.stat_cache import StatCache

CLEANING = "gc"  # the lock between what nothing names yet and the clean-up


def store_root(chosen: str | None, artifacts: Path) -> Path:
    """Where the store is: ``--store``, else ``FLOWLAB_STORE``, else ``<artifacts>/.store``.

    Raises:
        NotBuiltYet: for a URL.
        StoreError: for a home folder that nobody has.
    """
    asked = chosen or os.environ.get("FLOWLAB_STORE") or ""
    if "://" in asked:
        raise NotBuiltYet(f"store {asked}: stores on remote file systems are not built yet; name a folder")
    try:
        return Path(asked).expanduser().absolute() if asked else artifacts.absolute() / ".store"
    except RuntimeError as error:
        raise StoreError(f"store {asked}: {error} Name the folder by its whole path") from None


class Store:
    """One store in a local folder. Opening it touches nothing; writing creates what is missing.

    Attributes:
        root: its folder.
        files: the file system under it.
        stats: the stat cache; `close` saves it.
        objects: files by content.
        records: results by fingerprint.
        runs: what was asked for.
        downloads: what addresses became.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.files = LocalFiles(self.root)
        self.stats = StatCache(self.root)
        self.objects = Objects(self.root, self.stats)
        self.records = Records(self.root)
        self.runs = Runs(self.root)
        self.downloads = Downloads(self.root, self.objects)

    def close(self) -> None:
        """Save the stat cache. Nothing is lost but time if it is never called."""
        self.stats.save()

    def last_record(self, stage: str, dataset: str) -> Record | None:
        """The record of a stage in the dataset's latest run that has one, or None."""
        for run in self.runs.newest_first(dataset):
            stages = run.get("stages")
            fingerprint = stages.get(stage) if isinstance(stages, dict) else None
            record = self.records.read(stage, fingerprint) if isinstance(fingerprint, str) else None
            if record is not None:
                return record
        return None

    def lock(self, name: str, waits: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        """Hold the lock of this name (a fingerprint); ``waits`` is called again and again while another has it."""
        return held(self._lock(name), waits)

    def keeping(self) -> AbstractContextManager[None]:
        """While this is held, a clean-up (`flowlab.store.collect`) removes nothing: for what nothing names yet."""
        return held(self._lock(CLEANING), shared=True)

    def cleaning(self, waits: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        """While this is held, nobody is `keeping`; held for a moment only, because runs wait for it."""
        return held(self._lock(CLEANING), waits)

    def checkpoints(self, fingerprint: str) -> AbstractContextManager[bool]:
        """Hold the lock of a scratch folder if nobody works in it; yields whether it is held."""
        return held_if_free(self._lock(fingerprint))

    def scratch(self, fingerprint: str) -> Path:
        """The folder of a fingerprint's checkpoints; it survives a kill, and is dropped with `drop_scratch`."""
        path = self.root / "scratch" / fingerprint
        path.mkdir(parents=True, exist_ok=True)
        return path

    def drop_scratch(self, fingerprint: str) -> None:
        """Remove the checkpoints of a result that is now in the store."""
        shutil.rmtree(self.root / "scratch" / fingerprint, ignore_errors=True)

    @contextmanager
    def no_empty_scratch(self, fingerprint: str) -> Iterator[None]:
        """Whatever happens, leave no folder of checkpoints in which there are none."""
        try:
            yield
        finally:
            with suppress(OSError):  # it holds checkpoints, or is not there
                (self.root / "scratch" / fingerprint).rmdir()

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """An empty folder on the store's file system, removed at the end."""
        path = self.root / "tmp" / temporary_name()
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what killed processes left: in ``tmp/``, and the scratch folders of what has its record."""
        for path in _entries(self.root / "tmp"):
            if is_stale(path):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        for path in _entries(self.root / "scratch"):
            if self.records.names(path.name):
                with self.checkpoints(path.name) as free:
                    if free:  # who makes the result again, because an object of it was lost, holds the lock
                        shutil.rmtree(path, ignore_errors=True)

    def links(self, folder: Path, files: Mapping[str, str]) -> dict[str, Path]:
        """Verify objects (sha256 by name) and give them their names, as links in ``folder``.

        Raises:
            DamagedObject: when one is lost or wrong.
        """
        linked = {}
        for name, sha in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(self.objects.verified(sha))
            linked[name] = path
        return linked

    def _lock(self, name: str) -> Path:
        return self.root / "locks" / f"{name}.lock"


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
