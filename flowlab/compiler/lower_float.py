"""A job with a float graph -> the files of its program, plain C: for any target that has a C compiler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowlab.compiler import emit_float_c, emit_float_runner, float_plan
from flowlab.compiler.pipeline import apply_passes, program_passes
from flowlab.compiler.place import place

if TYPE_CHECKING:
    from flowlab.contracts import LayerRow, LowerJob, Program


@dataclass(frozen=True)
class FloatProgram:
    """The texts of a float program by file name, its memory by region, its layers, the bytes of its weights.

    ``at_peak``: bytes by value of those that the arena holds when it is fullest.
    """

    texts: Mapping[str, str]
    memory: Mapping[str, Mapping[str, int]]
    layers: tuple[LayerRow, ...]
    weight_bytes: int
    at_peak: Mapping[str, int]


def lower_float(job: LowerJob) -> FloatProgram:
    """C99, golden vectors, a known-answer test and a runner; nothing is written.

    Raises:
        ProgramError: naming the node that C has no form for.
    """
    plan = float_plan.plan(apply_passes(job.graph, program_passes()))
    texts = {
        **emit_float_c.emit_float_c(plan, job.source_sha256),
        **emit_float_runner.emit_float_vectors(plan, job.golden),
        **emit_float_runner.emit_float_main(plan),
        **emit_float_runner.emit_float_runner(plan),
    }
    if job.feature_c is not None:
        texts["feature_extraction.c"] = job.feature_c
    rows = place(job.graph, rules=()).rows
    return FloatProgram(texts, float_plan.memory(plan), rows, float_plan.weight_bytes(plan), plan.at_peak())


def write(found: FloatProgram, job: LowerJob, more: Mapping[str, str] | None = None) -> Program:
    """Write the texts, and ``more`` of a target's own, into the job's folder."""
    from flowlab.contracts import Program

    job.out.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, text in {**found.texts, **(more or {})}.items():
        files[name] = job.out / name
        files[name].write_text(text, encoding="utf-8", newline="\n")
    return Program(files, found.memory, found.layers, found.weight_bytes)
