"""What `flowlab store ls` says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flowlab.store.inventory import contents, listing
from flowlab.store.store import Store

Ran = Callable[..., str]


def test_runs_are_listed_newest_first_with_what_would_be_free_without_them(store: Store, ran: Ran) -> None:
    first, second = ran(1), ran(2)
    lost, size = store.objects.add_bytes(b"nobody's")
    found = listing(store)
    assert [one.run for one in found.runs] == [second, first]
    own = len(f"weights {first}")
    assert [(one.records, one.size, one.alone) for one in found.runs] == [(2, own + len("recordings"), own)] * 2
    assert found.unnamed == size
    assert {one["sha256"]: one["runs"] for one in found.objects}[lost] == []
    assert found.totals()[0].startswith("2 runs, 3 records (")
    assert found.to_json()["objects"] == [dict(one) for one in found.objects]


def test_a_damaged_run_is_listed_as_such(store: Store, ran: Ran) -> None:
    name = ran(1)
    (store.root / "runs" / name / "run.json").write_text("{")
    assert [one.state for one in listing(store).runs] == ["damaged"]


def test_records_that_were_read_are_not_read_again(store: Store, ran: Ran) -> None:
    ran(1)
    first = contents(store)
    ran(2)
    second = contents(store, first)
    before = {one.path: one for one in first.records}
    assert all(one is before[one.path] for one in second.records if one.path in before)
    assert len(second.records) == len(first.records) + 1


def test_a_store_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert listing(Store(tmp_path / "nowhere")).totals()[0].startswith("0 runs, 0 records")
    assert not (tmp_path / "nowhere").exists()
