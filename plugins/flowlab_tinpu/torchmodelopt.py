"""TI's names for a user's own training script: surgery, with TI's calls.

Where a script imports from ``tinyml_torchmodelopt.surgery``, import the same names from here. They are thin names over
`flowlab.quant`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from flowlab.compiler.number_format import GENERIC
from flowlab.learn.trace import trace_module
from flowlab.quant.calibrating_wrapper import CalibratingWrapper
from flowlab.quant.lite import default_replacements, lite
from flowlab.quant.training_wrapper import TrainingWrapper
from flowlab_tinpu.number_format import NPU


def get_replacement_dict_default() -> dict[Any, Any]:
    """The default replacements, a fresh dictionary: copy it, change it, and give it to `convert_to_lite_fx`.

    A key is a module's class (that very class), a torch function, a module's dotted name, or a pattern of names; a
    value is a class, an instance, or a function of the module that is replaced. What the defaults do:
    `flowlab.quant.lite.default_replacements`.
    """
    return default_replacements()


def convert_to_lite_fx(
    model: nn.Module, replacement_dict: dict[Any, Any] | None = None, *, example_inputs: Tensor | None = None
) -> nn.Module:
    """A copy of the model in which what the NPU has not is replaced by what it has; the model stays as it is.

    Args:
        model: any module, best untrained: new layers begin untrained, and another activation is another function.
        replacement_dict: instead of the default one; the default's keys need not match anything, all others must.
        example_inputs: an input with its batch. Replacements are tried on the shapes that come to their places, and
            averages over parts can be replaced; without it shapes are checked at the first forward.

    Raises:
        OptionError: for a key that matches nothing, and for a replacement that does not fit its place; it names it.
        GraphError: where a function is to be replaced and ``forward`` cannot be traced.
    """
    return lite(model, replacement_dict, example=example_inputs).module


BACKENDS = ("qnnpack", "fbgemm", "x86", "onednn")  # torch's; TI's classes take them


class TINPUTinyMLQATFxModule(TrainingWrapper):
    """Quantization-aware training for the NPU."""

    quantizer = "tinpu_qat"
    format = NPU
    backends = BACKENDS
    trace = staticmethod(trace_module)


class TINPUTinyMLPTQFxModule(CalibratingWrapper):
    """Post-training quantization for the NPU."""

    quantizer = "tinpu_ptq"
    format = NPU
    backends = BACKENDS
    trace = staticmethod(trace_module)


class GenericTinyMLQATFxModule(TrainingWrapper):
    """Quantization-aware training for any CPU."""

    quantizer = "generic_qat"
    format = GENERIC
    backends = BACKENDS
    trace = staticmethod(trace_module)


class GenericTinyMLPTQFxModule(CalibratingWrapper):
    """Post-training quantization for any CPU."""

    quantizer = "generic_ptq"
    format = GENERIC
    backends = BACKENDS
    trace = staticmethod(trace_module)
