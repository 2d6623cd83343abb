from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.canonical import canonical_json, digest, plain

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@dataclass(frozen=True)
class Inner:
    kernel: tuple[int, ...]


@dataclass(frozen=True)
class Options:
    inner: Inner
    rate: float
    name: str | None = None


def test_options_become_the_values_that_json_has() -> None:
    assert plain(Options(Inner((3, 1)), 4e-5)) == {"inner": {"kernel": [3, 1]}, "rate": 4e-5, "name": None}


@given(VALUES)
def test_plain_values_stay_as_they_are(value: object) -> None:
    assert plain(value) == value


@given(VALUES)
def test_canonical_text_reads_back_to_the_same_value_and_the_same_text(value: object) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_keys_does_not_count(value: dict[str, int]) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))


def test_an_integer_is_not_its_float() -> None:
    assert digest(1) != digest(1.0)
    assert digest(1) != digest(True)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), Path("x"), {1, 2}, b"x", Inner])
def test_what_json_has_no_word_for_is_named_with_its_place(value: object) -> None:
    with pytest.raises(TypeError, match=r"options\.a\[0\]"):
        plain({"a": [value]}, "options")


def test_a_key_is_text_or_an_integer() -> None:
    assert plain({8: "x"}) == {"8": "x"}
    with pytest.raises(TypeError, match=r"key \(1, 2\)"):
        plain({(1, 2): 3})
