"""Post-training quantization that goes on: the integers learn the float network's outputs on calibration windows.

No labels, at most `MOST_WINDOWS` windows, a fixed number of steps, everything drawn from the seed. What comes out is
never farther from the float network, on these windows, than what went in.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from flowlab.errors import QuantizationError
from flowlab.quant.fake_network import FakeQuantized
from flowlab.quant.real_value import real_values
from flowlab.quant.recipe import Finetune, live_epochs
from flowlab.quant.reservoir import spread

MOST_WINDOWS = 512
MANY = 2  # outputs of a window that are classes
Outputs = Mapping[str, Tensor]


def finetune(network: FakeQuantized, features: NDArray[np.float32], how: Finetune, seed: int) -> tuple[float, float]:
    """Train in place; the network ends in evaluation mode, its norms frozen.

    Args:
        network: wrapped, its scales chosen.
        features: calibration windows, float32 ``(window, channel, height, width)``; of more than `MOST_WINDOWS` some.
        seed: of the order of windows.

    Returns:
        The distance from the float network's outputs on the windows, before and after; where that did not fall, the
        network is as it was.

    Raises:
        QuantizationError: where the loss is no number.
    """
    windows = torch.from_numpy(np.array(spread(features, MOST_WINDOWS)))
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)  # nothing draws from it; a part that would is then the same each time
        taught = _taught(network, windows)
        before = _measured(network, windows, taught, how)
        kept = copy.deepcopy(network.state_dict())
        _train(network, windows, taught, how, seed)
        network.finish()
        after = _measured(network, windows, taught, how)
    if not after < before:
        network.load_state_dict(kept)
        return before, before
    return before, after


def _taught(network: FakeQuantized, windows: Tensor) -> Outputs:
    with torch.no_grad():
        values = real_values(network.plan, windows.double())
    return {name: values[value].float() for name, value in network.plan.outputs.items()}


def _measured(network: FakeQuantized, windows: Tensor, taught: Outputs, how: Finetune) -> float:
    network.eval()
    with torch.no_grad():
        return float(_distance(_named(network, windows), taught, how))


def _named(network: FakeQuantized, windows: Tensor) -> Outputs:
    found = network(windows)
    return {next(iter(network.plan.outputs)): found} if isinstance(found, Tensor) else found


def _distance(found: Outputs, taught: Outputs, how: Finetune) -> Tensor:
    return torch.stack([_one(found[name], taught[name], how.temperature) for name in taught]).sum()


def _one(found: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Of classes the divergence of softened probabilities; of other outputs the error in relation to their size."""
    if taught.ndim == 2 and taught.shape[1] >= MANY:
        said, meant = (F.log_softmax(logits / temperature, dim=1) for logits in (found, taught))
        return temperature**2 * F.kl_div(said, meant, reduction="batchmean", log_target=True)
    return F.mse_loss(found, taught) / taught.square().mean().clamp(min=torch.finfo(torch.float32).tiny)


def _train(network: FakeQuantized, windows: Tensor, taught: Outputs, how: Finetune, seed: int) -> None:
    live = live_epochs(how.live, how.steps)
    drawn = _batches(len(windows), min(how.batch, len(windows)), seed)
    late = how.learning_rate * (how.then if live else 1)
    for steps, rate, norms_live in ((live, how.learning_rate, True), (how.steps - live, late, False)):
        if steps:
            network.set_live(norms_live)
            network.train()
            _cycle(network, rate, steps, ((windows[some], _rows(taught, some)) for some in drawn), how)


def _rows(outputs: Outputs, chosen: Tensor) -> Outputs:
    return {name: value[chosen] for name, value in outputs.items()}


def _cycle(
    network: FakeQuantized, rate: float, steps: int, batches: Iterator[tuple[Tensor, Outputs]], how: Finetune
) -> None:
    parameters = list(network.parameters())
    if not parameters:
        return
    optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, cycle_momentum=False)
    for step, (windows, taught) in zip(range(steps), batches, strict=False):
        optimizer.zero_grad()
        loss = _distance(_named(network, windows), taught, how)
        if not bool(torch.isfinite(loss)):
            raise QuantizationError(
                f"fine-tuning: the loss of step {step + 1} of {steps} is {float(loss.detach())}. Look at the "
                "calibration windows, or set training.ptq_finetune: false"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def _batches(count: int, size: int, seed: int) -> Iterator[Tensor]:
    """Without end: every window once, in an order that is drawn, then again in another one."""
    generator = np.random.Generator(np.random.PCG64(seed))
    while True:
        order = torch.from_numpy(generator.permutation(count))
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]
