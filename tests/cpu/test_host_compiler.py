from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from flowlab.cpu import host_compiler
from flowlab.cpu.host_c import HostC
from flowlab.cpu.host_compiler import HostCompiler

ROOT = Path(__file__).resolve().parents[2]


def installed(folder: Path, version: str) -> None:
    """What pip writes of a package, as far as a version is read from it."""
    info = folder / f"ziglang-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ziglang\nVersion: {version}\n")


def executable(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def no_zig(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where ziglang is not installed, whatever the environment of this test has."""

    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)


def test_a_compiler_on_path_comes_before_zig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "clang", "echo clang of this test")
    installed(tmp_path, "0.99.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = host_compiler.find()
    assert found == HostCompiler((str(tmp_path / "clang"),))
    assert found.version() == "clang of this test"
    executable(tmp_path / "gcc", "echo gcc of this test")
    assert HostC().version() == "gcc of this test"


def test_zig_is_taken_where_path_has_no_compiler_and_its_version_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, "0.99.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", "")
    found = host_compiler.find()
    assert found is not None and found.command[:5] == (sys.executable, "-P", "-m", "ziglang", "cc")
    assert HostC().version() == "ziglang 0.99.0"
    assert HostC().missing() is None
    assert "ziglang" not in sys.modules


def test_where_there_is_no_compiler_the_reason_names_the_cure(no_zig: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert host_compiler.find() is None
    assert HostC().missing() == (
        "no C compiler: looked for cc, gcc, clang on PATH and for ziglang beside this Python. "
        "Install one of them: pip install 'flowlab[zig]'"
    )
    assert HostC().version() == ""


def test_the_extra_that_the_reason_names_is_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [each.partition(">")[0] for each in extras["zig"]] == [host_compiler.PACKAGE]


def test_a_compiler_caches_beside_the_file_or_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(tmp_path / "cc", 'echo "$A_CACHE" > places; echo "$B_CACHE" >> places')
    (tmp_path / "x.c").write_text("")
    monkeypatch.setenv("A_CACHE", "/elsewhere")
    monkeypatch.delenv("B_CACHE", raising=False)
    HostCompiler((str(tmp_path / "cc"),), "", ("A_CACHE", "B_CACHE")).compile(tmp_path / "x.c", tmp_path / "x")
    assert (tmp_path / "places").read_text() == f"/elsewhere\n{tmp_path / 'zig'}\n"


def test_a_compiler_that_does_not_answer_has_an_unknown_version(tmp_path: Path) -> None:
    assert host_compiler.HostCompiler((str(tmp_path / "cc"),)).version() == "unknown"
