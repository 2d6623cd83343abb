"""TI's devices: a row each. Those with an NPU have its number format, rules and quantizers; the others have none yet.

Sources of the numbers: TI's device constants (flash, SRAM, clock, NPU) and, where these say nothing, TI's device
pages; a region that neither gives is not checked. kB are 1024 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowlab.contracts import Execution, LowerJob, NumberFormat, Program, Target
from flowlab_tinpu.executions import Absent, Simulator
from flowlab_tinpu.number_format import NPU
from flowlab_tinpu.rules import RULES

if TYPE_CHECKING:
    from flowlab.compiler.passes import Pass
    from flowlab.compiler.rules import Rule

KB = 1024
QUANTIZERS = {"QAT": "tinpu_qat", "PTQ": "tinpu_ptq"}
NO_C28X = "no open compiler or emulator for C28x"
NO_C29X = "no open compiler or emulator for C29x"


@dataclass(frozen=True)
class Row:
    """What is known of one device; 0 where no source gives a size."""

    name: str
    family: str
    core: str
    mcpu: str
    flash_kb: int
    ram_kb: int
    npu: bool = False
    note: str = ""


ROWS = (
    Row("F280013", "C2000", "C28x", "c28", 256, 0),
    Row("F280015", "C2000", "C28x", "c28", 384, 0),
    Row("F28002x", "C2000", "C28x", "c28", 256, 0),
    Row("F28003", "C2000", "C28x", "c28", 384, 64),
    Row("F28004", "C2000", "C28x", "c28", 384, 0),
    Row("F2807x", "C2000", "C28x", "c28", 512, 0),
    Row("F2837", "C2000", "C28x", "c28", 1024, 200),
    Row("F2837xS", "C2000", "C28x", "c28", 1024, 0),
    Row("F2838x", "C2000", "C28x", "c28", 1024, 0),
    Row("F28P55", "C2000", "C28x", "c28", 1088, 133, npu=True, note="TI's reference device for its NPU"),
    Row("F28P551x", "C2000", "C28x", "c28", 1126, 0, note="F28P55 without NPU"),
    Row("F28P65", "C2000", "C28x-FPU64", "c28", 1280, 128),
    Row("F29H85", "C2000", "C29x", "c29", 4352, 452),
    Row("F29P58", "C2000", "C29x", "c29", 0, 0),
    Row("F29P32", "C2000", "C29x", "c29", 0, 0),
    Row("MSPM0G3507", "MSPM0", "Cortex-M0+", "cortex-m0plus", 128, 32),
    Row("MSPM0G3519", "MSPM0", "Cortex-M0+", "cortex-m0plus", 512, 128),
    Row("MSPM0G5187", "MSPM0", "Cortex-M0+", "cortex-m0plus", 128, 32, npu=True),
    Row("MSPM33C32", "MSPM33", "Cortex-M33", "cortex-m33", 1024, 256),
    Row("MSPM33C34", "MSPM33", "Cortex-M33", "cortex-m33", 1024, 256, npu=True),
    Row("AM13E2", "AM13", "Cortex-M33", "cortex-m33", 512, 128, npu=True),
    Row("AM263", "AM26", "Cortex-R5F", "cortex-r5", 2048, 512),
    Row("AM263P", "AM26", "Cortex-R5F", "cortex-r5", 2048, 512),
    Row("AM261", "AM26", "Cortex-R5F", "cortex-r5", 0, 0),
    Row("CC2755", "SimpleLink", "Cortex-M33", "cortex-m33", 1024, 256, note="Arm custom datapath, not used here"),
    Row("CC2745", "SimpleLink", "Cortex-M33", "cortex-m33", 1024, 256, note="Arm custom datapath, not used here"),
    Row("CC1352", "SimpleLink", "Cortex-M4F", "cortex-m4", 352, 80),
    Row("CC1312", "SimpleLink", "Cortex-M4F", "cortex-m4", 352, 80),
    Row("CC1354", "SimpleLink", "Cortex-M33", "cortex-m33", 1024, 256),
    Row("CC1314", "SimpleLink", "Cortex-M33", "cortex-m33", 1024, 256),
    Row("CC35X1", "SimpleLink", "Cortex-M33", "cortex-m33", 512, 128, note="Arm custom datapath, not used here"),
)


class Device(Target):
    """One of TI's microcontrollers."""

    code = ("flowlab_tinpu.simulator", "flowlab_tinpu.lower", "flowlab.compiler", "flowlab.cpu")
    libraries = ("numpy",)

    def __init__(self, row: Row) -> None:
        self.name, self.core, self.row = row.name, row.core, row
        unit = "NPU" if row.npu else "no NPU"
        self.summary = f"{row.family}, {row.core}, {unit}" + (f"; {row.note}" if row.note else "")
        sizes = {"flash": row.flash_kb * KB, "ram": row.ram_kb * KB}
        self.memory = {region: size for region, size in sizes.items() if size}
        self.formats: dict[str, NumberFormat] = {"npu": NPU} if row.npu else {}
        self.quantizers = dict(QUANTIZERS) if row.npu else {}
        self.unit_name = "NPU" if row.npu else "CPU"

    def rules(self) -> tuple[Rule, ...]:
        """The NPU's rules, or none."""
        return RULES if self.row.npu else ()

    def passes(self) -> tuple[Pass, ...]:
        """Zeros for channels and FC inputs that come short of the NPU's fours, on a device that has one."""
        if not self.row.npu:
            return ()
        from flowlab.compiler.passes.pad_channels import PadChannels
        from flowlab.compiler.passes.pad_linear_inputs import PadLinearInputs

        return (PadChannels(), PadLinearInputs())

    def lower(self, job: LowerJob) -> Program:
        """Placed graph -> container, C, vectors, and the call of TI's compiler."""
        from flowlab_tinpu.lower import lower_to_files

        return lower_to_files(self, job)

    def executions(self) -> tuple[Execution, ...]:
        """The simulator where there is an NPU, C on this machine, and why there is no emulated core."""
        from flowlab.cpu.host_c import HostC

        simulator = (Simulator(),) if self.row.npu else ()
        return (*simulator, HostC(), Absent("emulated core", _no_core(self.core)))


def _no_core(core: str) -> str:
    if core.startswith("C28x"):
        return NO_C28X
    return NO_C29X if core.startswith("C29x") else f"no emulated {core} in this version of flowlab"


TARGETS = tuple(Device(row) for row in ROWS)
