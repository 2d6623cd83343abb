"""Records: what the store says of one fingerprint. Created, never overwritten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from flowlab.canonical import canonical_json, digest, read_json
from flowlab.roles import role_digest
from flowlab.store.files import LocalFiles
from flowlab.store.objects import NAME

FORMAT = 1
IMPORTED = "imported"  # in a record's ``aside``: it came in an archive, and nobody made it here
_Kind = TypeVar("_Kind")


@dataclass(frozen=True)
class Stored:
    """One file of a role in the store: its content's sha256, and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Record:
    """The result of one stage for one fingerprint.

    ``document`` is what the fingerprint is the hash of. ``aside`` (seconds, host, started) decides nothing.
    """

    stage: str
    fingerprint: str
    document: Mapping[str, Any]
    outputs: Mapping[str, Mapping[str, Stored]]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    aside: Mapping[str, Any] = field(default_factory=dict)

    @property
    def imported(self) -> bool:
        """Whether it came in an archive: somebody else says that this is the result."""
        return IMPORTED in self.aside

    def digest(self, role: str) -> str:
        """The digest of one of its roles. Raises KeyError."""
        return role_digest({name: stored.sha256 for name, stored in self.outputs[role].items()})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` gives an equal record."""
        outputs = {
            role: {name: {"sha256": stored.sha256, "size": stored.size} for name, stored in files.items()}
            for role, files in self.outputs.items()
        }
        return {
            "schema": FORMAT,
            "stage": self.stage,
            "fingerprint": self.fingerprint,
            "document": dict(self.document),
            "outputs": outputs,
            "metrics": dict(self.metrics),
            "warnings": list(self.warnings),
            "aside": dict(self.aside),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Record:
        """The record that `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        if value["schema"] != FORMAT:
            raise ValueError(f"record format {value['schema']}, known: {FORMAT}")
        outputs = {
            role: {
                _plain(name): Stored(_hash(stored["sha256"]), _size(stored["size"])) for name, stored in files.items()
            }
            for role, files in value["outputs"].items()
        }
        return Record(
            _of(str, value["stage"]),
            _hash(value["fingerprint"]),
            _of(dict, value["document"]),
            outputs,
            _of(dict, value["metrics"]),
            tuple(_of(str, warning) for warning in _of(list, value["warnings"])),
            _of(dict, value["aside"]),
        )


class Records:
    """The folder ``records/<stage>/`` of a store; a record's file is named by its fingerprint."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files = LocalFiles(root)

    def read(self, stage: str, fingerprint: str) -> Record | None:
        """The record, or None where there is none. One that does not verify is moved aside."""
        if not (stage.isidentifier() and NAME.fullmatch(fingerprint)):
            return None  # as a hand wrote it: nothing outside the folder is read, or moved
        key = self._key(stage, fingerprint)
        try:
            data = self._files.read(key)
        except OSError:
            return None
        record = parsed(data)
        if record is None or record.stage != stage or record.fingerprint != fingerprint:
            self._files.move_aside(key)
            return None
        return record

    def names(self, fingerprint: str) -> bool:
        """Whether a record of this fingerprint is there, of whatever stage; it is not read."""
        return any((self._root / "records").glob(f"*/{fingerprint}.json"))

    def create(self, record: Record) -> Record:
        """Write a record; who loses a race gets the winner's, which is the one that counts."""
        data = written(record)
        key = self._key(record.stage, record.fingerprint)
        while not self._files.create(key, data, fault="record-write"):
            winner = self.read(record.stage, record.fingerprint)
            if winner is not None:
                return winner
            self._files.move_aside(key)  # a folder, a link to nowhere: the name is taken, and no record is behind it
        return record

    def replace(self, record: Record, standing: Record) -> Record:
        """Move the standing record of this fingerprint aside and create this one: its objects came back otherwise."""
        self._files.move_aside(self._key(record.stage, record.fingerprint))
        return self.create(record)

    def _key(self, stage: str, fingerprint: str) -> str:
        return f"records/{stage}/{fingerprint}.json"


def written(record: Record) -> bytes:
    """The bytes of a record's file; `parsed` reads them."""
    body = record.to_json()
    return canonical_json({**body, "check": digest(body)})


def parsed(data: bytes) -> Record | None:
    """The record of a file's bytes, if every bit is as it was written and its name is the hash of its document."""
    try:
        value = read_json(data)
        if canonical_json(value) != data:  # 0.30000000000000005 reads as the same number as ...04
            return None
        check = value.pop("check")
        if check != digest(value) or value["fingerprint"] != digest(value["document"]):
            return None
        return Record.from_json(value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _plain(name: str) -> str:
    """A file's name below its role's folder. Raises ValueError for one that leaves it."""
    path = PurePosixPath(name)
    if not path.name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(f"file name {name!r}")
    return name


def _of(kind: type[_Kind], value: Any) -> _Kind:
    if not isinstance(value, kind):
        raise TypeError(f"found {type(value).__name__}, expected {kind.__name__}")
    return value


def _size(value: Any) -> int:
    if isinstance(value, bool) or _of(int, value) < 0:
        raise ValueError(f"size {value!r}")
    return int(value)


def _hash(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(f"sha256 {value!r}")
    return value
