"""What flowlab_cores brings: processor cores, as data."""

from __future__ import annotations

from collections.abc import Sequence

from flowlab.contracts import Core
from flowlab.hookspecs import hookimpl


@hookimpl
def flowlab_cores() -> Sequence[Core]:
    """Arm Cortex-M and R cores, and TI's C28x and C29x."""
    from flowlab_cores.cores import CORES

    return CORES
