"""The quantizer: flowlab's scales, and each layer's weights rounded by the second moments of its inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from flowlab.contracts import Quantized, QuantizeJob
from flowlab.quant.fidelity import first_bad_layer
from flowlab.quant.ptq import LARGE_ERROR, convert, with_warnings, wrap
from flowlab.quant.real_value import real_values
from flowlab_gptq.rounding import aimed_at, damped, moments, rounded

if TYPE_CHECKING:
    from torch import Tensor

    from flowlab.quant.fake_layer import FakeLayer
    from flowlab.quant.steps import LayerStep
    from flowlab_gptq.plugin import GptqOptions


def quantize(job: QuantizeJob, options: GptqOptions, name: str) -> Quantized:
    """One pass over the calibration windows, layer by layer from the input on; nothing is trained."""
    network = wrap(job).eval()
    windows = torch.from_numpy(job.calibration)
    layers = network.layers()
    with torch.no_grad():
        real = real_values(network.plan, windows.double())
        for number, part in enumerate(layers):
            source = part.step.source
            job.progress(f"rounding {part.step.name}", number / len(layers))
            whole = network.values(windows)[source].double() * network.scales.scale[source]
            round_layer(part, whole, real[source], options)
    found = first_bad_layer(network, job.calibration, LARGE_ERROR)
    said = f"second-order rounding of {len(layers)} layers on {len(windows)} windows, damping {options.damping:g}"
    return with_warnings(replace(convert(job, network, name), history={"recipe": said}), *([found] if found else []))


def round_layer(part: FakeLayer, whole: Tensor, real: Tensor, options: GptqOptions) -> None:
    """Choose the integers of one layer, and the bias that keeps its mean.

    Args:
        part: the layer that ships; its weight and bias are changed in place. Its ``step`` is the float one.
        whole: its inputs as the layers before it make them now, (window, ...), real values.
        real: the same of the float network.
    """
    step = part.step
    weight = torch.from_numpy(step.weight).double()
    groups = int(step.geometry.get("groups", 1))
    scales = part.scale.double().chunk(groups)
    weights = weight.flatten(1).chunk(groups)
    made, lost = [], []
    rows = zip(patches(step, whole, groups), patches(step, real, groups))
    for flat, scale, (own, float_rows) in zip(weights, scales, rows):
        found = moments(own, float_rows)
        wanted = aimed_at(flat, found, options.damping) if options.follow_float else flat
        each = rounded(wanted, scale, part.weight_limit, damped(found, options.damping)) * scale[:, None]
        made.append(each)
        lost.append(flat @ found.float_mean - each @ found.mean)
    part.weight.copy_(torch.cat(made).reshape(weight.shape))
    part.bias.copy_(torch.from_numpy(step.bias) + torch.cat(lost))


def patches(step: LayerStep, x: Tensor, groups: int) -> list[Tensor]:
    """By group, what each weight is multiplied by: (place of a window, weight of an output channel)."""
    if not step.geometry:
        return [x]
    top, left, bottom, right = step.geometry["padding"]
    size = step.weight.shape[2:]
    dilation = step.geometry.get("dilation", (1, 1))
    columns = F.unfold(F.pad(x, (left, right, top, bottom)), size, dilation, 0, step.geometry["stride"])
    return [part.transpose(1, 2).flatten(0, 1) for part in columns.chunk(groups, dim=1)]
