"""Surgery under TI's names: the chapter's three scripts, and the zoo's networks, which need none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flowlab.quant.lite import lite
from flowlab_tinpu.torchmodelopt import convert_to_lite_fx, get_replacement_dict_default
from flowlab_zoo.models import MODELS

BASIC = """
from tinyml_torchmodelopt.surgery import convert_to_lite_fx

# Replace unsupported layers with default replacements
model = convert_to_lite_fx(model)
"""
CUSTOM = """
import copy
from tinyml_torchmodelopt.surgery import (
    convert_to_lite_fx, get_replacement_dict_default
)

# Get and modify the default replacement dictionary
replacement_dict = copy.deepcopy(get_replacement_dict_default())
replacement_dict.update({torch.nn.GELU: torch.nn.ReLU})

# Apply with custom replacements
model = convert_to_lite_fx(model, replacement_dict=replacement_dict)
"""
FUNCTION = """
replacement_dict.update({'my_layer': my_replacement_function})
model = convert_to_lite_fx(model, replacement_dict=replacement_dict)
"""


class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act, self.my_layer = nn.GELU(), nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x):
        return self.my_layer(self.act(x))


def run(script: str, **names: object) -> nn.Module:
    """A script of the chapter with its import line replaced."""
    names.setdefault("torch", torch)
    exec(script.replace("tinyml_torchmodelopt.surgery", "flowlab_tinpu.torchmodelopt"), names)
    model = names["model"]
    assert isinstance(model, nn.Module)
    return model


@pytest.mark.parametrize("script", [BASIC, CUSTOM])
def test_the_chapters_first_two_scripts_run(script: str) -> None:
    before = Mine()
    after = run(script, model=before)
    assert isinstance(after.act, nn.ReLU)
    assert isinstance(before.act, nn.GELU)
    assert after(torch.zeros(1, 2, 5, 5)).shape == (1, 2, 5, 5)


def test_the_chapters_third_script_runs() -> None:
    def pointwise(layer: nn.Module) -> nn.Module:
        assert isinstance(layer, nn.Conv2d)
        return nn.Conv2d(layer.in_channels, layer.out_channels, 1)

    after = run(
        FUNCTION,
        model=Mine(),
        replacement_dict=get_replacement_dict_default(),
        my_replacement_function=pointwise,
        convert_to_lite_fx=convert_to_lite_fx,
    )
    assert isinstance(after.my_layer, nn.Conv2d)
    assert after.my_layer.kernel_size == (1, 1)
    assert isinstance(after.act, nn.ReLU)


def test_changing_the_default_dictionary_changes_no_other() -> None:
    get_replacement_dict_default().clear()
    assert nn.GELU in get_replacement_dict_default()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_zoos_networks_need_no_surgery(model) -> None:
    module = model.build((1, 512, 1), 4, model.Options())
    assert lite(module).replaced == ()
