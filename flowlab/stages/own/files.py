"""What `flowlab compile` reads from outside besides the network's graph: bytes, and windows; each with care."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowlab.compiler.ir import Graph

    Windows = NDArray[np.float32]

MOST_MODEL, MOST_WINDOWS = 1 << 28, 1 << 30  # bytes that are read


def read_bytes(path: Path, most: int, what: str) -> bytes:
    """A file of at most so many bytes; DataError naming it, and ``what`` to give."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise DataError(f"{path}: larger than {most >> 20} MB; that is no network for a microcontroller")
        return data
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}. Give {what}") from None


def read_windows(path: Path, graph: Graph) -> Windows:
    """Inputs of the network, float32 (window, ...), from a ``.npy`` file or the only array of a ``.npz``.

    Axes of one place may be left out or be more; all others must be the network's, in its order.

    Raises:
        DataError: naming the file and what it should hold.
    """
    import numpy as np

    shape = graph.inputs[0].type.shape
    wanted = f"float32 of shape (windows, {', '.join(map(str, shape))})"
    found = read_array(path, wanted)
    axes = [[size for size in one if size != 1] for one in (found.shape[1:], shape)]
    if found.dtype.kind not in "fiu" or found.ndim < 1 or axes[0] != axes[1]:
        raise DataError(f"{path}: {found.dtype} of shape {found.shape}. Give {wanted}")
    if len(found) == 0:
        raise DataError(f"{path}: holds no window. Give a few hundred of the network's own inputs")
    with np.errstate(over="ignore"):
        values: Windows = np.array(found).reshape(len(found), *shape).astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"{path}: window {int(np.argwhere(~np.isfinite(values))[0][0])} holds NaN or infinite numbers")
    return values


def read_array(path: Path, wanted: str) -> Any:
    """The array of a file; DataError naming it and what it should hold."""
    try:
        return _array(path)
    except (DataError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: {reason}. Give {wanted} as a .npy file") from None
    except Exception as error:  # noqa: BLE001 - numpy, zipfile and zlib have many kinds, all of them about the file
        first = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DataError(f"{path}: {first}. Give {wanted} as a .npy file") from None


def _array(path: Path) -> Any:
    """The array, whose bytes are there before memory is asked for them; nothing that is pickled is read."""
    import zipfile

    import numpy as np

    if not path.is_file() or path.stat().st_size > MOST_WINDOWS:
        if path.is_file():
            raise DataError(f"larger than {MOST_WINDOWS >> 20} MB, where a few hundred windows are enough")
        path.open("rb").close()
        raise DataError("is no file")
    if not zipfile.is_zipfile(path):
        return np.lib.format.open_memmap(path, mode="r")
    with zipfile.ZipFile(path) as archive:
        if sum(one.file_size for one in archive.infolist()) > MOST_WINDOWS:
            raise DataError(f"unpacks to more than {MOST_WINDOWS >> 20} MB")
    with np.load(path, allow_pickle=False) as members:
        if len(members.files) != 1:
            raise DataError(f"holds {', '.join(members.files) or 'nothing'}, and one array is expected")
        values = members[members.files[0]]
    if not isinstance(values, np.ndarray):
        raise DataError("holds no array")
    return values
