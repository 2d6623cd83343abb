"""Post-training quantization: calibrate, choose scales, convert; where asked for, go on from the same windows."""

from __future__ import annotations

from dataclasses import replace

import torch

from flowlab.contracts import NumberFormat, Quantized, QuantizeJob
from flowlab.errors import QuantizationError
from flowlab.quant.calibrate import calibrate
from flowlab.quant.converted import Converted
from flowlab.quant.fake_network import FakeQuantized
from flowlab.quant.fidelity import RIGHT_ERROR, first_bad_layer
from flowlab.quant.finetune import finetune
from flowlab.quant.fold import fold
from flowlab.quant.recipe import FULL_BITS, tuning_of, widths
from flowlab.quant.to_graph import to_graph

LARGE_ERROR = 0.5  # of the outputs' size, beyond which a quantized network is another network


def wrap(job: QuantizeJob, *, live: float = 0.0, learn_scales: bool = False) -> FakeQuantized:
    """The job's network with whole numbers inside, its scales chosen from the calibration data.

    Args:
        job: what is quantized, and how.
        live: share of a training in which its norms use the statistics of the batch.
        learn_scales: let a training move its weights' scales.

    Raises:
        QuantizationError: naming the layer, where the network, the data or the number format does not allow it.
    """
    form = job.format.by_weight_bits.get(job.weight_bits)
    if form is None:
        known = ", ".join(str(bits) for bits in sorted(job.format.by_weight_bits))
        raise QuantizationError(
            f"number format '{job.format.name}' has no {job.weight_bits}-bit weights. Known: {known}."
        )
    if not form.multiplier_bits and not job.format.power_of_two_scales.get(job.weight_bits, False):
        raise QuantizationError(
            f"number format '{job.format.name}' has no multiplier for {job.weight_bits}-bit weights: the ratios "
            "of their scales are powers of two, and it says that they are not."
        )
    if job.activation_bits not in job.format.activation_bits:
        known = ", ".join(str(bits) for bits in sorted(job.format.activation_bits))
        raise QuantizationError(
            f"number format '{job.format.name}' has no {job.activation_bits}-bit activations. Known: {known}."
        )
    if problem := unknown_arithmetic(job.format, job.weight_bits):
        raise QuantizationError(f"number format '{job.format.name}' {problem}")
    steps = fold(job.graph)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        scales = calibrate(
            steps, job.calibration, job.format, job.weight_bits, job.activation_bits, bits_of=job.bits_of
        )
        return FakeQuantized(
            steps,
            scales,
            job.format,
            job.weight_bits,
            bits_of=job.bits_of,
            live=live,
            learn_scales=learn_scales,
            float_bias=job.float_bias,
        )


def unknown_arithmetic(format: NumberFormat, bits: int) -> str:
    """What this quantizer does not know of a number format, or an empty text."""
    if not format.bias_before_multiply:
        return "adds the bias behind the multiplier; this quantizer knows it before."
    if format.zero_point:
        return "has zero points; this quantizer knows symmetric values."
    shift_only = not format.by_weight_bits[bits].multiplier_bits
    if format.rounding != "floor" and not (format.rounding == "half_up" and shift_only):
        return f"rounds '{format.rounding}'; this quantizer knows 'floor', and 'half_up' of a shift alone."
    if format.per == "layer" and not shift_only:
        return "has one multiplier for a layer; this quantizer knows one for each channel, or one shift for a layer."
    return ""


def convert(job: QuantizeJob, network: FakeQuantized, quantizer: str) -> Quantized:
    """The integer graph of a network, and the torch module that runs it."""
    metadata = {
        "quantizer": quantizer,
        "number_format": job.format.name,
        "weight_bits": str(job.weight_bits),
        "activation_bits": str(job.activation_bits),
    }
    graph = to_graph(
        network.eval(), format=job.format, bits=job.weight_bits, output_int=job.output_int, metadata=metadata
    )
    return Quantized(graph, Converted(graph).eval())


def tuned(job: QuantizeJob) -> tuple[FakeQuantized, str]:
    """The job's network, its scales chosen and, where the job says so and bits are few, its integers fine-tuned.

    The second is what was done, in words.

    Raises:
        QuantizationError: as `wrap`, and where fine-tuning ends in no number.
    """
    how = tuning_of(widths(job), job.activation_bits) if job.finetune else None
    if how is None:
        return wrap(job), "scales alone"
    network = wrap(job, live=how.live, learn_scales=True)
    before, after = finetune(network, job.calibration, how, job.seed)
    said = f"{how.steps} steps on calibration windows, distance from float {before:.4g} -> {after:.4g}"
    job.progress(f"fine-tuned: {said}", 1.0)
    return network, said


def post_training(job: QuantizeJob, quantizer: str) -> Quantized:
    """Quantize without labels; a warning names the first layer that is far from the float network's.

    Raises:
        QuantizationError: as `tuned`.
    """
    network, said = tuned(job)
    limit = RIGHT_ERROR if min(job.weight_bits, job.activation_bits) >= FULL_BITS else LARGE_ERROR
    found = first_bad_layer(network, job.calibration, limit)
    result = replace(convert(job, network, quantizer), history={"recipe": said})
    return with_warnings(result, *([found] if found else []))


def with_warnings(quantized: Quantized, *warnings: str) -> Quantized:
    """The same result with further warnings."""
    return replace(quantized, warnings=(*quantized.warnings, *warnings))
