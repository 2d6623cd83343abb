"""A small catalogue of made-up plugins, and the chapter's examples written anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flowlab.config import Config, load
from flowlab.contracts import Dataset, FeatureExtractor, Model, NumberFormat, Preset, Quantizer, Requantize, Target
from flowlab.plugins import Brought, Catalogue

WHOLE = """\
common:
  task_type: 'generic_timeseries_classification'
  target_device: 'F28P55'

dataset:
  dataset_name: 'dc_arc_fault_example_dsk'

data_processing_feature_extraction:
  feature_extraction_name: 'FFT1024Input_256Feature_1Frame_Full_Bandwidth'
  variables: 1

training:
  model_name: 'CLS_4k_NPU'
  training_epochs: 30
  batch_size: 256
  quantization: 2
  quantization_method: 'QAT'
  quantization_weight_bitwidth: 8
  quantization_activation_bitwidth: 8

testing:
  enable: True

compilation:
  enable: True
  preset_name: 'compress_npu_layer_data'
"""


class ToyModel(Model):
    defaults = {"learning_rate": 0.04, "batch_size": 64, "quantization": 2}

    def __init__(self, name: str, problems: tuple[str, ...] = ("classification",), not_built: str = "") -> None:
        self.name = name
        self.problems = problems
        self.not_built = not_built

    def build(self, shape: Any, outputs: int, options: Any) -> Any:
        raise NotImplementedError


class ToyDataset(Dataset):
    name = "dc_arc_fault_example_dsk"
    defaults = {"variables": 3, "frame_size": 512, "num_frame_concat": 2}

    def recordings(self, seed: int, options: Any) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class ToyOptions:
    frame_size: int = 1
    log_base: float | str | None = None
    depth: int = 3


class ToyExtractor(FeatureExtractor):
    name = "toy"
    Options = ToyOptions

    def shape(self, window: Any, options: Any) -> Any:
        raise NotImplementedError

    def extract(self, windows: Any, options: Any) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class QuantizerOptions:
    iterations: int = 10
    tolerance: float = 0.1


class ToyQuantizer(Quantizer):
    Options = QuantizerOptions

    def __init__(self, name: str, trains: bool, format: str = "npu") -> None:
        self.name = name
        self.trains = trains
        self.format = format

    def quantize(self, job: Any, options: Any) -> Any:
        raise NotImplementedError


class ToyTarget(Target):
    def __init__(self, name: str, accelerator: bool = True) -> None:
        self.name = name
        self.quantizers = {"QAT": "npu_qat", "PTQ": "npu_ptq"} if accelerator else {}
        npu = {"npu": NumberFormat("npu", {8: Requantize(0, (0, 31), 24)})} if accelerator else {}
        cpu = NumberFormat("generic", {8: Requantize(8, (0, 31), 32)}, activation_bits=(8, 4, 2))
        self.formats = {"cpu": cpu, **npu}

    def lower(self, job: Any) -> Any:
        raise NotImplementedError


def toy_catalogue() -> Catalogue:
    preset = "FFT1024Input_256Feature_1Frame_Full_Bandwidth"
    items = [
        ToyModel("CLS_4k_NPU"),
        ToyModel("CLS_4k"),
        ToyModel("REGR_2k", ("regression",)),
        ToyModel("branched", not_built="it adds two branches"),
        ToyDataset(),
        ToyExtractor(),
        ToyQuantizer("npu_qat", trains=True),
        ToyQuantizer("npu_ptq", trains=False),
        ToyQuantizer("slow_ptq", trains=False),
        ToyQuantizer("floats", trains=False, format=""),
        ToyQuantizer("generic_qat", trains=True, format="cpu"),
        ToyQuantizer("generic_ptq", trains=False, format="cpu"),
        ToyQuantizer("none", trains=False, format=""),
        ToyQuantizer("dsp_ptq", trains=False, format="dsp"),
        ToyTarget("F28P55"),
        ToyTarget("plain", accelerator=False),
        Preset("feature_extraction", preset, {"frame_size": 1024, "log_base": "e"}),
        Preset("feature_extraction", "only_motor", {}, when={"task_type": ("motor_fault",)}),
        Preset("feature_extraction", "fixed_point", {}, not_built="it needs FFT_Q15"),
        Preset("compile", "compress_npu_layer_data", {"target": "c", "compress": True}),
    ]
    return Catalogue(tuple(Brought(item, "flowlab") for item in items))


@pytest.fixture
def catalogue() -> Catalogue:
    return toy_catalogue()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a config file and give its path."""

    def _write(text: str | bytes, name: str = "arc.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


@pytest.fixture
def loaded(write: Callable[..., Path], catalogue: Catalogue) -> Callable[..., Config]:
    """The whole example with a part laid over it, and ``--set``."""

    def _loaded(part: str = "", *sets: str, whole: str = WHOLE) -> Config:
        return load([write(whole), write(part, "part.yaml")], sets, catalogue)

    return _loaded
