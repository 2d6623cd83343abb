from __future__ import annotations

import subprocess
import sys

import pytest
from networks.training import quantize_job, trained

from flowlab.compiler.number_format import GENERIC, tell_apart
from flowlab.compiler.verify import verify
from flowlab.contracts import NoOptions, Quantizer
from flowlab_generic.quantizers import QUANTIZERS
from flowlab_tinpu.number_format import NPU

INTEGER = [quantizer for quantizer in QUANTIZERS if quantizer.format]


@pytest.mark.parametrize("quantizer", INTEGER, ids=lambda quantizer: quantizer.name)
def test_both_make_a_graph_that_obeys_the_format(quantizer: Quantizer) -> None:
    quantized = quantizer.quantize(quantize_job(trained(), epochs=1, format=GENERIC), NoOptions())
    verify(quantized.graph, GENERIC)
    assert quantized.graph.metadata["quantizer"] == quantizer.name
    assert quantized.graph.metadata["number_format"] == "generic"
    assert ("epochs" in quantized.history) is quantizer.trains
    assert quantizer.trains or quantized.history == {"recipe": "scales alone"}


def test_they_ask_for_the_cpus_format_and_are_named_by_method() -> None:
    assert {quantizer.name: (quantizer.format, quantizer.trains) for quantizer in INTEGER} == {
        "generic_qat": ("cpu", True),
        "generic_ptq": ("cpu", False),
    }


def test_the_format_has_a_multiplier_of_8_bits_for_every_width() -> None:
    for form in GENERIC.by_weight_bits.values():
        assert (form.multiplier_bits, form.shift, form.bias_bits) == (8, (0, 31), 32)
    assert GENERIC.activation_bits == (8, 4, 2)
    assert not any(GENERIC.power_of_two_scales.values())


def test_some_input_tells_it_from_the_npu() -> None:
    assert {difference.case.kind for difference in tell_apart(GENERIC, NPU)} >= {"multiplier", "wide bias"}


def test_the_declarations_load_without_torch_and_numpy() -> None:
    script = (
        "import sys, flowlab_generic.quantizers, flowlab_generic.host\n"
        "print([name for name in ('torch', 'numpy', 'onnx', 'pyarrow') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
