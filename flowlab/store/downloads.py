"""What was downloaded: by address, which object it became.

The address itself is never written: it may hold secrets. An entry lies under the sha256 of the address, and beside it
a link with the archive's name leads to the object.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from flowlab.canonical import digest, read_json
from flowlab.store.files import Files, LocalFiles, temporary_name
from flowlab.store.objects import Objects

VERSION = 1


@dataclass(frozen=True)
class Download:
    """One download: ``shown`` is the address without secrets, ``when`` a UTC date, ``etag`` the server's word."""

    sha256: str
    size: int
    shown: str
    when: str
    etag: str = ""


class Downloads:
    """The folder ``downloads/`` of a store."""

    def __init__(self, root: Path, objects: Objects) -> None:
        self._root = root
        self._files: Files = LocalFiles(root)
        self._objects = objects

    def read(self, key: str) -> Download | None:
        """What this address became, if its object is still in the store; a damaged entry is none."""
        try:
            read = read_json(self._files.read(f"{self.place(key)}/entry.json"))
            known = Download(**read["download"]) if read["version"] == VERSION else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if known is None or not isinstance(known.sha256, str) or not self._objects.holds(known.sha256):
            return None
        return known

    def write(self, key: str, download: Download) -> None:
        """Remember it."""
        body = {"version": VERSION, "download": asdict(download)}
        data = json.dumps({**body, "check": digest(body)}, indent=1)
        self._files.replace(f"{self.place(key)}/entry.json", data.encode())

    def link(self, key: str, name: str, sha256: str) -> Path:
        """A path that ends in the archive's name and leads to the object."""
        path = self._root / self.place(key) / name
        target = Path("..", "..", *self._objects.path(sha256).relative_to(self._root).parts)
        if not path.is_symlink() or path.readlink() != target:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f".{temporary_name()}")
            fresh.symlink_to(target)
            fresh.replace(path)
        return path

    def place(self, key: str) -> str:
        """The folder of an address, relative to the store."""
        return f"downloads/{key}"


def key_of(address: str) -> str:
    """Under what an address is remembered."""
    return hashlib.sha256(address.encode()).hexdigest()[:32]
