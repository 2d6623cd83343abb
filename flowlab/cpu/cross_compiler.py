"""Compilers for another core than this machine's: the one of PyPI's ziglang, and Arm's gcc where it is on PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ZIG, GCC = "ziglang", "arm-none-eabi-gcc"
FLAGS = ("-std=c99", "-ffreestanding", "-ffp-contract=off", "-ffunction-sections", "-fdata-sections", "-g")
ZIG_FLAGS = (
    "-fno-sanitize=all",  # zig's cc traps on undefined behaviour unless it is told otherwise
    "-fomit-frame-pointer",  # and keeps a register for debuggers, which gcc does not
)
FLASH_AT, RAM_AT = 0x0800_0000, 0x2000_0000  # where the emulated core has them
UNKNOWN_SIZE = 16 << 20  # of a region whose size nobody states
STARTS = "device_start"  # the symbol that keeps what the emulator calls

_LINKER_SCRIPT = """\
ENTRY({start})
MEMORY
{{
    flash (rx) : ORIGIN = {flash_at:#x}, LENGTH = {flash}
    ram (rw) : ORIGIN = {ram_at:#x}, LENGTH = {ram}
}}
SECTIONS
{{
    .text : {{ KEEP(*(.text.device_*)) *(.text .text.*) }} > flash
    .rodata : {{ *(.rodata .rodata.*) }} > flash
    .ARM.exidx : {{ *(.ARM.exidx*) }} > flash
    .data : {{ *(.data .data.*) }} > ram
    .bss (NOLOAD) : {{ *(.bss .bss.*) *(COMMON) }} > ram
}}
"""


@dataclass(frozen=True)
class CrossCompiler:
    """A compiler by the words that call it. ``core_flags`` names the entry of a core that says what it needs."""

    name: str
    command: tuple[str, ...]
    version: str
    core_flags: str
    caches: Callable[[Path], Mapping[str, str]] = lambda folder: {}

    def link(
        self,
        source: Path,
        out: Path,
        core: Mapping[str, Sequence[str]],
        *,
        optimize: str,
        sizes: Mapping[str, int],
        defines: Sequence[str] = (),
        timeout_s: float = 300,
    ) -> None:
        """One C file -> an ELF file without start-up code, its sections where the emulator has flash and RAM.

        Args:
            source: the file; what it includes lies beside it.
            out: the ELF file.
            core: flags of the core, by compiler.
            optimize: ``-O3``, ``-Os``, ...
            sizes: bytes of ``flash`` and ``ram``; a region that is missing here is large.
            defines: macros.
            timeout_s: after this the compiler is stopped.

        Raises:
            StageError: with the compiler's words, also where the program does not fit the regions.
        """
        from flowlab.cpu.process import run_tool

        script = out.with_suffix(".ld")
        regions = {name: sizes.get(name) or UNKNOWN_SIZE for name in ("flash", "ram")}
        script.write_text(
            _LINKER_SCRIPT.format(start=STARTS, flash_at=FLASH_AT, ram_at=RAM_AT, **regions), encoding="utf-8"
        )
        words = [*self.command, *FLAGS, optimize, *core[self.core_flags], *(f"-D{one}" for one in defines)]
        words += ["-Wl,--gc-sections", f"-Wl,-e,{STARTS}", f"-Wl,-T,{script}", "-o", str(out), str(source)]
        if self.core_flags == GCC:
            words += ["-nostdlib", "-lgcc"]  # division, floats and 64-bit products where the core has none
        places = {name: os.environ.get(name) or place for name, place in self.caches(out.parent).items()}
        run_tool(words, timeout_s=timeout_s, folder=source.parent, environment=places)


def zig() -> CrossCompiler | None:
    """The compiler of the package ziglang, whose version stands in its metadata: nothing is run for it."""
    try:
        version = metadata.version(ZIG)
    except metadata.PackageNotFoundError:
        return None
    # -P: what lies in the working directory is not imported
    command = (sys.executable, "-P", "-m", ZIG, "cc", *ZIG_FLAGS)
    return CrossCompiler("zig", command, f"{ZIG} {version}", "zig", _zig_caches)


def _zig_caches(folder: Path) -> Mapping[str, str]:
    """Zig keeps its support routines for a core, which take it seconds, in the user's cache; the rest by the file."""
    shared = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowlab" / "zig"
    return {"ZIG_GLOBAL_CACHE_DIR": str(shared), "ZIG_LOCAL_CACHE_DIR": str(folder / "zig")}


def gcc() -> CrossCompiler | None:
    """Arm's gcc, where it is on PATH."""
    path = shutil.which(GCC)
    if path is None:
        return None
    try:
        said = subprocess.run([path, "-dumpversion"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        said = "unknown"
    return CrossCompiler("gcc", (path,), f"{GCC} {said.strip()}", GCC)


def found() -> tuple[CrossCompiler, ...]:
    """Those that are here."""
    return tuple(one for one in (zig(), gcc()) if one is not None)
