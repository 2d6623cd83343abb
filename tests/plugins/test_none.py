"""Quantization 0: the float network itself, folded, exact in text and ONNX, for every model of the zoo."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from networks.training import data, outputs, quantize_job, trained
from torch import nn

from flowlab.compiler import interpreter
from flowlab.compiler.agreement import float_differs, largest_difference
from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.float_plan import plan
from flowlab.compiler.importer import import_onnx
from flowlab.compiler.ir import is_float
from flowlab.compiler.text import constants_of, parse_graph, print_graph
from flowlab.contracts import NoOptions, NumberFormat
from flowlab.errors import QuantizationError
from flowlab.learn.trace import float_graph
from flowlab.quant.float_module import Line, with_lines
from flowlab.quant.quantization_config import Account, print_config
from flowlab.quant.rebuild import rebuild_onnx, weights_bytes
from flowlab.stages.validate import check_import, run_onnx
from flowlab_generic.quantizers import QUANTIZERS, folded
from flowlab_zoo.models import MODELS

NONE = next(quantizer for quantizer in QUANTIZERS if quantizer.name == "none")
NO_FORMAT = NumberFormat("float32", {}, ())
SHAPE = (1, 256, 1)


@pytest.fixture(scope="module")
def exported():
    return NONE.quantize(quantize_job(trained(), format=NO_FORMAT), NoOptions())


def warmed(model, count: int = 64, mean: float = -40, spread: float = 20) -> tuple[nn.Module, np.ndarray]:
    """A model of the zoo whose batch norms have seen data, and data like those."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = model.build(SHAPE, 4, NoOptions())
        features = torch.randn(count, *SHAPE) * spread + mean
        module.train()
        with torch.no_grad():
            for _ in range(20):
                module(features)
    return module.eval(), features.numpy()


def test_it_asks_for_no_number_format_and_trains_nothing() -> None:
    assert (NONE.format, NONE.trains) == ("", False)


def test_the_graph_is_float_and_only_the_leading_batch_norm_is_left(exported) -> None:
    assert is_float(exported.graph)
    norms = [node for node in exported.graph.nodes if node.op == "batch_norm"]
    assert [node.inputs for node in norms] == [("input",)]
    assert exported.graph.metadata == {"quantizer": "none"}


def test_the_module_is_the_trained_network_itself(exported) -> None:
    features = data().val_features[:20]
    assert not float_differs(outputs(trained().eval(), features), outputs(exported.module, features)).any()
    assert not float_differs(
        interpreter.outputs(exported.graph, features)["output"], outputs(exported.module, features)
    ).any()


def test_printed_and_parsed_back_every_constant_has_equal_bits(exported) -> None:
    again = constants_of(parse_graph(print_graph(exported.graph)))
    for name, array in constants_of(exported.graph).items():
        assert (again[name].dtype, again[name].tobytes()) == (np.float32, array.astype(np.float32).tobytes()), name


def test_read_back_from_onnx_every_constant_has_equal_bits(exported) -> None:
    again = constants_of(import_onnx(export_onnx(exported.graph)))
    for name, array in constants_of(exported.graph).items():
        assert again[name].tobytes() == array.tobytes(), name


def test_awkward_floats_survive_text_and_onnx() -> None:
    numbers = [0.1, -0.0, 1e-45, 3.4e38, 1 / 3, 2.0**-126, -1e-38, 16777217.0]
    graph = parse_graph(
        """
        graph 1
        input %input: float32[1]
        %fc: float32[8] = linear(%input)
          bias: float32[8]
          weight: float32[8, 1]
        output "output" = %fc
        """,
        {"fc.weight": np.array(numbers, np.float32).reshape(8, 1), "fc.bias": np.array(numbers[::-1], np.float32)},
    )
    for again in (parse_graph(print_graph(graph)), import_onnx(export_onnx(graph))):
        for name, array in constants_of(graph).items():
            assert constants_of(again)[name].tobytes() == array.tobytes()


def test_a_batch_norm_s_epsilon_is_one_that_onnx_holds() -> None:
    module = nn.Sequential(nn.BatchNorm2d(1, eps=1.23456789e-4), nn.Flatten(), nn.Linear(4, 2))
    graph = folded(float_graph(module, (1, 4, 1)), "none")
    check_import(graph, export_onnx(graph))


def test_a_network_whose_training_ran_away_is_refused_by_the_node(exported) -> None:
    module = trained()
    with torch.no_grad():
        module[10].weight[0, 0] = float("nan")
    with pytest.raises(QuantizationError, match="node '10': its weight is not finite"):
        NONE.quantize(quantize_job(module, format=NO_FORMAT), NoOptions())


def test_the_onnx_is_built_again_to_the_same_hash(exported, tmp_path: Path) -> None:
    account = Account(
        quantizer="none", method="none", number_format="float32", requested_weight_bits=32,
        requested_activation_bits=32, weight_bits=32, activation_bits=32, calibration_count=0, calibration_seed=0,
        seed=0, epochs=0, output_int=False, onnx_metadata={"classes": '["a", "b", "c"]'},
    )  # fmt: skip
    (tmp_path / "quantization_config.yaml").write_text(print_config(account, exported.graph), encoding="utf-8")
    (tmp_path / "best_model.pt").write_bytes(weights_bytes(exported.graph))
    again = rebuild_onnx(tmp_path / "quantization_config.yaml", tmp_path / "best_model.pt")
    wanted = export_onnx(exported.graph, account.onnx_metadata)
    assert hashlib.sha256(again).hexdigest() == hashlib.sha256(wanted).hexdigest()


@pytest.mark.parametrize("offset", [0, 100, 2048])
def test_raw_samples_far_from_zero_obey_the_float_law_too(offset: int) -> None:
    """torch's own batch norm does not: its rounding is another one, and what it rounds is large."""
    module, features = warmed(next(model for model in MODELS if model.name == "CLS_13k_NPU"), 300, offset, 1)
    graph = folded(float_graph(module, SHAPE), "none")
    runtime = run_onnx(export_onnx(graph), features, ["output"])["output"]
    own = outputs(module, features)
    assert not float_differs(runtime, interpreter.outputs(graph, features)["output"]).any()
    assert not float_differs(runtime, outputs(with_lines(module), features)).any()
    assert largest_difference(own, runtime) < 1e-3


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_model_of_the_zoo_is_exported_and_obeys_the_float_law(model) -> None:
    module, features = warmed(model)
    graph = folded(float_graph(module, SHAPE), "none")
    onnx = export_onnx(graph)
    check_import(graph, onnx)
    plan(graph)
    runtime = run_onnx(onnx, features, ["output"])["output"]
    assert not float_differs(runtime, interpreter.outputs(graph, features)["output"]).any()
    assert not float_differs(runtime, outputs(with_lines(module), features)).any()


def test_a_line_is_the_batch_norm_that_it_replaces() -> None:
    norms = (nn.BatchNorm2d(3), nn.BatchNorm1d(3, affine=False))
    for norm, shape in zip(norms, ((4, 3, 5, 1), (4, 3)), strict=True):
        x = torch.from_numpy(np.random.default_rng(0).normal(2, 3, shape).astype(np.float32))
        norm(x)
        model = nn.Sequential(nn.Sequential(norm.eval()))
        wanted = model(x).detach()
        assert isinstance(with_lines(model)[0][0], Line)
        torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-6)
