"""The C compiler of the machine that flowlab runs on: one on PATH, else the one that PyPI's ziglang carries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NAMES = ("cc", "gcc", "clang")  # in the order in which they are tried
PACKAGE = "ziglang"  # tried last
MISSING = (
    f"no C compiler: looked for {', '.join(NAMES)} on PATH and for {PACKAGE} beside this Python. "
    "Install one of them: pip install 'flowlab[zig]'"
)
FLAGS = ("-std=c99", "-O2", "-ffp-contract=off")  # contraction would round a float product and sum once, not twice
# Zig's cc traps on undefined behaviour and compiles for this very processor, unless it is told otherwise.
ZIG_FLAGS = ("-fno-sanitize=all", "-mcpu=baseline")
ZIG_CACHES = ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")


@dataclass(frozen=True)
class HostCompiler:
    """A compiler by the words that call it.

    ``known_version`` where its package says it; ``caches`` are the environment variables that name its caches' places.
    """

    command: tuple[str, ...]
    known_version: str = ""
    caches: tuple[str, ...] = ()

    def version(self) -> str:
        """Name and version; what counts in fingerprints."""
        if self.known_version:
            return self.known_version
        try:
            changed = Path(self.command[0]).stat().st_mtime_ns
        except OSError:
            return "unknown"
        return _said_version(self.command, changed)

    def compile(self, source: Path, out: Path, *, flags: tuple[str, ...] = FLAGS, timeout_s: float = 300) -> None:
        """One C file -> a program.

        What zig caches lies beside the file, unless the environment names another place: its first link builds the
        stubs of the C library, which takes some ten seconds.

        Raises:
            StageError: with the compiler's words, or if it takes too long.
        """
        from flowlab.cpu.process import run_tool

        folder = source.parent
        places = {name: os.environ.get(name) or str(folder / "zig") for name in self.caches}
        command = [*self.command, *flags, str(source), "-o", str(out), "-lm"]
        run_tool(command, timeout_s=timeout_s, folder=folder, environment=places)


@cache
def _said_version(command: tuple[str, ...], changed: int) -> str:
    """What a compiler says of itself: asked once in a process, for the program that was changed then."""
    try:
        said = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said.stdout.partition("\n")[0]


def find() -> HostCompiler | None:
    """The first of `NAMES` on PATH, else zig, or None. Light: it counts in fingerprints."""
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return HostCompiler((path,))
    return _zig()


def _zig() -> HostCompiler | None:
    """Zig's C compiler in this Python's environment; its version stands in the package, so nothing is run for it."""
    from importlib import metadata

    try:
        version = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return None
    # -P: what lies in the working directory is not imported
    return HostCompiler((sys.executable, "-P", "-m", PACKAGE, "cc", *ZIG_FLAGS), f"{PACKAGE} {version}", ZIG_CACHES)
