from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from flowlab.config.sections import defaults
from flowlab.learn.loop import FitData, FitSettings, fit
from flowlab.report.facts import ReportFacts
from flowlab.report.next_step import FEW_EPOCHS, RATE, SMALL, next_step
from flowlab.report.numbers import numbers

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


@pytest.mark.parametrize(("measured", "first"), [(True, ("training.auto_quantization=false",)), (False, ())])
def test_the_narrowest_of_several_widths_counts(
    dropped: Callable[..., ReportFacts], measured: bool, first: tuple[str, ...]
) -> None:
    facts = dropped(weight_bits=8)
    mixed = {"mean_bits": 3.0, "measured": measured, "layers": [{"bits": 8}, {"bits": 2}]}
    step = next_step(replace(facts, metrics_quantize={**facts.metrics_quantize, "mixed": mixed}))
    assert "Some weights have 2 bits." in step.why
    assert tuple(step.settings) == (*first, "training.quantization_weight_bitwidth=8")


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
    end = "Nothing is to be won back from quantization: no class lost 5 points and 3 windows, or more."
    assert step.said.endswith(end)
    assert step.title == "Accuracy after quantization"


@pytest.mark.parametrize(
    ("found", "still", "total", "counts"),
    [(73, 60, 100, True), (38, 36, 40, False), (38, 35, 40, True), (10, 8, 10, False), (900, 860, 1000, False)],
)
def test_a_class_that_fell_is_said_where_the_accuracy_hides_it(
    facts: ReportFacts, changed: Changed, found: int, still: int, total: int, counts: bool
) -> None:
    before = [[found, total - found], [total - still, still]]
    after = [[still, total - still], [total - found, found]]
    same = {"test": {"accuracy": (found + still) / (2 * total)}}
    hidden = changed(
        metrics_train={**facts.metrics_train, **same, "confusion": before},
        metrics_quantize={**facts.metrics_quantize, **same, "confusion": after},
    )
    step, fall = next_step(hidden), numbers(hidden)["quantization"]["worst_class_fall"]
    assert step.good is not counts
    assert ("Hardest hit is class 'arc'" in step.said) is counts
    expected = {"class": "arc", "float": found / total, "quantized": still / total, "windows": found - still}
    assert fall == (expected if counts else None)
    assert step.settings == (("training.quantization_epochs=20",) if counts else ())


def test_the_worst_of_several_classes_that_fell_is_said_with_its_numbers(
    dropped: Callable[..., ReportFacts], changed: Changed
) -> None:
    facts = dropped(0.09)
    fallen = changed(
        metrics_train={**facts.metrics_train, "confusion": [[95, 5], [10, 90]]},
        metrics_quantize={**facts.metrics_quantize, "confusion": [[89, 11], [24, 76]]},
        quantization_config=facts.quantization_config,
    )
    said = "class 'normal': 76.0 % of its test windows are found, 90.0 % by the float network (14 fewer of 100)."
    assert next_step(fallen).said.endswith(said)


def test_a_run_without_confusion_matrices_claims_nothing_of_its_classes(facts: ReportFacts, changed: Changed) -> None:
    unmeasured = changed(metrics_quantize={**facts.metrics_quantize, "confusion": None})
    assert next_step(unmeasured).said.endswith("Nothing is to be won back from quantization.")
    assert numbers(unmeasured)["quantization"]["worst_class_fall"] is None


def warned_training(epochs: int) -> dict[str, Any]:
    """What the training itself says of a network that is at chance level."""
    draw = np.random.default_rng(0)
    features = draw.normal(size=(80, 1, 8, 1)).astype(np.float32)
    labels = np.arange(80) % 2
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 2))
    torch.nn.init.zeros_(module[1].weight)
    settings = FitSettings(epochs=epochs, batch_size=16, learning_rate=1e-9)
    history = fit(module, FitData(features, labels, features, labels), settings)
    return {"history": history["epochs"], "val": {"accuracy": history["best_value"]}, "warnings": history["warnings"]}


@pytest.mark.parametrize(
    ("epochs", "rate", "setting"),
    [
        (1, 0.04, "training_epochs=10"),
        (9, 0.04, "training_epochs=27"),
        (10, 0.04, "learning_rate=0.002"),
        (10, 1e-9, "learning_rate=0.002"),
        (10, 0.003, "learning_rate=0.0003"),
    ],
)
@pytest.mark.parametrize("method", ["QAT", "none"])
def test_where_the_network_learned_nothing_that_is_said_and_not_that_nothing_was_lost(
    facts: ReportFacts, changed: Changed, epochs: int, rate: float, setting: str, method: str
) -> None:
    step = next_step(
        changed(
            metrics_train={**facts.metrics_train, **warned_training(epochs)},
            quantization_config={"method": method},
            notes={"warnings": [], "overview": {"training": {"learning_rate": rate}}},
        )
    )
    assert not step.good
    assert step.title == "The next thing to try"
    assert "float network has learned nothing" in step.said
    assert ("quantization" in step.said) is (method != "none")
    assert tuple(step.settings) == (f"training.{setting}",)


def test_what_is_called_built_in_is_what_a_config_has() -> None:
    built_in = defaults("training")
    assert (built_in["training_epochs"], built_in["learning_rate"]) == (FEW_EPOCHS, RATE)


def test_what_was_learned_by_heart_gets_no_line_that_cures_nothing(facts: ReportFacts, changed: Changed) -> None:
    by_heart = {"val": {"accuracy": 0.5}, "warnings": ["THE NETWORK HAS LEARNED NOTHING"]}
    step = next_step(changed(metrics_train={**facts.metrics_train, **by_heart}))
    assert not step.settings and "does not carry over" in step.why


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
