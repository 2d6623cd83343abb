"""Accuracy of float and of quantizers on MAX78000, on flowlab's spectra: python tests/accuracy.py [EPOCHS]."""

import sys
import tempfile
from pathlib import Path

from flowlab.compiler.export_onnx import export_onnx
from flowlab.engine.bench_onnx import outputs_of
from flowlab.engine.bench_quantization import Asked, Bench, Plan, arrays, bench_preset, fit_data
from flowlab.plugins import load


def main(epochs: int) -> None:
    catalogue = load()
    values = dict(bench_preset(catalogue).values)
    values["config"] = {**values["config"], "common": {**values["config"]["common"], "target_device": "MAX78000"}}
    plan = Plan(values, Asked(), catalogue, print)
    data = arrays(catalogue, next(one for one in plan.sets() if one["dataset"] == "synfft"))
    quantizers = [name for name in ("max78000_ptq", "gptq") if name in catalogue.names("quantizer")]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(plan, data, "CLS_max78000", 0, Path(folder), epochs=epochs)
        for name in quantizers:
            for bits in (8, 4, 2):
                widths = {"quantization_weight_bitwidth": bits, "quantizer": {"name": name}}
                quantized, seconds = bench.quantized({"training": {"quantization": 2, **widths}}, fit_data(data))
                found = outputs_of(export_onnx(quantized.graph, {}), data.test[0]).argmax(axis=1)
                print(f"{name} {bits} bits: {float((found == data.test[1]).mean() * 100):.2f} %, {seconds:.1f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 20)
