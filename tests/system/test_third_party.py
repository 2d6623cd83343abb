"""Packages as strangers would write them, really built and installed beside flowlab; and flowlab without any plugin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ROOT / "tests" / "third_party"


def install(folder: Path, *sources: Path) -> None:
    """Build each package with its own build backend and install it into a folder; nothing comes from a network."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder)),
            *(str(source) for source in sources),
        ],
        check=True,
        capture_output=True,
        text=True,
    )


def copied(source: Path, folder: Path) -> Path:
    """A package's sources, so that a build leaves nothing in ours."""
    import shutil

    target = folder / source.name
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def flowlab(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flowlab.cli", *words],
        env={**os.environ, "PYTHONPATH": str(path)},
        cwd=path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("third_party")
    sources = [copied(PACKAGES / name, tmp_path_factory.mktemp("src")) for name in ("gearbox", "broken", "rival")]
    install(folder, *sources)
    return folder


@pytest.fixture(scope="module")
def listed(site: Path) -> dict[str, Any]:
    done = flowlab(site, "plugins", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def names(listed: dict[str, Any], kind: str, distribution: str) -> set[str]:
    return {one["name"] for one in listed["plugins"] if (one["kind"], one["distribution"]) == (kind, distribution)}


def test_a_strangers_plugins_stand_beside_ours(listed: dict[str, Any]) -> None:
    assert names(listed, "dataset", "flowlab-gearbox") == {"gearbox"}
    assert names(listed, "feature_extractor", "flowlab-gearbox") == {"envelope"}
    assert "gear_envelope" in listed["presets"]["feature_extraction"]
    assert names(listed, "model", "flowlab")


def test_equal_names_carry_their_distribution_and_ours_stay_bare(listed: dict[str, Any]) -> None:
    assert names(listed, "model", "flowlab-gearbox") == {"flowlab-gearbox:gear_net"}
    assert names(listed, "model", "flowlab-rival") == {"flowlab-rival:gear_net", "flowlab-rival:CLS_4k_NPU"}
    assert "CLS_4k_NPU" in names(listed, "model", "flowlab")


def test_what_is_broken_is_reported_with_its_package_and_hurts_nobody(listed: dict[str, Any]) -> None:
    assert set(listed["broken"]) == {"flowlab-broken", "flowlab-rival"}
    assert "the licence server does not answer" in listed["broken"]["flowlab-broken"]
    assert "flowlab_datasets raises OSError" in listed["broken"]["flowlab-rival"]
    assert names(listed, "core", "flowlab-rival") == {"rival-m0"}


def write_config(folder: Path, **training: str) -> Path:
    keys = "\n".join(f"  {name}: {value}" for name, value in training.items())
    path = folder / "gear.yaml"
    path.write_text(
        "common:\n  task_type: generic_timeseries_classification\n  target_device: F28P55\n"
        "dataset:\n  dataset_name: gearbox\n"
        "data_processing_feature_extraction:\n  feature_extraction_name: Generic_256Input_RAW_256Feature_1Frame\n"
        f"  variables: 1\ntraining:\n{keys}\n  training_epochs: 1\n  quantization: 2\n"
    )
    return path


def test_an_ambiguous_name_is_an_error_when_it_is_asked_for(site: Path, tmp_path: Path) -> None:
    done = flowlab(site, "plan", str(write_config(tmp_path, model_name="gear_net")))
    assert done.returncode == 2
    assert "'flowlab-gearbox:gear_net' or 'flowlab-rival:gear_net'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_strangers_model_and_dataset_are_in_the_plan_by_their_full_name(site: Path, tmp_path: Path) -> None:
    done = flowlab(site, "plan", str(write_config(tmp_path, model_name="flowlab-gearbox:gear_net")))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("ingest     will run")


def test_installing_a_plugin_never_changes_a_plan(site: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, model_name="CLS_4k_NPU")
    config.write_text(config.read_text().replace("gearbox", "dc_arc_fault_example_dsk"))
    empty = tmp_path / "empty"
    empty.mkdir()
    script = (
        "import sys, json; from pathlib import Path; from flowlab.plugins import load; from flowlab import config\n"
        "from flowlab.engine.local import prepare; from flowlab.stages import STAGES\n"
        "from flowlab.store.store import Store\n"
        "catalogue = load(); asked = config.load([Path(sys.argv[1])], [], catalogue)\n"
        "made = prepare(STAGES, asked, catalogue, Store(Path(sys.argv[2]))).plan\n"
        "print(json.dumps({node.name: node.recipe for node in made}))"
    )
    recipes = [
        subprocess.run(
            [sys.executable, "-c", script, str(config), str(tmp_path / "store")],
            env={**os.environ, "PYTHONPATH": str(path)},
            cwd=path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for path in (site, empty)
    ]
    assert recipes[0] == recipes[1]
    assert json.loads(recipes[0])


def test_the_core_without_any_plugin_gives_a_clear_error_and_no_traceback(tmp_path: Path) -> None:
    """The wheel with its plugin packages and entry points left out."""
    import shutil

    core = tmp_path / "site"
    shutil.copytree(ROOT / "flowlab", core / "flowlab", ignore=shutil.ignore_patterns("__pycache__"))
    # -I -S: nothing of this environment but its libraries, so the editable flowlab announces nothing
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    start = (
        "import sys, importlib.metadata as metadata\n"
        f"sys.path[:0] = [{str(core)!r}]; sys.path += {libraries!r}\n"
        "found = metadata.entry_points\n"
        "metadata.entry_points = lambda **asked: [] if asked.get('group') == 'flowlab' else found(**asked)\n"
        "from flowlab.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", start, "demo"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "flowlab: no installed package brings the example preset 'demo'.\n"
