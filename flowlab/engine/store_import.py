"""`flowlab store import`: take an exported run into a store, every hash checked before anything is written there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flowlab.engine.source import InputFile, RoleFiles
from flowlab.engine.store_archive import Archive, Data, Exported, opened
from flowlab.errors import StoreError, plural
from flowlab.faults import fault_point
from flowlab.store.records import IMPORTED
from flowlab.store.store import Store

NOT_COMPARED = ("process", "artifacts", "objects", "recipes", "asks", "data", "imported")


@dataclass(frozen=True)
class Imported:
    """What was taken in; ``there`` where the store had the run already."""

    run: str
    records: int
    objects: int
    there: bool
    data: bool

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return dict(vars(self))

    def lines(self) -> list[str]:
        """For people."""
        if self.there:
            return [f"run {self.run} is in the store already"]
        data = ", and its data" if self.data else ""
        return [
            f"imported run {self.run}: {plural(self.records, 'record', 'records')}, "
            f"{plural(self.objects, 'object', 'objects')}{data}"
        ]


def import_run(path: Path, store: Store) -> Imported:
    """Take a run in. Killed at any point it leaves a valid store, in which the run is or is not.

    Raises:
        StoreError: for an archive that is not what it says, or whose run or results differ from those in the store.
    """
    with opened(path) as archive:
        found = archive.exported()
        standing = store.runs.read(found.name)
        if standing is not None:
            if _compared(standing) != _compared(found.run):
                raise StoreError(f"{path}: the store has another run {found.name}. Import it into a store of its own")
            return Imported(found.name, len(found.records), len(found.objects), True, found.data.included)
        _refuse_other_results(path, found, store)
        with store.workspace() as place:
            archive.needs_room(place)
            files = _unpacked(archive, found, place)
            with store.keeping():  # until the run is there nothing names its records
                _take(found, files, store)
    return Imported(found.name, len(found.records), len(found.objects), False, found.data.included)


def data_of(store: Store, value: Mapping[str, Any]) -> tuple[Data, RoleFiles | None, tuple[str, ...]]:
    """The data that an imported run brought along, as they lie in the store."""
    try:
        data = Data.from_json(value)
    except (KeyError, TypeError, ValueError):
        return Data(""), None, ("what its run.json says of its data is damaged",)
    files = data.files or {}
    if lost := sorted(name for name, (sha, _) in files.items() if not store.objects.holds(sha)):
        return Data(data.digest, data.name, data.folder), None, (f"its data are not whole: {lost[0]} is lost",)
    return data, {name: InputFile(sha, size) for name, (sha, size) in files.items()}, ()


def _compared(run: Mapping[str, Any]) -> dict[str, Any]:
    return {key: one for key, one in run.items() if key not in NOT_COMPARED}


def _refuse_other_results(path: Path, found: Exported, store: Store) -> None:
    """A record is never overwritten, and a run that names another's result would say what it did not find."""
    for stage, record in found.records.items():
        standing = store.records.read(stage, record.fingerprint)
        if standing is not None and standing.outputs != record.outputs:
            raise StoreError(
                f"{path}: stage {stage} of run {found.name} has other results in this store, for the same "
                "fingerprint. Import it into a store of its own (--store) and compare them with `flowlab store replay`"
            )


def _unpacked(archive: Archive, found: Exported, place: Path) -> list[Path]:
    """Every object and every file of the data, under a number: no name of the archive becomes a path."""
    names = [*found.objects.values()]
    if found.data.included:
        names += [f"data/{name}" for name in found.data.files or {}]
    files = []
    for number, name in enumerate(names):
        archive.unpack(name, place / str(number))
        files.append(place / str(number))
    return files


def _take(found: Exported, files: list[Path], store: Store) -> None:
    """Objects, then records, then the run: each names only what is there."""
    for file in files:
        store.objects.add(file, move=True)
    fault_point("import-objects")
    for record in found.records.values():  # marked: a run here makes the result itself, and runs no code of theirs
        store.records.create(replace(record, aside={**record.aside, IMPORTED: found.flowlab}))
        fault_point("import-records")
    taken = ("run", "dataset", "state", "check", "self", *NOT_COMPARED)
    more = {key: one for key, one in found.run.items() if key not in taken}
    data = found.data
    if data.included and data.files is not None:
        more["data"] = data.to_json()
    objects = [sha for sha, _ in (data.files or {}).values()] if data.included else []
    state: Any = found.run["state"]
    store.runs.write(
        found.name, str(found.run["dataset"]), state, **more, objects=objects, imported={"flowlab": found.flowlab}
    )
