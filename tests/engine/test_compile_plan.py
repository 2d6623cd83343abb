"""`flowlab compile` as a plan: what is cached, what is noticed, what lies where afterwards."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks.foreign_onnx import foreign, windows

from flowlab.engine.accuracy import accuracy
from flowlab.engine.compile_model import Asked, Compiled, compile_model
from flowlab.engine.own_code import own_code
from flowlab.engine.session import Silent
from flowlab.engine.store_replay import replay
from flowlab.engine.which_run import which_run
from flowlab.errors import ConfigError, DataError, GateError, StoreError
from flowlab.plugins import load
from flowlab.stages.own.declared import OWN_STAGES, OwnConfig

CATALOGUE = load()
NAMES = [stage.name for stage in OWN_STAGES]
NET = """
from blocks import width
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv1d(2, width(), 5), nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean(-1))
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.onnx").write_bytes(foreign())
    np.save("inputs.npy", windows(60))


def compiled(**changes: Any) -> Compiled:
    values = {"model": Path("mine.onnx"), "target": "F28P55", "calibration": Path("inputs.npy"), **changes}
    return compile_model(Asked(**values), CATALOGUE)


def ran(found: Compiled) -> list[str]:
    return [stage["name"] for stage in found.stages if not stage["cached"]]


def said(found: Compiled) -> dict[str, Any]:
    """What a result says of the network, whenever it was made."""
    left_out = {"run", "folder", "report", "stages"}
    return {key: value for key, value in found.to_json().items() if key not in left_out}


def test_what_is_in_the_store_is_not_done_again_and_one_changed_byte_is_noticed() -> None:
    first = compiled()
    assert ran(first) == NAMES == ["import", "quantize", "validate", "compile", "simulate", "report"]
    second = compiled()
    assert ran(second) == []
    assert said(first) == said(second)
    data = np.load("inputs.npy")
    data[0, 0, 0, 0] = np.nextafter(data[0, 0, 0, 0], 9)
    np.save("inputs.npy", data)
    assert "import" in ran(compiled())
    proto = onnx.load_model_from_string(foreign())
    bias = onnx.numpy_helper.to_array(proto.graph.initializer[1]).copy()
    bias.ravel()[0] += 0.5
    proto.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(bias, proto.graph.initializer[1].name))
    Path("mine.onnx").write_bytes(proto.SerializeToString())
    assert ran(compiled()) == NAMES


def test_a_call_in_which_all_is_cached_imports_nothing_heavy() -> None:
    compiled()
    words = ["compile", "mine.onnx", "--target", "F28P55", "--calibration", "inputs.npy"]
    script = f"import sys, flowlab.cli\nassert flowlab.cli.main({words!r}) == 0\nprint(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert "6 cached" in done.stdout
    loaded = {name.strip("[]' ") for name in done.stdout.splitlines()[-1].split(",")}
    assert "flowlab.cli" in loaded and not {"torch", "onnx", "onnxruntime", "numpy", "prefect", "pyarrow"} & loaded


def test_another_width_shares_what_stands_before_it() -> None:
    compiled()
    assert ran(compiled(bits=4)) == NAMES[1:]
    assert ran(compiled(target="host"))[0] == "quantize"


def test_the_folder_of_a_run_has_the_tree_of_all_runs_and_one_page() -> None:
    found = compiled()
    folder = Path("artifacts/mine/latest")
    assert folder.resolve() == found.folder and found.report == found.folder / "report.html"
    assert {path.name for path in folder.iterdir()} == {"report.html", "layers.csv", "training", "compilation"}
    assert {path.name for path in (folder / "training" / "quantization").iterdir()} == {
        "best_model.onnx", "best_model.pt", "quantization_config.yaml",
    }  # fmt: skip
    call = (folder / "compilation" / "compiler_call.txt").read_text()
    assert "folder with training/quantization/best_model.onnx" in call and "compilation/mod.a" in call
    page = (folder / "report.html").read_text()
    for shown in ("mine.onnx", "same largest output", 'id="layers"', 'id="arena"', 'id="agreement"', "0 mismatches"):
        assert shown in page
    for absent in ('id="training"', 'id="accuracy"', 'id="next"'):
        assert absent not in page
    assert "no accuracy is known" in page and "runs on an open model of it" in page


def test_a_folder_of_the_user_s_gets_copies_whose_texts_name_its_own_places() -> None:
    found = compiled(out=Path("here"))
    call = Path("here/program/compiler_call.txt").read_text()
    assert "folder with best_model.onnx" in call and "program/mod.a" in call
    assert Path("here/report.html").read_bytes() == (found.folder / "report.html").read_bytes()
    assert json.loads(Path("here/report.json").read_text())["run"] == found.run


def test_the_run_is_in_the_list_and_says_what_of_it_there_is_not() -> None:
    found = compiled()
    run = which_run("latest", None, Path("artifacts"))
    assert run.name == found.run and run.dataset == "mine"
    assert run.file("compile", "program", "model.flnp").is_file()
    with pytest.raises(StoreError, match="no stage 'extract': `flowlab compile` made it"):
        run.record("extract")
    with pytest.raises(StoreError, match="no stage 'train'"):
        accuracy(run)
    with pytest.raises(StoreError, match="has no config to replay: `flowlab compile` made it"):
        replay(run.name, None, Path("artifacts"), data=None, catalogue=CATALOGUE, watch=Silent())
    kept = json.loads(Path(f"artifacts/.store/runs/{run.name}/run.json").read_text())
    assert (kept["state"], kept["model"], kept["device"]) == ("Completed", "mine.onnx", "F28P55")
    assert kept["config"]["compile"]["calibration"] == "inputs.npy" and kept["sizes"]["packed_bytes"] > 0


def test_what_is_required_and_did_not_run_fails_the_run() -> None:
    with pytest.raises(GateError, match="--require emulated core did not run here: no open compiler"):
        compiled(require=("emulated core",))
    with pytest.raises(ConfigError, match="no execution named 'emulated cor'"):
        compiled(require=("emulated cor",))


def test_integers_of_another_tool_s_are_cached_and_have_a_page_too() -> None:
    compiled(out=Path("here"))
    first, second = (compiled(model=Path("here/best_model.onnx")) for _ in range(2))
    assert ran(second) == [] and first.folder.parent.name == "best_model"
    page = first.report.read_text() if first.report else ""
    assert "windows equal to the file" in page and "equal to the file in ONNX Runtime in all of" in page
    assert "The quantized ONNX does not shrink" not in page and "float32</th>" not in page
    assert (first.folder / "training/quantization/best_model.onnx").read_bytes() == Path(
        "here/best_model.onnx"
    ).read_bytes()


@pytest.fixture
def _modules() -> Any:
    yield
    for name in ("nets", "blocks"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("_modules")
def test_a_change_in_the_user_s_own_code_is_noticed_wherever_it_stands() -> None:
    Path("nets.py").write_text(NET)
    Path("blocks.py").write_text("def width():\n    return 8\n")
    data = windows(60)[..., 0]
    np.save("series.npy", data)
    torch.manual_seed(0)
    states = {"conv.weight": torch.randn(8, 2, 5), "conv.bias": torch.zeros(8), "fc.weight": torch.randn(4, 8)}
    file = io.BytesIO()
    torch.save({**states, "fc.bias": torch.zeros(4)}, file)
    Path("net.pt").write_bytes(file.getvalue())
    own = {"model": Path("net.pt"), "calibration": Path("series.npy"), "module": "nets:Net"}
    first = compiled(**own)
    assert ran(compiled(**own)) == []
    Path("blocks.py").write_text("def width():\n    return 4 + 4\n")
    again = compiled(**own)
    assert ran(again) == ["import"]  # the same network: what follows has the same inputs
    Path("nets.py").write_text(NET.replace(".relu()", ".clamp(0, 1)"))
    other = compiled(**own)
    assert {"import", "quantize", "compile"} <= set(ran(other)) and other.error != first.error


def test_own_code_is_all_that_is_imported_but_installed_packages() -> None:
    Path("pack/inner").mkdir(parents=True)
    for name, text in (
        ("pack/__init__.py", "from .inner import part"),
        ("pack/inner/__init__.py", ""),
        ("pack/inner/part.py", "import json, torch\nfrom other import thing"),
        ("other.py", "thing = 1"),
        ("unseen.py", ""),
    ):
        Path(name).write_text(text)
    found = own_code("pack.inner.part:make")
    assert set(found.files) == {"pack", "pack.inner", "pack.inner.part", "other"}
    assert found.libraries == {"torch": torch.__version__.partition("+")[0]} or set(found.libraries) == {"torch"}
    assert own_code("nowhere:Net").files == {}
    Path("other.py").write_text("def (")
    with pytest.raises(ConfigError, match=r"other\.py cannot be imported"):
        own_code("pack:make")


def test_a_file_whose_name_cannot_be_kept_is_refused() -> None:
    odd = Path(os.fsdecode(b"\xff.onnx"))
    odd.write_bytes(foreign())
    with pytest.raises(DataError, match="holds what cannot be printed; rename the file"):
        compiled(model=odd)
    assert not Path("artifacts").exists()


@pytest.mark.parametrize(
    ("model", "name"), [("mine.onnx", "mine"), (".onnx", "onnx"), ("latest.pt", "network"), ("...", "network")]
)
def test_runs_are_kept_under_the_file_s_name(model: str, name: str) -> None:
    assert OwnConfig(model, "host").dataset_name == name
