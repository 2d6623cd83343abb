"""Cores, a row each. A triple is empty where no open compiler builds for the core."""

from __future__ import annotations

from flowlab.contracts import Core

_FREESTANDING = ("-std=c99", "-O3", "-ffp-contract=off", "-ffreestanding", "-nostdlib")


class Row(Core):
    """One core."""

    def __init__(
        self,
        name: str,
        summary: str,
        triple: str = "",
        flags: tuple[str, ...] = (),
        *,
        has_dsp: bool = False,
        char_bits: int = 8,
    ) -> None:
        self.name, self.summary, self.triple = name, summary, triple
        self.compiler_flags = (*_FREESTANDING, *flags) if triple else ()
        self.has_dsp, self.char_bits = has_dsp, char_bits


_THUMB = "thumb-freestanding-eabi"

CORES: tuple[Core, ...] = (
    Row("Cortex-M0+", "Armv6-M, no division, no DSP, no FPU", _THUMB, ("-mcpu=cortex_m0plus",)),
    Row("Cortex-M4F", "Armv7E-M with DSP and FPU", _THUMB, ("-mcpu=cortex_m4",), has_dsp=True),
    Row("Cortex-M33", "Armv8-M with DSP and FPU", _THUMB, ("-mcpu=cortex_m33+dsp",), has_dsp=True),
    Row("Cortex-R5F", "Armv7-R with FPU", "arm-freestanding-eabi", ("-mcpu=cortex_r5",), has_dsp=True),
    Row("C28x", "TI's 32-bit DSP, FPU32; its smallest addressable unit has 16 bits", has_dsp=True, char_bits=16),
    Row("C28x-FPU64", "TI's 32-bit DSP, FPU64; its smallest addressable unit has 16 bits", has_dsp=True, char_bits=16),
    Row("C29x", "TI's 64-bit DSP", has_dsp=True),
)
