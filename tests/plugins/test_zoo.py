"""The zoo's networks."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from networks.training import outputs, quantize_job

from flowlab.compiler import interpreter
from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.number_format import GENERIC
from flowlab.contracts import Model, NoOptions, Quantizer
from flowlab.errors import NotBuiltYet
from flowlab.learn.determinism import seeded
from flowlab.learn.layers import count_parameters
from flowlab.learn.lengthwise import keeps_width
from flowlab.learn.trace import float_graph
from flowlab.plugins import load
from flowlab.stages.validate import run_onnx
from flowlab_generic.quantizers import QUANTIZERS as GENERIC_QUANTIZERS
from flowlab_tinpu.number_format import NPU
from flowlab_tinpu.quantizers import QUANTIZERS as TINPU_QUANTIZERS
from flowlab_zoo import residual
from flowlab_zoo.examples import DEMO
from flowlab_zoo.models import LADDER, MODELS, SAME, TABLES
from flowlab_zoo.not_built import NOT_BUILT

# parameters and multiplications of the vendor's networks on (1, 256, 1) with two outputs
PUBLISHED = {
    "CLS_ResAdd_3k": (708, 25604),
    "CLS_ResCat_3k": (708, 25604),
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
    "ECG_55k_NPU": (52092, 172672),
    "ElectricalFault_model_40k_t": (38828, 5602912),
    "GearboxFault_model_1.2k_t": (1048, 231456),
    "GearboxFault_model_1.5k_t": (1344, 56864),
}
SHAPE = (1, 256, 1)
TINPU, GENERIC_ONES = (
    [one for one in brought if one.format and not one.trains] for brought in (TINPU_QUANTIZERS, GENERIC_QUANTIZERS)
)
BY_NAME = {model.name: model for model in (*MODELS, *residual.MODELS)}


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


def test_every_other_name_of_the_vendor_says_why_it_is_not_built() -> None:
    assert not {model.name for model in NOT_BUILT} & set(BY_NAME)
    catalogue = load()
    assert not {model.name for model in NOT_BUILT} & set(catalogue.names("model"))
    for model in NOT_BUILT:
        with pytest.raises(NotBuiltYet, match=rf"model '{model.name}' is not built yet: it"):
            catalogue.get("model", model.name)
        with pytest.raises(NotBuiltYet, match=model.not_built):
            model.build(SHAPE, 2, None)
    classifications = len(PUBLISHED) + sum("for " not in model.not_built for model in NOT_BUILT)
    assert classifications == 37  # the vendor's, but for the radar network


@pytest.mark.parametrize("quantizer", [*TINPU, *GENERIC_ONES], ids=lambda quantizer: quantizer.name)
@pytest.mark.parametrize("name", SAME)
def test_a_network_under_another_name_quantizes_to_what_onnx_runtime_computes(name: str, quantizer: Quantizer) -> None:
    import numpy as np
    import torch

    shape = (1, 128, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, series = BY_NAME[name].build(shape, 3, None), torch.randn(32, *shape)
        with torch.no_grad():
            for _ in range(20):  # its batch norms see the data, or the layers would say nothing of them
                module(series)
    module, features = module.eval(), series.numpy()
    format = NPU if quantizer.format == "npu" else GENERIC
    job = quantize_job(module, shape, format=format, calibration=features)
    quantized = quantizer.quantize(job, NoOptions())
    assert quantized.module is not None
    found = outputs(quantized.module, features)
    value = quantized.graph.outputs["output"]
    assert np.array_equal(interpreter.run(quantized.graph, features)[value], found)
    assert np.array_equal(run_onnx(export_onnx(quantized.graph, {}), features, ["output"])["output"], found)
    assert len(np.unique(found)) > 20


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("shape", [(1, 128, 1), (3, 128, 1), (2, 512, 1)])
def test_every_network_takes_series_of_several_variables(name: str, shape: tuple[int, int, int]) -> None:
    import torch

    module = BY_NAME[name].build(shape, 5, None)
    assert module(torch.zeros(4, *shape)).shape == (4, 5)


def test_every_network_trains_lengthwise() -> None:
    assert all(keeps_width(model.build(SHAPE, 2, None)) for model in MODELS)


def test_an_average_over_parts_that_are_not_equal_is_what_the_module_computes() -> None:
    model, shape = BY_NAME["CLS_4k"], (1, 240, 1)  # 15 places to average over 4 parts
    with seeded(0, 1):
        module = model.build(shape, 2, None).eval()
        x = torch.randn(3, *shape)
    graph = float_graph(module, shape)
    with torch.no_grad():
        assert np.allclose(interpreter.run(graph, x.numpy())[graph.outputs["output"]], module(x).numpy(), atol=1e-5)


def test_the_next_larger_network_of_the_family_has_more_parameters() -> None:
    counts = [count_parameters(BY_NAME[name].build((1, 256, 1), 2, NoOptions())) for name in LADDER]
    assert counts == sorted(counts) and len(set(counts)) == len(LADDER) == len(TABLES)
    assert BY_NAME["CLS_4k_NPU"].larger == "CLS_3.9k_NPU" == BY_NAME["CLS_4k"].larger
    assert BY_NAME["CLS_20k_NPU"].larger == "" and BY_NAME["ECG_55k_NPU"].larger == "CLS_20k_NPU"


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
