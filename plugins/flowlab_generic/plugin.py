"""What flowlab_generic brings: the machine that flowlab runs on, as a core and as a target."""

from __future__ import annotations

from collections.abc import Sequence

from flowlab.contracts import Core, Target
from flowlab.hookspecs import hookimpl


@hookimpl
def flowlab_cores() -> Sequence[Core]:
    """The host's own core."""
    from flowlab_generic.host import HostCore

    return (HostCore(),)


@hookimpl
def flowlab_targets() -> Sequence[Target]:
    """The host as a device."""
    from flowlab_generic.host import HostTarget

    return (HostTarget(),)
