"""What flowlab_generic brings: quantizers that belong to no machine, and the machine that flowlab runs on."""

from __future__ import annotations

from collections.abc import Sequence

from flowlab.contracts import Core, Quantizer, Target
from flowlab.hookspecs import hookimpl


@hookimpl
def flowlab_cores() -> Sequence[Core]:
    """The host's own core."""
    from flowlab_generic.host import HostCore

    return (HostCore(),)


@hookimpl
def flowlab_quantizers() -> Sequence[Quantizer]:
    """The quantizers."""
    from flowlab_generic.quantizers import QUANTIZERS

    return QUANTIZERS


@hookimpl
def flowlab_targets() -> Sequence[Target]:
    """The host as a device."""
    from flowlab_generic.host import HostTarget

    return (HostTarget(),)
