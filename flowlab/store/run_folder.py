"""The run folder: copies for people, ``<artifacts>/<dataset>/<run>/``, and beside it ``latest`` and ``promoted``."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flowlab.errors import StoreError
from flowlab.faults import fault_point
from flowlab.roles import ROLES
from flowlab.store.files import is_stale, temporary_name
from flowlab.store.objects import Objects
from flowlab.store.records import Record

LATEST, PROMOTED = "latest", "promoted"  # links beside the runs' folders


@dataclass(frozen=True)
class Artifact:
    """One file of a role, as a run offers it: its copy in the run folder, or its object in the store."""

    name: str
    path: Path
    sha256: str


class RunFolder:
    """One run's folder.

    Args:
        artifacts: the folder of all datasets' runs.
        dataset: the dataset's name.
        run: the run's name.

    Raises:
        StoreError: when a name is no plain folder name.
    """

    def __init__(self, artifacts: Path, dataset: str, run: str) -> None:
        for name in (dataset, run):
            if not name or "/" in name or name.startswith(".") or name in (LATEST, PROMOTED):
                raise StoreError(f"'{name}' cannot name a folder under {artifacts}; choose a plain name")
        self.path = artifacts.absolute() / dataset / run

    def fill(self, records: Iterable[Record], objects: Objects) -> dict[str, list[Artifact]]:
        """Copy what people look at; returns every file of every role, by role: of one that is rewritten the last."""
        artifacts: dict[str, list[Artifact]] = {}
        for record in records:
            for role, files in record.outputs.items():
                tree = ROLES[role].tree
                artifacts.pop(role, None)
                for name, stored in sorted(files.items()):
                    path = objects.fetched(stored.sha256)
                    if tree is not None:
                        path = _copied(path, self.path / tree / name)
                    artifacts.setdefault(role, []).append(Artifact(name, path, stored.sha256))
        return artifacts

    def becomes_latest(self) -> None:
        """Let ``latest`` lead here; called only when the run is complete."""
        self._becomes(LATEST)

    def becomes_promoted(self) -> None:
        """Let ``promoted`` lead here; called only when the run is complete, and not worse than the one before."""
        self._becomes(PROMOTED)

    def _becomes(self, name: str) -> None:
        """Replace a link whole: whoever follows it meanwhile arrives at the old run or at this one."""
        fresh = f".{name}."  # so begins a link that is to become it
        for left in self.path.parent.glob(f"{fresh}*"):  # by killed processes
            if is_stale(left, fresh):
                left.unlink(missing_ok=True)
        link = self.path.parent / f"{fresh}{temporary_name()}"
        link.symlink_to(self.path.name)
        fault_point("latest")
        named = self.path.parent / name
        try:
            link.replace(named)
        except OSError as error:
            link.unlink(missing_ok=True)
            raise StoreError(
                f"{named}: cannot become a link to this run: {error.strerror}. It belongs to flowlab; move it away"
            ) from None


def _copied(source: Path, target: Path) -> Path:
    """A copy of its own, never a hard link: people may change it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target
