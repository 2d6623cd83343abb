"""The stage ``train``."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from flowlab.contracts import Model, NoOptions, StageJob, StageResult
from flowlab.errors import GraphError, NotBuiltYet
from flowlab.learn.layers import AveragePool, Conv, build_network
from flowlab.learn.loop import predict
from flowlab.signal import features_file
from flowlab.stages.train import STAGE, TrainOptions, options, run

SHAPE = (1, 16, 1)
OPTIONS = TrainOptions("classification", 3, 16, 0.05, "sgd", 1e-4, "cosineannealinglr", 0, 1, True)


class Small(Model):
    name = "small"
    rows: tuple[Any, ...] = (Conv(4, (3, 1)), AveragePool())

    def build(self, shape: tuple[int, int, int], outputs: int, options: Any) -> torch.nn.Module:
        return build_network(self.rows, shape, outputs)


class Layered(Small):
    def build(self, shape: tuple[int, int, int], outputs: int, options: Any) -> torch.nn.Module:
        module = super().build(shape, outputs, options)
        return torch.nn.Sequential(torch.nn.LayerNorm(shape), module)


class Softened(Small):
    def build(self, shape: tuple[int, int, int], outputs: int, options: Any) -> torch.nn.Module:
        return torch.nn.Sequential(super().build(shape, outputs, options), torch.nn.Softmax(1))


def job(
    folder: Path, asked: TrainOptions = OPTIONS, model: Model | None = None, resume: Path | None = None
) -> StageJob:
    rng = np.random.default_rng(0)
    inputs: dict[str, dict[str, Path]] = {}
    source = folder / "in"
    for name in ("in", "out", "scratch"):
        (folder / name).mkdir(parents=True)
    for split, count in (("train", 80), ("val", 40), ("test", 30)):
        labels = np.arange(count) % 2
        features = rng.normal(size=(count, *SHAPE)).astype(np.float32) + 2 * labels[:, None, None, None]
        path = source / f"{split}.arrow"
        place = np.arange(count)
        features_file.write(
            path, features.astype(np.float32), labels, place, place, {"classes": ["a", "b"], "split": split}
        )
        inputs[f"features_{split}"] = {"features.arrow": path}
    spec = source / "feature_spec.json"
    spec.write_text(json.dumps({"shape": SHAPE, "classes": ["a", "b"]}))
    inputs["feature_spec"] = {"feature_spec.json": spec}
    return StageJob(
        inputs=inputs,
        options=asked,
        plugins={"model": model or Small()},
        plugin_options={"model": NoOptions()},
        out=folder / "out",
        scratch=resume or folder / "scratch",
        progress=lambda what, done: None,
    )


def contents(result: StageResult) -> dict[str, bytes]:
    return {role: path.read_bytes() for role, files in result.files.items() for path in files.values()}


def test_it_makes_its_roles_and_the_metrics(tmp_path: Path) -> None:
    result = run(job(tmp_path))
    assert tuple(result.files) == STAGE.makes
    metrics = json.loads(contents(result)["metrics_train"])
    assert [row["epoch"] for row in metrics["history"]] == [1, 2, 3]
    rows = {"epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate"}
    assert all(set(row) == rows for row in metrics["history"])
    assert metrics["val"]["accuracy"] == max(row["val_accuracy"] for row in metrics["history"])
    assert sum(map(sum, metrics["confusion"])) == 30
    assert np.trace(metrics["confusion"]) / 30 == metrics["test"]["accuracy"]
    (curve,) = metrics["roc"]  # of two classes one is the other's mirror
    assert (curve["class"], curve["positives"]) == ("a", sum(metrics["confusion"][0]))
    assert [metrics["confusion"][1][0], metrics["confusion"][0][0]] in [row[:2] for row in curve["points"]]
    assert metrics["classes"] == ["a", "b"] and metrics["parameters"] == 36
    assert result.metrics == {name: metrics[name] for name in ("val", "test", "best_epoch", "parameters")}


def test_the_exported_weights_are_those_that_were_measured(tmp_path: Path) -> None:
    given = job(tmp_path)
    made = contents(run(given))
    module = Small().build(SHAPE, 2, None)
    module.load_state_dict(torch.load(io.BytesIO(made["float_model"]), weights_only=True))
    for split in ("val", "test"):
        table = features_file.read(given.input(f"features_{split}"))
        reached = float((predict(module, table.features).argmax(1) == table.labels).mean())
        assert reached == json.loads(made["metrics_train"])[split]["accuracy"]


def test_the_onnx_computes_what_the_module_computes(tmp_path: Path) -> None:
    import onnxruntime

    given = job(tmp_path)
    made = contents(run(given))
    module = Small().build(SHAPE, 2, None)
    module.load_state_dict(torch.load(io.BytesIO(made["float_model"]), weights_only=True))
    table = features_file.read(given.input("features_test"))
    session = onnxruntime.InferenceSession(made["float_onnx"], providers=["CPUExecutionProvider"])
    (found,) = session.run(["output"], {"input": np.array(table.features)})
    assert np.allclose(found, predict(module, table.features), atol=1e-5)


def test_twice_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first = contents(run(job(tmp_path / "a")))
    assert contents(run(job(tmp_path / "b"))) == first
    other = contents(run(job(tmp_path / "c", replace(OPTIONS, seed=1))))
    assert other["float_model"] != first["float_model"]


def test_without_a_test_its_metrics_are_null(tmp_path: Path) -> None:
    result = run(job(tmp_path, replace(OPTIONS, test=False)))
    metrics = json.loads(contents(result)["metrics_train"])
    assert metrics["test"] is None and metrics["confusion"] is None and metrics["roc"] == []


def test_no_epochs_export_the_initial_network(tmp_path: Path) -> None:
    result = run(job(tmp_path, replace(OPTIONS, epochs=0)))
    metrics = json.loads(contents(result)["metrics_train"])
    assert metrics["history"] == [] and metrics["best_epoch"] == 0


def test_a_network_that_learned_nothing_is_warned_of(tmp_path: Path) -> None:
    result = run(job(tmp_path, replace(OPTIONS, epochs=1, learning_rate=1e-12)))
    assert any("LEARNED NOTHING" in warning for warning in result.warnings)
    assert json.loads(contents(result)["metrics_train"])["warnings"] == list(result.warnings)


def test_what_the_graph_cannot_say_is_refused_before_training(tmp_path: Path) -> None:
    given = job(tmp_path, model=Layered())
    with pytest.raises(GraphError, match=r"'0' \(LayerNorm\)"):
        run(given)
    assert not list(given.scratch.iterdir())


def config(**training: Any) -> Any:
    values = {
        "model_name": "small", "training_epochs": 3, "batch_size": 16, "learning_rate": 0.05, "optimizer": "sgd",
        "weight_decay": 1e-4, "lr_scheduler": "cosineannealinglr", "seed": 0, "threads": 1,
        "checkpoint_every_epochs": 1, "training_device": "cpu",
        "surgery": "off",
    }  # fmt: skip
    return SimpleNamespace(training=SimpleNamespace(**{**values, **training}), testing=SimpleNamespace(enable=True))


class Forecaster(Small):
    problems = ("forecasting",)


def test_the_options_are_copied_from_the_config() -> None:
    catalogue = SimpleNamespace(get=lambda kind, name: Small())
    assert options(config(), catalogue) == OPTIONS


@pytest.mark.parametrize(
    ("training", "model", "message"),
    [({"training_device": "cuda"}, Small(), "cuda"), ({}, Forecaster(), "forecasting.*only classification")],
)
def test_what_is_not_built_yet_says_so(training: dict[str, Any], model: Model, message: str) -> None:
    with pytest.raises(NotBuiltYet, match=message):
        options(config(**training), SimpleNamespace(get=lambda kind, name: model))


def test_what_the_graph_leaves_out_is_said(tmp_path: Path) -> None:
    (warning,) = (one for one in run(job(tmp_path, model=Softened())).warnings if "left out" in one)
    assert "is left out of the integer graph: its outputs are the values before it, of the same class" in warning
