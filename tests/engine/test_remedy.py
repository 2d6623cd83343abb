"""Which one change is proposed: by the kind of step that lost most, never for what chance explains."""

from __future__ import annotations

from typing import Any

import pytest

from flowlab.engine.remedy import Loss, remedy

OPTIONS = {"weight_bits": 2, "activation_bits": 8, "calibration_count": 64, "epochs": 10}


def loss(*steps: tuple[str, str, float], method: str = "QAT", **changes: Any) -> Loss:
    values: dict[str, Any] = {
        "method": method,
        "quantizer": "one",
        "options": OPTIONS | changes.pop("options", {}),
        "training_windows": 400,
        "steps": steps,
        "saturated": {},
        "wrong": 60,
        "right": 5,
        "named": False,
    }
    return Loss(**{**values, **changes})


WEIGHTS = (("weights", "conv1", 0.01), ("result", "conv1", 0.001), ("weights", "conv2", 0.04))
RESULTS = (("weights", "conv1", 0.001), ("result", "conv1", 0.002), ("result", "conv2", 0.04))
TRAINED = (("trained", "", 0.04), ("result", "conv1", 0.001))


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (loss(*WEIGHTS, method="PTQ"), "training.quantization_method=QAT"),
        (loss(*TRAINED), "training.quantization_weight_bitwidth=4"),
        (loss(*TRAINED, options={"weight_bits": 4}), "training.quantization_weight_bitwidth=8"),
        (loss(*TRAINED, options={"weight_bits": 8}), "training.quantization_epochs=30"),
        (loss(*TRAINED, options={"mixed": True, "mean_bits": 2.5}), "training.auto_quantization_mean_bits=3"),
        (loss(*TRAINED, options={"mixed": True, "mean_bits": 7.8}), "training.auto_quantization_mean_bits=8"),
        (loss(*TRAINED, options={"mixed": True, "mean_bits": 8.0}), "training.quantization_epochs=30"),
        (loss(*TRAINED, options={"mixed": True, "weight_bytes": 800}), "training.auto_quantization_weight_bytes=1000"),
        (
            loss(*TRAINED, options={"mixed": True, "tolerance": 0.05}),
            "training.autoquant_tolerance_classification=0.025",
        ),
        (loss(*RESULTS, options={"activation_bits": 4}), "training.quantization_activation_bitwidth=8"),
        (loss(*RESULTS, saturated={"conv2": 0.05}), "training.quantization_calibration_count=256"),
        (
            loss(*RESULTS, saturated={"conv2": 0.05}, training_windows=100),
            "training.quantization_calibration_count=100",
        ),
        (loss(*RESULTS, saturated={"conv2": 0.05}, training_windows=64), "training.quantization_epochs=30"),
        (loss(*RESULTS, saturated={"conv2": 0.005}), "training.quantization_epochs=30"),
        (loss(*RESULTS, method="PTQ"), "training.quantization_method=QAT"),
    ],
)
def test_the_change_is_where_most_was_lost(asked: Loss, wanted: str) -> None:
    found = remedy(asked)
    assert found.set == wanted
    assert found.lines()[0] == f"most likely to help: --set {wanted}"


def test_the_reason_names_the_layer_that_lost_most() -> None:
    assert "lose 0.0500 of 0.0510, most of it in conv2 (0.0400)" in remedy(loss(*WEIGHTS, method="PTQ")).why


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (loss(("weights", "conv1", -0.01)), "as good as the float network"),
        (loss(*WEIGHTS, wrong=12, right=6), "no more than chance: 12 windows became wrong and 6 right"),
        (loss(method="none"), "nothing is quantized"),
        (loss(*WEIGHTS, ("program", "", 0.2)), "it is a defect"),
        (loss(*WEIGHTS, method="PTQ", named=True), "'one' does not train"),
        (loss(*RESULTS, method="PTQ", named=True, options={"epochs": 0}), "'one' does not train"),
    ],
)
def test_where_no_key_helps_none_is_named(asked: Loss, why: str) -> None:
    found = remedy(asked)
    assert found.set is None
    assert why in found.why
    assert found.lines() == [f"nothing to change: {found.why}"]
