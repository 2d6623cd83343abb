"""`flowlab store export`: one run with all that it made and all that its results hang on, as one zip."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowlab import __version__
from flowlab.canonical import canonical_json, digest
from flowlab.engine.source import RoleFiles, files_digest, located, sources
from flowlab.engine.store_archive import CONFIG, FORMAT, MANIFEST, Data
from flowlab.engine.which_run import StoredRun
from flowlab.errors import DataError, FlowlabError, StoreError, plural
from flowlab.store.files import temporary_name
from flowlab.store.records import Record
from flowlab.store.runs import state_of

MADE = (1980, 1, 1, 0, 0, 0)  # the same run gives the same archive
OF_HERE = ("process", "artifacts", "objects", "asks", "recipes", "data", "imported")  # of run.json, and of no export
CHUNK = 1 << 20


@dataclass(frozen=True)
class Written:
    """What was written, and what was said of it."""

    path: Path
    run: str
    files: int
    size: int
    data: Data
    said: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "path": str(self.path),
            "run": self.run,
            "files": self.files,
            "bytes": self.size,
            "data": self.data.to_json(),
            "said": list(self.said),
        }

    def lines(self) -> list[str]:
        """For people."""
        return [*self.said, f"run {self.run}: {plural(self.files, 'file', 'files')}, {self.size:,} bytes, {self.path}"]


def export(run: StoredRun, out: Path, catalogue: Any, *, with_data: bool = False) -> Written:
    """Write one run as a zip: whole, or not at all.

    Args:
        run: which; it must have ended, and all of it must be in the store.
        out: the file; there must be none of this name.
        catalogue: what is installed, to find the data that the config names.
        with_data: put the data's files in too.

    Raises:
        StoreError: where something of the run is gone or damaged, or the file cannot be made.
        DataError: with ``with_data``, where the data are not those that the run read.
    """
    value = run.store.runs.read(run.name) or {}
    _refuse(run, value, out)
    records = dict(run.records)
    data, source, said = _data(run, value, catalogue)
    if with_data and (source is None or data.files is None):
        raise DataError(f"run {run.name}: --with-data: {said[0]}")
    data = Data(data.digest, data.name, data.folder, data.files, included=with_data)
    places, objects = _placed(records)
    manifest = {
        "flowlab_export": FORMAT,
        "flowlab": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "run": {**{key: one for key, one in value.items() if key not in OF_HERE}, "state": state_of(value)},
        "data": data.to_json(),
        "code": {stage: digest(_code(record)) for stage, record in records.items()},
        "libraries": _libraries(records),
        "objects": objects,
    }
    temporary = out.with_name(f".{out.name}.{temporary_name()}")
    try:
        count = _write(temporary, manifest, run, places, source if with_data else None)
        os.link(temporary, out)  # fails where another made a file of this name meanwhile
    except FileExistsError:
        raise StoreError(f"{out}: there is a file of this name. Name another one") from None
    finally:
        temporary.unlink(missing_ok=True)
    return Written(out, run.name, count, out.stat().st_size, data, said)


def _refuse(run: StoredRun, value: Mapping[str, Any], out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise StoreError(f"{out}: there is a file of this name. Name another one")
    if not out.absolute().parent.is_dir():
        raise StoreError(f"{out}: there is no folder {out.parent}. Make it, or name another place")
    if state_of(value) == "Running":
        raise StoreError(f"run {run.name} goes on. Export it when it has ended")
    if not isinstance(value.get("config"), Mapping):
        raise StoreError(f"run {run.name} was written by an older flowlab, without its config. Run it again")
    for stage in value.get("stages") or {}:
        run.record(stage)  # raises where it is gone


def _data(run: StoredRun, value: Mapping[str, Any], catalogue: Any) -> tuple[Data, RoleFiles | None, tuple[str, ...]]:
    """What the run read, as far as it is still here, and what is to be said where it is not."""
    read = _source_digest(run.records)
    kept = value.get("data")
    if isinstance(kept, Mapping):  # an imported run that brought its data along
        from flowlab.engine.store_import import data_of

        return data_of(run.store, kept)
    try:
        from flowlab.config import load_mapping

        config = load_mapping(value["config"], catalogue, source=f"config of run {run.name}")
        at_hand = located(config, run.store, None)
        found = sources(at_hand.config, run.store, at_hand.download)["source"]
    except FlowlabError as error:
        return Data(read), None, (f"the data that the run read are not here: {error}",)
    path = Path(str(at_hand.config.dataset.input_data_path or ""))
    folder = bool(path.name) and path.is_dir()
    data = Data(read, path.name, folder, {name: (one.sha256, one.size) for name, one in found.items()})
    if at_hand.waiting or files_digest(found) != read:
        why = at_hand.waiting or f"{path} is not what the run read: it has changed since"
        return Data(read, path.name, folder), None, (why,)
    return data, found, ()


def _source_digest(records: Mapping[str, Record]) -> str:
    """The digest of the role that no stage makes, as the stage that read it has it."""
    for record in records.values():
        inputs = record.document.get("inputs")
        if isinstance(inputs, Mapping) and isinstance(inputs.get("source"), str):
            return str(inputs["source"])
    return ""


def _placed(records: Mapping[str, Record]) -> tuple[dict[str, str], dict[str, str]]:
    """Where objects stand in the archive: sha256 by name, and name by sha256, each content once."""
    places: dict[str, str] = {}
    objects: dict[str, str] = {}
    for stage, record in records.items():
        for role, files in sorted(record.outputs.items()):
            for name, stored in sorted(files.items()):
                if stored.sha256 not in objects:
                    objects[stored.sha256] = f"files/{stage}/{role}/{name}"
                    places[f"files/{stage}/{role}/{name}"] = stored.sha256
    return places, objects


def _code(record: Record) -> Any:
    plugins = record.document.get("plugins")
    plugins = plugins if isinstance(plugins, Mapping) else {}
    return [record.document.get("code"), {kind: one.get("code") for kind, one in sorted(plugins.items())}]


def _libraries(records: Mapping[str, Record]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in records.values():
        plugins = record.document.get("plugins") or {}
        for document in (record.document, *(plugins.values() if isinstance(plugins, Mapping) else ())):
            found |= document.get("libraries") or {}
    return dict(sorted(found.items()))


def _write(
    temporary: Path, manifest: Mapping[str, Any], run: StoredRun, places: Mapping[str, str], source: RoleFiles | None
) -> int:
    """Write the archive; returns how many files it has. The manifest comes first, so sizes are known before."""
    small = {CONFIG: _yaml(manifest["run"]["config"])}
    for stage, record in run.records.items():
        body = record.to_json()
        small[f"records/{stage}/{record.fingerprint}.json"] = canonical_json({**body, "check": digest(body)})
    large = {name: (run.store.objects.verified(sha), sha) for name, sha in places.items()}
    for name, one in (source or {}).items():
        large[f"data/{name}"] = (one.path or run.store.objects.verified(one.sha256), one.sha256)
    files = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in small.items()}
    files |= {name: {"sha256": sha, "size": path.stat().st_size} for name, (path, sha) in large.items()}
    with temporary.open("xb") as raw:
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
            text = json.dumps({**manifest, "files": files}, indent=1, ensure_ascii=False, allow_nan=False)
            for name, data in {MANIFEST: text.encode(), **small}.items():
                archive.writestr(_info(name, len(data)), data)
            for name, (path, sha) in large.items():
                _add(archive, name, path, sha)
        raw.flush()
        os.fsync(raw.fileno())
    return len(files) + 1


def _add(archive: zipfile.ZipFile, name: str, path: Path, sha: str) -> None:
    hashed = hashlib.sha256()
    with path.open("rb") as file, archive.open(_info(name, path.stat().st_size), "w") as entry:
        while chunk := file.read(CHUNK):
            hashed.update(chunk)
            entry.write(chunk)
    if hashed.hexdigest() != sha:
        raise DataError(f"{path}: it changed while it was exported. Export again")


def _info(name: str, size: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, MADE)
    info.compress_type, info.external_attr, info.file_size = zipfile.ZIP_DEFLATED, 0o100644 << 16, size
    return info


def _yaml(config: Any) -> bytes:
    import yaml

    return str(yaml.safe_dump(config, sort_keys=False, allow_unicode=True)).encode()
