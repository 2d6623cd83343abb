"""The chapter's examples, laid over its whole config: written anew here; the real files are read under tests/system."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flowlab.config import Config
from flowlab.errors import NotBuiltYet
from flowlab.plugins import Catalogue


def part(model: str, mode: int, method: str = "QAT", weights: int = 8, activations: int = 8) -> str:
    return (
        f"training:\n  model_name: '{model}'\n  quantization: {mode}\n  quantization_method: '{method}'\n"
        f"  quantization_weight_bitwidth: {weights}\n  quantization_activation_bitwidth: {activations}\n"
    )


NOW = [
    part("CLS_4k_NPU", 2),
    part("CLS_4k_NPU", 2, "PTQ"),
    "common:\n  target_device: 'F28P55'\n" + part("CLS_4k_NPU", 2),
    "training:\n  quantization_weight_bitwidth: 8\n  quantization_activation_bitwidth: 8\n",
]
LATER = [
    "training:\n  model_name: 'CLS_4k_NPU'\n  quantization: 0\n",
    part("CLS_4k", 1),
    part("CLS_4k_NPU", 2, weights=4),
    part("CLS_4k_NPU", 2, weights=4, activations=4),
    part("CLS_4k_NPU", 2, weights=2, activations=2),
]


@pytest.mark.parametrize("text", NOW)
def test_an_example_loads_and_has_its_quantizer(loaded: Callable[..., Config], catalogue: Catalogue, text: str) -> None:
    assert loaded(text).quantizer_name(catalogue) in {"npu_qat", "npu_ptq"}


@pytest.mark.parametrize("text", LATER)
def test_an_example_of_a_later_issue_loads_and_is_refused_when_it_should_run(
    loaded: Callable[..., Config], catalogue: Catalogue, text: str
) -> None:
    with pytest.raises(NotBuiltYet, match="not built yet"):
        loaded(text).quantizer_name(catalogue)
