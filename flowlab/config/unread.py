"""One table of the keys that are accepted, with a warning, and change nothing; and of those that are not built yet."""

from __future__ import annotations

from collections.abc import Mapping

NEVER = "the upstream toolchain accepts it and never reads it; neither does flowlab"
DOCUMENTED = "it stands in the upstream documentation only, no code reads it"
IMAGE = "only image tasks read it"
AUDIO = "only audio tasks read it"
INTERNAL = "the upstream toolchain sets it for itself"
INTERFACE = "only the upstream graphical interface reads it"
OWN_FOLDERS = "flowlab keeps results in its store and in artifacts/"
NO_GPU = "training runs on the CPU"

_IMAGE_KEYS = (
    "image_height",
    "image_width",
    "image_num_channel",
    "image_mean",
    "image_scale",
    "augmentation_transform",
    "pad_value",
    "binary_threshold",
    "clahe_clip_limit",
    "clahe_tile_grid_size",
    "sobel_mode",
    "sobel_ksize",
    "laplacian_ksize",
    "horizontal_flip_prob",
    "vertical_flip_prob",
    "random_rotation_deg",
    "color_jitter_brightness",
    "color_jitter_contrast",
    "color_jitter_saturation",
    "color_jitter_hue",
)
_AUDIO_KEYS = (
    "audio_duration_ms",
    "audio_feature",
    "n_mfcc",
    "n_mels",
    "frame_length_ms",
    "frame_step_ms",
    "nlpc",
    "lpc_order",
    "normalize_audio",
    "mono",
)

UNREAD: Mapping[str, Mapping[str, str]] = {
    "common": {},
    "dataset": {
        "max_num_files": NEVER,
        "gof_test": NEVER,
        "data_split_type": f"{DOCUMENTED}; write 'split_type'",
        "data_split_ratio": f"{DOCUMENTED}; write 'split_factor'",
        "input_data_split_type": f"{DOCUMENTED}; write 'split_type'",
        "dataset_path": INTERNAL,
        "extract_path": INTERNAL,
        "data_path_splits": INTERNAL,
        "annotation_path_splits": INTERNAL,
        "dataset_download": INTERNAL,
        "dataset_reload": INTERNAL,
    },
    "data_processing_feature_extraction": {
        "resampling_factor": NEVER,
        **dict.fromkeys(_IMAGE_KEYS, IMAGE),
        **dict.fromkeys(_AUDIO_KEYS, AUDIO),
    },
    "training": {
        "model_config": NEVER,
        "warmup_epochs": f"{NEVER}; the warm-up is always one epoch",
        "num_last_epochs": NEVER,
        "epochs": f"{NEVER}; write 'training_epochs'",
        "gof_test": NEVER,
        "autoquantization": f"{NEVER}; write 'auto_quantization'",
        "num_workers": DOCUMENTED,
        "lr_warmup_epochs": f"{DOCUMENTED}; the warm-up is always one epoch",
        "lr_step_size": DOCUMENTED,
        "lr_gamma": DOCUMENTED,
        "momentum": "only radar tasks read it; sgd uses 0.9",
    },
    "testing": {
        "test_float": DOCUMENTED,
        "test_quantized": DOCUMENTED,
        "save_predictions": DOCUMENTED,
        "error_analysis": DOCUMENTED,
    },
    "compilation": {"optimize_memory": DOCUMENTED, "debug_info": DOCUMENTED},
}
"""By section: keys that are not in the typed sections, and why nothing reads them."""

UNREAD_SECTIONS: Mapping[str, str] = {
    "data_processing": "the section is obsolete; write its keys under 'data_processing_feature_extraction:'",
    "byom": DOCUMENTED,
}

WITHOUT_EFFECT: Mapping[str, Mapping[str, str]] = {
    "common": {
        "target_module": "it follows from 'task_type'",
        "task_category": "it follows from 'task_type'",
        "run_name": "a run is named by its time",
        "verbose_mode": "the log always says what was done",
        "download_path": OWN_FOLDERS,
        "projects_path": OWN_FOLDERS,
        "project_path": OWN_FOLDERS,
        "run_path": OWN_FOLDERS,
        "project_run_path": OWN_FOLDERS,
        "target_machine": INTERFACE,
        "generic_model": "exported files are never encrypted",
    },
    "dataset": {"annotation_format": "annotations are lists of files"},
    "data_processing_feature_extraction": {
        "store_feat_ext_data": "features are always kept, as Arrow files in the store",
        "feat_ext_store_dir": OWN_FOLDERS,
    },
    "training": {
        "model_spec": INTERNAL,
        "model_training_id": INTERNAL,
        "training_backend": INTERNAL,
        "dataset_loader": INTERNAL,
        "target_devices": INTERFACE,
        "properties": INTERFACE,
        "train_output_path": OWN_FOLDERS,
        "num_gpus": NO_GPU,
        "distributed": NO_GPU,
        "training_master_port": NO_GPU,
        "compile_model": "training is repeatable to the bit, which compiled kernels are not",
        "native_amp": NO_GPU,
        "lambda_reg": "only regression reads it",
    },
    "testing": {},
    "compilation": {
        "compile_output_path": OWN_FOLDERS,
        "keep_libc_files": "flowlab's program needs no C library",
    },
}
"""Typed keys that change nothing; said only where the value differs from the default."""

NOT_BUILT: Mapping[str, Mapping[str, str]] = {
    "data_processing_feature_extraction": {
        "gain_variations": "random gain",
        "offset": "overlap by an offset",
        "dont_train_just_feat_ext": "stopping after feature extraction",
        "nn_for_feature_extraction": "feature extraction inside the network",
        "gof_test": "the goodness-of-fit analysis",
    },
    "training": {
        "augment_config": "augmentation",
        "pretrained_checkpoint_path": "training from a checkpoint",
        "load_saved_model": "a model that was trained elsewhere",
        "training_device": "training on a GPU",
        "partial_quantization": "partial quantization",
        "dual_op": "networks with two outputs",
        "run_quant_train_only": "quantization without float training",
        "nas_enabled": "architecture search",
        "ondevice_training": "training on the device",
    },
    "testing": {
        "skip_train": "testing an earlier run",
        "device_inference": "running on a board",
        "test_data": "a test set of its own",
        "model_path": "testing a foreign model",
    },
    "compilation": {"model_path": "compiling a foreign model"},
}
"""Typed keys whose effect this version does not have; an error only when a run is asked for."""
