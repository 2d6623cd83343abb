"""An exported run as one zip: what stands in it, and how one from anywhere is read.

`manifest.json` comes first and names every other file with its size and sha256; a person finds the run's files under
``files/<stage>/<role>/<name>``, each content once. Nothing in it is trusted before it is checked: names, kinds, sizes
and hashes are held against the manifest, and nothing is written outside the folder that the reader was given.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from flowlab.canonical import canonical_json, read_json
from flowlab.errors import StoreError
from flowlab.store.objects import NAME
from flowlab.store.records import Record, parsed

FORMAT = 1
MANIFEST = "manifest.json"
CONFIG = "config.yaml"  # for people; the manifest has the same
MAX_MANIFEST_BYTES = 64 << 20
MAX_BYTES = 64 << 30  # of all files, unpacked
MAX_FILES = 200_000
MAX_STAGE = 60  # letters of a stage's name, which is a folder's
CHUNK = 1 << 20
RUN = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")
STATES = ("Completed", "Failed", "Killed")
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OverflowError)


@dataclass(frozen=True)
class Data:
    """What the run read from outside. ``files`` is None where only the digest is known.

    ``name`` is that of the file or folder, which a dataset without a name of its own is called by.
    """

    digest: str
    name: str = ""
    folder: bool = False
    files: Mapping[str, tuple[str, int]] | None = None  # sha256 and bytes by name
    included: bool = False

    def to_json(self) -> dict[str, Any]:
        """As the manifest has it."""
        files = None
        if self.files is not None:
            files = {name: {"sha256": sha, "size": size} for name, (sha, size) in self.files.items()}
        return {**vars(self), "files": files}

    @staticmethod
    def from_json(value: Any) -> Data:
        """Raises KeyError, TypeError or ValueError for what `to_json` does not write."""
        files = value["files"]
        if files is not None:
            files = {_inner(name): (_sha(one["sha256"]), _count(one["size"])) for name, one in files.items()}
        included = bool(value["included"])
        if included and files is None:
            raise ValueError("data without files")
        name = str(value["name"])
        if name and _inner(name) != PurePosixPath(name).name:
            raise ValueError(f"data named {name!r}")
        return Data(str(value["digest"]), name, bool(value["folder"]), files, included)


@dataclass(frozen=True)
class Exported:
    """What an archive says of its run, checked: the run's ``run.json``, its records by stage, its data.

    ``objects`` is the name in the archive of each object.
    """

    run: Mapping[str, Any]
    records: Mapping[str, Record]
    objects: Mapping[str, str]
    data: Data
    flowlab: str

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.run["run"])


class Archive:
    """An open archive whose entries are what the manifest says they are, as far as names and sizes tell.

    Raises:
        StoreError: when it is no such archive; the text says what is wrong.
    """

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self._path = path
        self._file = file
        entries = self._entries()
        self.manifest = self._manifest(entries)
        self.files = self._files(entries)

    def refuse(self, what: str) -> StoreError:
        """The error of this archive."""
        return StoreError(f"{self._path}: {what}. Nothing was taken from it; export the run again")

    def unpack(self, name: str, target: Path) -> None:
        """Write one file, its hash checked while it is read.

        Raises:
            StoreError: when it is longer than it says, or another content.
        """
        sha, size = self.files[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            self._copied(name, size, sha, out)

    def read(self, name: str) -> bytes:
        """The content of one small file, checked."""
        sha, size = self.files[name]
        if size > MAX_MANIFEST_BYTES:
            raise self.refuse(f"{name} has {size:,} bytes, at most {MAX_MANIFEST_BYTES:,} are read")
        return b"".join(self._chunks(name, size, sha))

    def _copied(self, name: str, size: int, sha: str, out: Any) -> None:
        for chunk in self._chunks(name, size, sha):
            out.write(chunk)

    def _chunks(self, name: str, size: int, sha: str) -> Iterator[bytes]:
        hashed, left = hashlib.sha256(), size
        try:
            with self._file.open(name) as entry:
                while chunk := entry.read(min(CHUNK, left + 1)):
                    left -= len(chunk)
                    if left < 0:
                        raise self.refuse(f"{name} is longer than the {size:,} bytes that it says")
                    hashed.update(chunk)
                    yield chunk
        except BROKEN as error:
            raise self.refuse(f"{name} cannot be unpacked ({error or type(error).__name__})") from None
        if left or (sha and hashed.hexdigest() != sha):
            raise self.refuse(f"the content of {name} does not have the hash that the manifest says")

    def _entries(self) -> dict[str, zipfile.ZipInfo]:
        """Every entry by name: plain files with plain names, none twice, and not larger than the archive itself."""
        infos = self._file.infolist()
        if len(infos) > MAX_FILES:
            raise self.refuse(f"it holds {len(infos):,} files, at most {MAX_FILES:,} are read")
        found: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            name = info.filename
            if name in found:
                raise self.refuse(f"{name!r} stands in it twice")
            if name != info.orig_filename or not _is_plain(name):
                raise self.refuse(f"the name {info.orig_filename!r} is none of a file inside a folder")
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                raise self.refuse(f"{name!r} is a link or a device, and no file")
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise self.refuse(f"{name!r} is encrypted, or packed in a way that is not read")
            found[name] = info
        if sum(info.compress_size for info in infos) > self._path.stat().st_size:
            raise self.refuse("its files overlap: together they are larger than the archive")
        return found

    def _manifest(self, entries: Mapping[str, zipfile.ZipInfo]) -> Mapping[str, Any]:
        info = entries.get(MANIFEST)
        if info is None or info.file_size > MAX_MANIFEST_BYTES:
            raise self.refuse(f"it has no {MANIFEST} of a sensible size: it was not made by `flowlab store export`")
        try:
            value = read_json(b"".join(self._chunks(MANIFEST, info.file_size, "")))
        except ValueError:
            value = None
        if not isinstance(value, dict) or "flowlab_export" not in value:
            raise self.refuse(f"its {MANIFEST} was not made by `flowlab store export`")
        if value["flowlab_export"] != FORMAT:
            version = str(value["flowlab_export"])[:20]
            raise self.refuse(f"it is an export of format {version}, this flowlab reads {FORMAT}")
        return value

    def _files(self, entries: Mapping[str, zipfile.ZipInfo]) -> dict[str, tuple[str, int]]:
        """Hash and size of every file, as the manifest says, held against the entries."""
        try:
            said = {name: (_sha(one["sha256"]), _count(one["size"])) for name, one in self.manifest["files"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self.refuse(f"the list of files in its {MANIFEST} is damaged") from None
        if strange := sorted(set(entries) - set(said) - {MANIFEST}):
            raise self.refuse(f"{strange[0]!r} is in it and not in its manifest")
        if lost := sorted(set(said) - set(entries)):
            raise self.refuse(f"{lost[0]!r} is in its manifest and not in it")
        for name, (_, size) in said.items():
            if entries[name].file_size != size:
                raise self.refuse(f"{name!r} has {entries[name].file_size:,} bytes, and its manifest says {size:,}")
        if (total := sum(size for _, size in said.values())) > MAX_BYTES:
            raise self.refuse(f"it unpacks to {total:,} bytes, at most {MAX_BYTES:,} are taken")
        return said

    def needs_room(self, folder: Path) -> None:
        """Raises StoreError where the folder's disk is too small for all files."""
        total, free = sum(size for _, size in self.files.values()), shutil.disk_usage(folder).free
        if total > free:
            raise self.refuse(f"it unpacks to {total:,} bytes, and {folder} has {free:,} free")

    def exported(self) -> Exported:
        """What the manifest says of the run, its records read, and every object that they name found."""
        try:
            run = dict(self.manifest["run"])
            data = Data.from_json(self.manifest["data"])
            objects = {_sha(sha): str(name) for sha, name in self.manifest["objects"].items()}
            stages = {str(stage): _sha(fingerprint) for stage, fingerprint in run["stages"].items()}
            version = str(self.manifest["flowlab"])
            good = (
                RUN.fullmatch(str(run["run"]))
                and run["state"] in STATES
                and _is_plain(str(run["dataset"]))
                and "/" not in run["dataset"]
                and isinstance(run["config"], dict)
                and all(isinstance(keys, dict) for keys in run["config"].values())
                and all(isinstance(key, str) and key.isidentifier() for key in run)
                and all(len(stage) <= MAX_STAGE for stage in stages)
                and canonical_json(run)
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            good = False
        if not good:
            raise self.refuse(f"its {MANIFEST} does not describe a run")
        records = {stage: self._record(stage, fingerprint) for stage, fingerprint in stages.items()}
        for sha, name in objects.items():
            if self.files.get(name, ("", 0))[0] != sha:
                raise self.refuse(f"object {sha[:12]} is not in it")
        for record in records.values():
            for role, files in record.outputs.items():
                for name, stored in files.items():
                    place = objects.get(stored.sha256)
                    if place is None or self.files[place][1] != stored.size:
                        raise self.refuse(f"{name} ({role}) of stage {record.stage} is not in it")
        for name, said in (data.files or {}).items():
            if data.included and self.files.get(f"data/{name}") != said:
                raise self.refuse(f"data/{name} is not in it")
        return Exported(run, records, objects, data, version)

    def _record(self, stage: str, fingerprint: str) -> Record:
        name = f"records/{stage}/{fingerprint}.json"
        record = parsed(self.read(name)) if name in self.files and stage.isidentifier() else None
        if record is None or (record.stage, record.fingerprint) != (stage, fingerprint):
            raise self.refuse(f"the record of stage {stage!r} is damaged, lost, or of another version of flowlab")
        return record


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open an archive.

    Raises:
        StoreError: when it is not there, or no export.
    """
    try:
        if not path.is_file():
            raise StoreError(f"{path}: no file is there. Name what `flowlab store export` wrote")
        file = zipfile.ZipFile(path)
    except BROKEN as error:
        raise StoreError(f"{path}: it is no whole zip archive ({error}). Export the run again") from None
    with file:
        yield _archive(path, file)


def _archive(path: Path, file: zipfile.ZipFile) -> Archive:
    try:
        return Archive(path, file)
    except BROKEN as error:
        raise StoreError(f"{path}: it is no whole zip archive ({error}). Export the run again") from None


def _is_plain(name: str) -> bool:
    """Whether a name stays inside its folder on every system, and hides nothing."""
    parts = name.split("/")
    return (
        bool(name)
        and not {"", ".", ".."} & set(parts)
        and "\\" not in name
        and ":" not in parts[0]
        and (not any(one < " " or "\x7f" <= one <= "\x9f" for one in name))
    )


def _inner(name: str) -> str:
    if not _is_plain(name):
        raise ValueError(f"file name {name!r}")
    return name


def _sha(value: Any) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError(f"sha256 {value!r}")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"size {value!r}")
    return value
