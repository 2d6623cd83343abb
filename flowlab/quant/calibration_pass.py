"""What a user's loop does with a wrapper before it converts, so that a benchmark can time it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flowlab.compiler.number_format import GENERIC
from flowlab.learn.trace import trace_module
from flowlab.quant.calibrating_wrapper import CalibratingWrapper


class _Calibrating(CalibratingWrapper):
    quantizer = "calibrating"
    format = GENERIC
    trace = staticmethod(trace_module)


def calibration_pass(module: nn.Module, features: NDArray[np.float32], batch: int) -> Callable[[], None]:
    """Feeds all windows, ``batch`` at a time, to the module's wrapper of post-training quantization, traced already."""
    windows = torch.from_numpy(features)
    wrapper = _Calibrating(module, example_inputs=windows[:1]).eval()

    def feed() -> None:
        for start in range(0, len(windows), batch):
            wrapper(windows[start : start + batch])

    return feed
