from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from networks.training import quantize_job, trained

from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.number_format import GENERIC
from flowlab.compiler.text import same
from flowlab.contracts import NumberFormat, Quantized
from flowlab.errors import FlowlabError, QuantizationError
from flowlab.quant.ptq import post_training
from flowlab.quant.qat import quantization_aware
from flowlab.quant.quantization_config import Account, parse_config, print_config
from flowlab.quant.rebuild import rebuild_graph, rebuild_onnx, weights_bytes
from flowlab_tinpu.number_format import NPU

ACCOUNT = Account(
    quantizer="test",
    method="PTQ",
    number_format="tinpu",
    requested_weight_bits=8,
    requested_activation_bits=4,
    weight_bits=8,
    activation_bits=8,
    calibration_count=256,
    calibration_seed=0,
    seed=0,
    epochs=0,
    output_int=True,
    onnx_metadata={"classes": '["a: \'é\'", "b"]'},
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantization")
    graph = post_training(quantize_job(trained()), "test").graph
    (folder / "quantization_config.yaml").write_text(print_config(ACCOUNT, graph), encoding="utf-8")
    (folder / "best_model.pt").write_bytes(weights_bytes(graph))
    (folder / "best_model.onnx").write_bytes(export_onnx(graph, ACCOUNT.onnx_metadata))
    return folder


def test_the_onnx_is_built_again_to_the_same_hash(files: Path) -> None:
    again = rebuild_onnx(files / "quantization_config.yaml", files / "best_model.pt")
    assert hashlib.sha256(again).digest() == hashlib.sha256((files / "best_model.onnx").read_bytes()).digest()


WIDTHS = [(NPU, bits, 8) for bits in (8, 4, 2)] + [(GENERIC, bits, acts) for bits in (8, 4, 2) for acts in (8, 4, 2)]


@pytest.mark.parametrize("quantize", [post_training, quantization_aware])
@pytest.mark.parametrize(("format", "bits", "activations"), WIDTHS, ids=lambda one: str(getattr(one, "name", one)))
def test_every_width_and_method_is_built_again(
    tmp_path: Path, format: NumberFormat, bits: int, activations: int, quantize: Callable[..., Quantized]
) -> None:
    for output_int in (True, False):
        job = quantize_job(
            trained(), format=format, weight_bits=bits, activation_bits=activations, epochs=1, output_int=output_int
        )
        graph = quantize(job, "test").graph
        (tmp_path / "config").write_text(print_config(ACCOUNT, graph), encoding="utf-8")
        (tmp_path / "weights").write_bytes(weights_bytes(graph))
        again = rebuild_onnx(tmp_path / "config", tmp_path / "weights")
        assert hashlib.sha256(again).digest() == hashlib.sha256(export_onnx(graph, ACCOUNT.onnx_metadata)).digest()


def test_a_fresh_process_needs_neither_data_nor_the_models_code(files: Path) -> None:
    script = (
        "import sys, hashlib, pathlib\n"
        "from flowlab.quant.rebuild import rebuild_onnx\n"
        "data = rebuild_onnx(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))\n"
        "loaded = [name for name in sys.modules if name.startswith(('flowlab_', 'flowlab.learn'))]\n"
        "print(hashlib.sha256(data).hexdigest(), loaded)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, files / "quantization_config.yaml", files / "best_model.pt"],
        capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ).stdout  # fmt: skip
    assert found.split() == [hashlib.sha256((files / "best_model.onnx").read_bytes()).hexdigest(), "[]"]


def test_the_file_says_how_it_was_quantized(files: Path) -> None:
    values = yaml.safe_load((files / "quantization_config.yaml").read_text(encoding="utf-8"))
    assert values["onnx"] == {"opset": 18, "ir_version": 8, "metadata": dict(ACCOUNT.onnx_metadata)}
    assert (values["requested_activation_bits"], values["activation_bits"]) == (4, 8)
    assert (values["calibration_count"], values["calibration_seed"]) == (256, 0)
    assert values["graph"].startswith("graph 1\n")


def test_the_state_dict_holds_integers_by_node(files: Path) -> None:
    state = torch.load(files / "best_model.pt", weights_only=True)
    assert state["1.weight"].dtype == torch.int8
    assert {state[f"1.bnorm.{key}"].dtype for key in ("bias", "multiplier", "shift")} == {torch.int32}


def test_the_graph_is_the_same(files: Path) -> None:
    graph = post_training(quantize_job(trained()), "test").graph
    assert same(rebuild_graph(files / "quantization_config.yaml", files / "best_model.pt"), graph)


def test_weights_of_another_network_are_refused(files: Path, tmp_path: Path) -> None:
    state = torch.load(files / "best_model.pt", weights_only=True)
    state["1.weight"] = state["1.weight"][:3]
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(FlowlabError, match="1"):
        rebuild_onnx(files / "quantization_config.yaml", tmp_path / "other.pt")


def test_a_pickle_with_code_is_refused(files: Path, tmp_path: Path) -> None:
    torch.save({"weights": Path("x")}, tmp_path / "bad.pt")
    with pytest.raises(QuantizationError, match="no intact file of tensors"):
        rebuild_onnx(files / "quantization_config.yaml", tmp_path / "bad.pt")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("graph", "has no 'graph'"),
        ("a: [", "is no YAML"),
        ("version: 9\ngraph: x", "has version 9; known is 1"),
        ("version: 1\nonnx: {opset: 17, ir_version: 8}\ngraph: x", "opset 18 and IR version 8"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused(text: str, words: str) -> None:
    with pytest.raises(QuantizationError, match=words):
        parse_config(text)


def test_weights_are_the_same_bytes_each_time() -> None:
    graph = post_training(quantize_job(trained()), "test").graph
    assert weights_bytes(graph) == weights_bytes(graph)


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


def test_a_program_in_the_weights_is_refused_and_never_runs(files: Path, tmp_path: Path) -> None:
    mark, weights = tmp_path / "ran", tmp_path / "best_model.pt"
    for content in (Payload(mark), {"conv.weight": Payload(mark)}):
        torch.save(content, weights)
        with pytest.raises(
            QuantizationError, match=r"best_model\.pt: no intact file of tensors.*was not run"
        ) as raised:
            rebuild_graph(files / "quantization_config.yaml", weights)
        assert "weights_only" not in str(raised.value)
        assert not mark.exists()


def test_damaged_weights_of_every_kind_are_one_error_that_names_the_file(files: Path, tmp_path: Path) -> None:
    weights, config = tmp_path / "best_model.pt", files / "quantization_config.yaml"
    good = (files / "best_model.pt").read_bytes()
    for bad in (b"", b"x" * 100, good[: len(good) // 2]):
        weights.write_bytes(bad)
        with pytest.raises(QuantizationError, match=r"best_model\.pt: no intact file"):
            rebuild_graph(config, weights)
    for state in (
        {1: torch.zeros(1)},
        {"a": torch.zeros(1, dtype=torch.bfloat16)},
        {"a": torch.zeros(1).requires_grad_()},
    ):
        torch.save(state, weights)
        with pytest.raises(QuantizationError, match=r"best_model\.pt: "):
            rebuild_graph(config, weights)
    for path in (tmp_path, tmp_path / "none.pt"):
        with pytest.raises(QuantizationError, match="cannot be read"):
            rebuild_graph(config, path)


def test_a_config_that_is_no_text_or_not_there_is_an_error_that_names_it(files: Path, tmp_path: Path) -> None:
    config = tmp_path / "quantization_config.yaml"
    for bad in (None, b"\xff\xfe", b"[" * 5000):
        if bad is not None:
            config.write_bytes(bad)
        with pytest.raises(QuantizationError, match=r"quantization_config\.yaml: "):
            rebuild_onnx(config, files / "best_model.pt")
