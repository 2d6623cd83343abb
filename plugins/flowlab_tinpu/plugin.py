"""What flowlab_tinpu brings: TI's devices, the quantizers of its NPU, and the compile presets of TI's tool."""

from __future__ import annotations

from collections.abc import Sequence

from flowlab.contracts import Preset, Quantizer, Target
from flowlab.hookspecs import hookimpl


@hookimpl
def flowlab_targets() -> Sequence[Target]:
    """TI's devices."""
    from flowlab_tinpu.devices import TARGETS

    return TARGETS


@hookimpl
def flowlab_quantizers() -> Sequence[Quantizer]:
    """QAT and PTQ in the NPU's number format."""
    from flowlab_tinpu.quantizers import QUANTIZERS

    return QUANTIZERS


@hookimpl
def flowlab_presets() -> Sequence[Preset]:
    """Compile presets, by device and task."""
    from flowlab_tinpu.compiler_call import presets
    from flowlab_tinpu.device_table import ROWS

    return presets(ROWS)
