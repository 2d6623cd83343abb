"""TI's devices: a row each.

Sources of the numbers: TI's device constants (flash, SRAM, clock, NPU) and, where these say nothing, TI's device
pages; a region that neither gives is not checked. kB are 1024 bytes. The two disagree on the clocks of F280013, F28003
and F28004 (pages: 100 MHz) and of F29H85 (300 MHz).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """What is known of one device; 0 where no source gives a size or a clock."""

    name: str
    family: str
    core: str
    mcpu: str
    flash_kb: int
    ram_kb: int
    clock_mhz: int
    npu: bool = False
    note: str = ""


ROWS = (
    Row("F280013", "C2000", "C28x", "c28", 256, 0, 120),
    Row("F280015", "C2000", "C28x", "c28", 384, 0, 120),
    Row("F28002x", "C2000", "C28x", "c28", 256, 0, 100),
    Row("F28003", "C2000", "C28x", "c28", 384, 64, 120),
    Row("F28004", "C2000", "C28x", "c28", 384, 0, 120),
    Row("F2807x", "C2000", "C28x", "c28", 512, 0, 120),
    Row("F2837", "C2000", "C28x", "c28", 1024, 200, 200),
    Row("F2837xS", "C2000", "C28x", "c28", 1024, 0, 200),
    Row("F2838x", "C2000", "C28x", "c28", 1024, 0, 200),
    Row("F28P55", "C2000", "C28x", "c28", 1088, 133, 150, npu=True, note="TI's reference device for its NPU"),
    Row("F28P551x", "C2000", "C28x", "c28", 1126, 0, 150, note="F28P55 without NPU"),
    Row("F28P65", "C2000", "C28x-FPU64", "c28", 1280, 128, 150),
    Row("F29H85", "C2000", "C29x", "c29", 4352, 452, 200),
    Row("F29P58", "C2000", "C29x", "c29", 0, 0, 300),
    Row("F29P32", "C2000", "C29x", "c29", 0, 0, 300),
    Row("MSPM0G3507", "MSPM0", "Cortex-M0+", "cortex-m0plus", 128, 32, 80),
    Row("MSPM0G3519", "MSPM0", "Cortex-M0+", "cortex-m0plus", 512, 128, 80),
    Row("MSPM0G5187", "MSPM0", "Cortex-M0+", "cortex-m0plus", 128, 32, 80, npu=True),
    Row("MSPM33C32", "MSPM33", "Cortex-M33", "cortex-m33", 1024, 256, 160),
    Row("MSPM33C34", "MSPM33", "Cortex-M33", "cortex-m33", 1024, 256, 160, npu=True),
    Row("AM13E2", "AM13", "Cortex-M33", "cortex-m33", 512, 128, 160, npu=True),
    Row("AM263", "AM26", "Cortex-R5F", "cortex-r5", 2048, 512, 400),
    Row("AM263P", "AM26", "Cortex-R5F", "cortex-r5", 2048, 512, 400),
    Row("AM261", "AM26", "Cortex-R5F", "cortex-r5", 0, 0, 400),
    Row("CC2755", "SimpleLink", "Cortex-M33", "cortex-m33", 1024, 256, 96, note="Arm custom datapath, not used here"),
    Row("CC2745", "SimpleLink", "Cortex-M33", "cortex-m33", 1024, 256, 96, note="Arm custom datapath, not used here"),
    Row("CC1352", "SimpleLink", "Cortex-M4F", "cortex-m4", 352, 80, 48),
    Row("CC1312", "SimpleLink", "Cortex-M4F", "cortex-m4", 352, 80, 48),
    Row("CC1354", "SimpleLink", "Cortex-M33", "cortex-m33", 1024, 256, 0),
    Row("CC1314", "SimpleLink", "Cortex-M33", "cortex-m33", 1024, 256, 0),
    Row("CC35X1", "SimpleLink", "Cortex-M33", "cortex-m33", 512, 128, 0, note="Arm custom datapath, not used here"),
)
