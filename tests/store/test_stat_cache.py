from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from flowlab.store import stat_cache
from flowlab.store.stat_cache import StatCache


def old_file(tmp_path: Path, text: str = "text") -> Path:
    path = tmp_path / "file"
    path.write_text(text)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    return path


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path | str]:
    """The files that are really hashed."""
    real, seen = stat_cache.sha256_of, []

    def hashed(path: Path | str) -> str:
        seen.append(path)
        return real(path)

    monkeypatch.setattr(stat_cache, "sha256_of", hashed)
    return seen


def test_a_file_is_hashed_once_also_over_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = old_file(tmp_path), counted(monkeypatch)
    expected = hashlib.sha256(b"text").hexdigest()
    cache = StatCache(tmp_path / "store")
    assert cache.sha256(path) == cache.sha256(path) == expected
    cache.save()
    assert StatCache(tmp_path / "store").sha256(path) == expected
    assert seen == [path]


def test_a_changed_byte_is_noticed_even_with_the_old_size_and_mtime(tmp_path: Path) -> None:
    path, cache = old_file(tmp_path), StatCache(tmp_path / "store")
    before = cache.sha256(path)
    time.sleep(0.01)  # the clock of ctime ticks
    path.write_text("tex!")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert cache.sha256(path) != before


def test_a_file_that_takes_anothers_place_is_noticed(tmp_path: Path) -> None:
    path, cache = old_file(tmp_path), StatCache(tmp_path / "store")
    before = cache.sha256(path)
    other = tmp_path / "other"
    other.write_text("tex!")
    os.utime(other, (1_000_000_000, 1_000_000_000))
    other.replace(path)
    assert cache.sha256(path) != before


def test_a_file_hashed_right_after_it_was_written_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("text")
    seen, cache = counted(monkeypatch), StatCache(tmp_path / "store")
    cache.sha256(path)
    cache.sha256(path)
    assert seen == [path, path]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": 0, "files": {}}', '{"version": 1, "files": {"x": 3}}'])
def test_a_damaged_cache_is_started_anew(tmp_path: Path, damage: str) -> None:
    path = old_file(tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "stat_cache.json").write_text(damage)
    cache = StatCache(tmp_path / "store")
    assert cache.sha256(path) == hashlib.sha256(b"text").hexdigest()
    cache.save()
    assert str(path) in (tmp_path / "store" / "stat_cache.json").read_text()


def test_two_commands_keep_what_both_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = old_file(tmp_path), tmp_path / "other"
    other.write_bytes(path.read_bytes())
    os.utime(other, (1_000_000_000, 1_000_000_000))
    one, two = StatCache(tmp_path / "store"), StatCache(tmp_path / "store")
    one.sha256(path)
    two.sha256(other)
    one.save()
    two.save()
    seen, later = counted(monkeypatch), StatCache(tmp_path / "store")
    later.sha256(path)
    later.sha256(other)
    assert seen == []


def test_looking_writes_nothing(tmp_path: Path) -> None:
    path = old_file(tmp_path)
    StatCache(tmp_path / "store").sha256(path)
    assert not (tmp_path / "store").exists()


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        StatCache(tmp_path).sha256(tmp_path / "none")
