from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.store.objects import DamagedObject, Objects
from flowlab.store.stat_cache import StatCache


def objects(root: Path) -> Objects:
    return Objects(root, StatCache(root))


def damage(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


@given(data=st.binary(max_size=4096))
def test_an_object_is_named_by_its_content(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    store = objects(tmp_path_factory.mktemp("store"))
    sha, size = store.add_bytes(data)
    assert (sha, size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert store.verified(sha).read_bytes() == data


def test_one_content_is_one_object(tmp_path: Path) -> None:
    store = objects(tmp_path / "store")
    assert store.add_bytes(b"x") == store.add_bytes(b"x")
    assert len([path for path in (tmp_path / "store" / "objects").rglob("*") if path.is_file()]) == 1
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


def test_a_file_is_copied_or_moved_as_asked(tmp_path: Path) -> None:
    store = objects(tmp_path / "store")
    path = tmp_path / "file"
    path.write_bytes(b"x")
    sha, _ = store.add(path)
    assert path.read_bytes() == b"x"
    assert path.stat().st_ino != store.path(sha).stat().st_ino
    path.write_bytes(b"y")
    sha, _ = store.add(path, move=True)
    assert not path.exists()
    assert store.path(sha).read_bytes() == b"y"


def test_an_object_cannot_be_written_by_accident(tmp_path: Path) -> None:
    store = objects(tmp_path)
    sha, _ = store.add_bytes(b"x")
    assert store.path(sha).stat().st_mode & 0o777 == 0o444


def test_a_fresh_object_is_trusted_and_a_changed_byte_of_it_noticed(tmp_path: Path) -> None:
    store = objects(tmp_path)
    sha, _ = store.add_bytes(b"content")
    assert store.holds(sha)
    damage(store.path(sha), b"c0ntent")
    assert not store.holds(sha)
    assert not store.path(sha).exists()
    assert [path.read_bytes() for path in (tmp_path / "aside").iterdir()] == [b"c0ntent"]
    store.add_bytes(b"content")
    assert store.holds(sha)


def test_a_damaged_object_is_named_and_moved_aside(tmp_path: Path) -> None:
    store = objects(tmp_path)
    sha, _ = store.add_bytes(b"content")
    damage(store.path(sha), b"conten")
    with pytest.raises(DamagedObject, match=rf"object {sha[:12]}: its content \(6 bytes\) has the hash .* made again"):
        store.verified(sha)
    with pytest.raises(DamagedObject, match="it is not in the store"):
        store.verified(sha)


def test_a_wrong_hash_in_the_cache_does_not_condemn_an_object(tmp_path: Path) -> None:
    stats = StatCache(tmp_path)
    store = Objects(tmp_path, stats)
    sha, _ = store.add_bytes(b"content")
    stats.save()
    cache = tmp_path / "stat_cache.json"
    cache.write_text(cache.read_text().replace(f'"{sha}"', f'"{"0" * 64}"'))
    assert f'"{"0" * 64}"' in cache.read_text()
    assert objects(tmp_path).holds(sha)


@pytest.mark.parametrize("name", ["../mine", "", "A" * 64, "a" * 63])
def test_a_name_that_is_no_hash_leads_nowhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").write_text("mine")
    store = objects(tmp_path / "store")
    (tmp_path / "store" / "objects").mkdir(parents=True)
    assert not store.holds(name)
    with pytest.raises(DamagedObject, match="no name of an object"):
        store.verified(name)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_pipe_in_an_objects_place_stops_nobody(tmp_path: Path) -> None:
    store = objects(tmp_path)
    sha, _ = store.add_bytes(b"content")
    store.path(sha).unlink()
    os.mkfifo(store.path(sha))
    with pytest.raises(DamagedObject, match="not in the store"):
        store.verified(sha)
    assert not store.holds(sha)
    assert store.add_bytes(b"content") == (sha, 7)
    assert store.verified(sha).read_bytes() == b"content"


def test_a_folder_in_an_objects_place_is_moved_aside(tmp_path: Path) -> None:
    objects = Objects(tmp_path, StatCache(tmp_path))
    sha, _ = objects.add_bytes(b"content")
    objects.path(sha).unlink()
    objects.path(sha).mkdir()
    assert not objects.holds(sha)
    assert objects.add_bytes(b"content") == (sha, 7)
    assert objects.verified(sha).read_bytes() == b"content"
