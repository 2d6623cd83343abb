"""Promotion: who takes whose place, and what is said where two runs cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowlab.canonical import digest
from flowlab.engine import promote as promotion
from flowlab.engine.promote import Promotion, promote, promote_by_hand, promoted_name
from flowlab.engine.which_run import StoredRun
from flowlab.errors import StoreError
from flowlab.store.records import Record, Stored
from flowlab.store.run_folder import RunFolder
from flowlab.store.store import Store

SPEC = {"shape": [1, 8, 1], "classes": ["a", "b"], "columns": ["x"]}


def completed(
    place: Path, name: str, accuracy: float | None, *, test: str = "test", windows: int = 8, program: str = ""
) -> StoredRun:
    """A completed run as the store has it, with its folder."""
    store = Store(place / "artifacts" / ".store")
    files = {
        "extract": {
            "features_test": {"features.arrow": test},
            "feature_spec": {"feature_spec.json": json.dumps(SPEC)},
        },
        "compile": {"program": {"model.flnp": program or f"program of {name}"}},
    }
    documents: dict[str, Any] = {
        "extract": {
            "options": {"windows": {"frame_size": windows}},
            "plugins": {"feature_extractor": {"name": "fft", "options": {}}},
        }
    }
    metrics = {"simulate": {"simulated": {"accuracy": accuracy}}} if accuracy is not None else {"simulate": {}}
    records = {}
    for stage in ("extract", "compile", "simulate"):
        document = {"run": name, **documents.get(stage, {})}
        outputs = {
            role: {file: Stored(*store.objects.add_bytes(text.encode())) for file, text in inner.items()}
            for role, inner in files.get(stage, {}).items()
        }
        made = Record(stage, digest(document), document, outputs, metrics.get(stage, {}))
        records[stage] = store.records.create(made)
    store.runs.write(name, "motor", "Completed", stages={one: record.fingerprint for one, record in records.items()})
    folder_of(place, name).path.mkdir(parents=True)
    return StoredRun(name, "motor", records, store)


def folder_of(place: Path, name: str) -> RunFolder:
    return RunFolder(place / "artifacts", "motor", name)


def asks(place: Path, run: StoredRun) -> Promotion:
    return promote(folder_of(place, run.name), run, None)


def now(place: Path) -> str:
    return promoted_name(place / "artifacts", "motor")


def test_the_first_run_is_promoted(tmp_path: Path) -> None:
    found = asks(tmp_path, completed(tmp_path, "one", 0.9))
    assert (found.promoted, found.before, found.limit, found.value) == (True, "", None, 0.9)
    link = tmp_path / "artifacts" / "motor" / "promoted"
    assert link.readlink() == Path("one"), "relative, so that artifacts/ can be moved"


@pytest.mark.parametrize(("accuracy", "better"), [(0.91, True), (0.9, True), (0.89, False)])
def test_a_run_takes_the_place_where_it_is_not_worse_on_the_same_windows(
    tmp_path: Path, accuracy: float, better: bool
) -> None:
    asks(tmp_path, completed(tmp_path, "one", 0.9))
    found = asks(tmp_path, completed(tmp_path, "two", accuracy))
    assert (found.promoted, found.before, found.limit, found.value) == (better, "one", 0.9, accuracy)
    assert now(tmp_path) == ("two" if better else "one")
    assert "on the same test windows" in found.reason
    assert found.reason.endswith(": it stays") == (not better)


def test_new_test_windows_are_run_on_the_promoted_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asks(tmp_path, completed(tmp_path, "one", 0.99))
    asked: list[tuple[str, str]] = []

    def reached(standing: StoredRun, run: StoredRun, metric: str, catalogue: Any) -> float:
        asked.append((standing.name, run.name))
        return 0.7

    monkeypatch.setattr(promotion, "_reached", reached)
    found = asks(tmp_path, completed(tmp_path, "two", 0.8, test="other windows"))
    assert asked == [("one", "two")]
    assert (found.promoted, found.limit) == (True, 0.7)


def test_features_that_are_made_otherwise_are_not_compared(tmp_path: Path) -> None:
    asks(tmp_path, completed(tmp_path, "one", 0.5))
    found = asks(tmp_path, completed(tmp_path, "two", 0.9, test="other", windows=16))
    assert not found.promoted
    assert now(tmp_path) == "one"
    assert "its windows or features are made otherwise" in found.reason
    assert "`flowlab promote RUN`" in found.reason


def test_the_same_program_changes_nothing(tmp_path: Path) -> None:
    asks(tmp_path, completed(tmp_path, "one", 0.9, program="p"))
    found = asks(tmp_path, completed(tmp_path, "two", 0.9, program="p"))
    assert (found.promoted, now(tmp_path)) == (False, "one")
    assert "has this very program" in found.reason


def test_a_promoted_run_that_is_gone_is_not_passed_over(tmp_path: Path) -> None:
    asks(tmp_path, completed(tmp_path, "one", 0.9))
    (tmp_path / "artifacts" / ".store" / "runs" / "one" / "run.json").unlink()
    found = asks(tmp_path, completed(tmp_path, "two", 0.95))
    assert not found.promoted
    assert found.reason.startswith("the promoted run one cannot be compared: no run 'one'")


def test_a_run_without_a_simulation_is_not_promoted(tmp_path: Path) -> None:
    found = asks(tmp_path, completed(tmp_path, "one", None))
    assert (found.promoted, now(tmp_path)) == (False, "")
    assert "nothing was simulated" in found.reason


def test_by_hand_any_run_takes_the_place(tmp_path: Path) -> None:
    asks(tmp_path, completed(tmp_path, "one", 0.9))
    completed(tmp_path, "two", 0.1)
    assert promote_by_hand("two", None, tmp_path / "artifacts") == "two is the promoted run of motor in place of one"
    assert now(tmp_path) == "two"
    folder_of(tmp_path, "one").path.rmdir()
    with pytest.raises(StoreError, match=r"run one: its folder .* is gone"):
        promote_by_hand("one", None, tmp_path / "artifacts")
