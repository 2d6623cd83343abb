"""TI's devices as targets: a CPU each, and on some an NPU with its number format, rules and quantizers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from flowlab.compiler.number_format import GENERIC
from flowlab.contracts import Costs, Execution, LowerJob, NumberFormat, Program, Target
from flowlab_tinpu.compiler_call import runs_on_cpu
from flowlab_tinpu.device_table import ROWS, Row
from flowlab_tinpu.executions import Absent, Simulator
from flowlab_tinpu.number_format import NPU
from flowlab_tinpu.rules import RULES

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph
    from flowlab.compiler.passes import Pass
    from flowlab.compiler.rules import Rule

KB = 1024
MHZ = 1_000_000
SILICON = (
    "The NPU's instructions are not public: the program runs on an open model of it; compiler_call.txt is the call of "
    "TI's compiler, which makes the code for the device."
)
QUANTIZERS = {"QAT": "tinpu_qat", "PTQ": "tinpu_ptq"}
NO_OPEN_TOOLS = {core: f"no open compiler or emulator for {core}" for core in ("C28x", "C29x")}


@dataclass(frozen=True)
class DeviceOptions:
    """How C is made for the device.

    Args:
        kernels: ``speed``: kernels that suit the core, as fast as its memory allows; ``size``: as small as they get;
            ``plain``: C that makes no use of the core, and is all there is for C28x and C29x.
        golden: keep vectors with their outputs in ``model.flnp``; without them it is as small as it gets, and a board's
            log can be compared with the original alone.
    """

    kernels: Literal["speed", "size", "plain"] = "speed"
    golden: bool = True


class Device(Target):
    """One of TI's microcontrollers."""

    Options = DeviceOptions
    code = (
        "flowlab_tinpu.simulator",
        "flowlab_tinpu.lower",
        "flowlab_tinpu.lower_float",
        "flowlab_tinpu.costs",
        "flowlab_tinpu.outside_compiler",
        "flowlab.compiler",
        "flowlab.cpu",
    )
    libraries = ("numpy",)

    def __init__(self, row: Row) -> None:
        self.name, self.core, self.row = row.name, row.core, row
        unit = "NPU" if row.npu else "no NPU"
        self.summary = f"{row.family}, {row.core}, {unit}" + (f"; {row.note}" if row.note else "")
        sizes = {"flash": row.flash_kb * KB, "ram": row.ram_kb * KB}
        self.memory = {region: size for region, size in sizes.items() if size}
        self.formats: dict[str, NumberFormat] = {"cpu": GENERIC, **({"npu": NPU} if row.npu else {})}
        self.quantizers = dict(QUANTIZERS) if row.npu else {}
        self.clock_hz = row.clock_mhz * MHZ
        self.unit_name = "NPU" if row.npu else "CPU"
        self.silicon = SILICON if row.npu else ""

    def rules(self) -> tuple[Rule, ...]:
        """The NPU's rules, or none."""
        return RULES if self.row.npu else ()

    def accelerator_off(self, settings: Mapping[str, Any]) -> str:
        """TI's target string ``type=soft`` keeps a device with an NPU from using it."""
        if self.row.npu and runs_on_cpu(str(settings.get("target", ""))):
            return "the compile preset asks for type=soft: every layer on the CPU."
        return ""

    def passes(self) -> tuple[Pass, ...]:
        """On a device with an NPU: parts of layers that it does not take whole, zeros for channels and FC inputs."""
        if not self.row.npu:
            return ()
        from flowlab.compiler.passes.pad_channels import PadChannels
        from flowlab.compiler.passes.pad_linear_inputs import PadLinearInputs
        from flowlab.compiler.passes.split_groups import SplitGroups
        from flowlab.compiler.passes.split_max_pool import SplitMaxPool

        return (SplitMaxPool(RULES), SplitGroups(RULES), PadChannels(rules=RULES), PadLinearInputs())

    def lower(self, job: LowerJob) -> Program:
        """Placed graph -> container (of integers), C, vectors, and the call of TI's compiler, and what that makes."""
        from flowlab.compiler.ir import is_float
        from flowlab_tinpu.lower import lower_to_files
        from flowlab_tinpu.lower_float import lower_float_to_files
        from flowlab_tinpu.outside_compiler import compiled

        if is_float(job.graph):
            made, target = lower_float_to_files(self, self.row, job)
        else:
            made, target = lower_to_files(self, job)
        return compiled(made, self.row, job, target)

    def tools(self) -> Mapping[str, str]:
        """TI's compiler, which is run where it is installed."""
        from flowlab_tinpu.outside_compiler import NAME, version

        return {NAME: version(self.row)}

    def costs(self, graph: Graph) -> Costs:
        """Cycles of the model NPU, and the estimate from TI's published figures."""
        from flowlab_tinpu.costs import costs_of

        return costs_of(self.row, graph)

    def executions(self) -> tuple[Execution, ...]:
        """The simulator, C on this machine, and C on an emulated core or the reason why there is none.

        The simulator has numpy of its own for layers on the CPU too, shared with no other execution: it needs no
        compiler, so it is there on devices without an NPU as well.
        """
        from flowlab.cpu.emulated_core import EmulatedCore
        from flowlab.cpu.host_c import HostC

        absent = NO_OPEN_TOOLS.get(self.core[:4])
        core = Absent(EmulatedCore.name, absent) if absent else EmulatedCore()
        return (Simulator(), HostC(), core)


TARGETS = tuple(Device(row) for row in ROWS)
