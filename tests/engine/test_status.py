"""What a run would do and why."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.engine.status import Change, differences

documents = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=8,
)


@given(documents)
def test_a_document_differs_in_nothing_from_itself(document: Any) -> None:
    assert differences(document, document) == []


@given(st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 2)), st.integers(3, 9))
def test_a_changed_field_is_named_by_its_place(document: dict[str, int], value: int) -> None:
    changed = {"options": {**document, "a": value}}
    assert differences({"options": document}, changed) == [Change("options.a", document.get("a"), value)]


def test_true_and_one_differ() -> None:
    assert differences({"a": True}, {"a": 1}) == [Change("a", True, 1)]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (Change("options.epochs", 30, 20), "options.epochs: 30 -> 20"),
        (Change("inputs.recordings", "ab", "cd"), "inputs.recordings: changed"),
        (Change("code.flowlab.learn", "ab", "cd"), "code.flowlab.learn: changed"),
        (Change("plugins.model.code.zoo", "ab", "cd"), "plugins.model.code.zoo: changed"),
        (Change("plugins.model.name", "a", "b"), "plugins.model.name: 'a' -> 'b'"),
        (Change("tools.simulator", None, "1"), "tools.simulator: new"),
        (Change("tools.simulator", "1", None), "tools.simulator: gone"),
        (Change("options.classes", "x" * 99, "y"), f"options.classes: '{'x' * 56}... -> 'y'"),
    ],
)
def test_a_change_is_worded_for_people(change: Change, text: str) -> None:
    assert change.text() == text
