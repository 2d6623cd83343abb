"""Whether what made a run's features is still what it was; whole runs are in tests/system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowlab.engine.facts import DiskFacts
from flowlab.engine.predict import changed
from flowlab.engine.which_run import StoredRun
from flowlab.plugins import load
from flowlab.stages.extract import STAGE
from flowlab.store.records import Record
from flowlab.store.store import Store


def stored(store: Store, **changes: Any) -> tuple[StoredRun, Any]:
    """A run whose stage extract was made by the code that is here now, but for ``changes``."""
    extractor = load().get("feature_extractor", "fft")
    facts = DiskFacts(store)
    plugin = {
        "code": dict(facts.code((type(extractor).__module__, *extractor.code))) | changes.get("code", {}),
        "libraries": {name: facts.version(name) for name in extractor.libraries} | changes.get("libraries", {}),
    }
    document = {
        "plugins": {"feature_extractor": plugin},
        "code": dict(facts.code((STAGE.run.partition(":")[0], *STAGE.code))),
        "libraries": {name: facts.version(name) for name in STAGE.libraries} | changes.get("libraries", {}),
    }
    return StoredRun("run1", "tones", {"extract": Record("extract", "0" * 64, document, {})}, store), extractor


def test_a_run_of_today_is_not_warned_of(tmp_path: Path) -> None:
    assert changed(*stored(Store(tmp_path))) == ()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"code": {"flowlab_signal.fft_extractor": "0" * 64}}, "flowlab_signal.fft_extractor"),
        ({"code": {"flowlab_signal.gone": "0" * 64}}, "flowlab_signal.gone"),
        ({"libraries": {"numpy": "0.1"}}, "numpy (0.1, now "),
    ],
)
def test_code_or_libraries_that_are_others_now_are_one_sentence(changes: Any, named: str, tmp_path: Path) -> None:
    (sentence,) = changed(*stored(Store(tmp_path), **changes))
    assert named in sentence
    assert sentence.startswith("since run run1 was made")
