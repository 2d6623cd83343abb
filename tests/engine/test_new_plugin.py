"""`flowlab plugin new` writes whole packages or nothing; `flowlab plugin check` says what it found of each thing."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowlab import __version__, testing
from flowlab.cli import main
from flowlab.contracts import Core, Dataset, FeatureExtractor, Preset
from flowlab.engine import check_plugin as checking
from flowlab.engine.new_plugin import KINDS, new_plugin
from flowlab.errors import ConfigError, PluginError
from flowlab.plugins import Announced, Brought, Catalogue


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Modules of packages that a test wrote are imported by no other one."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package_is_sound_and_has_no_blank_left(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    new_plugin(kind, f"own-{kind}", tmp_path)
    place = tmp_path / f"own-{kind}"
    texts = {str(path.relative_to(place)): path.read_text() for path in place.rglob("*") if path.is_file()}
    assert {"pyproject.toml", "README.md", f"own_{kind}/plugin.py", "tests/test_plugin.py"} <= set(texts)
    assert [name for name, text in texts.items() if "$" in text] == []
    project = tomllib.loads(texts["pyproject.toml"])["project"]
    assert project["entry-points"]["flowlab"] == {f"own_{kind}": f"own_{kind}.plugin"}
    assert project["dependencies"][0].startswith(f"flowlab>={__version__.rpartition('.')[0]},<")
    monkeypatch.syspath_prepend(str(place))
    brought = {item.name for item in testing.check_package(f"own_{kind}.plugin")}
    assert ("own_stage" if kind == "stage" else f"own-{kind}") in brought
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


@pytest.mark.parametrize(
    "name", ["target", "core", "layer", "graph", "quantizer", "feature-extractor", "post-training"]
)
def test_a_name_that_a_template_imports_makes_another_class(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_plugin("target", name, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / name))
    module = name.replace("-", "_")
    try:
        assert testing.check_package(f"{module}.plugin")
    finally:
        for one in [one for one in sys.modules if one.partition(".")[0] == module]:
            del sys.modules[one]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../up", "is no name for a package"),
        ("", "is no name for a package"),
        ("Big", "is no name for a package"),
        ("a--b", "is no name for a package"),
        ("a\n", "is no name for a package"),
        ("x" * 61, "is no name for a package"),
        ("class", "is a word or a module of Python itself"),
        ("json", "is a word or a module of Python itself"),
        ("flowlab", "a module 'flowlab' can be imported here already"),
        ("flowlab-signal", "a module 'flowlab_signal' can be imported here already"),
    ],
)
def test_a_name_that_cannot_be_is_refused_and_nothing_is_written(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        new_plugin("extractor", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["training", "frame-size", "learning-rate"])
def test_a_stage_takes_no_section_or_key_that_is_flowlabs_own(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a section or a key of a config already"):
        new_plugin("stage", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_nothing_is_overwritten(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "own-chain")
    with pytest.raises(ConfigError, match="own-chain: is there already"):
        new_plugin("extractor", "own-chain", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["own-chain"]


def test_an_unknown_kind_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin", "new", "quantiser", "own-chain"]) == 2
    assert "no kind of package named 'quantiser'. Did you mean 'quantizer'?" in capsys.readouterr().err


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, text: str, **how: Any) -> None:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        new_plugin("extractor", "own-chain", tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- check ----------------------------------------------------------------------------------------


class Sound(FeatureExtractor):
    name = "sound"

    def shape(self, window: tuple[int, int], options: Any) -> tuple[int, int, int]:
        return (*window, 1)

    def extract(self, windows: Any, options: Any) -> Any:
        return windows[..., None].copy()


class Peeking(Sound):
    name = "peeking"

    def extract(self, windows: Any, options: Any) -> Any:
        return (windows - windows.mean())[..., None]


class Falling(Sound):
    name = "falling"

    def extract(self, windows: Any, options: Any) -> Any:
        raise ZeroDivisionError("no window")


class Lost(Core):
    name = "lost"
    code = ("no_such_package_of_anyone",)


class Recorded(Dataset):
    name = "recorded"

    def recordings(self, seed: int, options: Any) -> Any:
        raise AssertionError("nobody asked for it")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> dict[str, checking.Line]:
    """What is said of one package that brings all of the above, by what it is said of."""
    preset = Preset("example", "wrong", {"trainign": {}})
    items = (Sound(), Peeking(), Falling(), Lost(), Recorded(), preset)
    catalogue = Catalogue(tuple(Brought(item, "own") for item in items), {"own": "flowlab_models raises OSError: gone"})
    monkeypatch.setattr(checking, "installed", lambda group: [Announced("own", "own_chain.plugin", "own")])
    monkeypatch.setattr(checking, "load_announced", lambda announced: catalogue)
    said: list[checking.Line] = []
    assert not checking.check_plugin("own-chain", said.append)
    assert checking.verdict(said) == "7 checks, 5 failed, 1 for the author's own tests"
    return {line.what: line for line in said}


def test_each_thing_is_checked_by_itself_and_named(lines: dict[str, checking.Line]) -> None:
    assert lines["feature extractor 'sound'"] == checking.Line("ok", "feature extractor 'sound'")
    for what, why in {
        "own_chain.plugin": "flowlab_models raises OSError: gone",
        "feature extractor 'peeking'": "other windows of the batch change a feature",
        "feature extractor 'falling'": "ZeroDivisionError: no window",
        "core 'lost'": "code 'no_such_package_of_anyone' is not importable",
        "example preset 'wrong'": "trainign is none",
    }.items():
        assert lines[what].verdict == "FAILED"
        assert why in lines[what].why


def test_what_only_the_author_can_check_is_said(lines: dict[str, checking.Line]) -> None:
    line = lines["dataset 'recorded'"]
    assert str(line) == (
        "not checked  dataset 'recorded': it may read files or a network; call check_dataset in a test of your own"
    )


def test_a_package_that_is_not_installed_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(PluginError, match=r"no installed package named 'flowlib'\. Did you mean 'flowlab'"):
        checking.check_plugin("flowlib", print)


@pytest.mark.parametrize("package", ["flowlab_signal", "flowlab-signal", "flowlab_signal.plugin"])
def test_one_bundled_package_conforms(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin", "check", package]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "not checked  reader 'csv': it needs a file; call check_reader in a test of your own" in said
    assert sum(line.startswith("ok           feature extraction preset '") for line in said) > 5
    assert said[-1].startswith(f"{len(said) - 1} checks, 0 failed")
