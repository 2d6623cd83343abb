"""A float graph -> the files that ship for one of TI's devices: plain C on the CPU, and the call of TI's compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowlab.compiler import allocate, lower_float
from flowlab.compiler.float_plan import elements
from flowlab.contracts import LowerJob, Program, Target
from flowlab_tinpu import compiler_call
from flowlab_tinpu.input_config import user_input_config

if TYPE_CHECKING:
    from flowlab_tinpu.device_table import Row


def lower_float_to_files(device: Target, row: Row, job: LowerJob) -> tuple[Program, str]:
    """Write the program's files into ``job.out``; the header and the call say what TI's tool says of float networks.

    The program, and TI's target string for it.

    Raises:
        ProgramError: if C has no form for a layer, or the program does not fit the device.
    """
    found = lower_float.lower_float(job)
    allocate.require_fit(found.memory, device.memory, device.name, lambda: found.at_peak)
    flags = {"skip_normalize": False, "output_int": False}
    target = compiler_call.without_npu(compiler_call.target_string(row, job.settings, **flags))
    outputs = sum(elements(job.graph.type_of(value).shape) for value in job.graph.outputs.values())
    more = {
        "user_input_config.h": user_input_config(job.feature_spec, outputs, **flags),
        "compiler_call.txt": compiler_call.compiler_call(row, job, target),
    }
    return lower_float.write(found, job, more), target
