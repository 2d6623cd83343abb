"""A feature extractor's C, compiled and run on this machine."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from flowlab.cpu import host_compiler
from flowlab.errors import StageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")  # C99 and nothing else, on a compiler that we do not choose
HEAP = re.compile(r"\b(malloc|calloc|realloc|free|alloca)\s*\(")

RUNNER = """\
#include <stdio.h>

void flowlab_features(const float *window, float *features);

int main(int count, char **words)
{{
    static float window[{window}], features[{features}];
    FILE *given = count > 2 ? fopen(words[1], "rb") : NULL;
    FILE *made = count > 2 ? fopen(words[2], "wb") : NULL;
    if (!given || !made) {{
        return 1;
    }}
    while (fread(window, sizeof window, 1, given) == 1) {{
        flowlab_features(window, features);
        if (fwrite(features, sizeof features, 1, made) != 1) {{
            return 1;
        }}
    }}
    return fclose(made) != 0;
}}
"""


def features_by_c(source: str, windows: NDArray[np.float32], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """What the C of `FeatureExtractor.emit_c` makes of windows.

    Args:
        source: it alone; the runner around it is ours, in a file of its own.
        windows: float32 (window, channel, length).
        shape: of one feature, (channel, height, width).

    Raises:
        StageError: if there is no compiler, if the source asks for the heap, does not compile as strict C99, crashes,
            or gives back another number of bytes than it should.
    """
    import numpy as np

    compiler = host_compiler.find()
    if compiler is None:
        raise StageError(host_compiler.MISSING)
    if found := HEAP.search(source):
        raise StageError(f"the C of a feature extractor calls {found[1]}: a device has no heap; use static buffers")
    with tempfile.TemporaryDirectory() as folder:
        data = _run(compiler, source, np.ascontiguousarray(windows, np.float32), shape, Path(folder).resolve())
    wanted = len(windows) * int(np.prod(shape)) * np.dtype(np.float32).itemsize
    if len(data) != wanted:
        raise StageError(f"the C of a feature extractor gave {len(data)} bytes for {wanted}")
    return np.frombuffer(data, np.float32).reshape(len(windows), *shape)


def _run(
    compiler: host_compiler.HostCompiler,
    source: str,
    windows: NDArray[np.float32],
    shape: tuple[int, int, int],
    folder: Path,
) -> bytes:
    import numpy as np

    from flowlab.cpu.process import run_tool

    sizes = {"window": int(np.prod(windows.shape[1:])), "features": int(np.prod(shape))}
    (folder / "feature_extraction.c").write_text(source, encoding="utf-8")
    (folder / "runner.c").write_text(RUNNER.format(**sizes) + '#include "feature_extraction.c"\n', encoding="utf-8")
    runner, given, made = folder / "runner", folder / "windows.bin", folder / "features.bin"
    compiler.compile(folder / "runner.c", runner, flags=(*host_compiler.FLAGS, *STRICT))
    windows.tofile(given)
    run_tool([runner, given, made], timeout_s=60, folder=folder)
    return made.read_bytes()
