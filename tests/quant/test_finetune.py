"""Fine-tuning on calibration windows: nearer to the float network, or nothing at all, and the same each time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks.tones import tones
from networks.training import quantize_job, trained

from flowlab.compiler.text import print_graph
from flowlab.contracts import QuantizeJob
from flowlab.errors import QuantizationError
from flowlab.quant.fake_network import FakeQuantized
from flowlab.quant.finetune import MOST_WINDOWS, finetune
from flowlab.quant.ptq import post_training, tuned, wrap
from flowlab.quant.recipe import TUNING, Finetune
from flowlab_tinpu.torchmodelopt import TINPUTinyMLPTQFxModule

SHORT = Finetune(steps=40, batch=32)


def job(bits: int = 4, **changes: object) -> QuantizeJob:
    return replace(quantize_job(trained()), weight_bits=bits, **changes)  # type: ignore[arg-type]


def network(bits: int = 4, live: float = 0.0) -> FakeQuantized:
    return wrap(job(bits), live=live, learn_scales=True)


def weights(module: FakeQuantized) -> list[torch.Tensor]:
    return [value.clone() for value in module.state_dict().values()]


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("live", [0.0, 0.7])
def test_the_distance_falls_and_is_the_one_that_is_said(bits: int, live: float) -> None:
    module = network(bits, live)
    before, after = finetune(module, job().calibration, replace(SHORT, live=live, learning_rate=5e-3), 0)
    assert after < before
    assert module.finished
    assert not module.training
    again = finetune(module, job().calibration, replace(SHORT, steps=0), 0)
    assert again == (after, after)


def test_what_does_not_come_nearer_is_taken_back() -> None:
    module = network()
    before = weights(module)
    found = finetune(module, job().calibration, replace(SHORT, steps=3, learning_rate=10.0), 0)
    assert found[0] == found[1]
    assert all(torch.equal(one, other) for one, other in zip(before, weights(module), strict=True))


def test_the_seed_decides_the_order_and_nothing_else_does() -> None:
    graphs = []
    for seed, other in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(other)
        graphs.append(print_graph(post_training(job(2, seed=seed, finetune=True), "mine").graph))
    assert graphs[0] == graphs[1]
    assert graphs[0] != graphs[2]


def test_randomness_of_the_caller_stays_as_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    finetune(network(), job().calibration, replace(SHORT, steps=2), 0)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("count", [1, 7, 33, MOST_WINDOWS + 1])
def test_any_number_of_windows_will_do(count: int) -> None:
    features, _ = tones(count, 1)
    before, after = finetune(network(), features, replace(SHORT, steps=5), 0)
    assert after <= before


def test_of_more_than_the_most_windows_some_are_looked_at_evenly_over_all() -> None:
    features, _ = tones(2 * MOST_WINDOWS, 1)
    spoilt = features.copy()
    spoilt[1::2] = np.nan
    modules = [network(), network()]
    found = [
        finetune(module, some, replace(SHORT, steps=3), 0)
        for module, some in zip(modules, (features, spoilt), strict=True)
    ]
    assert found[0] == found[1]
    assert all(torch.equal(*pair) for pair in zip(*map(weights, modules), strict=True))


def test_a_loss_that_is_no_number_is_an_error_with_a_cure() -> None:
    features = np.array(job().calibration)
    features[0] = np.nan
    with pytest.raises(QuantizationError, match=r"fine-tuning: the loss of step \d of 40 is nan.*ptq_finetune: false"):
        finetune(network(), features, replace(SHORT, batch=len(features)), 0)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_only_few_bits_are_tuned_and_only_where_asked(bits: int) -> None:
    said = []
    _, what = tuned(job(bits, finetune=True, progress=lambda text, done: said.append(text)))
    assert bool(said) == (bits < 8)
    assert what.startswith(f"{TUNING[bits].steps} steps on calibration windows" if said else "scales alone")
    assert tuned(job(bits))[1] == "scales alone"


def test_the_wrapper_tunes_as_the_pipeline_does() -> None:
    features = job().calibration
    graphs = [post_training(job(4, output_int=False, finetune=how), "mine").graph for how in (True, False)]
    for expected, how in zip(graphs, (True, False), strict=True):
        model = TINPUTinyMLPTQFxModule(trained(), {"weight": {"bitwidth": 4}}, finetune=how).eval()
        model(torch.from_numpy(features))
        with torch.no_grad():
            found = model.convert().graph
        assert print_graph(found) == print_graph(replace(expected, metadata=found.metadata))
    assert print_graph(graphs[0]) != print_graph(graphs[1])


def test_it_goes_on_inside_inference_mode_too() -> None:
    model, features = TINPUTinyMLPTQFxModule(trained(), {"weight": {"bitwidth": 4}}), job().calibration
    with torch.inference_mode():
        model(torch.from_numpy(features))
        inside = model.convert().graph
    assert print_graph(inside) == print_graph(model.convert().graph)
