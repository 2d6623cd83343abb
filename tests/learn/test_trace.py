"""From torch modules to float graphs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flowlab.compiler import interpreter
from flowlab.compiler.channels import is_depthwise
from flowlab.compiler.verify import verify
from flowlab.errors import GraphError
from flowlab.learn.checkpoint import dump
from flowlab.learn.layers import AveragePool, Conv, Dense, MaxPool, build_network
from flowlab.learn.trace import float_graph

SHAPE = (2, 24, 1)
TABLE = (Conv(8, (5, 1), (2, 1)), Conv(8, (3, 1), depthwise=True), MaxPool((3, 1), (2, 1)), AveragePool(), Dense(6))
Forward = Callable[["Net", torch.Tensor], torch.Tensor]


class Net(nn.Module):
    """A network whose forward is given."""

    def __init__(self, forward: Forward, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.body = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self, x)


def warmed(module: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """Running statistics that are not 0 and 1."""
    torch.manual_seed(0)
    module.train()
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(8, *shape) * 2 + 1)
    return module.eval()


def assert_same(module: nn.Module, shape: tuple[int, int, int]) -> None:
    warmed(module, shape)
    graph = float_graph(module, shape)
    verify(graph)
    features = torch.randn(5, *shape)
    with torch.no_grad():
        expected = module(features).numpy()
    (found,) = interpreter.outputs(graph, features.numpy()).values()
    assert found.shape == expected.shape
    assert np.allclose(found, expected, atol=1e-5, rtol=1e-5)


def conv(*arguments: int, **options: object) -> nn.Conv2d:
    return nn.Conv2d(*arguments, **options)  # type: ignore[arg-type]


EXPRESSIBLE: dict[str, tuple[nn.Module, tuple[int, int, int]]] = {
    "a table": (build_network(TABLE, SHAPE, 3), SHAPE),
    "an image": (
        nn.Sequential(
            conv(3, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6, eps=1e-3), nn.ReLU6(),
            nn.MaxPool2d(2), conv(6, 4, 3, padding="same", groups=2), nn.AvgPool2d((4, 3)), nn.Flatten(),
            nn.Linear(4, 2, bias=False),
        ),
        (3, 17, 13),
    ),
    "even kernels that are padded the same": (nn.Sequential(conv(2, 3, (4, 1), padding="same"), nn.Flatten()), SHAPE),
    "no padding": (nn.Sequential(conv(2, 3, (3, 1), padding="valid"), nn.Flatten()), SHAPE),
    "batch norm without weights": (nn.Sequential(nn.BatchNorm2d(2, affine=False), nn.Flatten()), SHAPE),
    "a residual": (Net(lambda m, x: m.c(x).add(x).relu(), c=conv(2, 2, (3, 1), padding=(1, 0))), SHAPE),
    "functions": (
        Net(
            lambda m, x: F.dropout(
                torch.flatten(F.max_pool2d(F.relu(m.c(x)) + torch.relu(m.c(x)), (2, 1)), 1), 0.5, m.training
            ),
            c=conv(2, 4, (3, 1)),
        ),
        SHAPE,
    ),
    "a mean": (Net(lambda m, x: m.f(m.c(x).mean((2, 3))), c=conv(2, 4, (3, 1)), f=nn.Linear(4, 2)), SHAPE),
    "a mean that keeps": (Net(lambda m, x: torch.mean(x, dim=(-1, -2), keepdim=True).flatten(1)), SHAPE),
    "a view by sizes": (Net(lambda m, x: x.view(x.size(0), -1)), SHAPE),
    "a reshape by shape": (Net(lambda m, x: torch.reshape(x, (x.shape[0], 48))), SHAPE),
    "an adaptive pool that does nothing": (nn.Sequential(nn.AdaptiveAvgPool2d((24, None)), nn.Flatten()), SHAPE),
    "four averages": (nn.Sequential(nn.AdaptiveAvgPool2d((4, 1))), SHAPE),
    "averages by columns": (nn.Sequential(nn.AdaptiveAvgPool2d((3, None)), nn.Flatten()), (3, 6, 5)),
    "local averages": (nn.Sequential(nn.AvgPool2d((3, 2), stride=(2, 1), padding=(1, 1))), (3, 9, 7)),
    "averages by a function": (
        Net(lambda m, x: F.avg_pool2d(F.adaptive_avg_pool2d(x, (12, 1)), (3, 1), (1, 1), (1, 0))),
        (1, 24, 1),
    ),
    "nested": (nn.Sequential(nn.Sequential(conv(2, 3, 1), nn.Identity(), nn.Dropout(0.3)), nn.Flatten()), SHAPE),
    **{
        f"the activation {type(layer).__name__}": (nn.Sequential(conv(2, 3, 1), layer), SHAPE)
        for layer in (nn.Sigmoid(), nn.Tanh(), nn.SiLU(), nn.GELU(), nn.LeakyReLU(), nn.Hardtanh(), nn.Hardtanh(0, 6))
    },
    "functional activations": (
        Net(lambda m, x: F.silu(F.gelu(F.leaky_relu(F.hardtanh(F.relu6(torch.tanh(torch.sigmoid(x))))))).tanh()),
        SHAPE,
    ),
    "a layer used twice": (Net(lambda m, x: m.r(m.c(m.r(m.c(x)))), c=conv(2, 2, (3, 1)), r=nn.ReLU()), SHAPE),
    "only an input": (nn.Sequential(nn.Identity()), SHAPE),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's, about its speed
@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_the_graph_computes_what_the_module_computes(name: str) -> None:
    assert_same(*EXPRESSIBLE[name])


def test_nodes_are_named_by_the_modules_paths() -> None:
    module = nn.Sequential()
    module.add_module("block", nn.Sequential(conv(2, 3, 1), nn.ReLU()))
    module.add_module("flat", nn.Flatten())
    graph = float_graph(module, SHAPE)
    assert [(node.name, node.op) for node in graph.nodes] == [
        ("block.0", "conv"), ("block.1", "relu"), ("flat", "flatten"),
    ]  # fmt: skip
    assert dict(graph.outputs) == {"output": "flat"}


def test_averages_over_parts_are_a_depthwise_convolution_and_the_average_over_all_is_none() -> None:
    graph = float_graph(nn.Sequential(conv(2, 4, 1), nn.AdaptiveAvgPool2d((4, 1)), nn.AvgPool2d((4, 1))), SHAPE)
    assert [node.op for node in graph.nodes] == ["conv", "conv", "average_pool"]
    assert is_depthwise(graph.nodes[1])
    assert graph.nodes[1].attributes["stride"] == (6, 1)


def test_a_second_use_of_a_layer_has_a_name_of_its_own() -> None:
    graph = float_graph(EXPRESSIBLE["a layer used twice"][0], SHAPE)
    assert len({node.name for node in graph.nodes}) == 4


def test_a_layer_called_input_does_not_hide_the_input() -> None:
    module = nn.Sequential()
    module.add_module("input", conv(2, 3, 1))
    graph = float_graph(module, SHAPE)
    assert graph.nodes[0].inputs == ("input",) and graph.nodes[0].name != "input"


def test_batch_norms_are_kept_as_nodes() -> None:
    graph = float_graph(build_network((Conv(4, (3, 1)),), SHAPE, 2), SHAPE)
    assert [node.op for node in graph.nodes] == ["batch_norm", "conv", "batch_norm", "relu", "flatten", "linear"]


def test_the_module_is_not_changed() -> None:
    module = EXPRESSIBLE["a table"][0].train()
    before = dump(module.state_dict())
    float_graph(module, SHAPE)
    assert module.training and dump(module.state_dict()) == before


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "1-D convolution": (
        Net(lambda m, x: m.c(x.squeeze(-1)), c=nn.Conv1d(2, 3, 3)),
        r"'squeeze' \(\.squeeze\(\)\).*only flattening",
    ),
    "dilation": (nn.Sequential(conv(2, 3, (3, 1), dilation=2)), r"'0' \(Conv2d\): has a dilation"),
    "reflection": (nn.Sequential(conv(2, 3, (3, 1), padding=(1, 0), padding_mode="reflect")), "padding_mode='zeros'"),
    "LSTM": (Net(lambda m, x: m.l(x.flatten(1))[0], l=nn.LSTM(48, 4)), r"'l' \(LSTM\): the integer graph has no such"),
    "layer norm": (nn.Sequential(nn.LayerNorm([24, 1])), r"'0' \(LayerNorm\).*Known: nn.Conv2d"),
    "unequal averages": (nn.Sequential(nn.AdaptiveAvgPool2d((5, 1))), "averages 24x1 down to 5x1: the parts are not"),
    "an average beyond the end": (nn.Sequential(nn.AvgPool2d((5, 1), ceil_mode=True)), "ceil_mode=False"),
    "an average without its padding": (
        nn.Sequential(nn.AvgPool2d((3, 1), padding=(1, 0), count_include_pad=False)),
        "count_include_pad=True",
    ),
    "another divisor": (nn.Sequential(nn.AvgPool2d((2, 1), divisor_override=3)), "divisor_override=None"),
    "mean over the length": (Net(lambda m, x: x.mean(2)), "averages over the dimensions 2"),
    "mean over all": (Net(lambda m, x: x.mean()), "averages over the dimensions None"),
    "linear on maps": (nn.Sequential(nn.Linear(1, 3)), r"'0' \(Linear\): gets shape \(2, 24, 1\).*nn.Flatten"),
    "other slope": (nn.Sequential(nn.LeakyReLU(0.2)), "slope 0.2: use 0.01"),
    "other clip": (nn.Sequential(nn.Hardtanh(-2, 2)), r"clips to \(-2, 2\)"),
    "approximate gelu": (nn.Sequential(nn.GELU("tanh")), "approximate='none'"),
    "ceil mode": (nn.Sequential(nn.MaxPool2d((2, 1), ceil_mode=True)), "ceil_mode=False"),
    "dilated pool": (nn.Sequential(nn.MaxPool2d((2, 1), dilation=(2, 1))), "dilation 1"),
    "no statistics": (nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False)), "track_running_stats=True"),
    "multiplication": (Net(lambda m, x: x * 2), r"'mul' \(mul\): the integer graph has no such operation"),
    "adding a constant": (Net(lambda m, x: x + 1), "'add' uses 1"),
    "unequal shapes": (Net(lambda m, x: m.c(x) + x, c=conv(2, 1, 1)), r"adds shapes \(1, 24, 1\) and \(2, 24, 1\)"),
    "alpha": (Net(lambda m, x: torch.add(x, x, alpha=2)), "has an alpha"),
    "a branch on values": (Net(lambda m, x: x if x.sum() > 0 else -x), r"Net\.forward cannot be traced"),
    "an input that does not fit": (nn.Sequential(conv(3, 4, 1)), r"'0' does not take an input of shape \(2, 24, 1\)"),
    "two outputs": (Net(lambda m, x: (x, x)), "several values: return one tensor"),
    "a size as result": (Net(lambda m, x: x.size(0)), "not a value of the network"),
    "a lost batch": (Net(lambda m, x: x.reshape(1, -1)), r"gives shape \(1, 96\) for a batch of 2"),
    "weights by hand": (nn.Linear(1, 2), "'weight' is a tensor that forward uses by itself"),
    "another attribute": (Net(lambda m, x: x.T), r"reads '\.T'"),
}


@pytest.mark.filterwarnings("ignore:The use of `x.T`")
@pytest.mark.parametrize("name", REFUSED)
def test_what_the_graph_cannot_say_is_refused_by_name(name: str) -> None:
    module, message = REFUSED[name]
    with pytest.raises(GraphError, match=message):
        float_graph(module, SHAPE)


def test_a_second_input_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    with pytest.raises(GraphError, match=r"forward has 2 inputs \(x, y\)"):
        float_graph(Two(), SHAPE)
