"""Networks that were trained elsewhere, and everything that can be wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
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
    return compile_model(Asked(target=target, **values), CATALOGUE, lambda text: None)


def test_a_foreign_network_runs_in_every_way_on_the_device_s_core(tmp_path: Path) -> None:
    found = compiled(tmp_path, foreign(), windows())
    assert found.executions == ("ONNX Runtime", "interpreter", "simulator", "host C", "emulated core")
    assert found.agree is not None and found.agree >= 0.95 and found.error < 0.06
    assert found.npu_share == 1.0 and (found.calibrated, found.windows) == (64, 32)
    assert found.measured["emulated core"]["instructions"] > 1000
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"best_model.onnx", "report.json", "program"}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["executions"] == list(found.executions) and report["rows"][0]["name"] == "c1"
    container = parse((tmp_path / "out" / "program" / "model.flnp").read_bytes())
    assert container.golden is not None and len(container.golden.features) == 8
    assert "relative error" in "\n".join(found.lines())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npy", "model.onnx", "out"]


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


# --- what cannot be -------------------------------------------------------------------------------


def refused(folder: Path, kind: type[FlowlabError], said: str, model: bytes, data: Any, **changes: Any) -> None:
    with pytest.raises(kind, match=said):
        compiled(folder, model, data, **changes)
    assert not (folder / "out").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["data.npy", "model.onnx"]


def test_an_operation_that_cannot_be_expressed_is_named(tmp_path: Path) -> None:
    tail = [helper.make_node("Einsum", ["logits"], ["y"], "odd", equation="nc->nc")]
    said = r"model\.onnx: ONNX node 'y' \(Einsum\): this operation cannot be imported"
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


def test_pickles_are_never_read(tmp_path: Path) -> None:
    import io

    file = io.BytesIO()
    np.save(file, np.array([print], object), allow_pickle=True)
    refused(tmp_path, DataError, "allow_pickle", foreign(), file.getvalue())


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
    refused(tmp_path / "second", GraphError, "network of integers already", integers, windows())
    proto = onnx.load_model_from_string(foreign())
    proto.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", CLASSES]))
    (tmp_path / "third").mkdir()
    refused(tmp_path / "third", GraphError, "has the inputs x, z", proto.SerializeToString(), windows())
    with pytest.raises(DataError, match=r"No such file or directory\. Give an ONNX file"):
        compile_model(Asked(tmp_path / "none", "host", tmp_path / "none", tmp_path / "out"), CATALOGUE, print)


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
