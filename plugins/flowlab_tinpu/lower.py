"""Placed graph -> the files that ship for one of TI's devices.

The NPU's instruction stream is not public: ``model.flnp`` runs on an open model of it, ``model.c`` on any CPU, and
``compiler_call.txt`` is the road to silicon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flowlab.compiler import allocate, emit_c, emit_runner, lower, program
from flowlab.compiler.memory_map import memory_map
from flowlab.compiler.trace import layer_named
from flowlab.contracts import LowerJob, NumberFormat, Program, Requantize
from flowlab.errors import ProgramError
from flowlab_tinpu import compiler_call
from flowlab_tinpu.input_config import user_input_config

if TYPE_CHECKING:
    from flowlab_tinpu.devices import Device

Memory = Mapping[str, Mapping[str, int]]


def lower_to_files(device: Device, job: LowerJob) -> tuple[Program, str]:
    """Write the program's files into ``job.out``; the program, and TI's target string for it.

    Raises:
        ProgramError: if a value leaves the NPU's number format, or the program does not fit the device.
    """
    container = lower.lower(job.graph, job.source_sha256)
    output_int = all(container.tensors[at].dtype != "float32" for at in container.outputs.values())
    target = compiler_call.target_string(
        device.row, job.settings, skip_normalize=job.skip_normalize, output_int=output_int
    )
    npu = device.formats.get("npu")
    if npu is not None and job.graph.metadata.get("number_format", npu.name) != npu.name:
        target = compiler_call.without_npu(target)  # quantized for any CPU
    for layer in container.layers:
        if layer.unit == "npu":
            check_format(layer, device.formats["npu"])
    container = lower.with_golden(container, job.golden)
    data = program.encode(container if getattr(job.options, "golden", True) else replace(container, golden=None))
    texts, memory = _c(job, program.parse(data), device)  # C is emitted from the bytes that ship
    accelerated = any(layer.unit == "npu" for layer in container.layers)  # else the C is all that runs
    if accelerated:
        memory = lower.memory(container)
    char_bytes = 1 if accelerated else job.core.char_bits // 8  # as `memory` counts them
    allocate.require_fit(memory, device.memory, device.name, lambda: _at_peak(container, job, char_bytes))
    outputs = sum(container.tensors[at].size for at in container.outputs.values())
    more = {
        "user_input_config.h": user_input_config(
            job.feature_spec, outputs, skip_normalize=job.skip_normalize, output_int=output_int
        ),
        "compiler_call.txt": compiler_call.compiler_call(device.row, job, target),
    }
    files = _write(job, container, data, texts | more)
    packed = sum(lower.weight_bytes(layer) for layer in container.layers)
    return Program(files, memory, lower.layer_rows(container), packed, flash_weights=packed * char_bytes), target


def _at_peak(container: program.Container, job: LowerJob, char_bytes: int) -> dict[str, int]:
    """Bytes of the tensors that live while the most bytes do, by the layer that makes them."""
    found = memory_map(container, lambda name: layer_named(job.graph, name)).at_peak()
    return {name: size * char_bytes for name, size in found.items()}


def _c(job: LowerJob, shipped: program.Container, device: Device) -> tuple[dict[str, str], Memory]:
    """``model.c`` and what runs it, and the memory that it takes: with the device's kernels, or smaller ones."""
    from flowlab.compiler.fast_c.emit import emit, style_for

    skip = job.skip_normalize
    wanted = getattr(job.options, "kernels", "speed")
    texts: dict[str, str] = {}
    memory: Memory = {}
    tried = ("plain",) if not shipped.plain else ("speed", "size", "plain") if wanted == "speed" else (wanted, "plain")
    for kernels in dict.fromkeys(tried):
        style = style_for(job.core, kernels)
        try:
            made = None if style is None else emit(shipped, style, skip_normalize=skip)
        except ProgramError:  # sums or products that these kernels have no room for
            continue
        if made is None:
            texts = emit_c.emit_c(shipped, skip_normalize=skip)
            memory = lower.memory(shipped, job.core.char_bits // 8)
        else:
            texts, memory = dict(made.texts), lower.memory(shipped, 1, made.constants, made.arena)
        if job.core.cross_flags:
            fast = wanted if not shipped.plain else kernels
            optimize, name = "-O3" if fast == "speed" else "-Os", kernels if made else "plain"
            texts |= emit_runner.emit_device(
                shipped, job.core, device.memory, skip_normalize=skip, optimize=optimize, kernels=name
            )
        if allocate.fits(memory, device.memory):
            break
    return texts, memory


def _write(job: LowerJob, shipped: program.Container, data: bytes, more: Mapping[str, str]) -> Mapping[str, Path]:
    texts = {
        **emit_runner.emit_vectors(shipped, job.golden.windows),
        **emit_runner.emit_main(shipped, skip_normalize=job.skip_normalize),
        **emit_runner.emit_runner(shipped, skip_normalize=job.skip_normalize),
        **more,
    }
    if job.feature_c is not None:
        texts["feature_extraction.c"] = job.feature_c
    job.out.mkdir(parents=True, exist_ok=True)
    files = {"model.flnp": job.out / "model.flnp"}
    files["model.flnp"].write_bytes(data)
    for name, text in texts.items():
        files[name] = job.out / name
        files[name].write_text(text, encoding="utf-8", newline="\n")
    return files


def check_format(layer: program.Layer, form: NumberFormat) -> None:
    """Hold a layer's bias, multiplier and shift against the NPU's widths for its weights.

    A layer without weights obeys the widths of one kind of weights, whichever: 24 bits of bias and no multiplier, or
    16 bits of bias and one.

    Raises:
        ProgramError: naming layer, value and limit.
    """
    if layer.op not in program.REQUANTIZED:
        return
    if layer.weight is not None and layer.weight_bits not in form.by_weight_bits:
        raise ProgramError(
            f"layer '{layer.name}': {layer.weight_bits}-bit weights are not in number format {form.name}"
        )
    kinds = form.by_weight_bits if layer.weight is None else (layer.weight_bits,)
    problems = [_outside(layer, form.by_weight_bits[bits]) for bits in kinds]
    if all(problems):
        raise ProgramError(
            f"layer '{layer.name}': {problems[0]} ({next(iter(kinds))}-bit weights, number format {form.name}); "
            "run it on the CPU, or quantize it again"
        )


def _outside(layer: program.Layer, width: Requantize) -> str:
    """The first value that leaves these widths, with its limits; empty where all fit."""
    assert layer.bias is not None and layer.multiplier is not None and layer.shift is not None
    limits = (
        ("bias", layer.bias, -(2 ** (width.bias_bits - 1)), 2 ** (width.bias_bits - 1) - 1),
        ("multiplier", layer.multiplier, min(1, width.multiplier_bits == 0), max(1, 2**width.multiplier_bits - 1)),
        ("shift", layer.shift, *width.shift),
    )
    for what, values, least, most in limits:
        wrong = [int(value) for value in np.asarray(values) if not least <= int(value) <= most]
        if wrong:
            return f"{what} {wrong[0]} is outside {least} .. {most}"
    return ""
