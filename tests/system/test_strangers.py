"""Whole packages of strangers: wheels in an environment of their own, their own tests, and a run with each.

Nothing of the source tree is on the path: flowlab comes from its wheel, dependencies from the test's environment.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowlab.cpu import host_compiler

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gptq", "wavelet")
CONFIG = """\
common: {{task_type: generic_timeseries_classification, target_device: {device}}}
dataset: {{dataset_name: swings, input_data_path: recordings}}
data_processing_feature_extraction:
  feature_extraction_name: {extractor}
  data_proc_transforms: [SimpleWindow]
  frame_size: 256
  variables: 1
training:
  model_name: CLS_1k_NPU
  training_epochs: 3
  batch_size: 16
  quantization_weight_bitwidth: 4
  {quantizer}
"""
QUIET = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")
PLAIN = {"device": "F28P55", "extractor": "Generic_256Input_RAW_256Feature_1Frame", "quantizer": "quantization: 2"}


@dataclass(frozen=True)
class Home:
    """A virtual environment, and a folder to work in."""

    place: Path
    work: Path

    def call(self, *words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run one of its programs. No variable of this process points into the source tree."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            [self.place / "bin" / words[0], *words[1:]], cwd=self.work, env=clean, capture_output=True, text=True,
            check=False, timeout=900,
        )  # fmt: skip
        assert done.returncode == code, f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def run(self, name: str, **choices: str) -> dict[str, Any]:
        """A run of the small config with these choices, as JSON."""
        path = self.work / f"{name}.yaml"
        path.write_text(CONFIG.format(**{**PLAIN, **choices}))
        found: dict[str, Any] = json.loads(self.call("flowlab", "run", str(path), "--engine", "local", "--json").stdout)
        return found


def wheels(sources: Sequence[Path], folder: Path) -> list[Path]:
    """Built from copies, each with its own backend."""
    made = []
    for source in sources:
        done = subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / source.name), source],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        made += (folder / source.name).glob("*.whl")
    return made


def swings(folder: Path) -> None:
    """Two classes that bands tell apart: a slow swing, and a fast one."""
    rng = np.random.default_rng(7)
    for label, rate in (("calm", 3.0), ("shaking", 40.0)):
        place = folder / "recordings" / "classes" / label
        place.mkdir(parents=True)
        for number in range(10):
            time = np.arange(2048) / 256
            wave = np.sin(2 * np.pi * (rate + rng.normal()) * time + rng.uniform(0, 6)) + 0.1 * rng.normal(size=2048)
            np.savetxt(place / f"{label}{number}.csv", wave, header="x", comments="", fmt="%.5f")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("strangers")
    copies = []
    for name in PACKAGES:
        copies.append(folder / "sources" / name)
        shutil.copytree(ROOT / "tests" / "third_party" / name, copies[-1])
    made = wheels([ROOT, *copies], folder / "wheels")
    found = Home(folder / "venv", folder / "work")
    subprocess.run([sys.executable, "-m", "venv", str(found.place)], check=True)
    python = found.place / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", *QUIET, *made], check=True)
    site = next((found.place / "lib").glob("python*/site-packages"))
    own = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(own) + "\n")  # plain paths: an editable flowlab stays out
    found.work.mkdir()
    for name, source in zip(PACKAGES, copies, strict=True):
        shutil.copytree(source / "tests", found.work / "tests" / name)
    swings(found.work)
    return found


def test_flowlab_and_the_packages_come_from_their_wheels(home: Home) -> None:
    names = ["flowlab", *(f"flowlab_{name}" for name in PACKAGES)]
    script = f"from importlib import import_module as get; [print(get(name).__file__) for name in {names}]"
    found = home.call("python", "-c", script).stdout.split()
    assert [str(home.place) in path for path in found] == [True] * len(names)


@pytest.mark.parametrize("name", PACKAGES)
def test_their_own_tests_pass(home: Home, name: str) -> None:
    done = home.call("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", f"tests/{name}")
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


def test_a_run_with_a_strangers_quantizer_agrees_everywhere(home: Home) -> None:
    found = home.run("gptq", quantizer="quantizer: {name: gptq, damping: 0.02}")
    assert found["quantization"]["quantizer"] == "gptq"
    assert found["quantization"]["weight_bits"] == 4
    assert found["agreement"]["mismatches"] == 0
    assert {"ONNX Runtime", "interpreter", "torch", "simulator"} <= set(found["agreement"]["executions"])


def test_its_options_are_checked_before_anything_runs(home: Home) -> None:
    for options, said in (("damping: 0", "give a number above 0"), ("dampng: 1", "Did you mean 'damping'?")):
        path = home.work / "bad.yaml"
        path.write_text(CONFIG.format(**{**PLAIN, "quantizer": f"quantizer: {{name: gptq, {options}}}"}))
        assert said in home.call("flowlab", "plan", str(path), code=2).stderr


COMPARE = """\
#include <math.h>
#include <stdio.h>
#include "test_vector.h"

void flowlab_features(const float *window, float *features);

int main(void)
{
    static float made[sizeof model_features_test / sizeof *model_features_test / TEST_VECTORS];
    enum { WINDOW = sizeof raw_input_test / sizeof *raw_input_test / TEST_VECTORS };
    enum { FEATURES = sizeof made / sizeof *made };
    double worst = 0.0;
    for (int vector = 0; vector < TEST_VECTORS; vector++) {
        flowlab_features(raw_input_test + vector * WINDOW, made);
        for (int at = 0; at < FEATURES; at++) {
            worst = fmax(worst, fabs(made[at] - model_features_test[vector * FEATURES + at]));
        }
    }
    printf("%d %d %g\\n", TEST_VECTORS, FEATURES, worst);
    return 0;
}
"""


def test_a_run_with_a_strangers_extractor_ships_its_c(home: Home, compiler: host_compiler.HostCompiler) -> None:
    """The C in the program makes the features of the golden vectors from their raw windows."""
    found = home.run("wavelet", extractor="{name: wavelet_packet, level: 6}")
    program = {one["name"]: Path(one["path"]) for one in found["artifacts"]["program"]}
    place = home.work / "compare"
    place.mkdir()
    for name in ("feature_extraction.c", "test_vector.c", "test_vector.h"):
        shutil.copyfile(program[name], place / name)
    files = ("feature_extraction.c", "test_vector.c")
    (place / "compare.c").write_text(COMPARE + "".join(f'#include "{name}"\n' for name in files))
    compiler.compile(place / "compare.c", place / "compare")
    vectors, features, worst = subprocess.run(
        [place / "compare"], check=True, capture_output=True, text=True
    ).stdout.split()
    assert (int(vectors), int(features)) == (8, 64)
    assert float(worst) < 1e-3  # of logarithms between -18 and 3


@pytest.mark.parametrize("kind", ["quantizer", "target", "extractor", "stage"])
def test_a_new_package_installs_and_passes_its_own_tests_at_once(home: Home, kind: str) -> None:
    name = f"own-{kind}"
    home.call("flowlab", "plugin", "new", kind, name)
    home.call("python", "-m", "pip", "install", *QUIET, "--no-build-isolation", f"./{name}")
    done = home.call("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", f"{name}/tests")
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout
    assert ", 0 failed" in home.call("flowlab", "plugin", "check", name).stdout


def test_a_new_stage_is_in_the_plan_where_the_config_has_its_section(home: Home) -> None:
    home.call("flowlab", "plugin", "new", "stage", "limits")
    home.call("python", "-m", "pip", "install", *QUIET, "--no-build-isolation", "./limits")
    path = home.work / "limits.yaml"
    path.write_text(CONFIG.format(**PLAIN))
    assert "limits" not in home.call("flowlab", "plan", str(path)).stdout
    path.write_text(CONFIG.format(**PLAIN) + "limits: {spreads: 2.0}\n")
    names = [line.split()[0] for line in home.call("flowlab", "plan", str(path)).stdout.splitlines() if line.split()]
    assert names[names.index("train") :][:3] == ["train", "limits", "quantize"]
    found = json.loads(home.call("flowlab", "run", str(path), "--engine", "local", "--json").stdout)
    assert found["agreement"]["mismatches"] == 0


def test_a_check_that_fails_is_said_and_is_no_success(home: Home) -> None:
    home.call("flowlab", "plugin", "new", "extractor", "lying")
    source = home.work / "lying" / "lying" / "plugin.py"
    source.write_text(source.read_text().replace("return channels, options.parts, 1", "return channels, 1, 1"))
    home.call("python", "-m", "pip", "install", *QUIET, "--no-build-isolation", "./lying")
    said = home.call("flowlab", "plugin", "check", "lying", code=2).stdout
    assert "FAILED       feature extractor 'lying': " in said
    assert "shape() says (1, 1, 1), extract() gives (1, 16, 1)" in said
