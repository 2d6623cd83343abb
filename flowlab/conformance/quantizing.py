"""A quantizer held against its job: a small network, seeded, quantized again and again under other circumstances."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flowlab.compiler import interpreter
from flowlab.compiler.agreement import float_differs
from flowlab.compiler.ir import Graph, is_float
from flowlab.compiler.text import print_graph
from flowlab.compiler.verify import verify
from flowlab.contracts import NumberFormat, Quantized, QuantizeJob, Quantizer
from flowlab.errors import FlowlabError
from flowlab.learn.trace import float_graph

SHAPE = (2, 24, 1)
CLASSES = 3
WINDOWS = 48
STEPS = 4  # of the training that a quantizer is given which trains
FULL_BITS = 8
FAR = 0.5  # of the float outputs' size: beyond it a network of 8 bits is another network
UNKNOWN_BITS = 5  # no number format has such weights


@dataclass(frozen=True)
class Asked:
    """A quantizer with its options and the number format that it is asked for."""

    quantizer: Quantizer
    format: NumberFormat
    options: Any

    @property
    def who(self) -> str:
        """How errors call it."""
        return f"quantizer '{self.quantizer.name}'"


def check_quantizing(asked: Asked, widths: Sequence[int]) -> dict[int, Graph]:
    """Quantize a small network to these widths of weights; the graphs by width.

    Raises:
        AssertionError: with a sentence that says what is wrong.
    """
    widths = widths or (tuple(asked.format.by_weight_bits) if asked.quantizer.format else (FULL_BITS,))
    with tempfile.TemporaryDirectory() as folder:
        found = {bits: _check_width(asked, _job(asked, bits, Path(folder))) for bits in widths}
        _check_errors(asked, _job(asked, widths[0], Path(folder)))
    return found


def _check_width(asked: Asked, job: QuantizeJob) -> Graph:
    who = f"{asked.who}, {job.weight_bits}-bit weights, format '{asked.format.name}'"
    problems = asked.quantizer.check(job.graph, job.format, asked.options)
    assert not problems, f"{who}: `check` refuses an ordinary network: {' '.join(problems)}"
    calibration, weights = job.calibration.copy(), _weights(job.model)
    quantized = _quantize(asked, _private(job), random=1)
    assert np.array_equal(job.calibration, calibration), f"{who} changes the calibration windows that it was given"
    assert _same(weights, _weights(job.model)), f"{who} changes a model that is not its own: it keeps one between jobs"
    text = print_graph(quantized.graph)
    again = print_graph(_quantize(asked, _private(job), random=1).graph)
    assert text == again, f"{who} gives another graph the second time"
    other = print_graph(_quantize(asked, _private(job), random=2).graph)
    assert text == other, (
        f"{who} depends on the global random state: draw from generators that are seeded with job.seed"
    )
    _check_graph(who, asked, job, quantized)
    return quantized.graph


def _check_graph(who: str, asked: Asked, job: QuantizeJob, quantized: Quantized) -> None:
    graph = quantized.graph
    if not asked.quantizer.format:
        assert is_float(graph), f"{who} asks for no number format, and makes integers"
    else:
        try:
            verify(graph, job.format)
        except FlowlabError as error:
            raise AssertionError(f"{who} leaves the number format: {error}") from None
        named = graph.metadata.get("number_format")
        assert named == job.format.name, (
            f"{who}: the graph's metadata names the number format {named!r}, not '{job.format.name}': targets read it"
        )
        wide = [node.name for node in graph.nodes if int(str(node.attributes.get("weight_bits", 0))) > job.weight_bits]
        assert not wide, f"{who}: layer '{wide[0]}' has wider weights than were asked for" if wide else ""
    features = np.concatenate([job.calibration, 3 * job.calibration[:4]])  # what saturates too
    found = interpreter.outputs(graph, features)
    if quantized.module is not None:
        _check_module(who, quantized.module, graph, features, found)
    if job.weight_bits >= FULL_BITS:
        _check_close(who, job, graph)


def _check_module(
    who: str, module: nn.Module, graph: Graph, features: NDArray[np.float32], found: Mapping[str, NDArray[Any]]
) -> None:
    """The torch module is one more execution, whatever batch it is fed."""
    (wanted,) = found.values()
    with torch.no_grad():
        together = module(torch.from_numpy(features)).numpy()
        parts = [module(torch.from_numpy(part)).numpy() for part in (features[:1], features[1:])]
    alone = np.concatenate(parts)
    if is_float(graph):
        differs = float_differs(together, wanted) | float_differs(together, alone)
        assert not differs.any(), f"{who}: its module and its graph differ"
        return
    assert np.array_equal(together, wanted), f"{who}: its module and its graph give other integers"
    assert np.array_equal(together, alone), f"{who}: its module gives other integers where a batch is fed in two parts"


def _check_close(who: str, job: QuantizeJob, graph: Graph) -> None:
    """With 8 bits the network is the one that was trained."""
    (value,) = graph.outputs.values()
    type_ = graph.type_of(value)
    made = interpreter.outputs(graph, job.calibration)
    (integers,) = made.values()
    real = (integers.astype(np.float64) - type_.zero_point) * type_.scale
    with torch.no_grad():
        float_ = job.model(torch.from_numpy(job.calibration)).numpy().astype(np.float64)
    distance = float(np.linalg.norm(real - float_) / np.linalg.norm(float_ - float_.mean(axis=0)))
    assert distance < FAR, f"{who}: the outputs are {distance:.2f} of their own spread away from the float network's"


def _check_errors(asked: Asked, job: QuantizeJob) -> None:
    """What cannot be quantized is refused with an error of ours."""
    broken = job.calibration.copy()
    broken[0, 0, 0, 0] = np.nan
    cases = {"calibration windows that are no numbers": replace(job, calibration=broken)}
    if asked.quantizer.format:
        cases[f"{UNKNOWN_BITS}-bit weights, which the number format lacks"] = replace(job, weight_bits=UNKNOWN_BITS)
    else:
        cases = {}  # a float graph looks at no windows
    for what, case in cases.items():
        try:
            asked.quantizer.quantize(_private(case), asked.options)
        except FlowlabError:
            continue
        except Exception as error:  # noqa: BLE001 - what a plugin raises is what is being looked for
            raise AssertionError(
                f"{asked.who} raises {type(error).__name__}: {error} for {what}; errors are FlowlabError"
            ) from None
        raise AssertionError(f"{asked.who} takes {what} without a word")


# --- the job ------------------------------------------------------------------------------------


def _job(asked: Asked, bits: int, scratch: Path) -> QuantizeJob:
    model = _network()
    return QuantizeJob(
        model=model,
        graph=float_graph(model, SHAPE),
        format=asked.format,
        weight_bits=bits,
        activation_bits=max(asked.format.activation_bits, default=FULL_BITS),
        calibration=_windows(),
        fit=_fit,
        output_int=True,
        scratch=scratch,
        seed=11,
        progress=lambda what, share: None,
    )


def _private(job: QuantizeJob) -> QuantizeJob:
    return replace(job, model=deepcopy(job.model))


def _windows() -> NDArray[np.float32]:
    """Waves of three frequencies in noise."""
    random = np.random.default_rng(5)
    time = np.arange(SHAPE[1]) / SHAPE[1]
    waves = [np.sin(2 * np.pi * ((at % CLASSES + 1) * 2 * time + random.random())) for at in range(WINDOWS)]
    noise = 0.2 * random.standard_normal((WINDOWS, *SHAPE))
    return (np.stack(waves)[:, None, :, None] + noise).astype(np.float32)


def _network() -> nn.Module:
    """Two convolutions, the first with a norm that has seen data, pools and a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = nn.Sequential(
            nn.Conv2d(SHAPE[0], 4, (3, 1), padding=(1, 0)), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d((2, 1)),
            nn.Conv2d(4, 8, (3, 1), padding=(1, 0)), nn.ReLU(), nn.MaxPool2d((2, 1)),
            nn.Flatten(), nn.Linear(8 * SHAPE[1] // 4, CLASSES),
        )  # fmt: skip
        for _ in range(3):
            network(torch.from_numpy(_windows()))
    return network.eval()


def _fit(module: nn.Module) -> Mapping[str, Any]:
    """A few steps of a training that changes every weight, the same each time."""
    features = torch.from_numpy(_windows())
    labels = torch.arange(WINDOWS) % CLASSES
    parameters = [one for one in module.parameters() if one.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    module.train()
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(features), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    module.eval()
    return {}


def _quantize(asked: Asked, job: QuantizeJob, random: int) -> Quantized:
    with _random_state(random):
        try:
            return asked.quantizer.quantize(job, asked.options)
        except FlowlabError as error:
            raise AssertionError(f"{asked.who} refuses an ordinary network: {error}") from None
        except Exception as error:  # noqa: BLE001 - what a plugin raises is what is being looked for
            raise AssertionError(f"{asked.who} raises {type(error).__name__}: {error} on an ordinary network") from None


@contextmanager
def _random_state(seed: int) -> Iterator[None]:
    """Every global generator seeded, and put back behind."""
    import random

    kept, numpys = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(kept)
            np.random.set_state(numpys)


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _same(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)
