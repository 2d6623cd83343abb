from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from networks.training import data, quantize_job, trained

from flowlab.quant.fake_layer import FakeLayer
from flowlab.quant.fidelity import errors, first_bad_layer
from flowlab.quant.ptq import post_training, wrap
from flowlab.quant.real_value import real_value
from flowlab.quant.steps import LayerStep, value_of


def test_every_layer_is_near_its_real_values() -> None:
    found = errors(wrap(quantize_job(trained())), data().val_features)
    assert max(found.values()) < 0.05, found


def test_a_layer_rounds_to_nearest_and_not_down() -> None:
    network = wrap(quantize_job(trained())).eval()
    x = torch.from_numpy(np.array(data().val_features[:64]))
    with torch.no_grad():
        whole = network.values(x)
    for step, part in zip(network.plan.steps, network.parts, strict=True):
        if isinstance(step, LayerStep) and isinstance(part, FakeLayer):
            name, scale = value_of(step), network.scales.scale
            size = network.scales.layers[step.name].weight.reshape((-1,) + (1,) * (step.weight.ndim - 1))
            shipped = replace(step, weight=part.whole_weight().detach().double().numpy() * size)
            wanted = real_value(shipped, whole[step.source].double() * scale[step.source]) / scale[name]
            inside = (whole[name] > part.low) & (whole[name] < part.high)
            bias = float((whole[name].double() - wanted)[inside].mean())
            assert abs(bias) < 0.05, (name, bias)  # a floor without the offset is off by half a step


def test_a_network_that_is_far_off_is_said_with_the_layer() -> None:
    network = wrap(quantize_job(trained()))
    layer = network.parts[4 - 1]
    assert isinstance(layer, FakeLayer)
    with torch.no_grad():
        layer.weight.neg_()
    found = first_bad_layer(network, data().val_features, 0.5)
    assert found.startswith("5.bnorm: THE QUANTIZED NETWORK IS FAR FROM THE FLOAT ONE")


def test_a_good_one_is_not_warned_of() -> None:
    assert post_training(quantize_job(trained()), "test").warnings == ()
