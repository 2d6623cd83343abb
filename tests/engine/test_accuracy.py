"""Where a run's accuracy went: from its files alone, and what is said of files that are not what they should be."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks.tones import tones
from networks.training import outputs, quantize_job, trained

from flowlab import cli
from flowlab.canonical import digest
from flowlab.compiler import interpreter
from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.text import print_graph
from flowlab.engine.accuracy import Accuracy, accuracy
from flowlab.engine.which_run import which_run
from flowlab.errors import DataError, FlowlabError, GraphError, StoreError
from flowlab.learn.problems import classify
from flowlab.quant.ptq import post_training
from flowlab.signal import features_file
from flowlab.store.records import Record, Stored
from flowlab.store.store import Store

FEATURES, LABELS = tones(300, 9)
RUN = "20260101T000000Z-aaaa"
STAGES = ("extract", "train", "quantize", "simulate")


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


@cache
def files(bits: int = 2) -> Mapping[tuple[str, str], bytes]:
    """What a run of a small network keeps, by stage and role."""
    job = quantize_job(trained(), weight_bits=bits)
    graph = job.graph if not bits else post_training(job, "test").graph
    return {
        ("train", "float_onnx"): export_onnx(job.graph, {}),
        ("quantize", "graph"): print_graph(graph).encode(),
        ("quantize", "quantized_onnx"): export_onnx(graph, {}),
        ("simulate", "outputs"): npz(**interpreter.outputs(graph, FEATURES)),
    }


@cache
def float_files() -> Mapping[tuple[str, str], bytes]:
    graph = quantize_job(trained()).graph
    return {
        ("train", "float_onnx"): export_onnx(graph, {}),
        ("quantize", "graph"): print_graph(graph).encode(),
        ("quantize", "quantized_onnx"): export_onnx(graph, {}),
        ("simulate", "outputs"): npz(**interpreter.outputs(graph, FEATURES)),
    }


def features(folder: Path, count: int = 300, features: np.ndarray = FEATURES) -> bytes:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "features_test.arrow"
    whole = np.zeros(count, np.int64)
    meta = {"classes": ["a", "b", "c"], "provenance": "tones", "split": "test"}
    features_file.write(path, features[:count], LABELS[:count], whole.astype(np.int32), whole, meta)
    return path.read_bytes()


def record(store: Store, stage: str, made: Mapping[str, bytes], **more: Any) -> str:
    named = {role: {role: Stored(*store.objects.add_bytes(data))} for role, data in made.items()}
    options = {"problem": "classification", "weight_bits": 2, "activation_bits": 8, "epochs": 0}
    document = {"options": options, "plugins": {"quantizer": {"name": "test"}}, **more.pop("document", {})}
    document["stage"] = stage
    store.records.create(Record(stage, digest(document), document, named, **more))
    return digest(document)


def write(
    root: Path,
    contents: Mapping[tuple[str, str], bytes],
    stages: tuple[str, ...] = STAGES,
    metrics: Mapping[str, Mapping[str, Any]] | None = None,
    **more: Any,
) -> Store:
    """A store with one run of these files."""
    store = Store(root / "artifacts" / ".store")
    right = classify(outputs(trained(), FEATURES), LABELS)
    said: dict[str, Mapping[str, Any]] = {
        "extract": {"counts": {"train": 400, "val": 200, "test": 300}},
        "train": {"test": right},
        "quantize": {"quantization": {"method": "PTQ", "weight_bits": 2}},
        "simulate": {"agreement": {"executions": [{"name": "simulator"}]}},
        **(metrics or {}),
    }
    whole = {("extract", "features_test"): features(root / "features"), **contents}
    fingerprints = {
        stage: record(
            store, stage, {role: data for (of, role), data in whole.items() if of == stage}, metrics=said[stage], **more
        )
        for stage in stages
    }
    store.runs.write(RUN, "tones", "Completed", stages=fingerprints)
    return store


def found(root: Path) -> Accuracy:
    return accuracy(which_run("latest", None, root / "artifacts"))


def test_the_steps_sum_to_the_whole_loss(tmp_path: Path) -> None:
    write(tmp_path, files())
    said = found(tmp_path)
    assert said.steps[0].kind == "reported"
    assert [step.kind for step in said.steps[-2:]] == ["export", "program"]
    shipped = np.load(io.BytesIO(files()["simulate", "outputs"]))["output"]
    assert said.steps[-1].value == classify(shipped, LABELS)["accuracy"]
    lost = [step.windows for step in said.steps]
    assert sum(one or 0 for one in lost) == said.wrong - said.right == round(said.lost * 300) > 10  # type: ignore[operator]
    assert sum(step.lost for step in said.steps) == pytest.approx(said.lost, abs=1e-12)
    assert said.change.set == "training.quantization_method=QAT"


def test_it_is_one_json_object_and_lines_for_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, files())
    monkeypatch.chdir(tmp_path)
    assert cli.main(["accuracy", "latest", "--json"]) == 0
    value = json.loads(capsys.readouterr().out, parse_constant=lambda text: pytest.fail(text))
    assert value["split"] == "test"
    assert value["windows"] == 300
    assert value["float"] - value["shipped"] == value["lost"]
    assert {one["layer"] for one in value["layers"]} >= {"1", "5", "10"}
    assert value["change"]["set"] == "training.quantization_method=QAT"
    assert cli.main(["accuracy", RUN]) == 0
    text = capsys.readouterr().out
    assert "accuracy on the test split, 300 windows" in text
    assert "5: weights in 2 bits" in text
    assert "most likely to help: --set training.quantization_method=QAT" in text


def test_a_float_run_loses_nothing_and_says_why(tmp_path: Path) -> None:
    write(tmp_path, float_files(), metrics={"quantize": {"quantization": {"method": "none"}}})
    said = found(tmp_path)
    assert [step.kind for step in said.steps] == ["reported", "export", "program"]
    assert said.lost == 0
    assert said.layers == ()
    assert said.change.set is None
    assert "nothing is quantized: the float network ships" in said.notes


def test_a_run_that_ended_before_its_program_says_so(tmp_path: Path) -> None:
    write(tmp_path, files(), stages=STAGES[:3], metrics={"train": {"test": None}})
    said = found(tmp_path)
    assert said.steps[0].kind == "float"
    assert said.steps[-1].kind == "export"
    assert any("no simulated program" in note for note in said.notes)
    assert any("did not measure its float network" in note for note in said.notes)


def test_a_run_that_measured_another_float_network_shows_the_difference_as_a_step(tmp_path: Path) -> None:
    write(tmp_path, files(), metrics={"train": {"test": {"accuracy": 0.5}}})
    first, second = found(tmp_path).steps[:2]
    assert (first.kind, second.kind) == ("reported", "float")
    assert second.lost < -0.2


def other(key: tuple[str, str], data: bytes) -> Callable[[Path], None]:
    return lambda root: write(root, {**files(), key: data}) and None


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda root: write(root, files(), stages=("extract", "train")), StoreError, "no result of stage 'quantize'"),
        (lambda root: write(root, files(), stages=("train", "quantize")), StoreError, "no result of stage 'extract'"),
        (lambda root: write(root, files(), stages=("extract", "quantize")), StoreError, "no result of stage 'train'"),
        (other(("quantize", "graph"), b"\xff\xfe"), StoreError, "graph is no text"),
        (other(("quantize", "graph"), b"graph 9\n"), GraphError, "graph"),
        (other(("train", "float_onnx"), b"no model"), GraphError, "ONNX"),
        (lambda root: write(root, {**files(), ("train", "float_onnx"): files()["quantize", "quantized_onnx"]}),
         StoreError, "do not belong together"),
        (other(("quantize", "quantized_onnx"), b"no model"), GraphError, "ONNX Runtime refuses"),
        (other(("simulate", "outputs"), b"PK\x03\x04"), StoreError, "outputs cannot be read"),
        (other(("simulate", "outputs"), npz(other=np.zeros((300, 3)))), StoreError, "outputs cannot be read"),
        (other(("simulate", "outputs"), npz(output=np.zeros((2, 3), np.int32))), StoreError, "2 outputs"),
        (other(("simulate", "outputs"), npz(output=np.array(["x"] * 300))), StoreError, "outputs are <U1"),
        (other(("extract", "features_test"), b"ARROW1"), DataError, "rrow"),
        (lambda root: write(root, {**files(), ("extract", "features_test"): features(root, 0)}),
         DataError, "no windows"),
        (lambda root: write(root, {**files(), ("extract", "features_test"): features(root, 300, FEATURES[:, :, :60])}),
         GraphError, "reads vectors of shape"),
        (lambda root: write(root, {**files(), ("extract", "features_test"): features(root, 300, FEATURES * np.nan)}),
         GraphError, "NaN"),
        (lambda root: write(root, files(), document={"options": 3}), StoreError, "of problem 'None'"),
    ],
)  # fmt: skip
def test_a_run_that_is_not_whole_is_refused_with_the_place(
    make: Callable[[Path], object], error: type[FlowlabError], text: str, tmp_path: Path
) -> None:
    make(tmp_path)
    with pytest.raises(error, match=text):
        found(tmp_path)


def test_a_file_that_is_damaged_is_said(tmp_path: Path) -> None:
    store = write(tmp_path, files())
    sha256, _ = store.objects.add_bytes(files()["quantize", "graph"])
    path = store.objects.path(sha256)
    path.chmod(0o644)
    path.write_bytes(b"graph 1\n")
    with pytest.raises(StoreError, match="graph"):
        found(tmp_path)
