"""The vendor's networks with two branches as a user runs them: nine stages, integers and floats, every vector equal."""

from __future__ import annotations

from pathlib import Path

import pytest
from system.bearing_run import flowlab, placed

pytestmark = pytest.mark.system

NPU_8 = {"training.quantization": "2", "training.quantization_method": "QAT"}
NPU_4 = {
    "training.quantization": "2",
    "training.quantization_method": "PTQ",
    "training.quantization_weight_bitwidth": "4",
}
CPU = {"training.quantization": "1", "training.quantization_method": "PTQ"}
FLOAT = {"training.quantization": "0"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("branches")


@pytest.mark.parametrize("keys", [NPU_8, NPU_4, CPU, FLOAT], ids=["npu 8", "npu 4", "cpu", "float"])
@pytest.mark.parametrize(("model", "on_cpu"), [("CLS_ResAdd_3k", {"add"}), ("CLS_ResCat_3k", {"concat", "take"})])
def test_two_branches_agree_on_every_vector(
    folder: Path, shared: Path, model: str, on_cpu: set[str], keys: dict[str, str]
) -> None:
    result = flowlab(folder, shared, {"training.model_name": model, "training.quantization_epochs": "2", **keys})
    assert result["agreement"]["mismatches"] == 0
    ran = set(result["agreement"]["executions"])
    assert {"host C", "ONNX Runtime"} <= ran
    assert ("simulator" in ran) == (keys is not FLOAT)
    if keys in (NPU_8, NPU_4):
        rows = placed(result)
        assert {row["layer"] for row in rows if row["unit"] == "cpu"} == on_cpu
        assert all(row["reason"] for row in rows if row["unit"] == "cpu")
