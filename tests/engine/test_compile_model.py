"""Networks that were trained elsewhere, and everything that can be wrong with them."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks.foreign_onnx import CLASSES, foreign, windows
from onnx import TensorProto, helper

from flowlab.compiler.program import parse
from flowlab.engine.compile_model import Asked, Compiled, compile_model
from flowlab.errors import ConfigError, DataError, FlowlabError, GraphError, OptionError, QuantizationError
from flowlab.plugins import load
from flowlab_tinpu.simulator import simulate

CATALOGUE = load()


def compiled(folder: Path, model: bytes, data: Any, target: str = "AM13E2", **changes: Any) -> Compiled:
    (folder / "model.onnx").write_bytes(model)
    if isinstance(data, np.ndarray):
        np.save(folder / "data.npy", data)
    else:
        (folder / "data.npy").write_bytes(data)
    values = {"model": folder / "model.onnx", "calibration": folder / "data.npy", "out": folder / "out", **changes}
    return compile_model(Asked(target=target, artifacts=folder / "artifacts", **values), CATALOGUE)


def test_a_foreign_network_runs_in_every_way_on_the_device_s_core(tmp_path: Path) -> None:
    found = compiled(tmp_path, foreign(), windows())
    assert found.executions == ("ONNX Runtime", "interpreter", "simulator", "host C", "emulated core")
    assert found.agree is not None and found.agree >= 0.95 and found.error < 0.06
    assert found.npu_share == 1.0 and (found.calibrated, found.windows) == (64, 32)
    assert found.measured["emulated core"]["instructions"] > 1000
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "best_model.onnx", "layers.csv", "report.html", "report.json", "program",
    }  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["executions"] == list(found.executions) and report["rows"][0]["name"] == "c1"
    container = parse((tmp_path / "out" / "program" / "model.flnp").read_bytes())
    assert container.golden is not None and len(container.golden.features) == 8
    assert "relative error" in "\n".join(found.lines())
    assert "runs on an open model of it" in report["silicon"] and report["silicon"] in "\n".join(found.lines())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts", "data.npy", "model.onnx", "out"]


def layers_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "out" / "layers.csv").read_text(encoding="utf-8"))))


def test_three_costs_stand_apart_in_lines_report_and_table(tmp_path: Path) -> None:
    found = compiled(tmp_path, foreign(), windows(), "F28P55")
    lines = "\n".join(found.lines())
    assert re.search(r"^costs       model NPU [\d,]+ cycles; estimate [\d,]+ ± \d+ % cycles of TI's code", lines, re.M)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["costs"]["model"]["cycles"] == sum(report["costs"]["model"]["by_layer"].values())
    assert report["costs"]["estimate"]["figures"] == 11
    table = layers_of(tmp_path)
    assert [row["layer"] for row in table] == [*(row["name"] for row in report["rows"]), "total"]
    assert table[-1]["model_cycles"] == str(report["costs"]["model"]["cycles"])
    assert max(int(row["live_bytes"]) for row in table[:-1]) == report["arena"]["size"]
    assert all(0 < float(row["utilisation_percent"]) <= 100 for row in table if row["utilisation_percent"])


def test_instructions_of_the_core_stand_in_the_table(tmp_path: Path) -> None:
    found = compiled(tmp_path, foreign(), windows(), "MSPM0G3507", bits=4)
    table = layers_of(tmp_path)
    assert all(int(row["instructions"]) > 0 for row in table if row["macs"] != "0")
    assert {row["model_cycles"] for row in table} == {""}
    said = next(line for line in found.lines() if line.startswith("costs"))
    assert "no estimate of TI's code on the MSPM0G3507's Cortex-M0+: no public data of weights of 4 bits" in said


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("target", ["F28P55", "MSPM0G3507", "host"])
def test_every_width_on_devices_of_every_kind(target: str, bits: int, tmp_path: Path) -> None:
    found = compiled(tmp_path, foreign(), windows(), target, bits=bits)
    assert found.error < {8: 0.06, 4: 0.3, 2: 0.9}[bits]
    missing = [one["reason"] for one in found.not_run]
    assert missing == (["no open compiler or emulator for C28x"] if target == "F28P55" else [])


def test_a_network_of_series_is_the_same_as_one_of_pictures_of_width_one(tmp_path: Path) -> None:
    programs = []
    for series in (True, False):
        folder = tmp_path / str(series)
        folder.mkdir()
        found = compiled(folder, foreign(series=series), windows(series=series))
        assert found.agree is not None and found.agree >= 0.95
        data = (folder / "out" / "program" / "model.flnp").read_bytes()
        programs.append(simulate(data, windows(20, seed=2), trace=False))
    (name,) = programs[0]
    assert np.array_equal(programs[0][name], programs[1][name])


@pytest.mark.parametrize("ends", ["Softmax", "LogSoftmax"])
def test_a_softmax_at_the_end_is_left_out_and_said(ends: str, tmp_path: Path) -> None:
    found = compiled(tmp_path, foreign(ends=ends), windows())
    assert any(f"ends in {ends}, which is left out" in one for one in found.warnings)
    assert found.agree is not None and found.agree >= 0.95


def test_outputs_may_be_real_numbers_and_options_are_the_device_s(tmp_path: Path) -> None:
    found = compiled(tmp_path, foreign(), windows(), output_int=False, options={"kernels": "size"})
    assert found.error < 0.06
    program = tmp_path / "out" / "program"
    assert "windows(" in (program / "model.c").read_text() and "float y[4]" in (program / "model.h").read_text()


def test_scales_come_from_a_sample_of_all_windows_and_others_are_tested(tmp_path: Path) -> None:
    """Quiet windows first: the first ones alone would clip all the others."""
    data = windows(900)
    data[:600] *= 0.02
    found = compiled(tmp_path, foreign(), data, "host")
    assert (found.calibrated, found.windows) == (512, 256)
    assert found.error < 0.06


def test_too_few_windows_to_keep_some_apart_are_said(tmp_path: Path) -> None:
    found = compiled(tmp_path, foreign(), windows(12), "host")
    assert found.windows == found.calibrated == 12
    assert any("12 windows are too few to keep some apart" in one for one in found.warnings)


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        compiled(tmp_path / name, foreign(), windows(), bits=4)
        made.append((tmp_path / name / "out" / "program" / "model.flnp").read_bytes())
    assert made[0] == made[1]


def from_torch(module: torch.nn.Module, shape: tuple[int, ...], batch: int, opset: int) -> bytes:
    """What torch's exporter writes by default: a fixed batch, names and constants of its own."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls itself legacy
        torch.onnx.export(module.eval(), (torch.randn(batch, *shape),), file, opset_version=opset, dynamo=False)
    return file.getvalue()


class Mean(torch.nn.Module):
    """The average over a series, as scripts write it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(-1)


@pytest.mark.parametrize("opset", [13, 17, 18])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("series", [True, False])
def test_what_torch_exports_runs(series: bool, batch: int, opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    conv, norm, pool, size = (
        (torch.nn.Conv1d, torch.nn.BatchNorm1d, torch.nn.MaxPool1d(3, 2, 1), lambda one: one)
        if series
        else (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.MaxPool2d((3, 1), (2, 1), (1, 0)), lambda one: (one, 1))
    )
    end = Mean() if series else torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    network = torch.nn.Sequential(
        conv(2, 8, size(5), size(2)), norm(8), torch.nn.ReLU6(), pool, conv(8, 16, size(3), groups=2), norm(16),
        torch.nn.ReLU(), end, torch.nn.Linear(16, CLASSES), torch.nn.Softmax(1),
    )  # fmt: skip
    data = windows(120, series=series)
    with torch.no_grad():
        network.train()(torch.from_numpy(data))
    found = compiled(tmp_path, from_torch(network, data.shape[1:], batch, opset), data, "MSPM0G3507")
    assert found.error < 0.12 and found.agree is not None and found.agree >= 0.9


# --- what cannot be -------------------------------------------------------------------------------


def nothing_for_people(folder: Path) -> bool:
    """Whether there is nothing but the store beside what was given."""
    names = {path.name for path in folder.iterdir()} - {"data.npy", "model.onnx"}
    return names <= {"artifacts"} and {path.name for path in folder.glob("artifacts/*")} <= {".store"}


def refused(folder: Path, kind: type[FlowlabError], said: str, model: bytes, data: Any, **changes: Any) -> None:
    with pytest.raises(kind, match=said):
        compiled(folder, model, data, **changes)
    assert not (folder / "out").exists()
    assert nothing_for_people(folder)


def test_an_operation_that_cannot_be_expressed_is_named(tmp_path: Path) -> None:
    tail = [helper.make_node("Einsum", ["logits"], ["y"], "odd", equation="nc->nc")]
    said = r"model\.onnx: ONNX node 'y' \(Einsum, named 'odd'\): this operation cannot be imported"
    refused(tmp_path, GraphError, said, foreign(tail=tail), windows())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (np.zeros((4, 7), np.float32), r"float32 of shape \(4, 7\)\. Give float32 of shape \(windows, 2, 64, 1\)"),
        (np.zeros((0, 2, 64, 1), np.float32), "holds no window"),
        (np.full((4, 2, 64, 1), np.nan, np.float32), "window 0 holds NaN"),
        (np.array([["a"]]), "of shape"),
        (b"", r"Give float32 of shape \(windows, 2, 64, 1\) as a \.npy file"),
        (b"\x80\x04.", r"as a \.npy file"),
        (b"PK\x03\x04 no zip", r"as a \.npy file"),
    ],
)
def test_windows_that_are_none_are_refused(data: Any, said: str, tmp_path: Path) -> None:
    refused(tmp_path, DataError, said, foreign(), data)


@pytest.mark.parametrize(
    ("shape", "series"), [((60, 64, 2), True), ((60, 64, 2, 1), False), ((60, 128), False), ((60, 2, 8, 8), False)]
)
def test_windows_of_another_order_are_not_taken_for_the_network_s(
    shape: tuple[int, ...], series: bool, tmp_path: Path
) -> None:
    data = np.ones(shape, np.float32)
    refused(tmp_path, DataError, r"Give float32 of shape \(windows, 2, 64, 1\)", foreign(series=series), data)


def header(text: str) -> bytes:
    """A `.npy` file that is nothing but its header."""
    padded = text.encode() + b" " * (118 - len(text) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


@pytest.mark.parametrize(
    "shape", ["(1000000000000,)", "(1000000000,2,64,1)", f"({2**70},)", "(True,1,64)", "-" * 300, "(-4,2,64,1)"]
)
def test_headers_that_promise_what_is_not_there_ask_for_no_memory(shape: str, tmp_path: Path) -> None:
    data = header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}")
    refused(tmp_path, DataError, r"data\.npy: ", foreign(), data)


def archive(name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.txt", b"text"), ("a.npy", b"no array"), ("a.npy", header("{'descr': '|O', 'shape': (1,)}")),
     ("a.npy", bytes(1 << 20))],
)  # fmt: skip
def test_archives_that_hold_no_array_are_refused(name: str, data: bytes, tmp_path: Path) -> None:
    refused(tmp_path, DataError, r"data\.npy: ", foreign(), archive(name, data))


def changed(change: Any, **options: Any) -> bytes:
    """A network's file with something changed in it."""
    proto = onnx.load_model_from_string(foreign(**options))
    change(proto)
    data: bytes = proto.SerializeToString()
    return data


def outside(proto: Any) -> None:
    weight = proto.graph.initializer[0]
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "../../../etc/passwd"
    weight.ClearField("raw_data")


def grown(proto: Any) -> None:
    next(one for one in proto.graph.node[0].attribute if one.name == "pads").ints[0] = 4_000_000


def hidden(proto: Any) -> None:
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                names[at] = "r\n1" if name == "r1" else name


def infinite(proto: Any) -> None:
    for weight in proto.graph.initializer[:2]:
        values = np.full(list(weight.dims), 3e37, np.float32)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))


def crossed(proto: Any) -> None:
    nodes = [helper.make_node("Clip", ["c1", "high", "low"], ["r1"])]
    del proto.graph.node[1]
    proto.graph.node.insert(1, nodes[0])
    for name, value in (("high", 3.0), ("low", -1.0)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(value).reshape(()), name))


def bracketed(proto: Any) -> None:
    entry = proto.metadata_props.add()
    entry.key, entry.value = "flowlab.values", "[" * 200_000


@pytest.mark.parametrize("series", [True, False])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (outside, "lies in another file"),
        (grown, "numbers a window; a microcontroller holds at most"),
        (hidden, r"holds what cannot be printed: rename the tensor"),
        (infinite, "of the float network is NaN or infinite on its own inputs|accumulator|outlier|scale"),
        (crossed, r"\(Clip\): clips to 3 \.\. -1"),
        (bracketed, "metadata 'flowlab.values' is no JSON object"),
    ],
)
def test_networks_that_are_hostile_or_meaningless_are_refused(
    change: Any, said: str, series: bool, tmp_path: Path
) -> None:
    refused(tmp_path, FlowlabError, said, changed(change, series=series), windows(series=series))


@pytest.mark.parametrize("name", ["int", "float", "a b", "9", "x" * 3000, "*/ evil", '"quoted"', "weiß"])
def test_names_that_c_cannot_have_are_no_matter(name: str, tmp_path: Path) -> None:
    def rename(proto: Any) -> None:
        proto.graph.output[0].name = proto.graph.node[-1].output[0] = name

    found = compiled(tmp_path, changed(rename), windows(), "host")
    assert found.error < 0.06


def test_pickles_are_never_read(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.array([print], object), allow_pickle=True)
    refused(tmp_path, DataError, "Python objects", foreign(), file.getvalue())


@pytest.mark.parametrize("model", [b"", b"no model", b"\x08\x08"])
def test_a_file_that_is_no_model_is_refused(model: bytes, tmp_path: Path) -> None:
    refused(tmp_path, GraphError, r"model\.onnx: ", model, windows())


def test_every_truncation_and_many_flipped_bits_end_in_an_error_of_ours(tmp_path: Path) -> None:
    whole = foreign()
    random = np.random.default_rng(0)
    broken = [whole[: int(at)] for at in random.integers(1, len(whole), 20)]
    for at in random.integers(0, 600, 30):
        bent = bytearray(whole)
        bent[at] ^= 1 << int(random.integers(8))
        broken.append(bytes(bent))
    for number, model in enumerate(broken):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            compiled(folder, model, windows(24), "host")
        except FlowlabError as error:
            assert str(error)


def test_integers_two_inputs_and_a_model_that_is_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    compiled(tmp_path / "first", foreign(), windows())
    integers = (tmp_path / "first" / "out" / "best_model.onnx").read_bytes()
    (tmp_path / "second").mkdir()
    found = compiled(tmp_path / "second", integers, windows())
    assert "in all of" in found.integers
    for changes, said in (({"bits": 4}, "--bits 4"), ({"output_int": False}, "--real-outputs")):
        folder = tmp_path / said.strip("-")[:4]
        folder.mkdir()
        refused(folder, OptionError, f"{said}.* is a network of integers", integers, windows(), **changes)
    proto = onnx.load_model_from_string(foreign())
    proto.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", CLASSES]))
    (tmp_path / "third").mkdir()
    refused(tmp_path / "third", GraphError, "has the inputs x, z", proto.SerializeToString(), windows())
    with pytest.raises(DataError, match=r"No such file or directory\. Give an ONNX file"):
        compile_model(Asked(tmp_path / "none", "host", tmp_path / "none", artifacts=tmp_path / "artifacts"), CATALOGUE)
    assert not (tmp_path / "artifacts").exists()


def test_widths_devices_options_and_folders_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, OptionError, "--bits 3: weights have 8, 4, 2 bits", foreign(), windows(), bits=3)
    refused(tmp_path, FlowlabError, "no target named 'F28P5'.*F28P55", foreign(), windows(), target="F28P5")
    refused(tmp_path, FlowlabError, "kernels", foreign(), windows(), options={"kernels": "fast"})
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="is there already"):
        compiled(tmp_path, foreign(), windows(), out=tmp_path / "there")


def test_a_network_that_eight_bits_cannot_hold_is_refused(tmp_path: Path) -> None:
    data = windows()
    data[0, 0, 0, 0] = 1e9
    refused(tmp_path, QuantizationError, "an outlier of 1e", foreign(), data)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing_behind_but_finished_stages(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(foreign())
    np.save(tmp_path / "data.npy", windows())
    words = ["compile", "model.onnx", "--target", "AM13E2", "--calibration", "data.npy", "--out", "deep/out"]
    with subprocess.Popen(
        [sys.executable, "-m", "flowlab.cli", *words], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("artifacts/.store/runs/*/run.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        assert process.stderr is not None
        said = process.stderr.read().decode()
    # a shell shows both as 130; where the signal met code inside exec(), Python ends by SIGINT itself
    assert process.returncode in (130, -signal.SIGINT)
    assert said == "flowlab: stopped. Finished stages are in the store: the next run goes on from there.\n"
    assert nothing_for_people(tmp_path)
    (run,) = tmp_path.glob("artifacts/.store/runs/*/run.json")
    assert json.loads(run.read_text())["state"] == "Failed"
    assert [*tmp_path.glob("artifacts/.store/tmp/*")] == []
