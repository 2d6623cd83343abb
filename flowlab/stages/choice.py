"""What a config chooses for several stages: the number format, and how the device's compiler is asked."""

from __future__ import annotations

from typing import Any

from flowlab.contracts import NumberFormat
from flowlab.errors import OptionError

SETTINGS = ("target", "target_c_mcpu", "cross_compiler", "cross_compiler_options")  # what compile presets resolve to


def compile_settings(config: Any) -> dict[str, Any]:
    """The keys of ``compilation`` that compile presets resolve to, where they are given."""
    found = {key: getattr(config.compilation, key) for key in SETTINGS}
    return {key: value for key, value in found.items() if value is not None}


def accelerator_off(config: Any, catalogue: Any) -> str:
    """Why the config's compile preset puts every layer on the CPU; empty where it does not."""
    target = catalogue.get("target", config.common.target_device)
    found: str = target.accelerator_off(compile_settings(config))
    return found


def chosen_format(config: Any, catalogue: Any) -> NumberFormat:
    """The format of the config's device that its quantizer asks for; `OptionError` where there is none."""
    quantizer = catalogue.get("quantizer", config.quantizer_name(catalogue))
    target = catalogue.get("target", config.common.target_device)
    if quantizer.format not in target.formats:
        known = ", ".join(sorted(target.formats)) or "none"
        raise OptionError(
            f"quantizer '{quantizer.name}' asks for the number format '{quantizer.format}', and "
            f"'{target.name}' has: {known}"
        )
    found: NumberFormat = target.formats[quantizer.format]
    return found
