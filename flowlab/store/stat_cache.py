"""sha256 of files, remembered by (path, size, mtime, ctime, inode): what keeps a cached run fast."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from flowlab.canonical import digest, read_json
from flowlab.store.files import LocalFiles, open_plain

UNTRUSTED_NS = 2_000_000_000  # a file may change again within its clock's tick without another mtime
VERSION = 1

_Stat = tuple[int, int, int, int]


class StatCache:
    """Hashes of files. Only a cache: losing it costs time, and a damaged one is started anew.

    Args:
        root: the store's folder; the cache is ``stat_cache.json`` in it.
    """

    def __init__(self, root: Path) -> None:
        self._files = LocalFiles(root)
        self._entries: dict[str, list[Any]] | None = None
        self._changed = False
        self._lock = threading.Lock()  # stages run in threads of some engines

    def sha256(self, path: Path | str) -> str:
        """The sha256 (hexadecimal) of a file's content. Raises OSError."""
        stat = _stat(path)
        key = str(path)
        entry = self._loaded().get(key)
        if entry is not None and tuple(entry[:4]) == stat:
            return str(entry[4])
        return self.rehash(path)

    def rehash(self, path: Path | str) -> str:
        """The same, but always from the bytes."""
        before = _stat(path)
        now = time.time_ns()
        sha = sha256_of(path)
        entries = self._loaded()
        key = str(path)
        if before == _stat(path) and now - before[1] > UNTRUSTED_NS:
            entry = [*before, sha]
            with self._lock:
                self._changed = self._changed or entries.get(key) != entry
                entries[key] = entry
        return sha

    def save(self) -> None:
        """Write what was learnt; called once at the end of a command."""
        with self._lock:
            if not self._changed:
                return
            merged = {**self._read(), **self._loaded()}
            self._changed = False
        data = json.dumps({"version": VERSION, "files": merged, "check": digest(merged)}, separators=(",", ":"))
        self._files.replace("stat_cache.json", data.encode())

    def _loaded(self) -> dict[str, list[Any]]:
        if self._entries is None:
            self._entries = self._read()
        return self._entries

    def _read(self) -> dict[str, list[Any]]:
        try:
            read = read_json(self._files.read("stat_cache.json"))
            entries = read["files"] if read["version"] == VERSION else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        if not isinstance(entries, dict):
            return {}
        return {key: entry for key, entry in entries.items() if isinstance(entry, list) and len(entry) == 5}


def sha256_of(path: Path | str) -> str:
    """Hash a file in one go, past every cache. Raises OSError, for what is no plain file too."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stat(path: Path | str) -> _Stat:
    stat = os.stat(path)  # noqa: PTH116 - as above
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
