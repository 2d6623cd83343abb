"""A store: objects, records, locks, scratch folders, and what was remembered about files.

It is a folder, or an address that fsspec opens (`flowlab.store.shared`) with a folder of this machine beside it.
"""

from __future__ import annotations

import hashlib
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

FILE = "file://"
CACHES = ".remote-stores"  # beside the runs' folders: what this machine has of stores at addresses
CLEANING = "gc"  # the lock between what nothing names yet and the clean-up


def open_store(chosen: str | None, artifacts: Path) -> Store:
    """The store that was asked for: ``--store``, else ``FLOWLAB_STORE``, else ``<artifacts>/.store``.

    Args:
        chosen: a folder, or an address as ``s3://bucket/prefix``; None where it was not said.
        artifacts: where the default store is, and what this machine has of a remote one. ``FLOWLAB_CACHE`` names
            another folder for the latter.

    Raises:
        StoreError: for an address that names no store, or a home folder that nobody has.
    """
    address = store_address(chosen)
    if address is None:
        return Store(store_root(chosen, artifacts))
    caches = os.environ.get("FLOWLAB_CACHE")
    name = hashlib.sha256(address.encode()).hexdigest()[:16]
    return Store((Path(caches) if caches else artifacts.absolute() / CACHES) / name, address)


def store_address(chosen: str | None) -> str | None:
    """The address of a remote store that was asked for; None where the store is a folder. Nothing is opened."""
    asked = chosen or os.environ.get("FLOWLAB_STORE") or ""
    if "://" not in asked or asked.lower().startswith(FILE):
        return None
    from flowlab.store.remote import checked

    return checked(asked)


def store_root(chosen: str | None, artifacts: Path) -> Path:
    """Where a store in a folder is: ``--store``, else ``FLOWLAB_STORE``, else ``<artifacts>/.store``.

    Raises:
        NotBuiltYet: for the address of a remote store.
        StoreError: for a home folder that nobody has.
    """
    asked = chosen or os.environ.get("FLOWLAB_STORE") or ""
    if asked.lower().startswith(FILE):
        from urllib.parse import unquote

        asked = unquote(asked[len(FILE) :])
        if not asked.startswith("/"):
            raise StoreError(f"store file://{asked}: write the folder's whole path, as in file:///home/me/store")
    if (address := store_address(asked)) is not None:
        raise NotBuiltYet(f"store {address}: this works on stores in folders only; name a folder")
    try:
        return Path(asked).expanduser().absolute() if asked else artifacts.absolute() / ".store"
    except RuntimeError as error:
        raise StoreError(f"store {asked}: {error} Name the folder by its whole path") from None


class Store:
    """One store. Opening it touches nothing; writing creates what is missing.

    Args:
        root: its folder; of one at an address, the folder of what this machine has of it.
        address: of a remote store, from `store_address`.

    Attributes:
        root: the folder.
        place: where it is, for people: its folder or its address.
        address: of a remote store, or None.
        files: the files in the folder that are this machine's alone.
        stats: the stat cache; `close` saves it.
        objects: files by content.
        records: results by fingerprint.
        runs: what was asked for.
        downloads: what addresses became.
    """

    def __init__(self, root: Path, address: str | None = None) -> None:
        self.root = root.absolute()
        self.address = address
        self.place = address or str(self.root)
        self.files = LocalFiles(self.root)
        self.stats = StatCache(self.root)
        self.objects, self.records, self.runs, self.downloads = _parts(self.root, address, self.stats)

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


def _parts(root: Path, address: str | None, stats: StatCache) -> tuple[Objects, Records, Runs, Downloads]:
    """What a store is made of, in a folder or at an address."""
    if address is None:
        objects = Objects(root, stats)
        return objects, Records(root), Runs(root), Downloads(root, objects)
    from flowlab.store import shared
    from flowlab.store.remote import RemoteFiles

    remote = RemoteFiles(address)
    there = shared.SharedObjects(root, stats, remote)
    return (
        there,
        shared.SharedRecords(root, remote),
        shared.SharedRuns(root, remote),
        shared.SharedDownloads(root, there, remote),
    )


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
