"""The index of what packages brought: whatever lies in its place costs a look at the packages, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flowlab.plugin_index import MOST_BYTES, Index, index_file


def test_a_home_that_nobody_has_keeps_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody_of_this_name/cache")
    index = Index(index_file())
    index.keep("a", "flowlab", [], [])
    index.save()
    assert not index_file().exists()


def test_what_is_no_file_of_a_sensible_size_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    for name in ("pipe", "zero", "large"):
        assert Index(tmp_path / name).entry("a", "flowlab") is None
