"""The gate says before training what cannot work, and which layers the accelerator will not take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flowlab.contracts import Model, NoOptions, StageJob
from flowlab.errors import GraphError, QuantizationError
from flowlab.stages import inspect
from flowlab_tinpu.devices import TARGETS
from flowlab_tinpu.quantizers import QUANTIZERS

TARGET = next(target for target in TARGETS if target.rules())


class Given(Model):
    name = "given"

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def build(self, shape: tuple[int, int, int], outputs: int, options: Any) -> nn.Module:
        return self.module


def job_of(folder: Path, *layers: nn.Module, shape: tuple[int, int, int] = (1, 32, 1), bits: int = 8) -> StageJob:
    spec = folder / "feature_spec.json"
    spec.write_text(json.dumps({"shape": shape, "classes": ["a", "b"]}))
    plugins = {"model": Given(nn.Sequential(*layers)), "quantizer": QUANTIZERS[0], "target": TARGET}
    options = inspect.InspectOptions("classification", bits, 8, TARGET.formats["npu"])
    return StageJob(
        {"feature_spec": {spec.name: spec}},
        options,
        plugins,
        dict.fromkeys(plugins, NoOptions()),
        folder,
        folder,
        lambda what, done: None,
    )


def gate(job: StageJob) -> dict[str, Any]:
    return json.loads(inspect.run(job).files["gate"]["gate.json"].read_text())


def test_a_network_that_obeys_gets_a_table_without_reasons(tmp_path: Path) -> None:
    found = gate(
        job_of(tmp_path, nn.Conv2d(1, 8, (5, 1)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    )
    assert [(row["layer"], row["unit"], row["reason"]) for row in found["layers"]] == [
        ("FCONV", "npu", ""),
        ("AVGPOOL", "npu", ""),
        ("FC", "npu", ""),
    ]
    assert found["npu_share"] == 1.0
    assert found["problems"] == []


def test_padding_counts_before_the_rules_do(tmp_path: Path) -> None:
    found = gate(job_of(tmp_path, nn.Conv2d(5, 6, (3, 1)), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2), shape=(5, 6, 1)))
    assert {row["unit"] for row in found["layers"]} == {"npu"}
    assert found["layers"][0]["padding"].startswith("5 -> 8 input channels, 6 -> 8 output channels")


def test_a_layer_for_the_cpu_is_a_warning_with_its_cure(tmp_path: Path) -> None:
    result = inspect.run(
        job_of(
            tmp_path,
            nn.Conv2d(1, 8, (5, 1)),
            nn.ReLU(),
            nn.Conv2d(8, 8, (3, 1), (3, 1)),
            nn.Flatten(),
            nn.Linear(72, 2),
        )
    )
    (warning,) = result.warnings
    assert json.loads(result.files["gate"]["gate.json"].read_text())["warnings"] == [warning]
    assert warning.startswith("layer '2' (GCONV, 8 -> 8 channels, kernel 3x1, stride 3x1) runs on the CPU: ")
    assert "use stride (3, 1) -> (1, 1), (2, 1) or (2, 2)" in warning
    assert result.metrics["npu_share"] < 1


def test_the_width_of_weights_that_is_asked_for_decides(tmp_path: Path) -> None:
    layers = (nn.Flatten(), nn.Linear(8, 2))
    assert gate(job_of(tmp_path, *layers, shape=(1, 8, 1), bits=8))["layers"][0]["padding"].startswith("8 -> 16")
    assert gate(job_of(tmp_path, *layers, shape=(1, 8, 1), bits=4))["layers"][0]["padding"] == ""


def test_what_cannot_be_quantized_is_an_error_before_training(tmp_path: Path) -> None:
    class Refusing(type(QUANTIZERS[0])):
        def check(self, graph, format, options):
            return [f"{node.name}: no." for node in graph.nodes if node.op == "linear"]

    job = job_of(tmp_path, nn.Flatten(), nn.Linear(32, 4), nn.ReLU(), nn.Linear(4, 2))
    job.plugins["quantizer"] = Refusing()
    with pytest.raises(QuantizationError, match=r"nothing was trained:\n  \* 1: no\.\n  \* 3: no\."):
        inspect.run(job)


def test_what_the_graph_cannot_express_is_an_error_before_training(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="1"):
        inspect.run(job_of(tmp_path, nn.Flatten(), nn.LayerNorm(32), nn.Linear(32, 2)))


def test_the_gate_is_the_same_whatever_the_weights(tmp_path: Path) -> None:
    def bytes_of(folder: Path) -> bytes:
        folder.mkdir()
        job = job_of(folder, nn.Conv2d(1, 8, (5, 1)), nn.ReLU(), nn.Flatten(), nn.Linear(224, 2))
        return inspect.run(job).files["gate"]["gate.json"].read_bytes()

    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Upsample(scale_factor=(2, 1)), nn.Conv2d(1, 8, (5, 1)), nn.Flatten()],
        [nn.Conv2d(1, 8, (3, 1), dilation=(2, 1)), nn.Flatten()],
        [nn.Conv2d(1, 8, (5, 1)), nn.GLU(1), nn.Flatten()],
    ],
    ids=["moved", "dilated", "multiplied"],
)
def test_what_moves_dilates_and_multiplies_passes_the_gate(tmp_path: Path, layers: list[nn.Module]) -> None:
    gate = json.loads(inspect.run(job_of(tmp_path, *layers)).files["gate"]["gate.json"].read_bytes())
    assert gate["problems"] == []
    assert any(row["unit"] == "cpu" and row["reason"] for row in gate["layers"])


def test_several_outputs_are_refused_before_training(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 8, (5, 1)), nn.Conv2d(1, 8, (5, 1))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.a(x), self.b(x)

    with pytest.raises(QuantizationError, match="the outputs output0, output1, and a run trains one"):
        inspect.run(job_of(tmp_path, Two()))


def test_a_device_that_runs_whole_networks_alone_is_refused_any_other_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = (nn.Conv2d(1, 8, (5, 1)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    monkeypatch.setattr(TARGET, "whole_networks", True, raising=False)
    assert gate(job_of(tmp_path, *layers))["npu_share"] == 1.0
    odd = (nn.Conv2d(1, 8, (5, 9), padding=(0, 4)), *layers[1:])
    with pytest.raises(GraphError) as found:
        gate(job_of(tmp_path, *odd, shape=(1, 32, 9)))
    said = str(found.value)
    assert said.startswith(
        f"given cannot run on {TARGET.name}, whose NPU runs all of a network, and nothing was trained"
    )
    assert "is at most 8 wide" in said and "Cure: use a kernel of width 9 -> 8 or less" in said
