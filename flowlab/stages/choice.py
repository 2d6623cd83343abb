"""What a config chooses for several stages: the number format, and how the device's compiler is asked."""

from __future__ import annotations

from typing import Any

from flowlab.contracts import NumberFormat
from flowlab.errors import OptionError

NO_FORMAT = NumberFormat("float32", by_weight_bits={}, activation_bits=())  # what a float graph obeys: none
FLOAT_BITS = 32
FOR_ANY_CPU = ("", "cpu")  # formats that no accelerator has: none at all, and the one of integers for any CPU
SETTINGS = ("target", "target_c_mcpu", "cross_compiler", "cross_compiler_options")  # what compile presets resolve to


def compile_settings(config: Any) -> dict[str, Any]:
    """The keys of ``compilation`` that compile presets resolve to, where they are given."""
    found = {key: getattr(config.compilation, key) for key in SETTINGS}
    return {key: value for key, value in found.items() if value is not None}


def accelerator_off(config: Any, catalogue: Any) -> str:
    """Why the config puts every layer on the CPU, by its quantizer or its compile preset; empty where it does not.

    A device without an accelerator needs no reason.
    """
    target = catalogue.get("target", config.common.target_device)
    quantizer = catalogue.get("quantizer", config.quantizer_name(catalogue))
    if quantizer.format in FOR_ANY_CPU and target.rules():
        return f"quantization: {1 if quantizer.format else 0}; set 2 for the {target.unit_name}"
    found: str = target.accelerator_off(compile_settings(config))
    return found


def chosen_format(config: Any, catalogue: Any) -> NumberFormat:
    """The format of the config's device that its quantizer asks for; `OptionError` where the device lacks it.

    `NO_FORMAT` for a quantizer that asks for none.
    """
    quantizer = catalogue.get("quantizer", config.quantizer_name(catalogue))
    if not quantizer.format:
        return NO_FORMAT
    target = catalogue.get("target", config.common.target_device)
    if quantizer.format not in target.formats:
        known = ", ".join(sorted(target.formats)) or "none"
        raise OptionError(
            f"quantizer '{quantizer.name}' asks for the number format '{quantizer.format}', and "
            f"'{target.name}' has: {known}"
        )
    found: NumberFormat = target.formats[quantizer.format]
    return found
