"""The chapter's fourteen YAML examples, as they stand, with the plugins that are really installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flowlab.config import load
from flowlab.plugins import load as load_plugins

pytestmark = pytest.mark.system

NAMES = (  # noqa: SIM905 - one name a word reads better
    "8.2.11-full 8.2.3-mode-0 8.2.3-mode-1 8.2.3-mode-2 8.2.4-ptq 8.2.4-qat 8.2.5-2-bit "
    "8.2.5-4-bit-weights-8-bit-activations 8.2.5-4-bit 8.2.5-8-bit 8.2.6-npu 8.2.9-1-qat 8.2.9-2-higher-bits "
    "8.2.9-3-activations-higher"
).split()
QUANTIZERS = {"8.2.3-mode-0": "none", "8.2.3-mode-1": "generic_qat", "8.2.4-ptq": "tinpu_ptq"}  # the others: QAT
WEIGHT_BITS = {
    "8.2.3-mode-0": 32,
    "8.2.5-2-bit": 2,
    "8.2.5-4-bit": 4,
    "8.2.5-4-bit-weights-8-bit-activations": 4,
    "8.2.9-3-activations-higher": 4,
}
NARROW = {"8.2.5-2-bit": 2, "8.2.5-4-bit": 4}  # activations asked for that the NPU runs as 8 bits


@pytest.mark.parametrize("name", NAMES)
def test_every_example_loads_over_the_whole_one(shared: Path, name: str) -> None:
    folder = shared / "reference" / "chapter-examples"
    assert {path.stem for path in folder.glob("*.yaml")} == set(NAMES)
    catalogue = load_plugins()
    config = load([folder / "8.2.11-full.yaml", folder / f"{name}.yaml"], [], catalogue)
    assert config.quantizer_name(catalogue) == QUANTIZERS.get(name, "tinpu_qat")
    said = [text for text in config.warnings if text.startswith("activation bits ")]
    expected = [f"activation bits {NARROW[name]} -> 8"] if name in NARROW else []
    assert [text.partition(":")[0] for text in said] == expected


def flowlab(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flowlab.cli", "run", *words, "--engine", "local", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all, so that they share what is the same work."""
    return tmp_path_factory.mktemp("examples")


@pytest.mark.parametrize("name", NAMES)
def test_every_example_runs_over_the_whole_one(shared: Path, folder: Path, name: str) -> None:
    """One epoch each: that the chain holds to the bit does not depend on what was learnt."""
    examples = shared / "reference" / "chapter-examples"
    words = [str(examples / "8.2.11-full.yaml"), str(examples / f"{name}.yaml")]
    few = ["training.training_epochs=1", "training.quantization_epochs=1"]
    done = flowlab(folder, *words, *(word for one in few for word in ("--set", one)))
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert len(result["stages"]) == 9
    assert (result["agreement"]["vectors"], result["agreement"]["mismatches"]) == (1920, 0)
    quantization = result["quantization"]
    bits = WEIGHT_BITS.get(name, 8)
    assert (quantization["quantizer"], quantization["weight_bits"]) == (QUANTIZERS.get(name, "tinpu_qat"), bits)
    assert quantization["activation_bits"] == (32 if bits == 32 else 8)
    assert quantization["requested_activation_bits"] == NARROW.get(name, quantization["activation_bits"])
    if name == "8.2.3-mode-1":
        assert quantization["int8"]["max_steps"] <= 1
    else:
        assert quantization["int8"] is None


@pytest.mark.parametrize("name", sorted(NARROW))
def test_the_plan_says_the_width_that_is_asked_for_and_the_one_that_is_done(
    shared: Path, folder: Path, name: str
) -> None:
    examples = shared / "reference" / "chapter-examples"
    words = [str(examples / "8.2.11-full.yaml"), str(examples / f"{name}.yaml"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "flowlab.cli", "plan", *words], cwd=folder, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["quantization"]["requested_activation_bits"] == NARROW[name]
    assert found["quantization"]["activation_bits"] == 8
    assert any(text.startswith(f"activation bits {NARROW[name]} -> 8") for text in found["warnings"])


@pytest.mark.parametrize("name", sorted(NARROW))
def test_strict_refuses_what_the_accelerator_does_not_store(shared: Path, folder: Path, name: str) -> None:
    examples = shared / "reference" / "chapter-examples"
    done = flowlab(folder, str(examples / "8.2.11-full.yaml"), str(examples / f"{name}.yaml"), "--strict")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--strict: activation bits {NARROW[name]} -> 8: the NPU stores bytes" in done.stderr
    assert "real" in done.stderr
    assert "Traceback" not in done.stderr
