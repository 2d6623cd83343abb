"""Integers of other tools in every execution: strict C without undefined behaviour, the simulator, an emulated core."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from compiler.test_import_chains import X, spelled
from networks.foreign_integers import qlinear_conv, quantized, runtime

from flowlab.compiler import emit_c, emit_runner, interpreter
from flowlab.compiler.c_helpers import HELPERS, NEEDS
from flowlab.compiler.importer import import_onnx
from flowlab.compiler.lower import lower
from flowlab.compiler.number_format import scale_down
from flowlab.compiler.program import encode, parse
from flowlab.compiler.trace import layer_crcs
from flowlab.cpu import host_compiler
from flowlab.cpu.host_c import HostC
from flowlab.engine.compile_model import Asked, compile_model
from flowlab.plugins import load
from flowlab.stages.own.integers import meanings, prepared
from flowlab_tinpu.simulator import simulate

STRICT = (
    *host_compiler.FLAGS, "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wno-sign-conversion",
    "-fsanitize=undefined", "-fno-sanitize-recover=all",
)  # fmt: skip


def in_every_way(data: bytes, raw: np.ndarray, folder: Path, compiler: host_compiler.HostCompiler) -> np.ndarray:
    """The interpreter's output, which simulator and strictly compiled C must give too; layers as well."""
    given = import_onnx(data)
    graph = prepared(given, ())
    features = meanings(Path("x.npy"), given, raw.astype(np.float32))
    values = interpreter.run(graph, features)
    crcs = layer_crcs(graph, values)
    container = parse(encode(lower(graph, "00" * 32)))
    simulated = simulate(encode(container), features)
    (name,) = graph.outputs
    wanted = values[graph.outputs[name]]
    np.testing.assert_array_equal(simulated[f"output/{name}"], wanted)
    for layer, crc in crcs.items():
        np.testing.assert_array_equal(simulated[f"crc/{layer}"], crc, err_msg=layer)
    folder.mkdir()
    texts = {
        **emit_c.emit_c(container, skip_normalize=False),
        **emit_runner.emit_runner(container, skip_normalize=False),
    }
    files = {}
    for file, text in texts.items():
        files[file] = folder / file
        files[file].write_text(text)
    outcome = HostC().run(files, features, folder / "run")
    np.testing.assert_array_equal(outcome.outputs[name].reshape(wanted.shape), wanted)
    for layer, crc in crcs.items():
        np.testing.assert_array_equal(outcome.trace[layer], crc, err_msg=layer)
    runner = next(file for file in files if "runner" in file)
    compiler.compile(files[runner], folder / "strict", flags=STRICT)
    return np.asarray(wanted)


@pytest.mark.parametrize("seed", range(6))
def test_convolutions_of_any_types_agree_in_simulator_and_c(
    seed: int, tmp_path: Path, compiler: host_compiler.HostCompiler
) -> None:
    data, x = qlinear_conv(seed)
    found = in_every_way(data, x, tmp_path / "c", compiler)
    np.testing.assert_array_equal(found, runtime(data, x)[0])


@pytest.mark.parametrize(("form", "activation"), [("QOperator", "Sigmoid"), ("QDQ", "HardSwish")])
def test_networks_agree_in_simulator_and_c(
    form: str, activation: str, tmp_path: Path, compiler: host_compiler.HostCompiler
) -> None:
    data, x = quantized(2, form, activation)
    in_every_way(data, x[:16], tmp_path / "c", compiler)


@pytest.mark.parametrize(
    ("tail", "how"),
    [
        ("Add b, Mul m, Div d, Add half, Floor, Clip low high", ("half_up", False)),
        ("Mul m, Div d, Floor, Add o, Clip low high", ("floor", True)),
        ("Add b, Mul r, Round, Clip low high", ("nearest_even", False)),
    ],
)
def test_every_rounding_of_a_chain_agrees_in_simulator_and_c(
    tail: str, how: tuple[str, bool], tmp_path: Path, compiler: host_compiler.HostCompiler
) -> None:
    data = spelled(tail, m=5, d=1024, o=-3, r=0.0137)
    layer = lower(prepared(import_onnx(data), ()), "00" * 32).layers[-1]
    assert (layer.rounding, layer.bias_last) == how
    found = in_every_way(data, X, tmp_path / "c", compiler)
    np.testing.assert_array_equal(found, runtime(data, X)[0])


def test_what_a_helper_in_c_needs_stands_before_it() -> None:
    order = list(HELPERS)
    assert all(order.index(need) < order.index(name) for name, needs in NEEDS.items() for need in needs)
    assert not any(line == "\\" for text in HELPERS.values() for line in text.splitlines())


def test_rounding_in_c_is_that_of_floats_for_every_size_of_sum(
    tmp_path: Path, compiler: host_compiler.HostCompiler
) -> None:
    random = np.random.default_rng(0)
    count = 20_000
    sums = np.concatenate([random.integers(-(2**bits), 2**bits, count // 4) for bits in (8, 20, 27, 31)])
    multipliers = random.integers(0, 2**24 + 1, count)
    shifts = np.where(random.integers(2, size=count), random.integers(10, 60, count), random.integers(-31, 90, count))
    ties = random.integers(2, size=count).astype(bool)  # halves that float32 holds exactly
    multipliers, shifts = np.where(ties, 1, multipliers), np.where(ties, random.integers(1, 9, count), shifts)
    text = "\n".join(HELPERS[name] for name in ("nearest_shift", "nearest_even"))
    rows = ",\n".join(f"{{{a}, {m}, {s}}}" for a, m, s in zip(sums, multipliers, shifts, strict=True))
    (tmp_path / "t.c").write_text(f"""\
#include <stdint.h>
#include <stdio.h>
{text}
static const int_least32_t rows[][3] = {{
{rows}
}};
int main(void)
{{
    for (int i = 0; i < {count}; i++) {{
        printf("%ld\\n", (long)nearest_even(rows[i][0], rows[i][1], (int)rows[i][2]));
    }}
    return 0;
}}
""")
    compiler.compile(tmp_path / "t.c", tmp_path / "t", flags=STRICT)
    said = subprocess.run([str(tmp_path / "t")], capture_output=True, text=True, check=True).stdout
    found = np.array(said.split(), np.int64)
    wanted = np.clip(scale_down(sums, multipliers, shifts, "nearest_even"), -65536, 65536)
    np.testing.assert_array_equal(found, wanted)
    assert ((sums * multipliers) % 2 ** shifts.clip(0, 62) == 2.0 ** (shifts - 1.0)).sum() > 100  # ties there were


@pytest.mark.parametrize("target", ["AM13E2", "MSPM0G3507", "AM263"])
def test_a_whole_network_runs_on_a_device_s_core(target: str, tmp_path: Path) -> None:
    data, x = quantized(4, "QOperator", "LeakyRelu")
    (tmp_path / "m.onnx").write_bytes(data)
    np.save(tmp_path / "x.npy", x)
    asked = Asked(tmp_path / "m.onnx", target, tmp_path / "x.npy", artifacts=tmp_path / "artifacts")
    found = compile_model(asked, load())
    assert found.executions == ("interpreter", "simulator", "host C", "emulated core")
    assert found.integers == "equal to the file in ONNX Runtime in all of 64 windows"


def test_a_file_that_takes_bytes(tmp_path: Path) -> None:
    data, x = qlinear_conv(0)
    (tmp_path / "m.onnx").write_bytes(data)
    np.save(tmp_path / "x.npy", x)
    asked = Asked(tmp_path / "m.onnx", "F28P55", tmp_path / "x.npy", artifacts=tmp_path / "artifacts")
    found = compile_model(asked, load())
    assert "in all of 8 windows" in found.integers and found.npu_share == 0.0
    assert "not the integers of the NPU" in found.rows[0]["reason"]
