"""Whether what a prediction runs is still what it was when its run was made; whole runs are in tests/system."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from flowlab.contracts import Plugin
from flowlab.engine.facts import DiskFacts
from flowlab.engine.predict import changed
from flowlab.engine.which_run import StoredRun
from flowlab.plugins import load
from flowlab.stages.extract import STAGE
from flowlab.store.records import Record
from flowlab.store.store import Store

KINDS = {"extract": "feature_extractor", "ingest": "reader", "simulate": "target"}
NAMES = {"feature_extractor": "fft", "reader": "csv", "target": "host"}
EXTRACT = (STAGE.run.partition(":")[0], *STAGE.code)


def said_of(store: Store, plugin: Plugin, libraries: Iterable[str] = ()) -> dict[str, Any]:
    """What a record of today says of a plugin."""
    facts = DiskFacts(store)
    return {
        "code": dict(facts.code((type(plugin).__module__, *plugin.code))),
        "libraries": {name: facts.version(name) for name in (*libraries, *plugin.libraries)},
        "name": plugin.name,
    }


def warned(
    store: Store, *, change: Mapping[str, Any] | None = None, simulated: bool = True, read: bool = True
) -> tuple[str, ...]:
    """The warnings of a run that the code of now made, but for ``change`` by ``stage.code`` and the like."""
    catalogue = load()
    plugins = {kind: catalogue.get(kind, name) for kind, name in NAMES.items()}
    (execution,) = plugins["target"].executions()
    documents: dict[str, Any] = {
        stage: {"plugins": {kind: said_of(store, plugins[kind])}, "code": {}, "libraries": {}, "tools": {}}
        for stage, kind in KINDS.items()
    }
    documents["extract"]["code"] = dict(DiskFacts(store).code(EXTRACT))
    documents["extract"]["libraries"] = {name: DiskFacts(store).version(name) for name in STAGE.libraries}
    documents["simulate"]["tools"] = {execution.name: execution.version(), "another": "absent"}
    for place, values in (change or {}).items():
        stage, _, what = place.partition(".")
        if what == "tools":
            documents[stage]["tools"].update({execution.name: values})
        else:
            documents[stage]["plugins"][KINDS[stage]][what].update(values)
    if not simulated:
        documents["compile"] = {**documents.pop("simulate"), "tools": {}}
    records = {stage: Record(stage, "0" * 64, document, {}) for stage, document in documents.items()}
    run = StoredRun("run1", "tones", records, store)
    reader = plugins["reader"] if read else None
    return changed(run, plugins["feature_extractor"], reader, plugins["target"], execution)


@pytest.mark.parametrize("simulated", [True, False])
@pytest.mark.parametrize("read", [True, False])
def test_a_run_of_today_is_not_warned_of(tmp_path: Path, simulated: bool, read: bool) -> None:
    assert warned(Store(tmp_path), simulated=simulated, read=read) == ()


@pytest.mark.parametrize(
    ("change", "what", "named"),
    [
        (
            {"extract.code": {"flowlab_signal.fft_extractor": "0" * 64}},
            "makes features",
            "flowlab_signal.fft_extractor",
        ),
        ({"extract.code": {"flowlab_signal.gone": "0" * 64}}, "makes features", "flowlab_signal.gone"),
        ({"extract.libraries": {"numpy": "0.1"}}, "makes features", "numpy (0.1, now "),
        ({"ingest.code": {"flowlab_signal.csv_reader": "0" * 64}}, "reads recordings", "flowlab_signal.csv_reader"),
        ({"ingest.libraries": {"gone": "2"}}, "reads recordings", "gone (2, now absent)"),
        ({"simulate.code": {"flowlab.cpu.host_c": "0" * 64}}, "runs its program", "flowlab.cpu.host_c"),
        ({"simulate.libraries": {"numpy": "0.1"}}, "runs its program", "numpy (0.1, now "),
        ({"simulate.tools": "cc 0.1"}, "runs its program", "host C (cc 0.1, now "),
    ],
)
def test_code_libraries_or_tools_that_are_others_now_are_one_sentence(
    change: Any, what: str, named: str, tmp_path: Path
) -> None:
    (sentence,) = warned(Store(tmp_path), change=change)
    assert sentence.startswith(f"since run run1 was made, what {what} has changed ({named}")
    assert sentence.endswith("Running its config again settles it")


def test_a_program_that_was_never_compared_is_held_to_the_code_that_compiled_it(tmp_path: Path) -> None:
    change = {"simulate.code": {"flowlab.cpu.host_c": "0" * 64}}
    (sentence,) = warned(Store(tmp_path), change=change, simulated=False)
    assert "what runs its program has changed (flowlab.cpu.host_c)" in sentence


def test_a_reader_that_read_none_of_the_recordings_is_no_matter(tmp_path: Path) -> None:
    change = {"ingest.code": {"flowlab_signal.csv_reader": "0" * 64}}
    assert warned(Store(tmp_path), change=change, read=False) == ()
