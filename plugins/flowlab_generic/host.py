"""The host CPU as a target: plain C, no accelerator, memory without limit."""

from __future__ import annotations

from collections.abc import Mapping

from flowlab.compiler.number_format import GENERIC
from flowlab.contracts import Core, Execution, LowerJob, NumberFormat, Program, Target


class HostCore(Core):
    """The processor of this machine."""

    name = "host"
    summary = "the processor that flowlab runs on"


class HostTarget(Target):
    """C for this machine. It has no quantizers of its own: the generic ones are for every CPU."""

    name = "host"
    summary = "the machine that flowlab runs on: plain C, no accelerator"
    core = "host"
    unit_name = "CPU"
    formats: Mapping[str, NumberFormat] = {"cpu": GENERIC}
    code = ("flowlab.compiler", "flowlab.cpu")
    libraries = ("numpy",)

    def lower(self, job: LowerJob) -> Program:
        """Placed graph -> container (of integers) and C."""
        from flowlab.compiler import emit_c, emit_runner, lower, lower_float, program
        from flowlab.compiler.ir import is_float

        if is_float(job.graph):
            return lower_float.write(lower_float.lower_float(job), job)
        container = lower.with_golden(lower.lower(job.graph, job.source_sha256), job.golden)
        data = program.encode(container)
        shipped = program.parse(data)
        texts = {
            **emit_c.emit_c(shipped, skip_normalize=job.skip_normalize),
            **emit_runner.emit_vectors(shipped, job.golden.windows),
            **emit_runner.emit_main(shipped, skip_normalize=job.skip_normalize),
            **emit_runner.emit_runner(shipped, skip_normalize=job.skip_normalize),
        }
        if job.feature_c is not None:
            texts["feature_extraction.c"] = job.feature_c
        job.out.mkdir(parents=True, exist_ok=True)
        files = {name: job.out / name for name in ("model.flnp", *texts)}
        files["model.flnp"].write_bytes(data)
        for name, text in texts.items():
            files[name].write_text(text, encoding="utf-8", newline="\n")
        packed = sum(lower.weight_bytes(layer) for layer in container.layers)
        return Program(files, lower.memory(container), lower.layer_rows(container), packed)

    def executions(self) -> tuple[Execution, ...]:
        """C on this machine."""
        from flowlab.cpu.host_c import HostC

        return (HostC(),)
