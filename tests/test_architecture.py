"""The walls of the house: what is light, what flowlab never names, and that every hook earns its place."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from flowlab import hookspecs
from flowlab.plugins import HOOKS, OWN, WATCHING, Catalogue, load

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "prefect", "numpy", "pyarrow", "fsspec", "onnx", "onnxruntime", "scipy", "rich", "jinja2")
HOOK_NAMES = sorted(name for name in vars(hookspecs) if name.startswith("flowlab_"))
# Words of the language, or of the YAML and the command line: they may stand in flowlab/ though a plugin has the name.
VOCABULARY = {"fft", "demo", "csv", "host", "none", "generic_qat", "generic_ptq"}


@cache
def catalogue() -> Catalogue:
    return load()


def loaded_by(code: str, *arguments: str) -> set[str]:
    """The heavy packages that a fresh interpreter has imported after some code."""
    script = f"import sys\n{code}\nimport json\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=60,
    )
    return set(json.loads(done.stdout.splitlines()[-1])) & set(HEAVY)


@pytest.mark.parametrize(
    "code",
    [
        "import flowlab.contracts, flowlab.hookspecs, flowlab.plugins, flowlab.roles, flowlab.plan, flowlab.cli",
        "import flowlab.store.store, flowlab.engine.run, flowlab.engine.on_prefect, flowlab.engine.server",
        "import flowlab.stages; flowlab.stages.STAGES",
        "import flowlab.config",
        "from flowlab.plugins import load; load()",
        "import flowlab.cli\ntry: flowlab.cli.main(['--help'])\nexcept SystemExit: pass",
        "import flowlab.cli\nflowlab.cli.main(['plugins', '--json'])",
        "import flowlab.cli\nflowlab.cli.main(['plan', 'no_such_file.yaml'])",
    ],
)
def test_the_light_path_imports_nothing_heavy(code: str) -> None:
    assert loaded_by(code) == set()


def test_planning_all_nine_stages_of_the_example_imports_nothing_heavy(tmp_path: Path) -> None:
    """Options, plugins, recipes and code hashes of every stage: all that a cached run does but the look-ups."""
    code = (
        "import sys; from pathlib import Path\n"
        "from flowlab.plugins import load; from flowlab.config import load_mapping\n"
        "from flowlab.engine.run import survey\n"
        "from flowlab.engine.session import Asked\n"
        "catalogue = load(); demo = catalogue.preset('example', 'demo')\n"
        "asked = Asked(store=sys.argv[1])\n"
        "assert len(survey(load_mapping(demo.values, catalogue), catalogue, asked)) == 9"
    )
    assert loaded_by(code, str(tmp_path / "store")) == set()


def test_a_run_in_which_all_is_cached_imports_nothing_heavy(tmp_path: Path) -> None:
    data = tmp_path / "data" / "idle"
    data.mkdir(parents=True)
    (data / "1.csv").write_text("1\n")
    words = [str(tmp_path / "data"), "3", "run", "--json", "--store", str(tmp_path / "store")]
    code = (
        "import os; sys.path.insert(0, 'tests/system'); import imagined_run\n"
        "words = sys.argv[2:]; os.chdir(sys.argv[1]); assert imagined_run.main(words) == 0"
    )
    first = subprocess.run(
        [sys.executable, str(ROOT / "tests/system/imagined_run.py"), *words, "--engine", "local"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert first.returncode == 0, first.stderr
    assert loaded_by(code, str(tmp_path), *words) == set()


def test_a_run_imports_neither_yaml_nor_what_plan_why_and_a_server_need() -> None:
    others = {"yaml", *(f"flowlab.engine.{name}" for name in ("status", "why", "which_run", "claim"))}
    script = f"import sys, flowlab.config, flowlab.engine.run; print(sorted({others!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_the_test_of_the_light_path_can_fail() -> None:
    assert loaded_by("import numpy") == {"numpy"}


def registered_names() -> set[str]:
    """Every name that a plugin or preset is chosen by."""
    return {one.item.name for one in catalogue().brought} - VOCABULARY


def sources() -> Iterator[Path]:
    for path in sorted((ROOT / "flowlab").rglob("*")):
        inside = path.relative_to(ROOT / "flowlab").parts
        if path.is_file() and inside[0] != "guide" and "__pycache__" not in inside:
            yield path


def test_no_registered_name_stands_in_the_core() -> None:
    names = registered_names()
    assert names
    one_of_them = re.compile(r"(?<![\w.-])(?:" + "|".join(re.escape(name) for name in sorted(names)) + r")(?![\w-])")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in sources()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for match in one_of_them.finditer(line)
    ]
    assert found == []


def test_no_vendor_or_device_family_stands_in_the_core() -> None:
    vendors = re.compile(r"\b(?:TI|Texas Instruments|TINPU|tinpu|C2000|C28x|F28P55|MSPM0|CWRU|cwru|Cortex)\b")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}" for path in sources() for match in vendors.finditer(path.read_text())
    ]
    assert found == []


def test_the_core_imports_no_plugin_package() -> None:
    packages = "|".join(path.name for path in (ROOT / "plugins").iterdir() if path.is_dir())
    imports = re.compile(rf"^\s*(?:from|import)\s+(?:{packages})\b", re.MULTILINE)
    assert [str(path) for path in sources() if path.suffix == ".py" and imports.search(path.read_text())] == []


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_every_hook_has_a_docstring(hook: str) -> None:
    assert (getattr(hookspecs, hook).__doc__ or "").strip()


@pytest.mark.parametrize("hook", sorted({*HOOK_NAMES} - {"flowlab_stages", *WATCHING}))
def test_every_hook_is_used_by_a_bundled_plugin(hook: str) -> None:
    brought = [one for one in catalogue().brought if one.distribution == OWN and isinstance(one.item, HOOKS[hook])]
    assert brought, f"no bundled package brings anything through {hook}"


@pytest.mark.parametrize("hook", ["flowlab_stages", *WATCHING])
def test_every_hook_that_none_of_ours_needs_is_used_by_a_package_of_a_stranger(hook: str) -> None:
    sources = (ROOT / "tests" / "third_party").glob("*/flowlab_*/*.py")
    assert any(re.search(rf"^@hookimpl\ndef {hook}\(", path.read_text(), re.MULTILINE) for path in sources)


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_every_hook_is_called_by_a_test(hook: str) -> None:
    tests = (path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))
    assert any(re.search(rf"\b{hook}\b", path.read_text(encoding="utf-8")) for path in tests)


def test_every_bundled_package_loads_whole() -> None:
    assert catalogue().broken == {}


def test_the_import_contracts_hold() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
