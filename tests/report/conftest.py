"""The small files of a run, made up, from which a report is rendered."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from flowlab.report.facts import Example, ReportFacts


def layer(
    name: str, kind: str, unit: str, shape: str, output: list[int], macs: int, size: int, **more: Any
) -> dict[str, Any]:
    row = {"name": name, "layer": kind, "unit": unit, "shape": shape, "output": output}
    return {**row, "macs": macs, "weight_bytes": size, "reason": "", "cure": "", "padding": "", "zero_macs": 0, **more}


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
    zero_macs=1380,
)


# The cost of these layers on a machine of 4 by 4, and where each one's output lies while it is needed.
CYCLES = dict(zip((one["name"] for one in LAYERS), (1610, 1904, 576, 1632, 3392, 200, 89), strict=True))
MODEL = {"name": "model NPU", "by_layer": CYCLES, "macs_a_cycle": 16, "parameters": {}, "cycles": sum(CYCLES.values())}
ESTIMATE = {
    "what": "the vendor's code on the NPU", "cycles": 131000, "band": 0.179, "mean_error": 0.071, "figures": 11,
    "outside": [], "reason": "",
}  # fmt: skip
PLACES = ((0, 1024), (1024, 1024), (0, 512), (512, 512), (1024, 512), (0, 32), (32, 2))  # offset, bytes


def arena(places: Sequence[tuple[int, int]] = PLACES) -> dict[str, Any]:
    tensors = [
        {"name": one["name"], "offset": at, "size": size, "first": i + 1, "last": min(i + 2, len(places))}
        for i, (one, (at, size)) in enumerate(zip(LAYERS, places, strict=True))
    ]
    live = {
        one["name"]: size + (places[i - 1][1] if i else 0)
        for i, (one, (_, size)) in enumerate(zip(LAYERS, places, strict=True))
    }
    names = ["quantize", *(one["name"] for one in LAYERS)]
    return {"size": 2048, "layers": names, "tensors": tensors, "live": {"quantize": 0, **live}}


ARENA = arena()


def row(name: str) -> dict[str, Any]:
    return {"name": name, "vectors": 2304, "mismatches": 0, "first_difference": None}


def history(epochs: int, start: float) -> list[dict[str, float]]:
    return [
        {
            "epoch": i + 1,
            "train_loss": 0.7 * math.exp(-i / 6) * (1 - start) + 0.02,
            "train_accuracy": min(0.999, start + (0.995 - start) * (1 - math.exp(-i / 4))),
            "val_loss": 0.7 * math.exp(-i / 6) * (1 - start) + 0.03,
            "val_accuracy": min(0.995, start + (0.99 - start) * (1 - math.exp(-i / 4))),
            "learning_rate": 0.04 * (1 + math.cos(math.pi * i / epochs)) / 2,
        }
        for i in range(epochs)
    ]


def roc_curve(name: str, auc: float, lead: float) -> dict[str, Any]:
    points = [[0, 900, 9 * lead], [2, 1101, 4 * lead], [21, 1131, 0], [60, 1148, -3 * lead], [1152, 1152, -9 * lead]]
    return {"class": name, "positives": 1152, "negatives": 1152, "auc": auc, "points": points}


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
            "counts_by_class": {"train": [3456, 3456], "val": [1728, 1728], "test": [1152, 1152]},
            "warnings": ["the transforms run in this order: WINDOWING, FFT_FE, NORMALIZE, ABS, BINNING, LOG_DB"],
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
            "warnings": ["the data are synthetic"],
        },
        gate={"layers": LAYERS, "problems": [], "warnings": []},
        metrics_train={
            "history": history(30, 0.6),
            "best_epoch": 28,
            "val": {"accuracy": 0.9913},
            "test": {"accuracy": 2279 / 2304},
            "confusion": [[1131, 21], [4, 1148]],
            "classes": ["arc", "normal"],
            "parameters": 3848,
            "seed": 0,
            "roc": [roc_curve("arc", 0.99871, 0.25)],
            "warnings": [],
        },
        metrics_quantize={
            "history": history(10, 0.95),
            "best_epoch": 9,
            "val": {"accuracy": 0.9901},
            "test": {"accuracy": 2276 / 2304},
            "confusion": [[1129, 23], [5, 1147]],
            "quantization": {"quantizer": "npu_qat", "method": "QAT", "weight_bits": 8, "activation_bits": 8},
            "warnings": [],
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
            "epochs": 10,
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
            "regions": {"flash": {"conv.bnorm": 3976, "steps": 312}, "ram": {"arena": 2048, "quantize": 256}},
            "needed": {"flash": 4288, "ram": 2304},
            "available": {"flash": 1048576, "ram": 135168},
            "fits": True,
            "packed_bytes": 3496,
            "program_bytes": 4500,
            "arena": ARENA,
        },
        agreement=agreement,
        costs={
            "macs_npu": 91200,
            "macs_cpu": 0,
            "npu_share": 1.0,
            "cycles": None,
            "note": "no execution here counts cycles of the device",
            "model": MODEL,
            "estimate": ESTIMATE,
        },
        examples=[
            Example("arc", [noisy], 4, [[value * value for value in noisy]]),
            Example("normal", [wave], 4, [[value * value for value in wave]]),
        ],
        file_bytes={"float_onnx": 18012, "quantized_onnx": 19544},
        packs_below_8=True,
        integer_curves=[roc_curve("arc", 0.99872, 4)],
        trained_quantizer=("training.quantization_method=QAT",),
        larger_model="CLS_5k_NPU",
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
