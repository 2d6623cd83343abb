"""A stranger's stage and a stranger's watcher, really built and installed: in a plan, in runs on every engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.system.test_third_party import PACKAGES, copied, install

SECRET = "hook-s3cret"
CONFIG = """\
common: {task_type: generic_timeseries_classification, target_device: F28P55}
dataset:
  dataset_name: {name: gearbox, loads: [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5]}
data_processing_feature_extraction: {data_proc_transforms: [SimpleWindow], frame_size: 64, variables: 1, stride_size: 1}
training: {model_name: CLS_1k_NPU, training_epochs: 3, batch_size: 8, quantization: 2, quantization_method: PTQ}
compilation: {enable: false}
"""
STAGES = ["ingest", "extract", "inspect", "train", "quantize", "validate", "report"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, sources = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("src")
    install(folder, *(copied(PACKAGES / name, sources) for name in ("gearbox", "pruning", "webhook")))
    return folder


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without the packages that this is about."""
    folder = tmp_path_factory.mktemp("without")
    install(folder, copied(PACKAGES / "gearbox", tmp_path_factory.mktemp("src2")))
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "gear.yaml").write_text(CONFIG)
    (folder / "pruning.yaml").write_text("pruning:\n  amount: 0.5\n")
    return folder


def flowlab(site: Path, project: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.run(
        [sys.executable, "-m", "flowlab.cli", *words],
        env={**outside, "PYTHONPATH": str(site), "no_proxy": "127.0.0.1", **environment},
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def run(site: Path, project: Path, *words: str, **environment: str) -> dict[str, Any]:
    done = flowlab(site, project, "run", *words, "--json", **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def plan(site: Path, project: Path, *words: str) -> dict[str, dict[str, Any]]:
    done = flowlab(site, project, "plan", *words, "--json")
    assert done.returncode == 0, done.stderr
    return {one["name"]: one for one in json.loads(done.stdout)["stages"]}


def cached(result: Mapping[str, Any]) -> dict[str, bool]:
    return {one["name"]: one["cached"] for one in result["stages"]}


@pytest.mark.parametrize("name", ["pruning", "webhook"])
def test_the_packages_own_tests_pass_where_it_is_installed(name: str, site: Path, tmp_path: Path) -> None:
    tests = copied(PACKAGES / name / "tests", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("name", ["pruning", "webhook"])
def test_the_packages_are_small_and_say_what_they_are(name: str) -> None:
    sources = list((PACKAGES / name).glob("flowlab_*/*.py"))
    assert 0 < sum(len(path.read_text().splitlines()) for path in sources) <= 150
    assert (PACKAGES / name / "README.md").read_text().startswith(f"# flowlab-{name}\n")


def test_pruning_runs_between_train_and_quantize_and_only_where_it_is_asked_for(
    site: Path, without: Path, project: Path
) -> None:
    plain = run(without, project, "gear.yaml", "--engine", "local")
    assert list(cached(plain)) == STAGES
    assert cached(run(site, project, "gear.yaml", "--engine", "local")) == dict.fromkeys(STAGES, True), "installing"
    foreseen = plan(site, project, "gear.yaml", "pruning.yaml")
    assert [name for name, one in foreseen.items() if one["state"] == "cached"] == STAGES[:4]
    pruned = run(site, project, "gear.yaml", "pruning.yaml", "--engine", "local")
    assert list(cached(pruned)) == ["ingest", "extract", "inspect", "train", "prune", "quantize", "validate", "report"]
    assert [name for name, hit in cached(pruned).items() if hit] == STAGES[:4]
    before, after = (weights(one) for one in (plain, pruned))
    assert before.keys() == after.keys()
    for name, value in after.items():
        if value.ndim >= 2:
            assert int((value == 0).sum()) >= value.numel() // 2, name
            assert torch.equal(value[value != 0], before[name][value != 0])
        else:
            assert torch.equal(value, before[name])
    assert any("weights are zero now" in text for text in pruned["warnings"])
    assert integer_zeros(pruned) >= 0.45 > integer_zeros(plain)
    again = plan(site, project, "gear.yaml", "pruning.yaml", "--set", "pruning.amount=0.4")
    assert [name for name, one in again.items() if one["state"] == "cached"] == STAGES[:4]
    assert again["prune"]["reason"] == "options.amount: 0.5 -> 0.4"
    assert all(cached(run(without, project, "gear.yaml", "--engine", "local")).values()), "uninstalling"


def weights(result: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    (file,) = result["artifacts"]["float_model"]
    found: dict[str, torch.Tensor] = torch.load(file["path"], weights_only=True)
    return found


def integer_zeros(result: Mapping[str, Any]) -> float:
    """The share of zeros among the quantized weights."""
    (file,) = result["artifacts"]["quantized_weights"]
    found = torch.load(file["path"], weights_only=True)
    all_of = [value for name, value in found.items() if isinstance(value, torch.Tensor) and name.endswith("weight")]
    assert all_of, sorted(found)
    return sum(int((value == 0).sum()) for value in all_of) / sum(value.numel() for value in all_of)


def test_a_misspelt_key_of_the_section_is_answered_with_file_line_and_suggestion(site: Path, project: Path) -> None:
    (project / "wrong.yaml").write_text("pruning:\n  amuont: 0.5\n")
    done = flowlab(site, project, "plan", "gear.yaml", "wrong.yaml")
    assert done.returncode == 2
    assert (
        done.stderr == "flowlab: wrong.yaml, pruning, line 2: no key 'amuont'. Did you mean 'amount'? "
        "Known: amount, scope, after\n"
    )


def test_the_section_without_its_package_is_refused(without: Path, project: Path) -> None:
    done = flowlab(without, project, "plan", "gear.yaml", "pruning.yaml")
    assert done.returncode == 2
    assert "pruning.yaml, line 1: no section 'pruning'" in done.stderr
    assert "Traceback" not in done.stderr


class Hook(HTTPServer):
    """A webhook on this machine."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taking)
        self.got: list[dict[str, Any]] = []
        self.address = f"http://127.0.0.1:{self.server_port}/{SECRET}"

    def events(self) -> list[str]:
        return [f"{one['event']} {one.get('stage', '')}".strip() for one in self.got]


class Taking(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Hook)
        self.server.got.append(json.loads(content))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *words: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_webhook_gets_every_run_on_every_engine_and_its_address_stays_secret(
    site: Path, project: Path, hook: Hook
) -> None:
    told: dict[str, list[str]] = {}
    output = ""
    for engine in ("local", "prefect"):
        words = ("run", "gear.yaml", "--json", "--engine", engine, "--store", f"store-{engine}")
        for turn in ("made", "cached"):
            done = flowlab(site, project, *words, FLOWLAB_WEBHOOK_URL=hook.address)
            assert done.returncode == 0, done.stderr[-3000:]
            output += done.stdout + done.stderr
            told[f"{engine} {turn}"] = hook.events()
            ends = [one for one in hook.got if one["event"] == "after_stage"]
            assert {one["stage"]: one["cached"] for one in ends} == dict.fromkeys(STAGES, turn == "cached")
            run_name = json.loads(done.stdout)["run"]
            assert {one["run"] for one in hook.got} == {run_name}
            assert (hook.got[-1]["event"], hook.got[-1]["state"]) == ("after_run", "Completed")
            hook.got.clear()
    for events in told.values():
        assert (events[0], events[-1]) == ("before_run", "after_run")
        assert sorted(events[1:-1]) == sorted(
            f"{at} {name}" for name in STAGES for at in ("before_stage", "after_stage")
        )
        for name in STAGES:
            assert events.index(f"before_stage {name}") < events.index(f"after_stage {name}")
    assert SECRET not in output
    files = [path for path in project.rglob("*") if path.is_file()]
    assert files
    assert [str(path) for path in files if SECRET.encode() in path.read_bytes()] == []


def test_a_webhook_that_does_not_answer_is_named_once_and_stops_nothing(site: Path, project: Path) -> None:
    dead = f"http://127.0.0.1:1/{SECRET}"
    done = flowlab(site, project, "run", "gear.yaml", "--engine", "local", FLOWLAB_WEBHOOK_URL=dead)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "flowlab-webhook" in line]
    assert said == [
        "warning: package flowlab-webhook: flowlab_before_run raises RuntimeError: the webhook of "
        "FLOWLAB_WEBHOOK_URL does not answer (ConnectionRefusedError); it gets no more of this run; the run goes on"
    ]
    assert SECRET not in done.stdout + done.stderr
