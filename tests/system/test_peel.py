"""The peel test: the core's wheel alone, and a plugin package as a distribution of its own, against the bundle.

All are built from copies by the build backend that ships them, into folders that a fresh interpreter sees before the
libraries of this environment; nothing is taken from the source tree.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import flowlab
from tests.system.test_third_party import install

ROOT = Path(__file__).resolve().parents[2]
REST = ("flowlab_signal", "flowlab_zoo", "flowlab_generic", "flowlab_cores")
PEELED = "flowlab_tinpu"
CONFIG = """\
common: {task_type: generic_timeseries_classification, target_device: F28P55}
dataset: {dataset_name: dc_arc_fault_example_dsk}
data_processing_feature_extraction:
  {feature_extraction_name: FFT1024Input_256Feature_1Frame_Full_Bandwidth, variables: 1}
training: {model_name: CLS_4k_NPU, training_epochs: 2, quantization: 2}
"""
START = """\
import sys
sys.path[:0] = [sys.argv.pop(1)]
sys.path += {libraries!r}
"""
HASHES = """
import hashlib, json, tempfile
from pathlib import Path
import flowlab, flowlab_tinpu
from flowlab import config
from flowlab.conformance.networks import chain, features_for
from flowlab.compiler import interpreter
from flowlab.compiler.pipeline import place_for
from flowlab.compiler.trace import layer_crcs
from flowlab.contracts import Golden, LowerJob
from flowlab.engine.local import prepare
from flowlab.plugins import load
from flowlab.stages import STAGES
from flowlab.store.store import Store

catalogue = load()
assert not catalogue.broken, catalogue.broken
store = Store(Path(tempfile.mkdtemp()))
plan = prepare(STAGES, config.load([Path(sys.argv[1])], [], catalogue), catalogue, store).plan
target = catalogue.get("target", "F28P55")
graph = place_for(target, chain(target.formats["npu"], 1)).graph
features = features_for(graph, 1)
values = interpreter.run(graph, features)
golden = Golden(
    features, values["entry"], {name: values[value].astype("int32") for name, value in graph.outputs.items()},
    {name: crc.tolist() for name, crc in layer_crcs(graph, values).items()}, features[..., 0],
)
core = catalogue.get("core", target.core)
job = LowerJob(graph, golden, False, core, None, ("a", "b"), "0" * 64, Path(tempfile.mkdtemp()) / "program")
files = target.lower(job).files
print(json.dumps({
    "from": [flowlab.__file__, flowlab_tinpu.__file__],
    "recipes": {node.name: node.recipe for node in plan},
    "program": {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()},
}))
"""


def distribution(folder: Path, name: str, packages: tuple[str, ...]) -> Path:
    """Sources of a distribution of its own, announced as a stranger's package announces itself."""
    folder.mkdir()
    for package in packages:
        source = ROOT / package if package == "flowlab" else ROOT / "plugins" / package
        shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    announced = [f'{package} = "{package}.plugin"' for package in packages if package != "flowlab"]
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        f'[project]\nname = "{name}"\nversion = "{flowlab.__version__}"\n'
        + (f"[project.entry-points.flowlab]\n{chr(10).join(announced)}\n" if announced else "")
        + f"[tool.hatch.build.targets.wheel]\npackages = {json.dumps(packages)}\n"
    )
    return folder


def run(site: Path, script: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter: -I -S leaves this environment's editable flowlab out, its libraries come behind."""
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    code = START.format(libraries=libraries) + script
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(site), *words],
        cwd=folder, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where the bundle, the core alone, and the core with its plugins in two distributions are installed."""
    sources, made = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("sites")
    bundle = sources / "bundle"
    bundle.mkdir()
    for name in ("flowlab", "plugins"):
        shutil.copytree(ROOT / name, bundle / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, bundle / name)
    core = distribution(sources / "core", "flowlab", ("flowlab",))
    rest = distribution(sources / "rest", "flowlab-rest", REST)
    peeled = distribution(sources / "peeled", "flowlab-tinpu", (PEELED,))
    found = {name: made / name for name in ("bundle", "core", "peeled")}
    install(found["bundle"], bundle)
    install(found["core"], core)
    install(found["peeled"], core, rest, peeled)
    return found


@pytest.fixture(scope="module")
def hashes(sites: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("run")
    config = folder / "arc.yaml"
    config.write_text(CONFIG)
    found = {}
    for name in ("bundle", "peeled"):
        done = run(sites[name], HASHES, str(config), folder=folder)
        assert done.returncode == 0, done.stderr
        found[name] = json.loads(done.stdout.splitlines()[-1])
        assert all(Path(path).is_relative_to(sites[name]) for path in found[name]["from"])
    return found


def test_a_plugin_of_its_own_gives_the_recipes_of_the_bundle(hashes: dict[str, Any]) -> None:
    assert hashes["peeled"]["recipes"] == hashes["bundle"]["recipes"]
    assert set(hashes["bundle"]["recipes"]) >= {"ingest", "train", "quantize", "compile", "report"}


def test_and_the_bytes_of_its_programs(hashes: dict[str, Any]) -> None:
    assert hashes["peeled"]["program"] == hashes["bundle"]["program"]
    assert {"model.flnp", "model.c"} <= set(hashes["bundle"]["program"])


def test_the_peeled_package_is_named_as_where_its_devices_come_from(sites: dict[str, Path], tmp_path: Path) -> None:
    done = run(sites["peeled"], MAIN, "plugins", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {one["name"]: one["distribution"] for one in json.loads(done.stdout)["plugins"] if one["kind"] == "target"}
    assert found["F28P55"] == "flowlab-tinpu"
    assert found["host"] == "flowlab-rest"


MAIN = "\nfrom flowlab.cli import main\nsys.exit(main(sys.argv[1:]))\n"


@pytest.mark.parametrize("words", [("demo",), ("plan", "arc.yaml"), ("run", "arc.yaml", "--engine", "local")])
def test_the_core_alone_says_what_is_missing(sites: dict[str, Path], words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "arc.yaml").write_text(CONFIG)
    done = run(sites["core"], MAIN, *words, folder=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "no installed package brings " in done.stderr


WORDS = ("targets", "models", "quantizers", "features", "plugins", "--help")


def test_doctor_of_the_core_alone_has_no_traceback(sites: dict[str, Path], tmp_path: Path) -> None:
    done = run(sites["core"], MAIN, "doctor", folder=tmp_path)
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stdout


@pytest.mark.parametrize("word", WORDS)
def test_every_listing_of_the_core_alone_is_empty_and_no_error(
    sites: dict[str, Path], word: str, tmp_path: Path
) -> None:
    done = run(sites["core"], MAIN, word, folder=tmp_path)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
