from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.canonical import canonical_json, digest
from flowlab.roles import role_digest
from flowlab.store.records import Record, Records, Stored

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
MAPPINGS = st.dictionaries(st.text(), JSON, max_size=4)


def record(seconds: float = 1.5, **document: object) -> Record:
    document = {"stage": "train", **document}
    return Record(
        "train",
        digest(document),
        document,
        {"float_model": {"best_model.pt": Stored("a" * 64, 3)}},
        {"accuracy": 0.1 + 0.2},
        ("a warning",),
        {"seconds": seconds},
    )


def path_of(root: Path, one: Record) -> Path:
    return root / "records" / one.stage / f"{one.fingerprint}.json"


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    one = record()
    assert Records(tmp_path).create(one) == one
    assert Records(tmp_path).read("train", one.fingerprint) == one


@given(document=MAPPINGS, metrics=MAPPINGS, warnings=st.lists(st.text(), max_size=3))
def test_every_json_value_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    document: dict[str, object],
    metrics: dict[str, object],
    warnings: list[str],
) -> None:
    root = tmp_path_factory.mktemp("store")
    one = Record("train", digest(document), document, {}, metrics, tuple(warnings))
    Records(root).create(one)
    back = Records(root).read("train", one.fingerprint)
    assert back is not None
    assert back == one
    assert back.to_json() == one.to_json()


def test_the_file_says_what_the_store_knows(tmp_path: Path) -> None:
    one = record()
    Records(tmp_path).create(one)
    read = json.loads(path_of(tmp_path, one).read_text())
    assert sorted(read) == [
        "aside", "check", "document", "fingerprint", "metrics", "outputs", "schema", "stage", "warnings",
    ]  # fmt: skip
    assert read["outputs"] == {"float_model": {"best_model.pt": {"sha256": "a" * 64, "size": 3}}}


def test_a_record_is_never_overwritten_and_who_loses_adopts_the_winners(tmp_path: Path) -> None:
    winner, loser = record(1.0), record(2.0)
    records = Records(tmp_path)
    records.create(winner)
    assert records.create(loser) == winner
    assert records.read("train", winner.fingerprint) == winner
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_record_that_does_not_verify_gives_way(tmp_path: Path) -> None:
    one, records = record(), Records(tmp_path)
    records.create(one)
    path = path_of(tmp_path, one)
    path.write_bytes(path.read_bytes()[:-20])
    assert records.create(one) == one
    assert len(list((tmp_path / "aside").iterdir())) == 1


def test_any_flipped_bit_of_a_record_is_found(tmp_path: Path) -> None:
    one, records = record(), Records(tmp_path)
    records.create(one)
    path = path_of(tmp_path, one)
    content = path.read_bytes()
    for place in range(len(content)):
        data = bytearray(content)
        data[place] ^= 1 << (place % 8)
        path.write_bytes(data)
        assert records.read("train", one.fingerprint) is None, place
        assert not path.exists()
    path.write_bytes(content)
    assert records.read("train", one.fingerprint) == one


def test_a_record_under_anothers_name_is_not_taken_for_it(tmp_path: Path) -> None:
    one, other, records = record(), record(epochs=3), Records(tmp_path)
    records.create(one)
    path_of(tmp_path, one).rename(path_of(tmp_path, other))
    assert records.read("train", other.fingerprint) is None
    assert records.read("train", one.fingerprint) is None


def test_a_replaced_record_is_kept_aside(tmp_path: Path) -> None:
    one, records = record(), Records(tmp_path)
    records.create(one)
    other = replace(one, outputs={"float_model": {"best_model.pt": Stored("b" * 64, 3)}})
    assert records.replace(other, one) == other
    assert records.read("train", one.fingerprint) == other
    assert len(list((tmp_path / "aside").iterdir())) == 1


def test_the_digest_of_a_role_is_that_of_its_files() -> None:
    assert record().digest("float_model") == role_digest({"best_model.pt": "a" * 64})
    with pytest.raises(KeyError):
        record().digest("program")


def test_a_record_of_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="record format 99, known: 1"):
        Record.from_json({**record().to_json(), "schema": 99})


@pytest.mark.parametrize("what", ["folder", "link to nowhere"])
def test_what_takes_a_records_name_is_moved_aside(tmp_path: Path, what: str) -> None:
    document = {"stage": "train"}
    made = Record("train", digest(document), document, {})
    path = tmp_path / "records" / "train" / f"{made.fingerprint}.json"
    path.parent.mkdir(parents=True)
    if what == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "none")
    assert Records(tmp_path).create(made) == made
    assert Records(tmp_path).read("train", made.fingerprint) == made


@pytest.mark.parametrize("name", ["../../mine", "/mine", "a/../../mine", "", "nul\0"])
def test_a_record_whose_files_lead_out_of_their_folder_is_none(tmp_path: Path, name: str) -> None:
    """Its check is right: whoever can write a record can compute it."""
    one = replace(record(), outputs={"float_model": {name: Stored("a" * 64, 3)}})
    Records(tmp_path).create(record(kept=True))
    path = path_of(tmp_path, one)
    body = one.to_json()
    path.write_bytes(canonical_json({**body, "check": digest(body)}))
    assert Records(tmp_path).read("train", one.fingerprint) is None


@pytest.mark.parametrize("sha256", ["../../mine", "A" * 64, "a" * 63])
def test_a_record_whose_objects_are_no_hashes_is_refused(sha256: str) -> None:
    body = replace(record(), outputs={"float_model": {"best_model.pt": Stored(sha256, 3)}}).to_json()
    with pytest.raises(ValueError, match="sha256"):
        Record.from_json(body)


@pytest.mark.parametrize("what", ["pipe", "device"])
def test_what_is_no_plain_file_is_no_record_and_takes_no_time(tmp_path: Path, what: str) -> None:
    one = record()
    path = path_of(tmp_path, one)
    path.parent.mkdir(parents=True)
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    assert Records(tmp_path).read("train", one.fingerprint) is None
    assert Records(tmp_path).create(one) == one


@given(field=st.sampled_from(sorted(record().to_json())), value=JSON)
def test_a_record_in_which_any_field_is_anything_is_a_miss_or_a_record(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: object
) -> None:
    """As another version of flowlab, or a stranger, could write it: with a check that is right."""
    one, root = record(), tmp_path_factory.mktemp("store")
    body = {**one.to_json(), field: value}
    if field == "document":
        body["fingerprint"] = digest(value)
    path = root / "records" / "train" / f"{body['fingerprint'] if field == 'document' else one.fingerprint}.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(canonical_json({**body, "check": digest(body)}))
    back = Records(root).read("train", path.stem)
    assert back is None or (back.stage, back.fingerprint) == ("train", path.stem)
    if back is not None:
        assert all(isinstance(each, dict) for each in (back.document, back.outputs, back.metrics, back.aside))
        assert all(isinstance(each, str) for each in back.warnings)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", 2), ("schema", "1"), ("schema", None), ("stage", 7), ("stage", "ingest"), ("document", []),
        ("outputs", []), ("outputs", {"float_model": []}), ("outputs", {"float_model": {"a": {"sha256": "a" * 64}}}),
        ("outputs", {"float_model": {"a": {"sha256": "a" * 63, "size": 1}}}),
        ("outputs", {"float_model": {"a": {"sha256": "a" * 64, "size": "1"}}}),
        ("outputs", {"float_model": {"a": {"sha256": "a" * 64, "size": -1}}}),
        ("outputs", {"float_model": {"../a": {"sha256": "a" * 64, "size": 1}}}),
        ("metrics", [1]), ("warnings", "a warning"), ("warnings", [None]), ("aside", None),
    ],
)  # fmt: skip
def test_a_record_of_another_schema_or_shape_is_a_miss(tmp_path: Path, field: str, value: object) -> None:
    one, records = record(), Records(tmp_path)
    body = {**one.to_json(), field: value}
    path = path_of(tmp_path, one)
    path.parent.mkdir(parents=True)
    path.write_bytes(canonical_json({**body, "check": digest(body)}))
    assert records.read("train", one.fingerprint) is None
    assert records.create(one) == one
