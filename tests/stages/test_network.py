"""Surgery in the pipeline: when it is done, that all stages build the same network, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flowlab import testing
from flowlab.config import load_mapping
from flowlab.config.sections import checks
from flowlab.contracts import Model, NoOptions, StageJob, StageResult
from flowlab.plugins import load
from flowlab.signal import features_file
from flowlab.stages import inspect, quantize, train
from flowlab.stages.network import build, surgery
from flowlab_tinpu.devices import TARGETS
from flowlab_tinpu.quantizers import QUANTIZERS

SHAPE = (1, 16, 1)
DEVICE = next(target for target in TARGETS if target.name == "F28P55")
ASKED = train.TrainOptions("classification", 2, 16, 0.05, "sgd", 1e-4, "cosineannealinglr", 0, 1, True, surgery=True)
REPLACED = ("2: GELU(approximate='none') -> ReLU()",)


class Gelu(Model):
    name = "gelu"

    def build(self, shape: tuple[int, int, int], outputs: int, options: Any) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, (3, 1)), nn.BatchNorm2d(4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(4, outputs),
        )  # fmt: skip


class Trained(Gelu):
    name = "trained"
    trained = True

    def build(self, shape: tuple[int, int, int], outputs: int, options: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return super().build(shape, outputs, options)


@pytest.fixture(scope="module")
def catalogue() -> Any:
    return load()


class Also:
    """A catalogue that has these models too."""

    def __init__(self, catalogue: Any, *models: Model) -> None:
        self.catalogue, self.models = catalogue, {model.name: model for model in models}

    def get(self, kind: str, name: str) -> Any:
        return self.models[name] if kind == "model" and name in self.models else self.catalogue.get(kind, name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.catalogue, name)


def asked(catalogue: Any, model: str, device: str = "F28P55", **training: Any) -> bool:
    values = {section: dict(keys) for section, keys in catalogue.preset("example", "demo").values.items()}
    values["common"]["target_device"] = device
    values["compilation"] = {}
    values["training"] = {**values["training"], "quantization": 2, **training}
    config = load_mapping(values, catalogue)
    object.__setattr__(config.training, "model_name", model)
    return surgery(config, Also(catalogue, Gelu(), Trained()))


@pytest.mark.parametrize(
    ("model", "changes", "done"),
    [
        ("gelu", {}, True),
        ("gelu", {"surgery": "off"}, False),
        ("gelu", {"surgery": False}, False),  # YAML 1.1 reads off so
        ("gelu", {"quantization": 1}, False),
        ("gelu", {"quantization": 0}, False),
        ("gelu", {"quantization": 0, "surgery": "force"}, True),
        ("gelu", {"device": "F28P65"}, False),
        ("gelu", {"device": "F28P65", "surgery": "force"}, True),
        ("trained", {}, False),
        ("trained", {"surgery": "force"}, True),
        ("CLS_4k_NPU", {}, False),
        ("CLS_4k_NPU", {"surgery": "force"}, False),
    ],
)
def test_surgery_is_done_where_an_accelerator_is_used_and_weights_are_not_trained(
    catalogue: Any, model: str, changes: dict[str, Any], done: bool
) -> None:
    assert asked(catalogue, model, **changes) is done


def test_another_word_is_refused() -> None:
    check = checks("training")["surgery"]
    assert check.convert("AUTO") == "auto"
    for value in ("yes", True, 1):
        with pytest.raises(ValueError, match="none of these"):
            check.convert(value)


def job(folder: Path, model: Model, options: Any, plugins: dict[str, Any] | None = None, **inputs: Path) -> StageJob:
    rng = np.random.default_rng(0)
    for name in ("in", "out", "scratch"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    files = {role: {path.name: path} for role, path in inputs.items()}
    for split, count in (("train", 80), ("val", 40), ("test", 30)):
        labels = np.arange(count) % 2
        features = (rng.normal(size=(count, *SHAPE)) + 2 * labels[:, None, None, None]).astype(np.float32)
        path = folder / "in" / f"{split}.arrow"
        place = np.arange(count)
        features_file.write(path, features, labels, place, place, {"classes": ["a", "b"], "split": split})
        files[f"features_{split}"] = {"features.arrow": path}
    spec = folder / "in" / "feature_spec.json"
    spec.write_text(json.dumps({"shape": SHAPE, "classes": ["a", "b"]}))
    files["feature_spec"] = {spec.name: spec}
    given = {"model": model, **(plugins or {})}
    return StageJob(
        inputs=files,
        options=options,
        plugins=given,
        plugin_options=dict.fromkeys(given, NoOptions()),
        out=folder / "out",
        scratch=folder / "scratch",
        progress=lambda what, done: None,
    )


def metrics(result: StageResult, role: str) -> dict[str, Any]:
    (path,) = result.files[role].values()
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_inspect_train_and_quantize_build_the_same_network(tmp_path: Path) -> None:
    trained = train.run(job(tmp_path / "train", Gelu(), ASKED))
    found = metrics(trained, "metrics_train")
    assert found["surgery"] == {"replaced": list(REPLACED), "before": None}
    assert trained.warnings[0] == (
        f"surgery replaced what the accelerator lacks: {REPLACED[0]}. training.surgery: off keeps it."
    )
    gate = inspect.InspectOptions("classification", 8, 8, DEVICE.formats["npu"], surgery=True)
    given = job(tmp_path / "gate", Gelu(), gate, {"quantizer": QUANTIZERS[1], "target": DEVICE})
    rows = metrics(inspect.run(given), "gate")["layers"]
    assert [row["unit"] for row in rows] == ["npu"] * 3
    without = job(
        tmp_path / "kept", Gelu(), replace(gate, surgery=False), {"quantizer": QUANTIZERS[1], "target": DEVICE}
    )
    assert "cpu" in {row["unit"] for row in metrics(inspect.run(without), "gate")["layers"]}
    (weights,) = trained.files["float_model"].values()
    options = quantize.QuantizeOptions(
        problem="classification", format=DEVICE.formats["npu"], weight_bits=8, activation_bits=8,
        requested_activation_bits=8, calibration_count=64, epochs=0, batch_size=16, learning_rate=0.0, optimizer="",
        distillation=None, finetune=False, seed=0, threads=1, output_int=True, test=True, surgery=True,
    )  # fmt: skip
    ptq = next(one for one in QUANTIZERS if not one.trains)
    done = quantize.run(job(tmp_path / "quantize", Gelu(), options, {"quantizer": ptq}, float_model=weights))
    (graph,) = done.files["graph"].values()
    assert "table" not in graph.read_text()


def test_what_a_trained_model_reached_before_is_said(tmp_path: Path) -> None:
    result = train.run(job(tmp_path, Trained(), ASKED))
    found = metrics(result, "metrics_train")
    before = found["surgery"]["before"]["accuracy"]
    assert 0 <= before <= 1
    (said,) = [warning for warning in result.warnings if warning.startswith("surgery")]
    assert said.endswith(f"Validation accuracy: {before:.4f} as the model came, {found['val']['accuracy']:.4f} now.")


def test_without_surgery_nothing_is_replaced_or_said(tmp_path: Path) -> None:
    given = job(tmp_path, Gelu(), replace(ASKED, surgery=False))
    module, replaced = build(given, SHAPE, 2)
    assert isinstance(module[2], nn.GELU)
    assert replaced == ()
    found = metrics(train.run(given), "metrics_train")
    assert found["surgery"] == {"replaced": [], "before": None}
    assert not any("surgery" in warning for warning in found["warnings"])


def test_a_model_that_says_it_is_lite_and_is_not_is_caught() -> None:
    class Boast(Gelu):
        name = "boast"
        lite = True
        code = ("flowlab.learn.layers",)

    testing.check_model(Gelu(), SHAPE, 2)
    with pytest.raises(AssertionError, match=r"says that it is lite, and surgery finds 2: GELU"):
        testing.check_model(Boast(), SHAPE, 2)
