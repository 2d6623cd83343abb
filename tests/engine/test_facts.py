from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flowlab.engine.facts import DiskFacts
from flowlab.engine.imports import imports_of
from flowlab.errors import PluginError
from flowlab.store.store import Store

SOURCES = {
    "stranger/__init__.py": "from stranger.plugin import hook\n",
    "stranger/plugin.py": "def hook():\n    from stranger import model\n    return model\n",
    "stranger/model.py": "import os\nfrom . import shapes\nfrom .deep.inner import x\n",
    "stranger/shapes.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from stranger import unused\n",
    "stranger/unused.py": "",
    "stranger/deep/__init__.py": "",
    "stranger/deep/inner.py": "from ..shapes import nothing\nfrom flowlab import roles\n",
    "stranger/table.csv": "1,2\n",
    "neighbour.py": "import stranger.model\n",
}


@pytest.fixture
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    code = tmp_path / "code"
    for name, text in SOURCES.items():
        path = code / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(code))
    return code


def code(tmp_path: Path, *names: str) -> dict[str, str]:
    facts = DiskFacts(Store(tmp_path / "store"))
    found = dict(facts.code(names))
    facts.save()
    return found


def test_the_code_of_a_module_is_all_that_it_imports_of_its_own(tmp_path: Path, strangers: Path) -> None:
    found = code(tmp_path, "stranger.model")
    assert sorted(found) == [
        "flowlab.roles",
        "stranger",
        "stranger.deep",
        "stranger.deep.inner",
        "stranger.model",
        "stranger.plugin",
        "stranger.shapes",
    ]
    assert code(tmp_path, "stranger.model") == found


def test_a_package_counts_with_every_file_in_it(tmp_path: Path, strangers: Path) -> None:
    assert {"stranger.unused", "stranger/table.csv"} <= set(code(tmp_path, "stranger"))


def test_another_package_is_a_library_unless_it_is_named(tmp_path: Path, strangers: Path) -> None:
    assert sorted(code(tmp_path, "neighbour")) == ["neighbour"]
    assert "stranger.model" in code(tmp_path, "neighbour", "stranger.model")


@pytest.mark.parametrize("name", ["stranger/deep/inner.py", "stranger/shapes.py", "stranger/table.csv"])
def test_one_changed_byte_anywhere_in_it_is_noticed(tmp_path: Path, strangers: Path, name: str) -> None:
    before = code(tmp_path, "stranger")
    path = strangers / name
    path.write_text(path.read_text() + "\n")
    after = code(tmp_path, "stranger")
    assert [key for key in before if before[key] != after[key]] == [name.removesuffix(".py").replace("/", ".")] or (
        name.endswith(".csv") and before["stranger/table.csv"] != after["stranger/table.csv"]
    )


def test_a_new_import_is_followed_at_once(tmp_path: Path, strangers: Path) -> None:
    assert "stranger.unused" not in code(tmp_path, "stranger.model")
    (strangers / "stranger" / "model.py").write_text("from stranger import unused\n")
    assert "stranger.unused" in code(tmp_path, "stranger.model")


def test_code_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"code 'flowlab\.no_such' is neither an importable module nor a package"):
        code(tmp_path, "flowlab.no_such")
    with pytest.raises(PluginError, match="code 'no_such_package'"):
        code(tmp_path, "no_such_package")


def test_errors_and_version_numbers_repeat_no_work(tmp_path: Path) -> None:
    found = code(tmp_path, "flowlab.plan")
    assert "flowlab.contracts" in found
    assert not {"flowlab", "flowlab.stages", "flowlab.errors", "flowlab.faults"} & set(found)


def test_versions_are_found_without_importing() -> None:
    script = (
        "import sys; from pathlib import Path; from flowlab.engine.facts import DiskFacts\n"
        "from flowlab.store.store import Store; facts = DiskFacts(Store(Path(sys.argv[1])))\n"
        "assert facts.version('torch')[0].isdigit() and facts.version('no-such-thing') == 'absent'\n"
        "facts.code(['flowlab.plan', 'flowlab.engine'])\n"
        "assert not {'torch', 'numpy', 'prefect', 'pyarrow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, "/nonexistent"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a.b, c", ["a.b", "c"]),
        ("from a.b import c as d", ["a.b", "a.b.c"]),
        ("from . import x", ["p.q", "p.q.x"]),
        ("from .x import y", ["p.q.x", "p.q.x.y"]),
        ("from ..x import y", ["p.x", "p.x.y"]),
        ("def f():\n    try:\n        import a\n    except ImportError:\n        import b", ["a", "b"]),
        ("import typing\nif typing.TYPE_CHECKING:\n    import a\nelse:\n    import b", ["b", "typing"]),
        ("class C:\n    def f(self):\n        with x:\n            from a import b", ["a", "a.b"]),
        ("", []),
    ],
)
def test_imports_are_read_from_the_source(source: str, expected: list[str]) -> None:
    assert imports_of(source, "p.q") == expected


def test_damaged_notes_about_imports_are_left_out(tmp_path: Path, strangers: Path) -> None:
    whole = code(tmp_path, "stranger")
    for notes in tmp_path.rglob("imports.json"):
        known = json.loads(notes.read_text())
        notes.write_text(json.dumps(dict.fromkeys(known, 5)))
    assert code(tmp_path, "stranger") == whole
