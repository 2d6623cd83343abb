"""Packages that go wrong in every way that we know, really installed beside one that is sound, and what is said."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOUND = "from flowlab.contracts import Core\nfrom flowlab.hookspecs import hookimpl\n\n\nclass Box(Core):\n"
BRING = "\n\n@hookimpl\ndef flowlab_cores():\n    return [Box()]\n"


def core(name: str, more: str = "") -> str:
    return f"{SOUND}    name = '{name}'\n{BRING}{more}"


def hook(name: str, body: str, words: str = "", mark: str = "@hookimpl\n") -> str:
    return f"\n\n{mark}def {name}({words}):\n    {body}\n"


BAD = {
    "syntax": ("def broken(:\n", "cannot be loaded: SyntaxError"),
    "missing": ("import no_such_library_at_all\n", "ModuleNotFoundError: No module named 'no_such_library_at_all'"),
    "exits": ("import sys\nsys.exit(3)\n", "cannot be loaded: SystemExit: 3"),
    "typo": (core("typo", hook("flowlab_targts", "return []")), "no hook 'flowlab_targts'. Did you mean"),
    "unmarked": (
        core("unmarked", hook("flowlab_models", "return []", mark="")),
        "flowlab_models is not marked with @hookimpl",
    ),
    "arguments": (
        core("arguments", hook("flowlab_models", "return []", "register")),
        "flowlab_models takes register, and the hook gives nothing",
    ),
    "nothing": (core("nothing", hook("flowlab_models", "pass")), "flowlab_models raises TypeError"),
    "raises": (core("raises", hook("flowlab_models", "raise OSError('no licence')")), "OSError: no licence"),
    "classes": (f"{SOUND}    name = 'classes'\n" + BRING.replace("Box()", "Box"), "return an instance, Box()"),
    "strange": (f"{SOUND}    name = 'strange'\n" + BRING.replace("Box()", "3"), "int is not a Core of"),
    "nameless": (f"{SOUND}    pass\n{BRING}", "Box has no usable name"),
    "twice": (f"{SOUND}    name = 'twice'\n" + BRING.replace("Box()", "Box(), Box()"), "a second core named 'twice'"),
}
HALF = {"typo", "unmarked", "arguments", "raises", "nothing", "twice"}  # what of them is sound is used


def write(folder: Path, name: str, source: str, more: dict[str, str] | None = None) -> Path:
    """A package as a stranger would write it; returns its folder."""
    project = folder / name
    package = project / f"flowlab_{name}"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "plugin.py").write_text(source)
    for file, text in (more or {}).items():
        (package / file).write_text(text)
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        f'[project]\nname = "flowlab-{name}"\nversion = "1.2.{len(name)}"\n'
        f'[project.entry-points.flowlab]\n{name} = "flowlab_{name}.plugin"\n'
        f'[tool.hatch.build.targets.wheel]\npackages = ["flowlab_{name}"]\n'
    )
    return project


def install(site: Path, *projects: Path) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)),
            *map(str, projects),
        ],
        check=True,
        capture_output=True,
        text=True,
    )


def flowlab(site: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flowlab.cli", *words],
        env={**os.environ, "PYTHONPATH": str(site), "XDG_CACHE_HOME": str(site.parent / "cache"), **environment},
        cwd=site.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def listed(site: Path, **environment: str) -> dict[str, Any]:
    done = flowlab(site, "plugins", "--json", **environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def packages(site: Path, **environment: str) -> dict[str, dict[str, Any]]:
    return {
        one["distribution"]: one for one in listed(site, **environment)["packages"] if one["distribution"] != "flowlab"
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    projects = [write(folder / "src", name, source) for name, (source, _) in BAD.items()]
    projects.append(write(folder / "src", "sound", core("sound")))
    projects.append(write(folder / "src", "torchy", "import torch\n" + core("torchy")))
    install(folder / "site", *projects)
    return folder / "site"


def test_each_is_a_line_with_its_version_status_and_reason_and_hurts_nobody(site: Path) -> None:
    found = packages(site)
    for name, (_, reason) in BAD.items():
        one = found[f"flowlab-{name}"]
        assert (one["status"], one["version"]) == ("broken", f"1.2.{len(name)}"), name
        assert reason in one["reason"], one
        assert one["brings"] == ({"core": [name] * (2 if name == "twice" else 1)} if name in HALF else {}), name
    sound = found["flowlab-sound"]
    assert (sound["status"], sound["reason"], sound["brings"]) == ("ok", "", {"core": ["sound"]})
    assert 0 < sound["seconds"] < 1


def test_what_people_see_names_each_and_shows_no_traceback(site: Path) -> None:
    done = flowlab(site, "plugins")
    assert done.returncode == 0
    assert "Traceback" not in done.stdout + done.stderr
    for name, (_, reason) in BAD.items():
        (line,) = [one for one in done.stderr.splitlines() if one.startswith(f"broken: flowlab-{name}: ")]
        assert reason in line
    row = next(one for one in done.stdout.splitlines() if one.startswith("flowlab-sound "))
    assert row.split()[1:3] == ["1.2.5", "ok"]
    assert row.split()[-1] == "sound"
    assert "slow: flowlab-torchy: imports " in done.stderr


def test_one_that_imports_torch_at_module_level_is_named_as_slow_and_works(site: Path) -> None:
    torchy = packages(site)["flowlab-torchy"]
    assert torchy["status"] == "slow"
    assert "torch" in torchy["reason"].partition(" at module level")[0]
    assert torchy["brings"] == {"core": ["torchy"]}


def test_a_broken_one_is_quoted_when_a_config_asks_for_what_nobody_brings(site: Path) -> None:
    done = flowlab(site, "targets", "no_such_device")
    assert done.returncode == 2
    assert "no target named 'no_such_device'" in done.stderr
    assert "flowlab-raises: flowlab_models raises OSError: no licence" in done.stderr


def test_a_broken_package_stops_no_other_command(site: Path) -> None:
    for words in (("--help",), ("plugins",), ("targets",), ("quantizers",)):
        assert flowlab(site, *words).returncode == 0, words


def test_strict_makes_a_broken_package_an_error(site: Path) -> None:
    done = flowlab(site, "targets", FLOWLAB_STRICT_PLUGINS="1")
    assert done.returncode == 2
    assert done.stderr.startswith("flowlab: FLOWLAB_STRICT_PLUGINS is set, and packages are broken: ")
    names = ",".join(f"flowlab-{name}" for name in BAD)
    assert flowlab(site, "targets", FLOWLAB_STRICT_PLUGINS="1", FLOWLAB_DISABLE_PLUGINS=names).returncode == 0
    assert flowlab(site, "targets", FLOWLAB_STRICT_PLUGINS="0").returncode == 0


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({"FLOWLAB_DISABLE_PLUGINS": "*"}, set()),
        ({"FLOWLAB_LOAD_PLUGINS": ""}, set()),
        ({"FLOWLAB_LOAD_PLUGINS": "Flowlab_Sound"}, {"flowlab-sound"}),
        ({"FLOWLAB_LOAD_PLUGINS": "flowlab-sound,x", "FLOWLAB_DISABLE_PLUGINS": "x"}, {"flowlab-sound"}),
    ],
    ids=["all off", "only ours", "only one", "both"],
)
def test_the_environment_says_which_packages_count(site: Path, environment: dict[str, str], on: set[str]) -> None:
    found = listed(site, **environment)
    strangers = {one["distribution"]: one for one in found["packages"] if one["distribution"] != "flowlab"}
    assert {name for name, one in strangers.items() if one["status"] != "off"} == on
    assert len(strangers) == len(BAD) + 2
    assert found["broken"] == {}
    assert sum(one["distribution"] == "flowlab" for one in found["plugins"]) > 50, "ours are there"
    off = next(one for one in strangers.values() if one["status"] == "off")
    assert off["reason"] in environment


def test_what_is_switched_off_is_named_where_something_is_asked_for(site: Path) -> None:
    done = flowlab(site, "targets", "no_such_device", FLOWLAB_DISABLE_PLUGINS="flowlab-sound,flowlab_zoo")
    assert "switched off: flowlab (FLOWLAB_DISABLE_PLUGINS), flowlab-sound (FLOWLAB_DISABLE_PLUGINS)" in done.stderr


# --- twenty packages, ten of them heavy ---------------------------------------------------------

CONFIG = """\
common: {task_type: generic_timeseries_classification, target_device: F28P55}
dataset: {dataset_name: beeps}
data_processing_feature_extraction: {data_proc_transforms: [SimpleWindow], frame_size: 64, variables: 1, stride_size: 1}
training: {model_name: CLS_1k_NPU, training_epochs: 0, batch_size: 8, quantization: 0}
compilation: {enable: false}
"""
BEEPS = """\
from flowlab.contracts import Dataset, Recording
from flowlab.hookspecs import hookimpl


class Beeps(Dataset):
    name = "beeps"
    synthetic = True
    libraries = ("numpy",)

    def recordings(self, seed, options):
        import numpy as np

        random = np.random.default_rng(seed)
        for at in range(20):
            samples = random.standard_normal((256, 1)).astype(np.float32) * (1 + at % 2)
            yield Recording(f"{at}", ("quiet", "loud")[at % 2], samples, ("a",))


@hookimpl
def flowlab_datasets():
    return [Beeps()]
"""
TRACED = (
    "import sys\n"
    "from flowlab.cli import main\n"
    "try:\n    code = main(sys.argv[1:])\nexcept SystemExit as end:\n    code = end.code\n"
    "seen = sorted(name for name in sys.modules if name.endswith('.plugin') or name == 'torch')\n"
    "print('|'.join(seen), file=sys.stderr)\n"
    "sys.exit(code)\n"
)


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twenty")
    projects = [write(folder / "src", f"heavy{at}", f"import torch\n{core(f'heavy{at}')}") for at in range(10)]
    projects += [write(folder / "src", f"light{at}", core(f"light{at}")) for at in range(9)]
    projects.append(write(folder / "src", "beeps", BEEPS))
    install(folder / "site", *projects)
    (folder / "beeps.yaml").write_text(CONFIG)
    return folder / "site"


def traced(site: Path, *words: str) -> tuple[set[str], str]:
    """The plugin modules and torch, as far as a command imported them; and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", TRACED, *words],
        env={**os.environ, "PYTHONPATH": str(site), "XDG_CACHE_HOME": str(site.parent / "cache")},
        cwd=site.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return set(filter(None, done.stderr.splitlines()[-1].split("|"))), done.stdout


def test_help_imports_no_plugin(twenty: Path) -> None:
    assert traced(twenty, "--help")[0] == set()


def test_a_cached_run_imports_what_it_needs_of_twenty_packages_and_no_heavy_one(twenty: Path) -> None:
    ours = {f"flowlab_{name}.plugin" for name in ("cores", "generic", "signal", "tinpu", "zoo")}
    words = ("run", "beeps.yaml", "--json")
    made, out = traced(twenty, *words, "--engine", "local", "--set", "dataset.seed=1")
    assert not all(one["cached"] for one in json.loads(out)["stages"])
    assert "torch" in made
    words = (*words, "--set", "dataset.seed=1")
    loaded, out = traced(twenty, *words)
    assert all(one["cached"] for one in json.loads(out)["stages"])
    assert loaded == {*ours, "flowlab_beeps.plugin"}
    assert traced(twenty, "plan", "beeps.yaml")[0] == {*ours, "flowlab_beeps.plugin"}


def test_twenty_packages_cost_a_cached_run_less_than_a_tenth_of_a_second_of_work(twenty: Path) -> None:
    """Against the same command with all strangers but the one that it needs switched off; the processor's time."""
    traced(twenty, "run", "beeps.yaml", "--json", "--engine", "local")

    def best(**environment: str) -> float:
        found = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert flowlab(twenty, "run", "beeps.yaml", "--json", **environment).returncode == 0
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(found)

    alone, all_of_them = best(FLOWLAB_LOAD_PLUGINS="flowlab-beeps"), best()
    print(f"cached run: {alone * 1000:.0f} ms with one package of strangers, {all_of_them * 1000:.0f} ms with twenty")
    assert all_of_them - alone < 0.1


def test_a_package_that_is_edited_is_looked_at_again(twenty: Path) -> None:
    traced(twenty, "plan", "beeps.yaml")
    plugin = twenty / "flowlab_light3" / "plugin.py"
    text = plugin.read_text()
    try:
        plugin.write_text(text.replace("'light3'", "'light33'"))
        loaded, _ = traced(twenty, "plan", "beeps.yaml")
        assert "flowlab_light3.plugin" in loaded
        assert "flowlab_light4.plugin" not in loaded
        assert packages(twenty)["flowlab-light3"]["brings"] == {"core": ["light33"]}
    finally:
        plugin.write_text(text)


@pytest.mark.parametrize("content", [b"", b"no json", b'{"format": 1, "packages": {"a": 3}}', b'{"format": 9}', b"[]"])
def test_a_damaged_index_costs_a_moment_and_nothing_else(twenty: Path, content: bytes) -> None:
    file = twenty.parent / "cache" / "flowlab" / "plugins.json"
    traced(twenty, "plan", "beeps.yaml")
    file.write_bytes(content)
    loaded, _ = traced(twenty, "plan", "beeps.yaml")
    assert "flowlab_heavy0.plugin" in loaded
    assert "torch" not in traced(twenty, "plan", "beeps.yaml")[0]


def test_an_index_that_cannot_be_written_stops_nothing(twenty: Path, tmp_path: Path) -> None:
    (tmp_path / "flowlab").write_text("a file where the folder would be")
    assert flowlab(twenty, "plan", "beeps.yaml", XDG_CACHE_HOME=str(tmp_path)).returncode == 0
