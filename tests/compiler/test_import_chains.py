"""Whole numbers in float tensors, spelled as other tools do: read as integers that are proven to be equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from compiler.random_graphs import random_features, random_graph
from networks.foreign_integers import model, runtime
from onnx import helper, numpy_helper

from flowlab.compiler import interpreter
from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.float_chain import Chain, as_requantization
from flowlab.compiler.importer import import_onnx
from flowlab.errors import GraphError

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.integers(-20, 21, (4, 3, 3, 1)).astype(np.float32)
BIAS = RANDOM.integers(-300, 300, (1, 4, 1, 1)).astype(np.float32)
X = RANDOM.normal(0, 40, (64, 3, 16, 1)).astype(np.float32)


@pytest.mark.parametrize("seed", range(0, 300, 3))
def test_an_export_without_its_metadata_is_the_same_integers(seed: int) -> None:
    graph = random_graph(seed, True)
    file = onnx.load_model_from_string(export_onnx(graph))
    del file.metadata_props[:]
    features = random_features(graph, seed, 6)
    wanted, found = (interpreter.outputs(one, features) for one in (graph, import_onnx(file.SerializeToString())))
    for name, right in wanted.items():
        np.testing.assert_array_equal(found[name], right.astype(found[name].dtype))


def node(op: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def spelled(tail: str, **constants: Any) -> bytes:
    """An input step, a convolution, and a tail of ``OP CONSTANT`` steps that ends in bytes."""
    values: dict[str, Any] = {
        "low": np.float32(-128), "high": np.float32(127), "zero": np.float32(0), "top": np.float32(255), "w": WEIGHT,
        "b": BIAS, "half": np.float32(0.5), **{name: np.asarray(one, np.float32) for name, one in constants.items()},
    }  # fmt: skip
    nodes = [node("Floor", "x", "x1"), node("Clip", "x1 low high", "x2"), node("Conv", "x2 w", "s0", pads=[1, 0, 1, 0])]
    steps = [step.split() for step in tail.split(",")]
    for at, (op, *names) in enumerate(steps):
        nodes.append(node(op, " ".join([f"s{at}", *names]), "y" if at == len(steps) - 1 else f"s{at + 1}"))
    return model(nodes, values, (3, 16, 1))


UNSIGNED, SIGNED = "Clip zero top", "Clip low high"


@pytest.mark.parametrize(
    ("tail", "constants", "rounding"),
    [
        (f"Add b, Div d, Floor, {UNSIGNED}", {"d": 64}, "floor"),
        (f"Add b, Mul m, Div d, Floor, {SIGNED}", {"m": [[[37]], [[5]], [[255]], [[90]]], "d": 4096}, "floor"),
        (f"Add b, Mul m, Floor, {SIGNED}", {"m": 2.0**-6}, "floor"),
        (f"Mul m, Add b, Mul r, Floor, {UNSIGNED}", {"m": 1, "r": 2.0**-5}, "floor"),
        (f"Add b, Mul m, Mul r, Add half, Floor, {SIGNED}", {"m": 91, "r": 2.0**-13}, "half_up"),
        (f"Add b, Div d, Add half, Floor, {UNSIGNED}", {"d": 64}, "floor"),  # half a step is a whole number of sums
        (f"Add b, Div d, Floor, {UNSIGNED}", {"d": 100}, "floor"),  # no power of two, and no negative results
        (f"Add b, Mul m, Div d, Floor, {UNSIGNED}", {"m": 3, "d": 700}, "floor"),
        (f"Add b, Div d, Round, {SIGNED}", {"d": 64}, "nearest_even"),
        (f"Add b, Mul m, Round, {SIGNED}", {"m": 0.0137}, "nearest_even"),
        (f"Mul m, Round, Add o, {UNSIGNED}", {"m": 0.0137, "o": 128}, "nearest_even"),
        ("Add b, Div d, Floor, Relu, Min top", {"d": 64}, "floor"),
        ("Add b, Div d, Floor, Max zero, Min top", {"d": 32}, "floor"),
        (f"Sub b, Div d, Floor, {SIGNED}", {"d": 128}, "floor"),
        (f"Mul m, Div d, Floor, Add o, {SIGNED}", {"m": 5, "d": 512, "o": -3}, "floor"),
    ],
)
def test_a_requantization_is_found_however_it_is_spelled(tail: str, constants: dict[str, Any], rounding: str) -> None:
    data = spelled(tail, **constants)
    graph = import_onnx(data)
    last = graph.node(graph.outputs["y"])
    assert (last.op, last.attributes["rounding"]) == ("requantize", rounding)
    (found,) = interpreter.outputs(graph, X).values()
    (wanted,) = runtime(data, X)
    np.testing.assert_array_equal(found, wanted)
    assert len(np.unique(found)) > 20


def test_a_table_of_bytes_and_a_mean_and_a_residual_addition() -> None:
    constants = {
        "low": np.float32(-128), "high": np.float32(127), "zero": np.float32(0), "top": np.float32(255), "w": WEIGHT,
        "d": np.float32(64), "half": np.float32(0.5), "two": np.float32(2), "square": np.float32(0.01),
    }  # fmt: skip
    nodes = [
        node("Floor", "x", "x1"), node("Clip", "x1 low high", "x2"),
        node("Conv", "x2 w", "c", pads=[1, 0, 1, 0]), node("Div", "c d", "c1"), node("Floor", "c1", "c2"),
        node("Clip", "c2 zero top", "c3"),
        node("Mul", "c3 half", "t1"), node("Floor", "t1", "t2"),  # a table: any function of a byte
        node("Add", "c3 t2", "a"), node("Div", "a two", "a1"), node("Floor", "a1", "a2"),
        node("Clip", "a2 zero top", "a3"), node("Mul", "a3 c3", "p"), node("Mul", "p square", "p1"),
        node("Floor", "p1", "p2"), node("Clip", "p2 zero top", "p3"),
        node("GlobalAveragePool", "p3", "g"), node("Add", "g half", "g1"), node("Floor", "g1", "g2"),
        node("Clip", "g2 zero top", "y"),
    ]  # fmt: skip
    data = model(nodes, constants, (3, 16, 1))
    graph = import_onnx(data)
    assert [one.op for one in graph.nodes] == [
        "quantize", "conv", "requantize", "table", "add", "requantize", "multiply", "requantize", "sum_pool",
        "requantize",
    ]  # fmt: skip
    (found,) = interpreter.outputs(graph, X).values()
    np.testing.assert_array_equal(found, runtime(data, X)[0])


@pytest.mark.parametrize(
    ("tail", "constants", "said"),
    [
        (f"Add b, Div d, {UNSIGNED}", {"d": 64}, r"'y' \(Clip\): its results, .* no whole numbers of 8 bits"),
        ("Add b, Div d, Floor", {"d": 64}, "are no whole numbers of 8 bits"),
        (f"Add b, Div d, Floor, {SIGNED}", {"d": 100}, "no bias, multiplier of 31 bits and shift"),
        (f"Mul m, Floor, {SIGNED}", {"m": -0.5}, "multiplies a sum by a number below 0"),
        (f"Div d, Floor, {SIGNED}", {"d": 0}, "divides by 0"),
        (f"Add p, Floor, {SIGNED}", {"p": np.ones((1, 1, 16, 1))}, r"its constant has shape \(1, 1, 16, 1\)"),
        (f"Sigmoid, Floor, {SIGNED}", {}, "is no operation of a network of integers"),
        (f"Div d, Floor, {UNSIGNED}, Mul half, Mul half", {"d": 64}, "are no whole numbers"),
        (f"Floor, {', '.join(['Mul one'] * 70)}, {SIGNED}", {"one": 1.01}, "more than 64 elementwise operations"),
    ],
)
def test_what_no_integers_equal_is_refused_with_its_node(tail: str, constants: dict[str, Any], said: str) -> None:
    with pytest.raises(GraphError, match=said):
        import_onnx(spelled(tail, **constants))


def test_weights_that_are_no_integers_and_sums_that_float32_does_not_hold_are_refused() -> None:
    for change, said in ((WEIGHT + 0.5, "are no integers"), (WEIGHT * 100, "do not fit 8 bits")):
        file = onnx.load_model_from_string(spelled(f"Div d, Floor, {SIGNED}", d=64))
        for at, one in enumerate(file.graph.initializer):
            if one.name == "w":
                file.graph.initializer[at].CopyFrom(numpy_helper.from_array(change, "w"))
        with pytest.raises(GraphError, match=said):
            import_onnx(file.SerializeToString())
    wide = np.full((1, 2000, 1, 1), 127, np.float32)
    nodes = [node("Floor", "x", "a"), node("Clip", "a l h", "b"), node("Conv", "b w", "c"), node("Floor", "c", "y")]
    data = model(nodes, {"l": np.float32(-128), "h": np.float32(127), "w": wide}, (2000, 1, 1))
    with pytest.raises(GraphError, match=r"its sums of up to 32,512,000 are not exact in float32"):
        import_onnx(data)


def test_a_proof_looks_at_every_step_and_finds_the_one_that_differs() -> None:
    least, most = np.array([-1000]), np.array([1000])
    chain = Chain.start(1).added(np.float32([3])).scaled(np.float32([64]), divides=True).rounded("floor").clipped(-8, 7)
    made = as_requantization(chain, least, most)
    assert made is not None and (made.bias, made.multiplier, made.shift) == (3, 1, 6)
    bent = chain.then(lambda value: np.where(value == 5, 4, value))  # one of 16 results is another one
    assert as_requantization(bent, least, most) is None
    late = (
        Chain.start(1)
        .then(lambda value: np.where(value == 999, value + 64, value))
        .scaled(np.float32([64]), divides=True)
    )
    assert as_requantization(late.rounded("floor").clipped(-8, 7), least, most) is not None  # 7 is 7, clipped


def test_integers_that_are_computed_with_as_integers_are_refused() -> None:
    """Division of integers goes towards zero, and what leaves 32 bits comes back on the other side."""
    constants = {"low": np.float32(-128), "high": np.float32(127), "w": WEIGHT, "d": np.int32(64)}
    nodes = [
        node("Floor", "x", "a"), node("Clip", "a low high", "b"), node("Conv", "b w", "c"),
        node("Cast", "c", "i", to=onnx.TensorProto.INT32), node("Div", "i d", "j"),
        node("Cast", "j", "f", to=onnx.TensorProto.FLOAT), node("Floor", "f", "g"), node("Clip", "g low high", "y"),
    ]  # fmt: skip
    with pytest.raises(GraphError, match=r"'i' .*casts to what is neither a float nor the index of a Gather"):
        import_onnx(model(nodes, constants, (3, 16, 1)))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("Floor, Clip low high", "whole numbers of -128 .. 127 are known"),
        ("Floor, Div four, Clip zero top", "is no quantization of the input that is known"),
    ],
)
def test_an_input_that_is_quantized_otherwise_is_refused(entry: str, said: str) -> None:
    constants = {
        "low": np.float32(-3.5), "high": np.float32(100.25), "four": np.float32(4), "zero": np.float32(0),
        "top": np.float32(100), "w": WEIGHT,
    }  # fmt: skip
    steps = [step.split() for step in entry.split(",")]
    nodes = [
        node(op, " ".join([f"x{at}" if at else "x", *names]), f"x{at + 1}") for at, (op, *names) in enumerate(steps)
    ]
    nodes += [node("Conv", f"x{len(steps)} w", "c"), node("Floor", "c", "f"), node("Clip", "f zero top", "y")]
    with pytest.raises(GraphError, match=said):
        import_onnx(model(nodes, constants, (3, 16, 1)))


def test_a_table_behind_a_sum_is_one_of_its_bytes() -> None:
    """What falls in between is no requantization, however steep."""
    entries = np.minimum(np.arange(2000), 255).astype(np.float32)
    entries[290:1000] = 7
    constants = {"low": np.float32(-128), "high": np.float32(127), "zero": np.float32(0), "top": np.float32(255),
                 "w": WEIGHT, "t": entries}  # fmt: skip
    nodes = [
        node("Floor", "x", "a"), node("Clip", "a low high", "b"), node("Conv", "b w", "c"), node("Relu", "c", "r"),
        node("Cast", "r", "i", to=onnx.TensorProto.INT64), node("Gather", "t i", "g"), node("Clip", "g zero top", "y"),
    ]  # fmt: skip
    with pytest.raises(GraphError, match=r"'i' .* are no whole numbers of 8 bits"):
        import_onnx(model(nodes, constants, (3, 16, 1)))
