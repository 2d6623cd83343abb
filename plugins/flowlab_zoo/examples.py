"""Whole example configs under a name."""

from __future__ import annotations

from flowlab.contracts import Preset

DEMO = Preset(
    kind="example",
    name="demo",
    summary="the quantization chapter's example: DC arc faults, an FFT of 1024 samples, 8-bit QAT for the NPU",
    values={
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
            "quantization": 2,
            "quantization_method": "QAT",
            "quantization_weight_bitwidth": 8,
            "quantization_activation_bitwidth": 8,
        },
        "testing": {"enable": True},
        "compilation": {"enable": True, "preset_name": "compress_npu_layer_data"},
    },
)
