"""What a store is made of when it lies at an address: objects, records, runs and downloads that machines share.

What only makes this machine faster stays in a folder of its own: copies of objects, the stat cache, checkpoints, locks.
There is no lock between machines: two may do one stage, and who is later adopts the record of the other.
"""

from __future__ import annotations

from pathlib import Path

from flowlab.canonical import canonical_json
from flowlab.store.downloads import Downloads
from flowlab.store.objects import NAME, DamagedObject, Objects
from flowlab.store.records import Record, Records, parsed, written
from flowlab.store.remote import RemoteFiles
from flowlab.store.runs import Runs, run_name
from flowlab.store.stat_cache import StatCache, sha256_of


class SharedObjects(Objects):
    """Objects at an address, and verified copies of those that were needed here."""

    def __init__(self, root: Path, stats: StatCache, remote: RemoteFiles) -> None:
        super().__init__(root, stats)
        self._remote = remote
        self._known: set[str] = set()  # at the address: asked for once

    def add(self, path: Path, *, move: bool = False) -> tuple[str, int]:
        """See `Objects.add`; it is uploaded where it is not there yet."""
        sha, size = super().add(path, move=move)
        self._known.discard(sha)
        self._upload(sha)
        return sha, size

    def holds(self, sha256: str) -> bool:
        """Whether the object is there. One that only this machine has is uploaded again.

        What is only at the address is believed: it is verified when it is fetched.
        """
        if not NAME.fullmatch(sha256):
            return False
        if sha256 in self._known:
            return True
        if self.is_here(sha256):
            self._upload(sha256)
            return True
        if self._remote.size(self.key(sha256)) is None:
            return False
        self._known.add(sha256)
        return True

    def fetched(self, sha256: str) -> Path:
        """See `Objects.fetched`."""
        if NAME.fullmatch(sha256) and self.is_here(sha256):
            return self.path(sha256)
        return self._download(sha256)

    def verified(self, sha256: str) -> Path:
        """See `Objects.verified`; a lost or damaged copy of this machine is fetched anew."""
        try:
            return super().verified(sha256)
        except DamagedObject:
            return self._download(sha256)

    def forget(self, sha256: str) -> None:
        """See `Objects.forget`."""
        self._known.discard(sha256)

    def _upload(self, sha256: str) -> None:
        """Bring this machine's copy to the address, unless one of its size is there."""
        path = self.path(sha256)
        if sha256 not in self._known and self._remote.size(self.key(sha256)) != path.stat().st_size:
            self._remote.put(path, self.key(sha256))
        self._known.add(sha256)

    def _download(self, sha256: str) -> Path:
        if not NAME.fullmatch(sha256):
            raise DamagedObject(sha256, "that is no name of an object")
        staged = self.staged()
        try:
            try:
                self._remote.get(self.key(sha256), staged)
            except FileNotFoundError:
                self._known.discard(sha256)
                raise DamagedObject(sha256, "it is not in the store") from None
            if sha256_of(staged) != sha256:
                self._known.discard(sha256)
                self._remote.move_aside(self.key(sha256))
                raise DamagedObject(sha256, f"its content at {self._remote.address} has another hash")
            self.settle(staged, sha256)
        finally:
            staged.unlink(missing_ok=True)
        self._known.add(sha256)
        return self.path(sha256)


class SharedRecords(Records):
    """Records at an address: ``records/<stage>/<fingerprint>.json``; what replaces one has ``.<n>`` before the suffix.

    Nothing there is moved or overwritten: the generation with the highest number counts, and they have no gaps.
    """

    def __init__(self, root: Path, remote: RemoteFiles) -> None:
        super().__init__(root)
        self._remote = remote

    def read(self, stage: str, fingerprint: str) -> Record | None:
        """See `Records.read`; one that does not verify is none, and the next that is created replaces it."""
        if not (stage.isidentifier() and NAME.fullmatch(fingerprint)):
            return None
        generations = self._generations(stage, fingerprint)
        return generations[-1] if generations else None

    def names(self, fingerprint: str) -> bool:
        """See `Records.names`."""
        stages = self._remote.names("records")
        return any(self._remote.size(f"records/{stage}/{fingerprint}.json") is not None for stage in stages)

    def create(self, record: Record) -> Record:
        """See `Records.create`."""
        return self._create(record, over=None)

    def replace(self, record: Record, standing: Record) -> Record:
        """See `Records.replace`; where another machine replaced it before, its record counts."""
        return self._create(record, over=standing)

    def _create(self, record: Record, over: Record | None) -> Record:
        """Create the next generation, unless a record stands that is not the one to replace."""
        while True:
            generations = self._generations(record.stage, record.fingerprint)
            standing = generations[-1] if generations else None
            if standing is not None and standing != over:
                return standing
            key = self._generation(record.stage, record.fingerprint, len(generations))
            if self._remote.create(key, written(record), fault="record-write"):
                return record

    def _generations(self, stage: str, fingerprint: str) -> list[Record | None]:
        """All of them, oldest first; None for one that does not verify."""
        found: list[Record | None] = []
        while True:
            try:
                data = self._remote.read(self._generation(stage, fingerprint, len(found)))
            except FileNotFoundError:
                return found
            record = parsed(data)
            fits = record is not None and record.stage == stage and record.fingerprint == fingerprint
            found.append(record if fits else None)

    def _generation(self, stage: str, fingerprint: str, number: int) -> str:
        return f"records/{stage}/{fingerprint}{f'.{number}' if number else ''}.json"


class SharedRuns(Runs):
    """Runs at an address."""

    def __init__(self, root: Path, remote: RemoteFiles) -> None:
        super().__init__(root)
        self._files = remote
        self._remote = remote

    def claim(self) -> str:
        """See `Runs.claim`."""
        while True:
            name = run_name()
            if self._remote.create(f"runs/{name}/run.json", canonical_json({})):
                return name

    def names(self) -> list[str]:
        """See `Runs.names`."""
        return self._remote.names("runs")


class SharedDownloads(Downloads):
    """What addresses of data became, for all machines; links to the archives are of this one."""

    def __init__(self, root: Path, objects: Objects, remote: RemoteFiles) -> None:
        super().__init__(root, objects)
        self._files = remote
