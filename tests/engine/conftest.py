"""Imagined stages are importable by name here, as a plugin's are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def imagined_stages_are_importable() -> Iterator[None]:
    sys.path.insert(0, str(Path(__file__).parent))
    yield
    sys.path.remove(str(Path(__file__).parent))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with recordings."""
    import imagined

    return imagined.fill(tmp_path / "data")
