"""Runs: one asking each, kept in ``runs/<run>/run.json``, which is written before anything else."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from flowlab.canonical import canonical_json
from flowlab.store.files import LocalFiles

State = Literal["Running", "Completed", "Failed"]


def run_name(now: datetime | None = None) -> str:
    """A name for a run: ``<UTC time>-<4 hex>``; names sort by time."""
    moment = now or datetime.now(UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


class Runs:
    """The folder ``runs/`` of a store."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files = LocalFiles(root)

    def write(self, run: str, dataset: str, state: State, **more: Any) -> None:
        """Write ``run.json``, whole. ``more`` is JSON: ``config`` as text, ``stages`` with their fingerprints.

        Args:
            run: from `run_name`.
            dataset: the dataset's name; runs of one dataset are compared with each other.
            state: ``Running`` is written first; a run that stays so was killed.
        """
        value = {"run": run, "dataset": dataset, "state": state, **more}
        self._files.replace(f"runs/{run}/run.json", canonical_json(value))

    def read(self, run: str) -> Mapping[str, Any] | None:
        """The content of ``run.json``, or None where it is not there or damaged."""
        try:
            value = json.loads(self._files.read(f"runs/{run}/run.json"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def newest_first(self, dataset: str | None = None) -> Iterator[Mapping[str, Any]]:
        """The runs of a dataset, or of all."""
        folder = self._root / "runs"
        names = sorted((path.name for path in folder.iterdir()), reverse=True) if folder.is_dir() else []
        for name in names:
            value = self.read(name)
            if value is not None and dataset in (None, value.get("dataset")):
                yield value
