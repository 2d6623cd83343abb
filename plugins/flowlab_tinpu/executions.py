"""The ways to run a program of an NPU device here, and the reasons for those that do not exist here."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowlab.contracts import Execution, Outcome

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Simulator(Execution):
    """The program's bytes on an open model of the NPU and in numpy for layers on the CPU, in a fresh process.

    It sees those bytes and the features only, and runs any program, also one whose layers are all on the CPU.
    """

    name = "simulator"

    def run(self, program: Mapping[str, Path], features: NDArray[np.float32], scratch: Path) -> Outcome:
        """Run ``model.flnp`` on float32 (vector, channel, height, width). Raises `StageError` where it fails."""
        import tempfile

        scratch.mkdir(parents=True, exist_ok=True)
        # A folder of its own: what a killed run left behind may still write into the last one.
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            return self._run(program["model.flnp"], features, Path(folder))

    def _run(self, program: Path, features: NDArray[np.float32], folder: Path) -> Outcome:
        import numpy as np

        from flowlab.cpu.process import run_tool

        given, results = folder / "features.npy", folder / "results.npz"
        np.save(given, np.ascontiguousarray(features, np.float32), allow_pickle=False)
        # -P: what lies in the working directory is not imported
        command = [sys.executable, "-P", "-m", "flowlab_tinpu.simulator", str(program), str(given), str(results)]
        run_tool(command, timeout_s=1800)
        with np.load(results, allow_pickle=False) as found:
            outputs = {name.removeprefix("output/"): found[name] for name in found.files if name.startswith("output/")}
            trace = {name.removeprefix("crc/"): found[name] for name in found.files if name.startswith("crc/")}
        return Outcome(outputs, trace)


@dataclass
class Absent(Execution):
    """An execution that does not exist here, named so that results say why it did not run."""

    name: str
    reason: str

    def missing(self) -> str | None:
        """The reason."""
        return self.reason

    def run(self, program: Mapping[str, Path], features: NDArray[np.float32], scratch: Path) -> Outcome:
        """Never called: `missing` has a reason."""
        raise NotImplementedError(self.reason)
