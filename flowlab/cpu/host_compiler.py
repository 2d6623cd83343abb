"""The C compiler of the machine that flowlab runs on, if there is one."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NAMES = ("cc", "gcc", "clang")  # in the order in which they are tried
FLAGS = ("-std=c99", "-O2", "-ffp-contract=off")  # contraction would round a float product and sum once, not twice


@dataclass(frozen=True)
class HostCompiler:
    """A compiler found on PATH."""

    path: str

    def version(self) -> str:
        """The first line of ``--version``; what counts in fingerprints."""
        try:
            said = subprocess.run([self.path, "--version"], capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return "unknown"
        return said.stdout.partition("\n")[0]

    def compile(self, source: Path, out: Path, *, flags: tuple[str, ...] = FLAGS, timeout_s: float = 120) -> None:
        """One C file -> a program. Raises `StageError` with the compiler's words."""
        from flowlab.cpu.process import run_tool

        run_tool([self.path, *flags, source, "-o", out, "-lm"], timeout_s=timeout_s, folder=source.parent)


def find() -> HostCompiler | None:
    """The first of `NAMES` on PATH, or None."""
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return HostCompiler(path)
    return None
