"""What a source imports, read in threads too."""

from __future__ import annotations

import ast
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from flowlab.engine.imports import imports_of

SOURCE = Path(__file__).read_text(encoding="utf-8")


def test_threads_take_turns_to_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python before 3.11.8 counts the depth of two trees as one when the collector lets another thread go on."""
    real, inside, most = ast.parse, [], []
    found: list[list[str]] = []

    def watched(source: str) -> Any:
        inside.append(source)
        most.append(len(inside))
        time.sleep(0.01)  # another thread goes on
        inside.pop()
        return real(source)

    monkeypatch.setattr(ast, "parse", watched)
    threads = [threading.Thread(target=lambda: found.append(imports_of(SOURCE, "tests"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
    assert "flowlab.engine.imports.imports_of" in found[0]
    assert found[1:] == found[:1] * 2
