"""A stranger's second-order rounding against the bundled PTQ: 4-bit weights on the benchmark's spectra.

On a bundled device, and in the number format of a device that another stranger brings, which the quantizer never saw.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowlab.engine.bench_onnx import outputs_of
from flowlab.engine.bench_quantization import Asked, Bench, Plan, arrays, bench_preset, fit_data
from flowlab.plugins import Announced, Catalogue, installed, load_announced

PACKAGES = Path(__file__).resolve().parents[1] / "third_party"
NAMES = ("gptq", "max78000")
SEEDS = range(3) if os.environ.get("FLOWLAB_SLOW") else range(1)
DEVICES = {"F28P55": "CLS_4k_NPU", "MAX78000": "CLS_max78000"}
WIDTHS = {"quantization_weight_bitwidth": 4, "quantization_activation_bitwidth": 8}
ROWS = {
    "ptq": {"quantization": 2, "quantization_method": "PTQ"},
    "scales alone": {"quantization": 2, "quantization_method": "PTQ", "ptq_finetune": False},
    "gptq": {"quantizer": {"name": "gptq"}},
}


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalogue]:
    for name in NAMES:
        monkeypatch.syspath_prepend(str(PACKAGES / name))
    own = [Announced(name, f"flowlab_{name}.plugin", f"flowlab-{name}") for name in NAMES]
    yield load_announced([*installed("flowlab"), *own])
    for module in [one for one in sys.modules if one.partition(".")[0] in {f"flowlab_{name}" for name in NAMES}]:
        del sys.modules[module]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", SEEDS)
def test_it_loses_at_most_a_point_more_than_ptq_and_takes_less_time(
    catalogue: Catalogue, device: str, seed: int, tmp_path: Path
) -> None:
    from flowlab.compiler.export_onnx import export_onnx

    values = dict(bench_preset(catalogue).values)
    common = {**values["config"]["common"], "target_device": device}
    values["config"] = {**values["config"], "common": common}
    plan = Plan(values, Asked(), catalogue, lambda line: None)
    data = arrays(catalogue, next(one for one in plan.sets() if one["dataset"] == "synfft"))
    bench = Bench(plan, data, DEVICES[device], seed, tmp_path)
    drops, seconds = {}, {}
    for name, training in ROWS.items():
        row = {"label": name, "training": {**WIDTHS, **training}, "bars": {}}
        quantized, seconds[name] = bench.quantized(row, fit_data(data))
        found = outputs_of(export_onnx(quantized.graph, {}), data.test[0]).argmax(axis=1)
        drops[name] = bench.float_accuracy - float((found == data.test[1]).mean() * 100)
    print(f"{device}, seed {seed}: float {bench.float_accuracy:.2f} %, drops {drops}, CPU seconds {seconds}")
    assert drops["gptq"] <= drops["ptq"] + 1
    assert drops["gptq"] < drops["scales alone"] - 1
    assert seconds["gptq"] < seconds["ptq"]
