"""An execution: the program's C, cross-compiled for the device's core and run on an emulator of it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.contracts import Execution, Outcome
from flowlab.cpu import cross_compiler
from flowlab.errors import StageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PACKAGES = ("unicorn", "capstone", "pyelftools")
SOURCES = ("model.c", "model.h", "device_runner.c")
COUNTED = 3  # vectors whose instructions are counted: counting is slow, and code has next to no branches on data


class EmulatedCore(Execution):
    """Cross-compiles ``device_runner.c``, which includes ``model.c``, and runs every vector on an emulated core."""

    name = "emulated core"
    native = True

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        lacking = [name for name in PACKAGES if not _version(name)]
        if not cross_compiler.found():
            lacking.insert(0, cross_compiler.ZIG)
        return f"{', '.join(lacking)} not installed: pip install 'flowlab[emulator]'" if lacking else None

    def version(self) -> str:
        """The versions of compilers and emulator."""
        tools = [one.version for one in cross_compiler.found()]
        return ", ".join([*tools, *(f"{name} {_version(name)}" for name in PACKAGES)])

    def run(self, program: Mapping[str, Path], features: NDArray[np.float32], scratch: Path) -> Outcome:
        """Run the program's C on float32 (vector, channel, height, width), on the core that ``device.json`` names.

        Every compiler that is here builds it, and what each made runs; the outcome is that with fewer instructions.

        Raises:
            StageError: if it does not compile or fit, or does what the core or its memory does not allow.
        """
        import tempfile

        compilers = cross_compiler.found()
        if not compilers:
            raise StageError(str(self.missing()))
        scratch.mkdir(parents=True, exist_ok=True)
        outcomes = []
        for compiler in compilers:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                outcomes.append(build_and_run(compiler, program, features, Path(folder).resolve()))
        _require_equal(outcomes)
        return min(outcomes, key=lambda one: one.measured["instructions"])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def build_and_run(
    compiler: cross_compiler.CrossCompiler,
    program: Mapping[str, Path],
    features: NDArray[np.float32],
    folder: Path,
) -> Outcome:
    """One compiler's build on every vector. Raises as `EmulatedCore.run`."""
    import numpy as np

    from flowlab.cpu.process import run_tool

    for name in SOURCES:
        shutil.copyfile(program[name], folder / name)
    try:
        device = json.loads(program["device.json"].read_text(encoding="utf-8"))
    except ValueError as error:
        raise StageError(f"emulated core: {program['device.json'].name} is damaged: {error}") from None
    if features[:1].size not in (0, device["features"]):
        raise StageError(
            f"emulated core: a vector of {features[:1].size} features; the program takes {device['features']}"
        )
    for name, defines in (("plain", ()), ("traced", ("FLOWLAB_TRACED",)), ("bare", ("FLOWLAB_BARE",))):
        compiler.link(
            folder / "device_runner.c",
            folder / f"{name}.elf",
            device["flags"],
            optimize=device["optimize"],
            sizes=device["memory"] if name == "plain" else {},
            defines=defines,
        )
    np.ascontiguousarray(features, "<f4").tofile(folder / "features.bin")
    sizes = {name: device["memory"].get(name) or cross_compiler.UNKNOWN_SIZE for name in ("flash", "ram")}
    job = {
        "plain": str(folder / "plain.elf"),
        "traced": str(folder / "traced.elf"),
        "bare": str(folder / "bare.elf"),
        "features_file": str(folder / "features.bin"),
        "emulated_as": device["emulated_as"],
        "instructions": device["instructions"],
        "flash_at": cross_compiler.FLASH_AT,
        "ram_at": cross_compiler.RAM_AT,
        "port_at": device["port_at"],
        **sizes,
        "features": device["features"],
        "results": sum(_size(shape) for _, _, shape in device["outputs"]),
        "counted": COUNTED,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    # -P: what lies in the working directory is not imported
    run_tool([sys.executable, "-P", "-m", "flowlab.cpu.emulator", str(folder / "job.json")], timeout_s=1800)
    result = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return _outcome(device, result, f"{compiler.version} {device['optimize']}")


def _size(shape: Sequence[int]) -> int:
    import math

    return math.prod(shape)


def _outcome(device: Mapping[str, Any], result: Mapping[str, Any], compiler: str) -> Outcome:
    import numpy as np

    words = np.array(result["words"], np.int32)
    outputs: dict[str, NDArray[Any]] = {}
    at = 0
    for name, dtype, shape in device["outputs"]:
        part = np.ascontiguousarray(words[:, at : at + _size(shape)])
        outputs[name] = (part.view(np.float32) if dtype == "float32" else part).reshape(len(words), *shape)
        at += _size(shape)
    crcs = np.array(result["crcs"], np.uint32).reshape(len(words), -1)
    trace = {name: crcs[:, at] for at, name in enumerate(device["layers"])}
    measured = {
        "core": device["core"],
        "compiler": compiler,
        "kernels": device["kernels"],
        "instructions": max(result["instructions"]),
        "instructions_least": min(result["instructions"]),
        # the input step is traced too, and is no part of what runs where it is called by itself
        "layers": dict(zip(reversed(device["layers"]), reversed(result["layers"]), strict=False)),
        "stack_bytes": result["stack"],
        "network_bytes": result["network"],
        **{f"{name}_bytes": size for name, size in result["sizes"].items()},
    }
    return Outcome(outputs, trace, measured=measured)


def _require_equal(outcomes: Sequence[Outcome]) -> None:
    """What two compilers make of one program gives the same integers."""
    import numpy as np

    first, *others = outcomes
    for other in others:
        for name, values in first.outputs.items():
            if not np.array_equal(values, other.outputs[name]):
                raise StageError(
                    f"output '{name}' differs between {first.measured['compiler']} and {other.measured['compiler']}"
                )
