"""The small files of a run, made up, from which a report is rendered."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from flowlab.report.facts import Example, ReportFacts


def layer(
    name: str, kind: str, unit: str, shape: str, output: list[int], macs: int, size: int, **more: str
) -> dict[str, Any]:
    row = {"name": name, "layer": kind, "unit": unit, "shape": shape, "output": output}
    return {**row, "macs": macs, "weight_bytes": size, "reason": "", "cure": "", "padding": "", **more}


LAYERS = [
    layer("features.0", "FCONV", "npu", "1 -> 8 channels, kernel 5x1, stride 2x1", [8, 128, 1], 5120, 40),
    layer("features.3", "GCONV", "npu", "8 -> 8 channels, kernel 3x1, stride 1x1", [8, 128, 1], 24576, 192),
    layer("features.6", "MAXPOOL", "npu", "8 -> 8 channels, kernel 3x1, stride 2x1", [8, 64, 1], 0, 0),
    layer("features.7", "GCONV", "npu", "8 -> 16 channels, kernel 5x1, stride 2x1", [16, 32, 1], 20480, 640),
    layer("features.10", "GCONV", "npu", "16 -> 32 channels, kernel 5x1, stride 2x1", [32, 16, 1], 40960, 2560),
    layer("pool", "AVGPOOL", "npu", "32 -> 32 channels, kernel 16x1", [32, 1, 1], 0, 0),
    layer("classifier", "FC", "npu", "32 -> 2 features", [2], 64, 64),
]

CPU = layer(
    "tail.gelu",
    "table",
    "cpu",
    "6 -> 6 channels",
    [6, 10, 1],
    0,
    256,
    reason="the NPU has no layer for 'table'.",
    cure="use ReLU, or let the surgery replace it",
)
PADDED = layer(
    "tail.conv",
    "GCONV",
    "npu",
    "8 -> 12 channels, kernel 3x1, stride 1x1",
    [12, 10, 1],
    2880,
    288,
    padding="5 -> 8 input channels, 10 -> 12 output channels: +1380 MACs, +138 bytes of weights",
)


def row(name: str) -> dict[str, Any]:
    return {"name": name, "vectors": 2304, "mismatches": 0, "first_difference": None}


def history(epochs: int, start: float) -> list[dict[str, float]]:
    return [
        {
            "epoch": i + 1,
            "train_loss": 0.7 * math.exp(-i / 6) * (1 - start) + 0.02,
            "val_accuracy": min(0.995, start + (0.99 - start) * (1 - math.exp(-i / 4))),
            "learning_rate": 0.04 * (1 + math.cos(math.pi * i / epochs)) / 2,
        }
        for i in range(epochs)
    ]


def make_facts() -> ReportFacts:
    wave = [math.sin(i / 9) + 0.2 * math.sin(i * 1.7) for i in range(256)]
    noisy = [value + 0.5 * math.sin(i * i / 31) for i, value in enumerate(wave)]
    agreement = {
        "vectors": 2304,
        "mismatches": 0,
        "executions": [row("simulator"), row("host C")],
        "not_run": [{"name": "emulated core", "reason": "no emulator is installed"}],
    }
    return ReportFacts(
        feature_spec={
            "shape": [1, 256, 1],
            "window": [1, 1024],
            "columns": ["current"],
            "classes": ["arc", "normal"],
            "synthetic": True,
            "dataset": "dc_arc_fault_example_dsk",
            "extractor": "fft",
            "preset": "FFT1024Input_256Feature_1Frame_Full_Bandwidth",
            "options": {},
            "counts": {"train": 6912, "val": 3456, "test": 2304},
            "notes": ["the transforms run in this order: WINDOWING, FFT_FE, NORMALIZE, ABS, BINNING, LOG_DB"],
        },
        splits={
            "method": "dataset",
            "seed": None,
            "fractions": None,
            "counts": {
                "train": {"arc": 27, "normal": 27},
                "val": {"arc": 13, "normal": 14},
                "test": {"arc": 9, "normal": 9},
            },
            "proof": {
                "recordings_in_two_splits": 0,
                "contents_in_two_splits": 0,
                "overlapping_ranges": 0,
                "checked": [
                    "every recording, or stretch of one, is in exactly one split",
                    "no two splits hold samples of equal sha256",
                ],
                "pieces": [],
            },
        },
        gate={"layers": LAYERS, "problems": []},
        metrics_train={
            "history": history(30, 0.6),
            "best_epoch": 28,
            "val": {"accuracy": 0.9913},
            "test": {"accuracy": 2279 / 2304},
            "confusion": [[1131, 21], [4, 1148]],
            "classes": ["arc", "normal"],
            "parameters": 3848,
            "seed": 0,
        },
        metrics_quantize={
            "history": history(10, 0.95),
            "best_epoch": 9,
            "val": {"accuracy": 0.9901},
            "test": {"accuracy": 2276 / 2304},
            "confusion": [[1129, 23], [5, 1147]],
        },
        metrics_simulate={
            "test": {"accuracy": 2276 / 2304},
            "confusion": [[1129, 23], [5, 1147]],
            "classes": ["arc", "normal"],
        },
        quantization_config={
            "quantizer": "npu_qat",
            "method": "QAT",
            "number_format": "npu",
            "requested_weight_bits": 8,
            "requested_activation_bits": 4,
            "weight_bits": 8,
            "activation_bits": 8,
            "calibration_count": 512,
        },
        placement={
            "layers": LAYERS,
            "npu_share": 1.0,
            "padding": {"layers": [], "macs": 0, "weight_bytes": 0},
            "agreement": {"vectors": 2304, "mismatches": 0, "executions": [row("onnxruntime"), row("torch")]},
        },
        notes={
            "warnings": ["activation bits 4 -> 8: the NPU stores bytes; 4 would save nothing and cost accuracy"],
            "overview": {
                "common": {"task_type": "generic_timeseries_classification", "target_device": "F28P55"},
                "dataset": {"dataset_name": "dc_arc_fault_example_dsk"},
                "data_processing_feature_extraction": {
                    "feature_extraction_name": "FFT1024Input_256Feature_1Frame_Full_Bandwidth",
                    "variables": 1,
                },
                "training": {
                    "model_name": "CLS_4k_NPU",
                    "training_epochs": 30,
                    "batch_size": 256,
                    "learning_rate": 0.04,
                    "quantization": 2,
                    "quantization_method": "QAT",
                    "quantization_weight_bitwidth": 8,
                },
                "compilation": {"preset_name": "compress_npu_layer_data"},
            },
        },
        memory={
            "regions": {"flash": {"weights": 3496, "bnorm": 480, "steps": 312}, "ram": {"arena": 2048, "input": 256}},
            "needed": {"flash": 4288, "ram": 2304},
            "available": {"flash": 1048576, "ram": 135168},
            "fits": True,
            "packed_bytes": 3496,
            "program_bytes": 4500,
        },
        agreement=agreement,
        costs={
            "macs_npu": 91200,
            "macs_cpu": 0,
            "npu_share": 1.0,
            "cycles": None,
            "note": "no execution here counts cycles",
        },
        examples=[Example("arc", [noisy]), Example("normal", [wave])],
        file_bytes={"float_onnx": 18012, "quantized_onnx": 19544},
        packs_below_8=True,
    )


@pytest.fixture
def facts() -> ReportFacts:
    return make_facts()


@pytest.fixture
def changed(facts: ReportFacts) -> Callable[..., ReportFacts]:
    """The same facts with whole documents replaced."""

    def _changed(**documents: Any) -> ReportFacts:
        return replace(facts, **documents)

    return _changed
