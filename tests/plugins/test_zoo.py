"""The zoo's networks."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from flowlab.contracts import Model
from flowlab.errors import GraphError
from flowlab.learn.determinism import seeded
from flowlab.learn.layers import count_parameters
from flowlab.learn.lengthwise import keeps_width
from flowlab.learn.trace import float_graph
from flowlab_zoo.examples import DEMO
from flowlab_zoo.models import MODELS

# parameters and multiplications of the vendor's networks on (1, 256, 1) with two outputs
PUBLISHED = {
    "CLS_100_NPU": (268, 51216),
    "CLS_500_NPU": (532, 108576),
    "CLS_1k_NPU": (876, 141344),
    "CLS_1.2k_NPU": (1048, 231456),
    "CLS_1.5k_NPU": (1344, 56864),
    "CLS_1.9k_NPU": (1764, 405536),
    "CLS_2k_NPU": (4996, 380992),
    "CLS_2.8k_NPU": (2532, 22664),
    "CLS_3.1k_NPU": (3064, 107304),
    "CLS_3.9k_NPU": (3848, 69160),
    "CLS_4k_NPU": (3692, 91200),
    "CLS_4.2k_NPU": (4132, 95376),
    "CLS_5k_NPU": (4796, 179776),
    "CLS_6k_NPU": (6596, 108576),
    "CLS_8k_NPU": (9668, 315456),
    "CLS_13k_NPU": (12580, 324736),
    "CLS_20k_NPU": (66596, 1162368),
    "CLS_40k_NPU": (38828, 5602912),
    "CLS_55k_NPU": (52092, 172672),
}
SHAPE = (1, 256, 1)
BY_NAME = {model.name: model for model in MODELS}


def multiplications(model: Model) -> int:
    total = 0
    for node in float_graph(model.build(SHAPE, 2, None), SHAPE).nodes:
        if node.op == "conv":
            area = node.type.shape[1] * node.type.shape[2]
            total += node.constants["weight"].size * area
        elif node.op == "linear":
            total += node.constants["weight"].size
    return total


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_network_has_the_published_parameters_and_multiplications(name: str) -> None:
    model = BY_NAME[name]
    assert (count_parameters(model.build(SHAPE, 2, None)), multiplications(model)) == PUBLISHED[name]


def test_nothing_else_is_brought_but_the_older_4k() -> None:
    assert set(BY_NAME) - set(PUBLISHED) == {"CLS_4k"}
    assert "4k_t" in BY_NAME["CLS_4k"].summary


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("shape", [(1, 128, 1), (3, 128, 1), (2, 512, 1)])
def test_every_network_takes_series_of_several_variables(name: str, shape: tuple[int, int, int]) -> None:
    import torch

    module = BY_NAME[name].build(shape, 5, None)
    assert module(torch.zeros(4, *shape)).shape == (4, 5)


def test_every_network_trains_lengthwise() -> None:
    assert all(keeps_width(model.build(SHAPE, 2, None)) for model in MODELS)


def test_an_average_over_parts_is_refused_before_training_with_a_cure() -> None:
    with pytest.raises(GraphError, match=r"'average1' .*16x1 down to 4x1.*nn\.AdaptiveAvgPool2d\(1\)"):
        float_graph(BY_NAME["CLS_4k"].build(SHAPE, 2, None), SHAPE)


def test_initial_weights_come_from_torchs_generator() -> None:
    import torch

    weights = []
    for seed in (0, 0, 1):
        with seeded(seed, 1):
            weights.append(BY_NAME["CLS_4k_NPU"].build(SHAPE, 2, None).get_parameter("conv1.weight"))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_vendors_defaults_come_with_the_model() -> None:
    for model in MODELS:
        assert dict(model.defaults) == {"learning_rate": 0.002, "batch_size": 64, "quantization": 2}


CHAPTER = """
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


def test_the_demo_is_the_chapters_example() -> None:
    assert (DEMO.kind, DEMO.name) == ("example", "demo")
    assert DEMO.values == yaml.safe_load(CHAPTER)


def test_the_plugin_loads_without_heavy_imports() -> None:
    code = """if True:
        import sys
        import flowlab_zoo.plugin as plugin
        plugin.flowlab_models(), plugin.flowlab_datasets(), plugin.flowlab_presets()
        heavy = {"torch", "numpy", "pyarrow", "onnx"} & set(sys.modules)
        sys.exit(", ".join(sorted(heavy)) or 0)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
