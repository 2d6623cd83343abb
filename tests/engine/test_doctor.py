"""What is not well is named with its cure, and what cannot be used is told from what is only missed."""

from __future__ import annotations

import shutil
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest

from flowlab.contracts import Core
from flowlab.engine import doctor
from flowlab.engine.doctor import Finding
from flowlab.plugins import Brought, Catalogue


class Box(Core):
    name = "box"


HERE = Catalogue((Brought(Box(), "someone"),))


def findings(tmp_path: Path, catalogue: Catalogue = HERE, store: str | None = None) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for one in doctor.doctor(catalogue, store, tmp_path / "artifacts"):
        found.setdefault(one.name, []).append(one)
    return found


def test_on_this_machine_nothing_is_unusable_and_nothing_is_written(tmp_path: Path) -> None:
    found = findings(tmp_path)
    assert {one.state for each in found.values() for one in each} <= {"ok", "warning"}
    assert list(found)[:3] == ["python", "torch", "prefect"]
    assert ">=3.9.1" in found["prefect"][0].found
    assert list(tmp_path.iterdir()) == []


def test_a_broken_package_is_a_warning_and_no_package_at_all_unusable(tmp_path: Path) -> None:
    ok, broken = findings(tmp_path, Catalogue(HERE.brought, {"gone": "cannot be loaded"}))["plugins"]
    assert (ok.state, broken.state) == ("ok", "warning")
    assert "gone is broken: cannot be loaded" in broken.text()
    assert findings(tmp_path, Catalogue())["plugins"][0].state == "unusable"


def test_a_library_that_is_missing_or_too_old_is_unusable_with_the_words_that_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return "3.8.8" if name == "prefect" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = findings(tmp_path)
    assert found["torch"][0].state == found["prefect"][0].state == "unusable"
    assert "pip install 'torch" in found["torch"][0].cure
    assert found["prefect"][0].found.startswith("3.8.8, and flowlab needs ")


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("3.9.1", ">=3.9.1,<4", True),
        ("3.9", ">=3.9.1,<4", False),
        ("3.10", ">=3.9.1,<4", True),
        ("4.0.0", "<4,>=3.9.1", False),
        ("2.13.0+cpu", ">=2.13,<2.14", True),
        ("2.14.0rc1", ">=2.13,<2.14", False),
        ("7", "", True),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, wanted: str, fits: bool) -> None:
    assert doctor._fits(version, wanted) is fits


def test_a_store_that_cannot_be_written_is_unusable(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    assert findings(tmp_path, store=str(taken))["store"][0].state == "unusable"
    remote = findings(tmp_path, store="thing://bucket/x")["store"][0]
    assert (remote.state, "nothing here opens thing://" in remote.found) == ("unusable", True)


def test_a_store_at_an_address_is_asked(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, store="memory://doctor")["store"]
    assert (found.state, found.found) == ("ok", "memory://doctor: 0 runs, not tried whether it can be written")


@pytest.mark.parametrize(("free", "state"), [(1 << 20, "unusable"), (1 << 30, "warning"), (1 << 40, "ok")])
def test_little_space_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, free))
    assert findings(tmp_path)["disk"][0].state == state


def test_a_server_that_does_not_answer_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    (server,) = findings(tmp_path)["server"]
    assert server.state == "warning"
    assert "does not answer" in server.found
    assert "--engine local" in server.cure


def test_a_server_that_is_no_address_is_a_warning_and_the_rest_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "nonsense")
    (server,) = findings(tmp_path)["server"]
    assert (server.state, "unset it" in server.cure) == ("warning", True)


def test_a_machine_without_a_compiler_is_warned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowlab.cpu.host_compiler.find", lambda: None)
    (compiler,) = findings(tmp_path)["compiler"]
    assert compiler.state == "warning"
    assert "pip install" in compiler.cure
