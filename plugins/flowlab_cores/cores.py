"""Cores, a row each. A core has flags of the compilers that build for it; none where no open compiler does."""

from __future__ import annotations

from collections.abc import Mapping

from flowlab.contracts import Core

_ZIG, _GCC = "zig", "arm-none-eabi-gcc"
_THUMB, _THUMB_FPU, _ARM = "thumb-freestanding-eabi", "thumb-freestanding-eabihf", "arm-freestanding-eabi"

ARMV6M = (
    "adc", "add", "adr", "and", "asr", "b", "bic", "bkpt", "bl", "blx", "bx", "cmn", "cmp", "cps", "dmb", "dsb", "eor",
    "isb", "ldm", "ldr", "ldrb", "ldrh", "ldrsb", "ldrsh", "lsl", "lsr", "mov", "mrs", "msr", "mul", "mvn", "nop",
    "orr", "pop", "push", "rev", "rev16", "revsh", "ror", "rsb", "sbc", "sev", "stm", "str", "strb", "strh", "sub",
    "svc", "sxtb", "sxth", "tst", "udf", "uxtb", "uxth", "wfe", "wfi", "yield",
)  # fmt: skip
"""Every instruction of Armv6-M, by the Armv6-M Architecture Reference Manual (Arm DDI 0419), section A6.7."""


class Row(Core):
    """One core."""

    def __init__(
        self,
        name: str,
        summary: str,
        flags: Mapping[str, tuple[str, ...]] | None = None,
        emulated_as: str = "",
        *,
        has_dsp: bool = False,
        char_bits: int = 8,
        instructions: tuple[str, ...] = (),
    ) -> None:
        self.name, self.summary = name, summary
        self.cross_flags, self.emulated_as, self.instructions = flags or {}, emulated_as, instructions
        self.has_dsp, self.char_bits = has_dsp, char_bits


def _flags(triple: str, zig: str, *gcc: str) -> dict[str, tuple[str, ...]]:
    """Flags of both compilers."""
    return {_ZIG: ("-target", triple, f"-mcpu={zig}"), _GCC: gcc}


CORES: tuple[Core, ...] = (
    Row(
        "Cortex-M0+",
        "Armv6-M, no division, no DSP, no FPU",
        _flags(_THUMB, "cortex_m0plus", "-mthumb", "-mcpu=cortex-m0plus"),
        "CORTEX_M0",
        instructions=ARMV6M,
    ),
    Row(
        "Cortex-M4F",
        "Armv7E-M with DSP and FPU",
        _flags(
            _THUMB_FPU, "cortex_m4+vfp4d16sp", "-mthumb", "-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"
        ),
        "CORTEX_M4",
        has_dsp=True,
    ),
    Row(
        "Cortex-M33",
        "Armv8-M with DSP and FPU",
        _flags(
            _THUMB_FPU,
            "cortex_m33+dsp+fp_armv8d16sp",
            "-mthumb",
            "-mcpu=cortex-m33",
            "-mfloat-abi=hard",
            "-mfpu=fpv5-sp-d16",
        ),
        "CORTEX_M33",
        has_dsp=True,
    ),
    Row(
        "Cortex-R5F",
        "Armv7-R; floats in software here: the emulated core has no FPU",
        _flags(_ARM, "cortex_r5", "-marm", "-mcpu=cortex-r5"),
        "CORTEX_R5",
        has_dsp=True,
    ),
    Row("C28x", "TI's 32-bit DSP, FPU32; its smallest addressable unit has 16 bits", has_dsp=True, char_bits=16),
    Row("C28x-FPU64", "TI's 32-bit DSP, FPU64; its smallest addressable unit has 16 bits", has_dsp=True, char_bits=16),
    Row("C29x", "TI's 64-bit DSP", has_dsp=True),
)
