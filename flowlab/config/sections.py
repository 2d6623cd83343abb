"""The config's sections: their keys, types and built-in defaults.

Keys, types and defaults are those of the upstream toolchain, whose files users bring, but for `EXCEPTIONS`;
keys of our own are marked.
Keys that are accepted and not read stand in `flowlab.config.unread`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from functools import cache
from typing import Any, get_args

from flowlab.config import field_types as f

EXCEPTIONS: Mapping[str, str] = {
    "training.auto_quantization": "off by default: it would override the bit widths that the file asks for",
    "training.num_gpus": "0 by default: results never depend on what hardware is found",
    "training.distributed": "off by default: one process trains",
    "training.training_device": "'cpu' by default: the device is what is asked for, never what is found",
}
"""Where a default differs from upstream's, and why."""

ALIASES: Mapping[str, Mapping[str, str]] = {"compilation": {"compile_preset_name": "preset_name"}}
"""Two spellings of one key: upstream's code reads the first, its documentation writes the second."""

PATHS: Mapping[str, tuple[str, ...]] = {
    "common": ("download_path", "projects_path", "project_path", "run_path", "project_run_path"),
    "dataset": ("input_data_path", "input_annotation_path"),
    "training": ("augment_config", "pretrained_checkpoint_path", "load_saved_model", "train_output_path"),
    "testing": ("test_data", "model_path"),
    "compilation": ("model_path", "compile_output_path"),
}
"""Keys whose relative paths count from the file in which they stand."""

PLUGINS: Mapping[str, Mapping[str, str]] = {
    "common": {"target_device": "target"},
    "dataset": {"dataset_name": "dataset"},
    "data_processing_feature_extraction": {"feature_extraction_name": "feature_extractor"},
    "training": {"model_name": "model", "quantizer": "quantizer"},
}
"""Keys that choose a plugin, and its kind: a name, or ``{name: ..., option: ...}``."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """What every section is: frozen, with the keys as attributes."""


@dataclass(frozen=True, kw_only=True)
class Common(Section):
    """What is built, and for which device."""

    task_type: f.Text
    target_device: f.Text
    target_module: f.OptionalText = None
    task_category: f.OptionalText = None
    run_name: f.Text = "{date-time}/{model_name}"
    verbose_mode: f.Flag = True
    download_path: f.Text = "./data/downloads"
    projects_path: f.Text = "./data/projects"
    project_path: f.OptionalText = None
    run_path: f.OptionalText = None
    project_run_path: f.OptionalText = None
    target_machine: f.Text = "evm"
    generic_model: f.Flag = False


@dataclass(frozen=True, kw_only=True)
class Dataset(Section):
    """Where recordings come from and how they are split."""

    enable: f.Flag = True
    dataset_name: f.OptionalText = None
    input_data_path: f.OptionalText = None
    input_annotation_path: f.OptionalText = None
    data_dir: f.OptionalText = None
    annotation_dir: f.Text = "annotations"
    annotation_prefix: f.Text = "instances"
    annotation_format: f.Text = "univ_ts_json"
    split_type: f.SplitType = "amongst_files"
    split_factor: f.Fractions = (0.6, 0.3, 0.1)
    split_names: f.ThreeNames = ("train", "val", "test")
    seed: f.Seed = 42  # ours: split and generator
    sha256: f.OptionalText = None  # ours: what a download must be
    time_column: f.TimeColumn = None  # ours: the column that is no signal; 'keep': none


@dataclass(frozen=True, kw_only=True)
class FeatureExtraction(Section):
    """Windows and the chain from windows to network inputs."""

    feature_extraction_name: f.OptionalText = None
    data_proc_transforms: f.Transforms = ()
    feat_ext_transform: f.Transforms = ()
    variables: f.Variables = 1
    target_variables: f.Columns = ()
    forecast_horizon: f.Count = 1
    sampling_rate: f.Positive = 1
    new_sr: f.Positive = 1
    frame_size: f.Samples = 1
    stride_size: f.Stride = 0.01
    feature_size_per_frame: f.OptionalCount = None
    num_frame_concat: f.Count = 1
    frame_skip: f.Count = 1
    min_bin: f.Whole = 1
    normalize_bin: f.Flag = False
    analysis_bandwidth: f.Count = 1
    dc_remove: f.Flag = True
    q15_scale_factor: f.Shift = 4
    log_mul: f.OptionalNumber = None
    log_base: f.LogBase = None
    log_threshold: f.OptionalPositive = None
    stacking: f.Stacking = "2D1"
    offset: f.NotNegative = 0
    scale: f.OptionalNumber = None
    gain_variations: f.GainVariations = None
    window_count: f.Count = 1
    chunk_size: f.Count = 1
    fft_size: f.Count = 1
    store_feat_ext_data: f.Flag = False
    feat_ext_store_dir: f.OptionalText = None
    dont_train_just_feat_ext: f.Flag = False
    nn_for_feature_extraction: f.Flag = False
    gof_test: f.Flag = False


@dataclass(frozen=True, kw_only=True)
class Training(Section):
    """Model, training and quantization."""

    enable: f.Flag = True
    model_name: f.Text
    augment_config: f.OptionalText = None
    model_spec: f.OptionalText = None
    model_training_id: f.OptionalText = None
    training_backend: f.OptionalText = None
    dataset_loader: f.Text = "GenericTSDataset"
    target_devices: f.Texts = ()
    properties: f.Texts = ()
    pretrained_checkpoint_path: f.OptionalText = None
    load_saved_model: f.OptionalText = None
    train_output_path: f.OptionalText = None
    training_epochs: f.Epochs = 10
    batch_size: f.BatchSize = 8
    learning_rate: f.Rate = 2e-3
    optimizer: f.Optimizer = "sgd"
    weight_decay: f.NotNegative = 1e-4
    lr_scheduler: f.Scheduler = "cosineannealinglr"
    lambda_reg: f.NotNegative = 0
    num_gpus: f.Whole = 0
    distributed: f.Flag = False
    training_device: f.Device = "cpu"
    training_master_port: f.Whole = 29500
    quantization: f.Quantization = 0
    quantization_method: f.Method = "QAT"
    quantization_weight_bitwidth: f.Bits = 8
    quantization_activation_bitwidth: f.Bits = 8
    auto_quantization: f.Flag = False
    auto_quantization_mean_bits: f.OptionalMeanBits = None  # ours: the budget, in bits of a weight
    auto_quantization_weight_bytes: f.OptionalBytes = None  # ours: the budget, in bytes of all weights
    autoquant_tolerance_classification: f.NotNegative = 0.05
    autoquant_tolerance_regression: f.NotNegative = 0.05
    autoquant_tolerance_forecasting: f.NotNegative = 2.0
    autoquant_tolerance_anomaly: f.NotNegative = 2.0
    partial_quantization: f.Flag = False
    output_int: f.OptionalFlag = None
    dual_op: f.Flag = False
    run_quant_train_only: f.Flag = False
    nas_enabled: f.Flag = False
    nas_optimization_mode: f.Goal = "Memory"
    nas_epochs: f.Epochs = 10
    nas_model_size: f.Size = "m"
    nas_nodes_per_layer: f.Count = 4
    nas_layers: f.Count = 3
    nas_init_channels: f.Count = 1
    nas_init_channel_multiplier: f.Count = 3
    nas_fanout_concat: f.Count = 4
    ondevice_training: f.Flag = False
    trainable_layers_from_last: f.Count = 1
    export_samples_per_class: f.ThreeCounts = (10, 10, 10)
    compile_model: f.Flag = False
    native_amp: f.Flag = False
    seed: f.Seed = 0  # ours: training and quantization
    threads: f.Threads = 1  # ours: other counts give other weights, so it is asked for, never found
    checkpoint_every_epochs: f.Count = 1  # ours: decides nothing but what a kill costs, and is in no fingerprint
    quantizer: f.OptionalText = None  # ours: a quantizer by name, instead of `quantization`
    quantization_epochs: f.OptionalEpochs = None  # ours: None is max(10, training_epochs // 5)
    quantization_learning_rate: f.OptionalRate = None  # ours: None is the recipe's for the bits
    quantization_optimizer: f.OptionalOptimizer = None  # ours: None is the recipe's for the bits
    quantization_distillation: f.OptionalFraction = None  # ours: None is the recipe's for the bits
    quantization_edge_bitwidth: f.OptionalBits = None  # ours: of the first and the last layer's weights
    quantization_calibration_count: f.Count = 512  # ours: windows of the training split
    ptq_finetune: f.Flag = True  # ours
    surgery: f.Surgery = "auto"  # ours: auto spares trained weights and devices without an accelerator, force none


@dataclass(frozen=True, kw_only=True)
class Testing(Section):
    """The test on the test split."""

    enable: f.Flag = True
    skip_train: f.Flag = False
    device_inference: f.Flag = False
    test_data: f.OptionalText = None
    model_path: f.OptionalText = None
    max_accuracy_drop: f.OptionalFraction = None  # ours, a gate: float minus simulated, in the metric's own unit


@dataclass(frozen=True, kw_only=True)
class Compilation(Section):
    """The program for the device. A compile preset sets the last keys; so may the user."""

    enable: f.Flag = True
    preset_name: f.OptionalText = None
    model_path: f.OptionalText = None
    compile_output_path: f.OptionalText = None
    keep_libc_files: f.Flag = False
    target: f.OptionalText = None
    target_c_mcpu: f.OptionalText = None
    cross_compiler: f.OptionalText = None
    cross_compiler_options: f.OptionalText = None
    max_flash_bytes: f.OptionalBytes = None  # ours, a gate
    max_ram_bytes: f.OptionalBytes = None  # ours, a gate
    require_npu: f.Flag = False  # ours, a gate: no layer on the CPU


SECTIONS: Mapping[str, type[Section]] = {
    "common": Common,
    "dataset": Dataset,
    "data_processing_feature_extraction": FeatureExtraction,
    "training": Training,
    "testing": Testing,
    "compilation": Compilation,
}


def keys(section: str) -> tuple[str, ...]:
    """The keys of a section that flowlab knows, aliases too."""
    return (*defaults(section), *ALIASES.get(section, ()))


@cache
def defaults(section: str) -> Mapping[str, Any]:
    """The built-in default of every key of a section; `dataclasses.MISSING` where there is none."""
    return {one.name: one.default for one in dataclass_fields(SECTIONS[section])}


@cache
def checks(section: str) -> Mapping[str, f.Check]:
    """How the values of a section's keys are checked."""
    found = {}
    for one in dataclass_fields(SECTIONS[section]):
        found[one.name] = next(part for part in get_args(one.type) if isinstance(part, f.Check))
    return found
