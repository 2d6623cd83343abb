"""One flipped bit, in the program's bytes only and then in the C only, and the comparison names the layer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from integer_graphs import example_graph, features_of, narrow_graph

from flowlab.compiler import emit_c, emit_runner, interpreter
from flowlab.compiler.ir import Graph
from flowlab.compiler.lower import lower
from flowlab.compiler.program import Container, Layer, encode
from flowlab.compiler.trace import layer_crcs, traced
from flowlab.contracts import Outcome
from flowlab.cpu.host_c import HostC
from flowlab.errors import AgreementError
from flowlab.stages.simulate import compare_execution
from flowlab_tinpu.executions import Simulator


class Case:
    """A network, its vectors, and what the interpreter makes of them."""

    def __init__(self, graph: Graph) -> None:
        self.features = features_of(graph, 40)
        values = interpreter.run(graph, self.features)
        self.reference = Outcome({"output": values["fc.bnorm"].astype(np.int32)}, layer_crcs(graph, values))
        self.order = [node.name for node in traced(graph)]
        self.container = lower(graph, "ab" * 32)

    def mutated(self, name: str, flip: Callable[[Layer], Layer]) -> Container:
        layers = tuple(flip(layer) if layer.name == name else layer for layer in self.container.layers)
        return replace(self.container, layers=layers)


def flip_weight(layer: Layer) -> Layer:
    """One bit of one weight, as it lies in the program; not one that makes the pattern that is no weight."""
    weight, half = layer.weight.copy(), 2 ** (layer.weight_bits - 1)
    last = weight[-1].reshape(-1)  # of the last channel: the first one of the last layer is saturated for most vectors
    at = min(3, len(last) - 1)
    patterns = (int(last[at]) % (2 * half) ^ bit for bit in (half // 2, half))
    last[at] = next((pattern ^ half) - half for pattern in patterns if pattern != half)
    return replace(layer, weight=weight)


def flip_bias(layer: Layer) -> Layer:
    bias = layer.bias.copy()
    bias[1] ^= 1 << 9
    return replace(layer, bias=bias)


def flip_multiplier(layer: Layer) -> Layer:
    return replace(layer, multiplier=layer.multiplier ^ np.int32(64))


def flip_shift(layer: Layer) -> Layer:
    shift = layer.shift.copy()
    shift[0] ^= 1
    return replace(layer, shift=shift)


CASES = {
    "8 bits": Case(example_graph()),
    "4 bits": Case(narrow_graph((4, 4))),
    "2 bits": Case(narrow_graph((2, 2))),
    "2 bits on the NPU": Case(narrow_graph((2, 8), unit="npu")),
}
FLIPS: dict[str, Callable[[Layer], Layer]] = {
    "weight": flip_weight, "bias": flip_bias, "multiplier": flip_multiplier, "shift": flip_shift,
}  # fmt: skip
LAYERS = {case: ("conv1.bnorm", "conv3.bnorm" if case == "8 bits" else "conv2.bnorm", "fc.bnorm") for case in CASES}
MUTATIONS = [(case, what, name) for case in CASES for what in FLIPS for name in LAYERS[case]]


def files(folder: Path, program: Container, c: Container) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    (folder / "model.flnp").write_bytes(encode(program))
    texts = {**emit_c.emit_c(c, skip_normalize=True), **emit_runner.emit_runner(c, skip_normalize=True)}
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {name: folder / name for name in ("model.flnp", *texts)}


def run(case: Case, execution, program: dict[str, Path], scratch: Path) -> dict[str, object]:
    if execution.missing():
        pytest.skip("no C compiler on PATH")
    return compare_execution(execution.name, case.reference, execution.run(program, case.features, scratch), case.order)


@pytest.mark.parametrize(("width", "what", "name"), MUTATIONS)
def test_a_bit_flipped_in_the_program_only_is_found_and_named(width: str, what: str, name: str, tmp_path: Path) -> None:
    case = CASES[width]
    program = files(tmp_path, case.mutated(name, FLIPS[what]), case.container)
    with pytest.raises(AgreementError, match=rf"execution 'simulator' differs .* parts first at {re.escape(name)}"):
        run(case, Simulator(), program, tmp_path / "s")
    assert run(case, HostC(), program, tmp_path / "c")["mismatches"] == 0


@pytest.mark.parametrize(("width", "what", "name"), MUTATIONS)
def test_a_bit_flipped_in_the_c_only_is_found_and_named(width: str, what: str, name: str, tmp_path: Path) -> None:
    case = CASES[width]
    program = files(tmp_path, case.container, case.mutated(name, FLIPS[what]))
    with pytest.raises(AgreementError, match=rf"execution 'host C' differs .* parts first at {re.escape(name)}"):
        run(case, HostC(), program, tmp_path / "c")
    assert run(case, Simulator(), program, tmp_path / "s")["mismatches"] == 0


@pytest.mark.parametrize("width", CASES)
def test_an_untouched_program_has_no_mismatch(width: str, tmp_path: Path) -> None:
    case = CASES[width]
    program = files(tmp_path, case.container, case.container)
    for execution in (Simulator(), HostC()):
        row = run(case, execution, program, tmp_path / execution.name)
        assert (row["name"], row["vectors"], row["mismatches"], row["first_difference"]) == (
            execution.name,
            40,
            0,
            None,
        )
        assert row["comparison"] == "bit for bit"


def test_a_last_layer_that_is_wrong_everywhere_differs_on_every_vector(tmp_path: Path) -> None:
    case = CASES["8 bits"]
    wrong = case.mutated("conv1.bnorm", lambda layer: replace(layer, weight=-layer.weight))
    program = files(tmp_path, wrong, case.container)
    with pytest.raises(AgreementError, match=r"on 40 of 40 vectors; vector 0 parts first at conv1\.bnorm"):
        run(case, Simulator(), program, tmp_path / "s")
