"""An execution: the program's C, compiled and run on this machine."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.contracts import Execution, Outcome
from flowlab.cpu import host_compiler
from flowlab.errors import StageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILES = ("model.c", "model.h", "host_runner.c")


class HostC(Execution):
    """Compiles ``host_runner.c`` (which includes ``model.c``) and feeds it every vector."""

    name = "host C"
    floats = True
    native = True

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        return host_compiler.MISSING if host_compiler.find() is None else None

    def version(self) -> str:
        """The compiler's version."""
        compiler = host_compiler.find()
        return compiler.version() if compiler else ""

    def run(self, program: Mapping[str, Path], features: NDArray[np.float32], scratch: Path) -> Outcome:
        """Run the program's C on float32 (vector, channel, height, width), in a process of its own.

        Raises:
            StageError: if it does not compile, crashes, or gives back another number of bytes than it should.
        """
        import tempfile

        compiler = host_compiler.find()
        if compiler is None:
            raise StageError(host_compiler.MISSING)
        scratch.mkdir(parents=True, exist_ok=True)
        # A folder of its own: what a killed run left behind may still write into the last one.
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            return _build_and_run(compiler, program, features, Path(folder).resolve())


def _build_and_run(
    compiler: host_compiler.HostCompiler, program: Mapping[str, Path], features: NDArray[np.float32], folder: Path
) -> Outcome:
    import numpy as np

    from flowlab.cpu.process import run_tool

    for name in FILES:
        shutil.copyfile(program[name], folder / name)
    runner, given, results = folder / "host_runner", folder / "features.bin", folder / "results.bin"
    compiler.compile(folder / "host_runner.c", runner)
    np.ascontiguousarray(features, np.float32).tofile(given)
    layout = run_tool([runner], timeout_s=60, folder=folder)
    run_tool([runner, given, results], timeout_s=600, folder=folder)
    return _read(layout, results.read_bytes(), len(features))


def _read(layout: str, data: bytes, count: int) -> Outcome:
    """Split the runner's results by its own description of them."""
    import numpy as np

    fields: list[tuple[str, str, tuple[int, ...]]] = []
    layers: list[str] = []
    order = "<" if sys.byteorder == "little" else ">"
    for line in layout.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "output":
            dtype, shape, name = rest.split(" ", 2)
            code = f"{order}f4" if dtype == "float32" else f"{order}i4"
            fields.append((name, code, tuple(int(axis) for axis in shape.split(","))))
        elif kind == "layer":
            layers.append(rest)
        else:
            raise StageError(f"host C: the runner's layout has a line {shlex.quote(line)}")
    record = np.dtype(
        [(f"output {at}", code, shape) for at, (_, code, shape) in enumerate(fields)]
        + [("layers", f"{order}u4", (len(layers),))]
    )
    if len(data) != count * record.itemsize:
        raise StageError(f"host C: {len(data)} bytes of results for {count} vectors of {record.itemsize} bytes")
    rows = np.frombuffer(data, record)
    outputs: dict[str, NDArray[Any]] = {
        name: rows[f"output {at}"].astype(np.float32 if code.endswith("f4") else np.int32)
        for at, (name, code, _) in enumerate(fields)
    }
    trace = {name: rows["layers"][:, at].astype(np.uint32) for at, name in enumerate(layers)}
    return Outcome(outputs, trace)
