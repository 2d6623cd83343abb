"""The plan of `flowlab compile`: its stages, and what stands in place of a run's config. Light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any, cast

from flowlab.contracts import NumberFormat, Plugin, Quantizer, Stage, Target
from flowlab.errors import OptionError
from flowlab.stages import compile as compile_stage
from flowlab.stages import report, simulate, validate
from flowlab.stages.own.quantize import OwnQuantizeOptions
from flowlab.stages.own.report import OwnReportOptions
from flowlab.stages.own.validate import OwnValidateOptions

NO_NAME = "network"  # of a file whose name has nothing that may name a folder
TAKEN = ("", "latest", "promoted", "sweeps")  # names in artifacts/ that are no dataset's
OUT = {"onnx_place": "best_model.onnx", "program_place": "program"}  # the tree of --out


@dataclass(frozen=True)
class OwnConfig:
    """What is asked for; its attributes are those that stages read of a run's config.

    ``model`` is the file's name; ``libraries`` are the versions of what a state dict's module imports; ``apart`` says
    that the files go to a folder of the user's, with a tree of its own; ``given`` is what was said, for `run.json`.
    """

    model: str
    device: str
    device_options: Mapping[str, Any] = field(default_factory=dict)
    bits: int = 8
    output_int: bool = True
    module: str | None = None
    libraries: Mapping[str, str] = field(default_factory=dict)
    apart: bool = False
    given: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def dataset_name(self) -> str:
        """Under which the runs are kept: the file's name without its ending."""
        name = PurePath(self.model).stem.lstrip(".")
        return NO_NAME if name in TAKEN else name

    @property
    def common(self) -> Any:
        """The device."""
        return SimpleNamespace(target_device=self.device)

    @property
    def training(self) -> Any:
        """The network's name; nothing is trained."""
        return SimpleNamespace(model_name=self.model)

    def options_for(self, section: str, key: str) -> Mapping[str, Any]:
        """What stands beside a plugin's name: only the device has options."""
        return self.device_options if (section, key) == ("common", "target_device") else {}


@dataclass(frozen=True)
class ImportOptions:
    """Of a state dict: what makes its module, and the versions of what that imports."""

    module: str | None
    libraries: Mapping[str, str]


@dataclass(frozen=True)
class OwnCompileOptions(compile_stage.CompileOptions):
    """``places``: where people find ONNX and program, for texts that name them (`flowlab.contracts.LowerJob`)."""

    places: Mapping[str, str] = field(default_factory=dict)


def accelerator(target: Target) -> tuple[NumberFormat, ...]:
    """The number formats of the device's accelerator."""
    return tuple(form for name, form in target.formats.items() if name != "cpu")


def quantizer_of(catalogue: Any, target: Target) -> Quantizer:
    """What the device names for quantization after training, else the first that is for any CPU.

    Raises:
        OptionError: where nobody brings one.
    """
    name = target.quantizers.get("PTQ")
    if name is not None:
        return cast(Quantizer, catalogue.get("quantizer", name))
    for one in catalogue.of_kind("quantizer"):
        if isinstance(one.item, Quantizer) and one.item.format == "cpu" and not one.item.trains:
            return one.item
    raise OptionError(f"no installed package quantizes for {target.name} after training")


def _target(config: OwnConfig, catalogue: Any) -> Target:
    return cast(Target, catalogue.get("target", config.device))


def _format(config: OwnConfig, catalogue: Any) -> NumberFormat:
    target = _target(config, catalogue)
    return target.formats[quantizer_of(catalogue, target).format]


def _quantize(config: OwnConfig, catalogue: Any) -> OwnQuantizeOptions:
    own = accelerator(_target(config, catalogue))
    return OwnQuantizeOptions(config.device, _format(config, catalogue), own, config.bits, config.output_int)


def _quantizer(config: OwnConfig, catalogue: Any) -> Mapping[str, tuple[Plugin, Any]]:
    found = quantizer_of(catalogue, _target(config, catalogue))
    return {"quantizer": (found, found.Options())}


def _validate(config: OwnConfig, catalogue: Any) -> OwnValidateOptions:
    return OwnValidateOptions(_format(config, catalogue), accelerator(_target(config, catalogue)))


def _report(config: OwnConfig, catalogue: Any) -> OwnReportOptions:
    return OwnReportOptions(_target(config, catalogue).unit_name)


def _device(config: OwnConfig, catalogue: Any) -> Mapping[str, tuple[Plugin, Any]]:
    """The device and its core; there is no extractor, since the inputs are the network's own."""
    core = catalogue.get("core", _target(config, catalogue).core)
    return {**validate.plugins(config, catalogue), "core": (core, catalogue.options(core, {}))}


IMPORT = Stage(
    name="import",
    run="flowlab.stages.own.read:run",
    needs=("own_model", "own_inputs"),
    optional=("own_code",),
    makes=(
        "own_network",
        "own_graph",
        "own_onnx",
        "own_outputs",
        "features_train",
        "features_test",
        "feature_spec",
    ),
    options=lambda config, catalogue: ImportOptions(config.module, config.libraries),
    code=("flowlab.stages.own.read", "flowlab.stages.own.network", "flowlab.stages.own.integers"),
    libraries=("torch", "numpy", "pyarrow", "onnx", "onnxruntime"),
    torch=True,
)

QUANTIZE = Stage(
    name="quantize",
    run="flowlab.stages.own.quantize:run",
    needs=("own_network", "own_graph", "own_onnx", "features_train"),
    makes=("graph", "quantized_onnx", "quantization_config", "quantized_weights", "metrics_quantize"),
    options=_quantize,
    plugins=_quantizer,
    code=("flowlab.stages.own.quantize", "flowlab.stages.own.integers", "flowlab.quant"),
    libraries=("torch", "numpy", "pyarrow", "onnx", "onnxruntime"),
    torch=True,
)

VALIDATE = Stage(
    name="validate",
    run="flowlab.stages.own.validate:run",
    needs=("own_network", "graph", "quantized_onnx", "features_test", "own_outputs"),
    makes=("placed_graph", "placement", "golden", "interpreter_outputs", "own_standing"),
    options=_validate,
    plugins=validate.plugins,
    code=("flowlab.stages.own.validate", "flowlab.stages.own.integers", "flowlab.compiler"),
    libraries=("numpy", "pyarrow", "onnx", "onnxruntime"),
)

COMPILE = replace(
    compile_stage.STAGE,
    options=lambda config, catalogue: OwnCompileOptions(True, places=OUT if config.apart else {}),
    plugins=_device,
)

SIMULATE = replace(simulate.STAGE, options=lambda config, catalogue: simulate.SimulateOptions(simulate.NO_PROBLEM))

REPORT = Stage(
    name="report",
    run="flowlab.stages.own.report:run",
    needs=(
        "own_network",
        "own_standing",
        "feature_spec",
        "metrics_quantize",
        "quantization_config",
        "quantized_onnx",
        "placement",
        "memory",
        "agreement",
        "costs",
        "notes",
    ),
    makes=("report", "layers"),
    options=_report,
    code=("flowlab.stages.own.report", "flowlab.report"),
    libraries=report.STAGE.libraries,
)

OWN_STAGES: tuple[Stage, ...] = (IMPORT, QUANTIZE, VALIDATE, COMPILE, SIMULATE, REPORT)
