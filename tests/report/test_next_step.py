from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowlab.report.facts import ReportFacts
from flowlab.report.next_step import SMALL, next_step

Changed = Callable[..., ReportFacts]
QAT = ("training.quantization_method=QAT",)


@pytest.fixture
def dropped(facts: ReportFacts, changed: Changed) -> Callable[..., ReportFacts]:
    """The facts of a run that lost two points, quantized in this way."""

    def _dropped(drop: float = 0.02, **config: Any) -> ReportFacts:
        after = facts.metrics_train["test"]["accuracy"] - drop
        return changed(
            metrics_quantize={**facts.metrics_quantize, "test": {"accuracy": after}},
            quantization_config={**facts.quantization_config, **config},
        )

    return _dropped


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ({"method": "PTQ", "weight_bits": 2, "activation_bits": 2}, QAT),
        ({"method": "PTQ"}, QAT),
        (
            {"weight_bits": 4, "activation_bits": 4},
            ("training.quantization_weight_bitwidth=8", "training.quantization_activation_bitwidth=8"),
        ),
        ({"weight_bits": 4}, ("training.quantization_weight_bitwidth=8",)),
        ({"activation_bits": 4}, ("training.quantization_activation_bitwidth=8",)),
        ({"epochs": 10}, ("training.quantization_epochs=20",)),
        ({"epochs": 20}, ("training.quantization_epochs=30",)),
        ({"epochs": 30}, ("training.model_name=CLS_5k_NPU",)),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_the_step_is_the_first_of_the_chapter_that_was_not_taken(
    dropped: Callable[..., ReportFacts], config: dict[str, Any], settings: tuple[str, ...]
) -> None:
    step = next_step(dropped(**config))
    assert not step.good
    assert tuple(step.settings) == settings
    assert "2.00 points on the test split (98.91 % to 96.91 %)" in step.said


def test_where_nobody_brings_a_trained_quantizer_the_next_step_is_taken(
    dropped: Callable[..., ReportFacts], changed: Changed
) -> None:
    facts = dropped(method="PTQ", weight_bits=4, epochs=0)
    bare = changed(
        metrics_quantize=facts.metrics_quantize, quantization_config=facts.quantization_config, trained_quantizer=()
    )
    assert next_step(bare).settings == ("training.quantization_weight_bitwidth=8",)


def test_the_largest_model_of_a_family_gets_no_line_that_would_not_load(
    dropped: Callable[..., ReportFacts], changed: Changed
) -> None:
    facts = dropped(epochs=30)
    largest = changed(
        metrics_quantize=facts.metrics_quantize, quantization_config=facts.quantization_config, larger_model=""
    )
    step = next_step(largest)
    assert not step.good and not step.settings and "flowlab models" in step.why


@pytest.mark.parametrize("drop", [-0.001, 0.0, SMALL - 1e-6])
def test_a_small_drop_is_none_and_is_said_in_one_sentence_or_two(
    dropped: Callable[..., ReportFacts], drop: float
) -> None:
    step = next_step(dropped(drop, method="PTQ"))
    assert step.good and not step.settings
    assert step.said.endswith("There is nothing to try.")


def test_validation_counts_where_the_test_split_was_not_measured(facts: ReportFacts, changed: Changed) -> None:
    unmeasured = changed(
        metrics_train={**facts.metrics_train, "test": None},
        metrics_quantize={**facts.metrics_quantize, "test": None, "val": {"accuracy": 0.9}},
    )
    assert "9.13 points on the validation split (99.13 % to 90.00 %)" in next_step(unmeasured).said


def test_nothing_measured_is_not_called_nothing_lost(facts: ReportFacts, changed: Changed) -> None:
    step = next_step(changed(metrics_train={**facts.metrics_train, "test": None, "val": None}))
    assert not step.good and not step.settings and "nothing is known" in step.said


def test_a_float_run_lost_nothing_by_quantization(changed: Changed) -> None:
    assert next_step(changed(quantization_config={"method": "none"})).good
