from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import rule_breaker
from networks.tones import tones
from networks.training import trained

from flowlab.compiler.number_format import GENERIC
from flowlab.compiler.run_qdq import run_qdq
from flowlab.compiler.text import parse_graph
from flowlab.contracts import Model, NoOptions, Quantized, QuantizeJob, Quantizer, StageJob, StageResult
from flowlab.learn.checkpoint import dump
from flowlab.quant.ptq import post_training
from flowlab.quant.rebuild import rebuild_onnx
from flowlab.signal import features_file
from flowlab.stages.quantize import STAGE, QuantizeOptions, run
from flowlab_generic.quantizers import QUANTIZERS as GENERIC_QUANTIZERS
from flowlab_tinpu.number_format import NPU
from flowlab_tinpu.quantizers import QUANTIZERS

CLASSES = ["low", "middle", "high"]


class RuleBreaker(Model):
    name = "rule_breaker"

    def build(self, shape: tuple[int, int, int], outputs: int, options: Any) -> torch.nn.Module:
        return rule_breaker.build(seed=5)


def options(**changes: Any) -> QuantizeOptions:
    values: dict[str, Any] = {
        "problem": "classification",
        "format": NPU,
        "weight_bits": 8,
        "activation_bits": 8,
        "requested_activation_bits": 4,
        "calibration_count": 128,
        "epochs": 2,
        "batch_size": 32,
        "learning_rate": 0.002,
        "optimizer": None,
        "distillation": None,
        "finetune": False,
        "seed": 0,
        "threads": 1,
        "output_int": True,
        "test": True,
    }
    return QuantizeOptions(**{**values, **changes})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("inputs")
    for split, (count, seed) in {"train": (300, 1), "val": (120, 2), "test": (100, 3)}.items():
        features, labels = tones(count, seed)
        zeros = np.zeros(count)
        meta = {"classes": CLASSES, "provenance": "made", "split": split}
        path = folder / f"{split}.arrow"
        features_file.write(path, features, labels, zeros.astype(np.int32), zeros.astype(np.int64), meta)
    (folder / "feature_spec.json").write_text(json.dumps({"shape": list(rule_breaker.SHAPE), "classes": CLASSES}))
    (folder / "best_model.pt").write_bytes(dump(trained().state_dict()))
    return {
        **{f"features_{split}": {"features.arrow": folder / f"{split}.arrow"} for split in ("train", "val", "test")},
        "feature_spec": {"feature_spec.json": folder / "feature_spec.json"},
        "float_model": {"best_model.pt": folder / "best_model.pt"},
    }


def quantized(inputs: dict[str, dict[str, Path]], folder: Path, trains: bool, **changes: Any) -> StageResult:
    own = next(quantizer for quantizer in QUANTIZERS if quantizer.trains is trains)
    quantizer = changes.pop("quantizer", own)
    for name in ("out", "scratch"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return run(
        StageJob(
            inputs=inputs,
            options=options(**changes),
            plugins={"model": RuleBreaker(), "quantizer": quantizer},
            plugin_options={"model": NoOptions(), "quantizer": NoOptions()},
            out=folder / "out",
            scratch=folder / "scratch",
            progress=lambda what, done: None,
        )
    )


def only(result: StageResult, role: str) -> Path:
    (path,) = result.files[role].values()
    return path


@pytest.mark.parametrize("trains", [True, False], ids=["QAT", "PTQ"])
def test_it_makes_its_roles_and_what_they_say_is_true(
    inputs: dict[str, dict[str, Path]], tmp_path: Path, trains: bool
) -> None:
    result = quantized(inputs, tmp_path, trains)
    assert set(result.files) == set(STAGE.makes)
    metrics = json.loads(only(result, "metrics_quantize").read_text())
    assert result.metrics["quantized"] == metrics["test"]
    labels = features_file.read(inputs["features_test"]["features.arrow"]).labels
    found = np.load(only(result, "torch_outputs"), allow_pickle=False)["output"]
    assert found.dtype == np.int32
    assert metrics["test"]["accuracy"] == (found.argmax(axis=1) == labels).mean() > 0.8
    assert sum(map(sum, metrics["confusion"])) == len(labels)
    assert len(metrics["history"]) == (2 if trains else 0)
    assert metrics["warnings"] == list(result.warnings)
    parse_graph(only(result, "graph").read_text())


def test_the_onnx_is_rebuilt_from_two_files(inputs: dict[str, dict[str, Path]], tmp_path: Path) -> None:
    result = quantized(inputs, tmp_path, trains=False)
    again = rebuild_onnx(only(result, "quantization_config"), only(result, "quantized_weights"))
    assert hashlib.sha256(again).digest() == hashlib.sha256(only(result, "quantized_onnx").read_bytes()).digest()
    assert "requested_activation_bits: 4\n" in only(result, "quantization_config").read_text()


def test_a_second_run_gives_the_same_bytes(inputs: dict[str, dict[str, Path]], tmp_path: Path) -> None:
    first, second = (quantized(inputs, tmp_path / name, trains=True) for name in ("first", "second"))
    for role in STAGE.makes:
        assert contents(first, role) == contents(second, role), role


def contents(result: StageResult, role: str) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in result.files[role].items()}


@pytest.mark.parametrize("trains", [True, False], ids=["QAT", "PTQ"])
def test_for_any_cpu_there_is_a_fast_form_too_at_most_a_step_away(
    inputs: dict[str, dict[str, Path]], tmp_path: Path, trains: bool
) -> None:
    own = next(one for one in GENERIC_QUANTIZERS if one.format and one.trains is trains)
    result = quantized(inputs, tmp_path, trains, quantizer=own, format=GENERIC, weight_bits=4)
    assert set(result.files["int8_onnx"]) == {"best_model_int8.onnx"}
    metrics = json.loads(only(result, "metrics_quantize").read_text())
    assert metrics["int8"] == result.metrics["int8"]
    exact = np.load(only(result, "torch_outputs"), allow_pickle=False)["output"]
    near = run_qdq(only(result, "int8_onnx").read_bytes(), features_file.read(only_input(inputs)).features)
    different = np.abs(near - exact).max(axis=1)
    assert metrics["int8"] == {"vectors": 100, "different": int((different > 0).sum()), "max_steps": different.max()}
    assert metrics["int8"]["max_steps"] <= 1
    assert metrics["quantization"] == {
        "quantizer": own.name,
        "method": "QAT" if trains else "PTQ",
        "weight_bits": 4,
        "activation_bits": 8,
        "requested_activation_bits": 4,
    }


def only_input(inputs: dict[str, dict[str, Path]]) -> Path:
    return inputs["features_test"]["features.arrow"]


def test_for_the_npu_the_exact_form_is_the_only_one(inputs: dict[str, dict[str, Path]], tmp_path: Path) -> None:
    result = quantized(inputs, tmp_path, trains=False)
    assert result.files["int8_onnx"] == {}
    assert result.metrics["int8"] is None


def test_without_testing_there_are_no_test_metrics_but_integers(
    inputs: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    result = quantized(inputs, tmp_path, trains=False, test=False)
    assert result.metrics["quantized"] is None
    assert len(np.load(only(result, "torch_outputs"))["output"]) == 100


class Ruinous(Quantizer):
    """Loses the weights of the last layer on the way."""

    name = "ruinous"

    def quantize(self, job: QuantizeJob, options: Any) -> Quantized:
        *nodes, last = job.graph.nodes
        blank = replace(last, constants={"weight": 0 * last.constants["weight"], "bias": np.float32([0, 1, 0])})
        return post_training(replace(job, graph=replace(job.graph, nodes=(*nodes, blank))), self.name)


def test_chance_level_is_said_loudly(inputs: dict[str, dict[str, Path]], tmp_path: Path) -> None:
    result = quantized(inputs, tmp_path, trains=False, quantizer=Ruinous())
    assert any("THE QUANTIZED NETWORK IS AT CHANCE LEVEL" in text for text in result.warnings)


@pytest.mark.parametrize("trains", [True, False])
def test_bits_are_chosen_for_each_layer_within_the_budget(
    inputs: dict[str, dict[str, Path]], tmp_path: Path, trains: bool
) -> None:
    result = quantized(inputs, tmp_path, trains, mixed=True, mean_bits=3.0)
    table = result.metrics["mixed"]
    graph = parse_graph(next(iter(result.files["graph"].values())).read_text())
    bits = {node.name: node.attributes["weight_bits"] for node in graph.nodes if "weight" in node.constants}
    assert bits == {row["layer"]: row["bits"] for row in table["layers"]}
    assert len(set(bits.values())) > 1
    assert table["mean_bits"] <= 3
    assert any(one.startswith("weight bits were chosen for each layer: ") for one in result.warnings)
    assert result.metrics["quantization"]["weight_bits"] == max(bits.values())


@pytest.mark.parametrize("trains", [True, False])
def test_one_width_that_was_chosen_for_all_layers_ships_what_that_width_ships(
    inputs: dict[str, dict[str, Path]], tmp_path: Path, trains: bool
) -> None:
    chosen = quantized(inputs, tmp_path / "chosen", trains, mixed=True, mean_bits=2.0)
    uniform = quantized(inputs, tmp_path / "uniform", trains, weight_bits=2)
    assert only(chosen, "graph").read_text() == only(uniform, "graph").read_text()
    assert only(chosen, "quantized_weights").read_bytes() == only(uniform, "quantized_weights").read_bytes()


def test_nothing_is_chosen_unless_it_is_asked_for(inputs: dict[str, dict[str, Path]], tmp_path: Path) -> None:
    assert quantized(inputs, tmp_path, False).metrics["mixed"] is None


@pytest.mark.parametrize(("trains", "bits"), [(True, 4), (False, 4), (False, 8)])
def test_the_recipe_is_said(inputs: dict[str, dict[str, Path]], tmp_path: Path, trains: bool, bits: int) -> None:
    result = quantized(inputs, tmp_path, trains, weight_bits=bits, finetune=True)
    expected = {
        (True, 4): "adam, highest rate 0.002, norms live for 1 of 2 epochs, 70% of the loss from",
        (False, 4): "280 steps on calibration windows, distance from float ",
        (False, 8): "scales alone",
    }
    assert result.metrics["recipe"].startswith(expected[trains, bits])


@pytest.mark.parametrize("trains", [True, False])
def test_the_first_and_the_last_layer_may_have_bits_of_their_own(
    inputs: dict[str, dict[str, Path]], tmp_path: Path, trains: bool
) -> None:
    result = quantized(inputs, tmp_path, trains, weight_bits=2, edge_bits=8)
    graph = parse_graph(only(result, "graph").read_text())
    bits = [node.attributes["weight_bits"] for node in graph.nodes if "weight" in node.constants]
    assert bits == [8, 2, 8]
    table = result.metrics["mixed"]
    assert [row["bits"] for row in table["layers"]] == bits
    assert not table["measured"]
    assert any(one.startswith("first and last layer have their own bits: ") for one in result.warnings)
    again = rebuild_onnx(only(result, "quantization_config"), only(result, "quantized_weights"))
    assert again == only(result, "quantized_onnx").read_bytes()


class Softened(RuleBreaker):
    """The same network with a softmax at its end, which the graph leaves out."""

    def build(self, shape: tuple[int, int, int], outputs: int, options: Any) -> torch.nn.Module:
        layers = rule_breaker.build(seed=5)
        assert isinstance(layers, torch.nn.Sequential)
        layers.append(torch.nn.Softmax(1))
        return layers


def test_the_teacher_says_what_the_graph_says(
    inputs: dict[str, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a softmax all likeness of outputs would be nearly the same."""
    plain, softened = (tmp_path / name for name in ("plain", "softened"))
    expected = only(quantized(inputs, plain, trains=True), "graph").read_text()
    monkeypatch.setattr(RuleBreaker, "build", Softened.build)
    assert only(quantized(inputs, softened, trains=True), "graph").read_text() == expected
