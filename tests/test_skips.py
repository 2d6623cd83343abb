"""A test that did not run is said with its reason, and is a failure where everything must run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SUITE = """
import pytest

def test_one() -> None: pytest.skip("no bearings here")
@pytest.mark.skipif(True, reason="no bearings here")
def test_two() -> None: ...
def test_three() -> None: ...
"""


def suite(folder: Path, text: str, require_all: str) -> subprocess.CompletedProcess[str]:
    """Run a suite of its own under the conftest of this one."""
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (folder / "test_inner.py").write_text(text)
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", ".", "."],
        cwd=folder,
        env={**outside, "FLOWLAB_REQUIRE_ALL": require_all},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_what_did_not_run_is_counted_with_its_reason(tmp_path: Path) -> None:
    done = suite(tmp_path, SUITE, "")
    assert "2 not run: no bearings here" in done.stdout.splitlines(), done.stdout
    assert done.returncode == 0


def test_where_everything_must_run_a_skip_is_a_failure(tmp_path: Path) -> None:
    assert suite(tmp_path, SUITE, "1").returncode == 1
    assert suite(tmp_path, "def test_one() -> None: ...\n", "1").returncode == 0


def test_a_suite_that_is_skipped_as_a_whole_is_a_failure_there(tmp_path: Path) -> None:
    assert suite(tmp_path, "import pytest\npytest.skip('no bearings', allow_module_level=True)\n", "1").returncode == 1


def test_ci_asks_for_everything() -> None:
    assert re.search(r"^FLOWLAB_REQUIRE_ALL=1 make test-system$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


@pytest.mark.parametrize("room", sorted(path.name for path in (ROOT / "tests").iterdir() if path.is_dir()))
def test_only_system_tests_may_be_left_out(room: str) -> None:
    words = re.compile(r"pytest\.(?:skip|importorskip|mark\.(?:skip|skipif|xfail))\b")
    found = [str(path) for path in (ROOT / "tests" / room).rglob("*.py") if words.search(path.read_text())]
    assert room == "system" or found == []
