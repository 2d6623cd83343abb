"""A store as runs leave it, without the runs: two stages each, of which the first is shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowlab.canonical import digest
from flowlab.store.records import Record, Stored
from flowlab.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts" / ".store")


@pytest.fixture
def made(store: Store) -> Callable[..., Record]:
    """Put a record with one file in the store."""

    def make(stage: str, content: str, role: str = "float_model", **document: Any) -> Record:
        sha, size = store.objects.add_bytes(content.encode())
        whole = {"stage": stage, "inputs": {}, **document}
        return store.records.create(Record(stage, digest(whole), whole, {role: {f"{content}.bin": Stored(sha, size)}}))

    return make


@pytest.fixture
def ran(store: Store, made: Callable[..., Record]) -> Callable[..., str]:
    """Write a run: its ingest is that of all runs, its train is its own."""

    def run(day: int, dataset: str = "motor", state: str = "Completed", **more: Any) -> str:
        name = f"202601{day:02}T000000Z-aaaa"
        records = [made("ingest", "recordings", "recordings"), made("train", f"weights {name}", seed=day)]
        stages = {one.stage: one.fingerprint for one in records}
        store.runs.write(name, dataset, state, stages=stages, objects=[], **more)  # type: ignore[arg-type]
        return name

    return run
