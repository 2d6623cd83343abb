"""The chapter's examples, laid over its whole config: written anew here; the real files are read under tests/system."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flowlab.config import Config
from flowlab.plugins import Catalogue


def part(model: str, mode: int, method: str = "QAT", weights: int = 8, activations: int = 8) -> str:
    return (
        f"training:\n  model_name: '{model}'\n  quantization: {mode}\n  quantization_method: '{method}'\n"
        f"  quantization_weight_bitwidth: {weights}\n  quantization_activation_bitwidth: {activations}\n"
    )


EXAMPLES = [
    (part("CLS_4k_NPU", 2), "npu_qat"),
    (part("CLS_4k_NPU", 2, "PTQ"), "npu_ptq"),
    ("common:\n  target_device: 'F28P55'\n" + part("CLS_4k_NPU", 2), "npu_qat"),
    ("training:\n  quantization_weight_bitwidth: 8\n  quantization_activation_bitwidth: 8\n", "npu_qat"),
    ("training:\n  model_name: 'CLS_4k_NPU'\n  quantization: 0\n", "none"),
    (part("CLS_4k", 1), "generic_qat"),
    (part("CLS_4k", 1, "PTQ"), "generic_ptq"),
    (part("CLS_4k_NPU", 2, weights=4), "npu_qat"),
    (part("CLS_4k_NPU", 2, weights=4, activations=4), "npu_qat"),
    (part("CLS_4k_NPU", 2, weights=2, activations=2), "npu_qat"),
]


@pytest.mark.parametrize(("text", "quantizer"), EXAMPLES)
def test_an_example_loads_and_has_its_quantizer(
    loaded: Callable[..., Config], catalogue: Catalogue, text: str, quantizer: str
) -> None:
    assert loaded(text).quantizer_name(catalogue) == quantizer
