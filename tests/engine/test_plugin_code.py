"""What of a package is in a fingerprint: its code as it is on disk, and the versions of the libraries that it names."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowlab.contracts import Stage
from flowlab.engine.facts import DiskFacts
from flowlab.engine.source import files_digest
from flowlab.plan import Plan, plan
from flowlab.plugins import Announced, Catalogue, load_announced
from flowlab.store.store import Store

PACKAGE = "strange_package"
PLUGIN = f"""\
from flowlab.contracts import Model
from flowlab.hookspecs import hookimpl
from {PACKAGE}.numbers import WIDTH


class Net(Model):
    name = "net"
    libraries = ("pytest", "strange-library")
    code = ("{PACKAGE}",)

    def build(self, shape, outputs, options):
        return WIDTH


class Other(Model):
    name = "other"

    def build(self, shape, outputs, options):
        return 1


@hookimpl
def flowlab_models():
    return [Net(), Other()]
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package where a developer edits it, as an editable install leaves it: on the path, not copied."""
    folder = tmp_path / "src" / PACKAGE
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "plugin.py").write_text(PLUGIN)
    (folder / "numbers.py").write_text("WIDTH = 8\n")
    (folder / "table.csv").write_text("1,2\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def nothing(config: Any, catalogue: Any) -> Any:
    from flowlab.contracts import NoOptions

    return NoOptions()


def stages(catalogue: Catalogue, model: str) -> tuple[Stage, ...]:
    chosen = {"model": (catalogue.get("model", model), nothing(None, None))}
    make = Stage("ingest", "flowlab.canonical:run", ("source",), ("recordings",), nothing)
    train = Stage("train", "flowlab.canonical:run", ("recordings",), ("float_model",), nothing)
    last = Stage("compile", "flowlab.canonical:run", ("float_model",), ("program",), nothing)
    return make, replace(train, plugins=lambda config, catalogue: chosen), last


def planned(folder: Path, catalogue: Catalogue, model: str = "net") -> Plan:
    """As a command of its own would plan it."""
    facts = DiskFacts(Store(folder / "store"))
    return plan(
        stages(catalogue, model),
        SimpleNamespace(),
        catalogue,
        sources={"source": files_digest({}), "notes": files_digest({})},
        facts=facts,
    )


def asked(made: Plan) -> dict[str, Mapping[str, Any]]:
    return {node.name: node.asked for node in made}


def differs(one: Plan, two: Plan) -> set[str]:
    return {name for name, document in asked(one).items() if asked(two)[name] != document}


@pytest.fixture
def catalogue(package: Path) -> Catalogue:
    made = load_announced([Announced("strange", f"{PACKAGE}.plugin", "strange-package")])
    assert made.broken == {}
    return made


@pytest.mark.parametrize("file", ["plugin.py", "numbers.py", "table.csv", "new.py"])
def test_an_edit_of_the_package_changes_its_stage_and_no_other(
    tmp_path: Path, package: Path, catalogue: Catalogue, file: str
) -> None:
    before, ours = planned(tmp_path, catalogue), planned(tmp_path, catalogue, "other")
    path = package / file
    path.write_text(path.read_text() + "# 1\n" if path.exists() else "ONE = 1\n")
    assert differs(before, planned(tmp_path, catalogue)) == {"train"}
    found = differs(ours, planned(tmp_path, catalogue, "other"))
    assert found == ({"train"} if file in ("plugin.py", "numbers.py") else set()), "what a plugin does not name"


def test_nothing_changes_where_nothing_is_edited(tmp_path: Path, catalogue: Catalogue) -> None:
    assert differs(planned(tmp_path, catalogue), planned(tmp_path, catalogue)) == set()


def test_another_version_of_a_declared_library_changes_its_stage_and_no_other(
    tmp_path: Path, catalogue: Catalogue, package: Path
) -> None:
    before, other = planned(tmp_path, catalogue), planned(tmp_path, catalogue, "other")
    assert before.node("train").asked["plugins"]["model"]["libraries"] == {
        "pytest": metadata.version("pytest"),
        "strange-library": "absent",
    }
    for version in ("1.0", "1.1"):
        for old in package.parent.glob("strange_library-*"):
            (old / "METADATA").unlink()
            old.rmdir()
        info = package.parent / f"strange_library-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: strange-library\nVersion: {version}\n")
        now = planned(tmp_path, catalogue)
        assert differs(before, now) == {"train"}
        assert now.node("train").asked["plugins"]["model"]["libraries"]["strange-library"] == version
        assert differs(other, planned(tmp_path, catalogue, "other")) == set()
        before = now


def test_another_package_beside_it_changes_nothing(
    tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "third_party" / "gearbox"))
    own, other = Announced("strange", f"{PACKAGE}.plugin", "strange-package"), "flowlab_gearbox.plugin"
    alone, both = (load_announced(found) for found in ([own], [Announced("gearbox", other, "flowlab-gearbox"), own]))
    assert len(both.brought) > len(alone.brought)
    assert differs(planned(tmp_path, alone), planned(tmp_path, both)) == set()
