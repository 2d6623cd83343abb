"""TI's own compiler, where it is installed: the documented call, run in a process group of its own with a time limit.

What it makes joins the program's files. Nothing of flowlab's own result depends on it, so its failure is a warning, and
an error only where ``--require ti_mcu_nnc`` asks for it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

from flowlab.contracts import LowerJob, Program
from flowlab.errors import StageError
from flowlab_tinpu.compiler_call import compiler_words, cross_compiler

if TYPE_CHECKING:
    from flowlab_tinpu.device_table import Row

NAME, COMMAND = "ti_mcu_nnc", "tvmc"
ABSENT = "absent"
TIMEOUT_S = 900.0
LINES = 5  # of what it says last, in a warning
WHAT_TO_DO = "flowlab's own program does not depend on it; compiler_call.txt has the call to run by hand"


def version(row: Row) -> str:
    """The version of the compiler and whether its cross-compiler is here, or that it is absent; nothing is imported."""
    try:
        if util.find_spec(NAME) is None:
            return ABSENT
        said = metadata.version(NAME)
    except metadata.PackageNotFoundError:
        said = "of unknown version"
    except (ImportError, ValueError):
        return ABSENT
    compiler, _ = cross_compiler(row)
    return f"{said}, {compiler} {'found' if shutil.which(compiler) else ABSENT}"


def compiled(program: Program, row: Row, job: LowerJob, target: str) -> Program:
    """The program with what TI's compiler made of the exported ONNX, or with the reason why it made nothing."""
    if version(row) == ABSENT:
        return replace(program, tools={NAME: "is not installed; it comes from TI"})
    if job.onnx is None:
        return replace(program, tools={NAME: "there is no exported network"})
    try:
        made = _run(row, job, target, set(program.files))
    except (StageError, OSError) as error:
        reason = _last(str(error))
        warning = f"{NAME} {version(row)}: {reason}. {WHAT_TO_DO}"
        return replace(program, tools={NAME: reason}, warnings=(*program.warnings, warning))
    return replace(program, files={**program.files, **made}, tools={NAME: ""})


def _run(row: Row, job: LowerJob, target: str, taken: set[str]) -> Mapping[str, Path]:
    from flowlab.cpu.process import run_tool

    command = shutil.which(COMMAND) or shutil.which(COMMAND, path=str(Path(sys.executable).parent))
    if command is None:
        raise StageError(f"its command {COMMAND} is not on PATH")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        (folder / "made").mkdir()
        shutil.copyfile(job.onnx or "", folder / "best_model.onnx")
        words = compiler_words(row, job.settings, target, "best_model.onnx", "made/mod.a")
        run_tool([command, *map(os.path.expandvars, words[1:])], timeout_s=TIMEOUT_S, folder=folder)
        found = sorted(one for one in (folder / "made").iterdir() if one.is_file() and not one.is_symlink())
        if not any(one.name == "mod.a" and one.stat().st_size for one in found):
            raise StageError(
                f"{COMMAND} ended without an error and made no mod.a: is {cross_compiler(row)[0]} on PATH?"
            )
        made = {one.name: job.out / one.name for one in found if one.name not in taken and one.name.isprintable()}
        for one in found:
            if one.name in made:
                shutil.copyfile(one, made[one.name])
    return made


def _last(text: str) -> str:
    """The first line and the last ones of what a program said."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = lines if len(lines) <= LINES else [lines[0], *lines[1 - LINES :]]
    return " | ".join(kept).rstrip(".")
