"""Where windows start, which columns they show, and how they are cut out of a recording. Light: numpy when it cuts.

A window is ``num_frame_concat`` frames of ``frame_size`` samples, one frame behind the other.
Frames start every hop: ``frame_size`` samples, or with SimpleWindow ``int(frame_size * stride_size)`` (0 means
``frame_size``). Only full frames count. The next window starts one frame later, or ``frame_skip`` frames later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowlab.errors import DataError, OptionError, did_you_mean
from flowlab.signal.chain import PREPARATION, check_names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STRIDES = "SimpleWindow"  # the transform that reads stride_size


@dataclass(frozen=True)
class WindowOptions:
    """Keys of the feature section that decide which windows there are."""

    data_proc_transforms: tuple[str, ...] = ()
    variables: int | tuple[int, ...] | tuple[str, ...] = 1
    sampling_rate: float = 1
    new_sr: float = 1
    frame_size: int = 1
    stride_size: float = 0.01
    num_frame_concat: int = 1
    frame_skip: int = 1

    @property
    def factor(self) -> int:
        """One of how many samples is kept. Raises `OptionError` for less than one."""
        if "Downsample" not in self.data_proc_transforms:
            return 1
        factor = int(self.sampling_rate // self.new_sr) if self.new_sr > 0 else 0
        if factor < 1:
            raise OptionError(f"Downsample: sampling_rate {self.sampling_rate:g} // new_sr {self.new_sr:g} is below 1")
        return factor

    @property
    def hop(self) -> int:
        """Samples from the start of one frame to the next."""
        if STRIDES not in self.data_proc_transforms:
            return self.frame_size
        return int(self.frame_size * self.stride_size) or self.frame_size

    @property
    def length(self) -> int:
        """Samples of a window."""
        return self.frame_size * max(1, self.num_frame_concat)


def check(options: WindowOptions) -> None:
    """Raise `OptionError` where no windows can be cut so."""
    check_names(options.data_proc_transforms, "data_proc_transforms", PREPARATION)
    if options.frame_size < 2:
        raise OptionError(f"frame_size: found {options.frame_size}, expected the samples of a window, at least 2")
    if options.stride_size < 0:
        raise OptionError(f"stride_size: {options.stride_size:g} is a fraction of frame_size, from 0 to 1")
    if options.frame_skip < 1:
        raise OptionError(f"frame_skip: {options.frame_skip}, at least 1")


def choose(columns: Sequence[str], variables: int | Sequence[int] | Sequence[str]) -> tuple[int, ...]:
    """The columns that ``variables`` asks for: the first n, by index, or by name.

    Raises:
        DataError: naming what is not there and what is.
    """
    have = f"The recordings have {len(columns)} columns: {', '.join(columns)}"
    if isinstance(variables, int):
        if not 1 <= variables <= len(columns):
            raise DataError(f"variables: {variables} columns are asked for. {have}")
        return tuple(range(variables))
    chosen = []
    for item in variables:
        if isinstance(item, str):
            if item not in columns:
                raise DataError(f"variables: no column '{item}'.{did_you_mean(item, columns)} {have}")
            chosen.append(list(columns).index(item))
        elif 0 <= item < len(columns):
            chosen.append(item)
        else:
            raise DataError(f"variables: no column {item} (they count from 0). {have}")
    if not chosen or len(set(chosen)) < len(chosen):
        raise DataError(f"variables: {list(variables)} names no column, or one twice. {have}")
    return tuple(chosen)


def cut(
    samples: NDArray[np.float32], chosen: Sequence[int], options: WindowOptions
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cut one recording into windows.

    Args:
        samples: float32 ``(time, column)``.
        chosen: columns.
        options: where windows start.

    Returns:
        Windows, float32 ``(window, channel, length)``, and the sample of the recording where each starts, int64.
    """
    import numpy as np

    kept = samples[:: options.factor, list(chosen)]  # plain decimation, no filter
    at = _frames(len(kept), options)
    places = at[:, :, None] + np.arange(options.frame_size)
    windows = kept[places.reshape(len(at), options.length)].transpose(0, 2, 1)
    return np.ascontiguousarray(windows), at[:, 0] * options.factor


def starts(length: int, options: WindowOptions) -> NDArray[np.int64]:
    """The samples at which the windows of a recording of this length start: int64 ``(window,)``."""
    found: NDArray[np.int64] = _frames(-(-length // options.factor), options)[:, 0] * options.factor
    return found


def span(options: WindowOptions) -> int:
    """Samples from the first to the last that a window holds, both included."""
    frames = max(1, options.num_frame_concat)
    return ((frames - 1) * options.hop + options.frame_size - 1) * options.factor + 1


def _frames(kept: int, options: WindowOptions) -> NDArray[np.int64]:
    """Where the frames of each window start, in kept samples: int64 ``(window, frame)``."""
    import numpy as np

    frames = max(1, options.num_frame_concat)
    count = (kept - options.frame_size) // options.hop + 1 if kept >= options.frame_size else 0
    last = np.arange(frames - 1, count)  # the last frame of each window
    last = last[last % options.frame_skip == 0]
    found: NDArray[np.int64] = (last[:, None] - np.arange(frames)[::-1]) * options.hop
    return found
