"""One flipped bit, in the program's bytes only and then in the C only, and the comparison names the layer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from integer_graphs import example_graph, features_of

from flowlab.compiler import emit_c, emit_runner, interpreter
from flowlab.compiler.lower import lower
from flowlab.compiler.program import Container, Layer, encode
from flowlab.compiler.trace import layer_crcs, traced
from flowlab.contracts import Outcome
from flowlab.cpu.host_c import HostC
from flowlab.errors import AgreementError
from flowlab.stages.simulate import compare_execution
from flowlab_tinpu.executions import Simulator

GRAPH = example_graph()
FEATURES = features_of(GRAPH, 40)
VALUES = interpreter.run(GRAPH, FEATURES)
REFERENCE = Outcome({"output": VALUES["fc.bnorm"].astype(np.int32)}, layer_crcs(GRAPH, VALUES))
ORDER = [node.name for node in traced(GRAPH)]
CONTAINER = lower(GRAPH, "ab" * 32)


def flip_weight(layer: Layer) -> Layer:
    weight = layer.weight.copy()
    weight[-1].flat[3] ^= 64  # of the last channel: the first one of the last layer is saturated for most vectors
    return replace(layer, weight=weight)


def flip_bias(layer: Layer) -> Layer:
    bias = layer.bias.copy()
    bias[1] ^= 1 << 9
    return replace(layer, bias=bias)


def flip_shift(layer: Layer) -> Layer:
    shift = layer.shift.copy()
    shift[0] ^= 1
    return replace(layer, shift=shift)


FLIPS: dict[str, Callable[[Layer], Layer]] = {"weight": flip_weight, "bias": flip_bias, "shift": flip_shift}
LAYERS = ("conv1.bnorm", "conv3.bnorm", "fc.bnorm")  # first, middle, last


def mutated(name: str, flip: Callable[[Layer], Layer]) -> Container:
    layers = tuple(flip(layer) if layer.name == name else layer for layer in CONTAINER.layers)
    return replace(CONTAINER, layers=layers)


def files(folder: Path, program: Container, c: Container) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    (folder / "model.flnp").write_bytes(encode(program))
    texts = {**emit_c.emit_c(c, skip_normalize=True), **emit_runner.emit_runner(c, skip_normalize=True)}
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {name: folder / name for name in ("model.flnp", *texts)}


def run(execution, program: dict[str, Path], scratch: Path) -> dict[str, object]:
    if execution.missing():
        pytest.skip("no C compiler on PATH")
    return compare_execution(execution.name, REFERENCE, execution.run(program, FEATURES, scratch), ORDER)


@pytest.mark.parametrize("what", FLIPS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_bit_flipped_in_the_program_only_is_found_and_named(what: str, name: str, tmp_path: Path) -> None:
    program = files(tmp_path, mutated(name, FLIPS[what]), CONTAINER)
    with pytest.raises(AgreementError, match=rf"execution 'simulator' differs .* parts first at {re.escape(name)}"):
        run(Simulator(), program, tmp_path / "s")
    assert run(HostC(), program, tmp_path / "c")["mismatches"] == 0


@pytest.mark.parametrize("what", FLIPS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_bit_flipped_in_the_c_only_is_found_and_named(what: str, name: str, tmp_path: Path) -> None:
    program = files(tmp_path, CONTAINER, mutated(name, FLIPS[what]))
    with pytest.raises(AgreementError, match=rf"execution 'host C' differs .* parts first at {re.escape(name)}"):
        run(HostC(), program, tmp_path / "c")
    assert run(Simulator(), program, tmp_path / "s")["mismatches"] == 0


def test_an_untouched_program_has_no_mismatch(tmp_path: Path) -> None:
    program = files(tmp_path, CONTAINER, CONTAINER)
    for execution in (Simulator(), HostC()):
        row = run(execution, program, tmp_path / execution.name)
        assert row == {"name": execution.name, "vectors": 40, "mismatches": 0, "first_difference": None}


def test_a_last_layer_that_is_wrong_everywhere_differs_on_every_vector(tmp_path: Path) -> None:
    program = files(tmp_path, mutated("conv1.bnorm", lambda layer: replace(layer, weight=-layer.weight)), CONTAINER)
    with pytest.raises(AgreementError, match=r"on 40 of 40 vectors; vector 0 parts first at conv1\.bnorm"):
        run(Simulator(), program, tmp_path / "s")
