from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flowlab.config.yaml_source import MAX_BYTES, parse, plain, read_text
from flowlab.errors import ConfigError


def value(text: str) -> object:
    root = parse(text, "a.yaml")
    return None if root is None else plain(root, "a.yaml")


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False)
    | st.text("abc :#'\"\n-é", max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abcx_", min_size=1, max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(plain_values)
def test_what_yaml_writes_comes_back(found: object) -> None:
    assert value(yaml.safe_dump(found)) == found


@given(st.text(max_size=60))
def test_any_text_is_a_value_or_a_config_error(text: str) -> None:
    try:
        value(text)
    except ConfigError as error:
        assert "a.yaml" in str(error)


@given(st.binary(max_size=200))
def test_any_bytes_are_text_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "b.yaml"
    path.write_bytes(data)
    try:
        value(read_text(path))
    except ConfigError as error:
        assert ".yaml" in str(error)


def test_keys_are_text_as_they_are_written() -> None:
    assert value("on: 1\n0: [0.9, 1.1]\n") == {"on": 1, "0": [0.9, 1.1]}


def test_a_reference_is_followed() -> None:
    assert value("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}


def test_a_date_is_text() -> None:
    assert value("2026-01-31") == "2026-01-31"


def test_references_that_multiply_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(ConfigError, match="more than 20000 values"):
        value("\n".join(lines))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system ['true']\n", "line 1: tag '!!python/object/apply:os.system'"),
        ("a: !secret x\n", "line 1: tag '!secret'"),
        ("a: !!binary aGk=\n", "tag '!!binary'"),
        ("a: &x [*x]\n", "line 1: '\\*x' refers to itself"),
        ("a: *x\n", "line 1: .*x"),
        ("a:\n\tb: 1\n", "line 2: not YAML: a tab stands in the indentation; use spaces"),
        ("a: [1, 2\nb: 3\n", "line 2: not YAML: while parsing a flow sequence"),
        ("a: 1\n---\nb: 2\n", "line 2: a second document"),
        ("<<: {a: 1}\n", "line 1: merge keys"),
        ("[1, 2]: 3\n", "line 1: a key must be text"),
        ("a: 1\nb: {c: 1, c: 2}\n", "'c' stands twice, in line 2 and in line 2"),
        ("a: " + "[" * 200 + "]" * 200, "nested deeper than 16 levels"),
        ("a: " + "[" * 100_000, "nested deeper than 16 levels|not YAML"),
        ("k" * 300 + ": 1\n", "line 1: a key of more than 200 characters"),
        ("a: !!int abc\n", "line 1: 'abc' cannot be read as int"),
        ("a: " + "9" * 5000, "cannot be read as int"),
    ],
)
def test_what_is_no_plain_value_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        value(text)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    for data, message in [
        (b"a: 1\nb: \xe9\n", "line 2: not UTF-8 text"),
        (b"a\x00b", "binary data"),
        ("a: 1".encode("utf-16"), "UTF-16"),
        (b"#" * (MAX_BYTES + 1), "larger than"),
    ]:
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=message):
            read_text(path)


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a folder"):
        read_text(tmp_path)
    with pytest.raises(ConfigError, match=r"none\.yaml.*no file of this name"):
        read_text(tmp_path / "none.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert value(read_text(path)) == {"a": 1}


def test_a_whole_number_without_end_is_refused_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"line 2: '0xfff.*cannot be read as int"):
        value("a: 1\nb: 0x" + "f" * 5000)
