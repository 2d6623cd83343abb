"""What of a config decides quantization, and what is refused before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from flowlab.config import load_mapping
from flowlab.errors import FlowlabError
from flowlab.plugins import load
from flowlab.stages import quantize
from flowlab.stages.quantize import QuantizeOptions
from flowlab_tinpu.quantizers import QUANTIZERS


@pytest.fixture(scope="module")
def catalogue() -> Any:
    return load()


def found(catalogue: Any, **training: Any) -> QuantizeOptions:
    values = {section: dict(keys) for section, keys in catalogue.preset("example", "demo").values.items()}
    values["training"] = {**values["training"], **training}
    return quantize.options(load_mapping(values, catalogue), catalogue)


@pytest.mark.parametrize("key", ["quantization_learning_rate", "quantization_distillation", "quantization_epochs"])
def test_what_trains_decides_nothing_without_a_training(catalogue: Any, key: str) -> None:
    value = 7 if key == "quantization_epochs" else 0.5
    method = {"quantization_method": "PTQ"}
    assert found(catalogue, **method, **{key: value}) == found(catalogue, **method)
    trained = {"quantization_method": "QAT"}
    assert found(catalogue, **trained, **{key: value}) != found(catalogue, **trained)


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"quantization_weight_bitwidth": 8}, False),
        ({"quantization_weight_bitwidth": 4}, True),
        ({"quantization_weight_bitwidth": 4, "ptq_finetune": False}, False),
        ({"quantization_weight_bitwidth": 4, "quantization_method": "QAT"}, False),
        ({"quantization_weight_bitwidth": 8, "quantization_edge_bitwidth": 4}, True),
        ({"quantization_weight_bitwidth": 8, "auto_quantization": True}, True),
        ({"quantization": 1, "quantization_weight_bitwidth": 8, "quantization_activation_bitwidth": 4}, True),
    ],
    ids=str,
)
def test_fine_tuning_is_an_option_only_where_it_is_done(
    catalogue: Any, training: dict[str, Any], expected: bool
) -> None:
    assert found(catalogue, **{"quantization_method": "PTQ", **training}).finetune is expected


def test_an_optimizer_needs_a_rate_that_fits_it(catalogue: Any) -> None:
    given = {"quantization_method": "QAT", "quantization_optimizer": "sgd"}
    with pytest.raises(FlowlabError, match=r"quantization_optimizer: 'sgd' needs a rate of its own\. Set"):
        found(catalogue, **given)
    assert found(catalogue, **given, quantization_learning_rate=0.01).optimizer == "sgd"


def test_edges_and_bits_that_are_chosen_do_not_go_together(catalogue: Any) -> None:
    with pytest.raises(FlowlabError, match="quantization_edge_bitwidth: auto_quantization chooses the bits of every"):
        found(catalogue, quantization_edge_bitwidth=8, auto_quantization=True)


def test_edges_of_a_quantizer_with_one_width_are_refused(catalogue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for quantizer in QUANTIZERS:
        monkeypatch.setattr(type(quantizer), "mixed", False)
    with pytest.raises(FlowlabError, match=r"has one width for all layers\. Leave the key out"):
        found(catalogue, quantization_edge_bitwidth=8, quantization_method="PTQ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quantization_learning_rate", 0),
        ("quantization_learning_rate", "nan"),
        ("quantization_optimizer", "adamax"),
        ("quantization_distillation", 1.5),
        ("quantization_edge_bitwidth", 3),
        ("ptq_finetune", "perhaps"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(catalogue: Any, key: str, value: object) -> None:
    with pytest.raises(FlowlabError, match=rf"training\.{key}"):
        found(catalogue, **{key: value})
