"""What `flowlab bench quantization` measures: sets, networks, and quantizations as a config's training keys."""

from __future__ import annotations

from typing import Any

from flowlab.contracts import Preset

NPU, CPU = 2, 1  # values of the key `quantization`


def _row(
    label: str, mode: int, method: str, bits: tuple[int, int], bars: tuple[float | None, float | None], **more: Any
) -> Any:
    """One quantization; ``bars`` are the points that it may lose on either set."""
    weights, activations = bits
    keys = {
        "quantization": mode,
        "quantization_method": method,
        "quantization_weight_bitwidth": weights,
        "quantization_activation_bitwidth": activations,
    }
    return {"label": label, "training": {**keys, **more}, "bars": dict(zip(("synfft", "digits64"), bars, strict=True))}


def _program(device: str, row: str, kernels: str, **most: tuple[int | None, ...]) -> dict[str, Any]:
    """A program of `flowlab bench compile`; by compiler the most instructions, bytes of network and arena it may take.

    The bars are for CLS_4k_NPU on windows of 256, 91,200 multiply-accumulates.
    """
    names = ("instructions", "network_bytes", "arena_bytes")
    bars = {
        compiler: {name: one for name, one in zip(names, limits, strict=True) if one is not None}
        for compiler, limits in most.items()
    }
    return {"target": device, "row": row, "kernels": kernels, "bars": {"CLS_4k_NPU": bars}}


def _mean(bits: float) -> dict[str, Any]:
    """Weight bits chosen for each layer, with this mean."""
    return {"auto_quantization": True, "auto_quantization_mean_bits": bits}


QUANTIZATION = Preset(
    kind="bench",
    name="spectra_and_digits",
    summary="two sets, two networks, QAT and PTQ at 8, 4 and 2 bits against float",
    values={
        "config": {
            "common": {"task_type": "generic_timeseries_classification", "target_device": "F28P55"},
            "data_processing_feature_extraction": {"variables": 1},
            "training": {
                "training_epochs": 50,
                "batch_size": 64,
                "learning_rate": 0.1,
                "optimizer": "sgd",
                "weight_decay": 1e-3,
                "quantization_epochs": 50,
            },
            "testing": {"enable": True},
            "compilation": {"enable": True},
        },
        "sets": [
            {"dataset": "synfft", "seed": 20240611, "frame": 256, "models": ["CLS_4k_NPU", "CLS_13k_NPU"]},
            {"dataset": "digits64", "seed": 7, "frame": 64, "models": ["CLS_4k_NPU", "CLS_13k_NPU"]},
        ],
        "rows": [
            _row("QAT 8/8", NPU, "QAT", (8, 8), (0.1, 0.4)),
            _row("PTQ 8/8", NPU, "PTQ", (8, 8), (0.1, 0.4)),
            _row("QAT 4/8", NPU, "QAT", (4, 8), (0.3, 0.5)),
            _row("PTQ 4/8", NPU, "PTQ", (4, 8), (0.5, 0.7)),
            _row("PTQ 4/8 scales alone", NPU, "PTQ", (4, 8), (None, None), ptq_finetune=False),
            _row("QAT 2/8", NPU, "QAT", (2, 8), (1.5, 1.5)),
            _row("QAT 2/8 edges 8", NPU, "QAT", (2, 8), (0.3, 0.5), quantization_edge_bitwidth=8),
            _row("PTQ 2/8", NPU, "PTQ", (2, 8), (6.0, 6.0)),
            _row("QAT chosen, mean 4", NPU, "QAT", (8, 8), (None, None), **_mean(4.0)),
            _row("QAT chosen, mean 2.5", NPU, "QAT", (8, 8), (None, None), **_mean(2.5)),
            _row("PTQ chosen, mean 4", NPU, "PTQ", (8, 8), (None, None), **_mean(4.0)),
            _row("PTQ chosen, mean 2.5", NPU, "PTQ", (8, 8), (None, None), **_mean(2.5)),
            _row("generic QAT 8/8", CPU, "QAT", (8, 8), (0.1, 0.4)),
            _row("generic PTQ 8/8", CPU, "PTQ", (8, 8), (0.1, 0.4)),
            _row("generic QAT 4/4", CPU, "QAT", (4, 4), (2.5, 2.5)),
        ],
        "compile": [
            _program("AM13E2", "PTQ 8/8", "speed", zig=(132_000, None, None), gcc=(118_000, None, None)),
            _program("AM13E2", "PTQ 8/8", "size", zig=(190_000, 6_000, 2_100), gcc=(179_000, 5_700, 2_100)),
            _program("AM13E2", "PTQ 8/8", "plain"),
            _program("AM13E2", "PTQ 4/8", "speed"),
            _program("MSPM0G5187", "PTQ 8/8", "speed", zig=(546_000, None, None), gcc=(480_000, None, None)),
            _program("MSPM0G5187", "PTQ 4/8", "speed", zig=(350_000, None, None), gcc=(303_000, None, None)),
            _program("MSPM0G5187", "PTQ 2/8", "speed"),
            _program("MSPM0G5187", "PTQ 4/8", "size"),
            _program("CC1352", "generic PTQ 8/8", "speed"),
            _program("AM263", "generic PTQ 8/8", "speed"),
        ],
        "simulator": {"run": "flowlab_tinpu.simulator:simulate", "least": 0.3},  # of ONNX Runtime's speed
        "peers": "flowlab_zoo.peers",
        "quick_rows": ["QAT 8/8", "PTQ 8/8", "QAT 4/8", "PTQ 4/8", "QAT 2/8", "generic PTQ 8/8"],
        "quick_epochs": 10,
        "speed_rows": ["QAT 8/8", "QAT 4/8", "QAT 2/8", "PTQ 8/8", "PTQ 4/8"],
        "file_rows": ["PTQ 8/8", "generic PTQ 8/8", "PTQ 4/8"],
    },
)
