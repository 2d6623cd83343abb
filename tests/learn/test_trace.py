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
from flowlab.learn.trace import float_graph, trace_module

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


def warmed(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Running statistics that are not 0 and 1."""
    torch.manual_seed(0)
    module.train()
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(8, *shape) * 2 + 1)
    return module.eval()


def assert_same(module: nn.Module, shape: tuple[int, ...]) -> None:
    warmed(module, shape)
    graph = float_graph(module, shape)
    verify(graph)
    features = torch.randn(5, *shape)
    with torch.no_grad():
        expected = module(features).numpy()
    (found,) = interpreter.outputs(graph, features.numpy().reshape(5, *graph.inputs[0].type.shape)).values()
    assert found.size == expected.size
    found = found.reshape(expected.shape)
    assert np.allclose(found, expected, atol=1e-5, rtol=1e-5)


def conv(*arguments: int, **options: object) -> nn.Conv2d:
    return nn.Conv2d(*arguments, **options)  # type: ignore[arg-type]


class Doubled(nn.Conv2d):
    """A layer of torch with another forward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


def written(x: torch.Tensor) -> torch.Tensor:
    x = x * 1
    x[:, 0] = 0
    return x


def written_view(x: torch.Tensor) -> torch.Tensor:
    x = x * 1
    x.flatten(1).mul_(2)
    return x


def sum_of_parts(x: torch.Tensor) -> torch.Tensor:
    """Decisions and loops by size, as users write them."""
    batch, channels, *rest = x.shape
    if x.dim() != 4 or len(x) != batch:
        raise ValueError("another size")
    total = torch.zeros(1, 1, *rest)
    for place in range(channels):
        total = total + x[:, place : place + 1] * (place + 1)
    for part in x.chunk(2, dim=1):
        total = total + part.mean(1, keepdim=True)
    return total.reshape(batch, -1)


def hooked() -> nn.Module:
    module = nn.Sequential(conv(2, 3, 1))
    module[0].register_forward_hook(lambda layer, inputs, output: output * 2)
    return module


class WithDefaults(nn.Module):
    """More inputs than one, all of them with a default."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, twice: bool = True) -> torch.Tensor:
        y = x if mask is None else x * mask
        return y * 2 if twice else y


def in_place(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What goes into the ReLU is what comes out of it."""
    before = m.c(x)
    after = m.r(before)
    return before + after * 3


def in_place_sum(x: torch.Tensor) -> torch.Tensor:
    kept = x
    x += 1
    x.mul_(2)
    return kept + x.sigmoid()


EXPRESSIBLE: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
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
    "a series": (
        Net(
            lambda m, x: m.f(m.p(m.d(m.n(m.c(x.squeeze(-1))).relu())).mean(-1)),
            c=nn.Conv1d(2, 4, 5, stride=2, padding=2), n=nn.BatchNorm1d(4),
            d=nn.Conv1d(4, 4, 3, padding="same", dilation=2, groups=2), p=nn.MaxPool1d(2), f=nn.Linear(4, 2),
        ),
        SHAPE,
    ),
    "pools of a series": (
        Net(
            lambda m, x: torch.cat([m.a(x.flatten(2)), m.b(x.flatten(2)), m.c(x.flatten(2)), m.d(x.flatten(2))], 2),
            a=nn.AvgPool1d(3, 2, 1), b=nn.AdaptiveAvgPool1d(5), c=nn.AdaptiveMaxPool1d(7),
            d=nn.MaxPool1d(3, ceil_mode=True),
        ),
        (2, 23, 1),
    ),
    "dilation": (nn.Sequential(conv(2, 3, (3, 2), dilation=(2, 1), padding=(2, 1))), (2, 9, 5)),
    "padding modes": (
        nn.Sequential(
            conv(2, 3, 3, padding=1, padding_mode="reflect"), conv(3, 3, 3, padding=(2, 1), padding_mode="circular"),
            conv(3, 2, 3, padding=1, padding_mode="replicate"), nn.ZeroPad2d((1, 2, 0, 1)), nn.ReflectionPad2d(1),
        ),
        (2, 6, 5),
    ),
    "transposed convolutions": (
        nn.Sequential(
            nn.ConvTranspose2d(2, 4, (3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 2), groups=2),
            nn.ConvTranspose2d(4, 3, 3, dilation=2, bias=False), nn.ConvTranspose2d(3, 2, 1, padding=1),
            nn.ConvTranspose2d(2, 2, 1, stride=2, padding=1),
        ),
        (2, 5, 4),
    ),
    "a causal series": (
        Net(
            lambda m, x: m.d(F.pad(m.c(F.pad(x.flatten(2), (4, 0))), (1, 2)).relu()),
            c=nn.Conv1d(2, 3, 3, dilation=2), d=nn.Conv1d(3, 2, 3, padding=1, stride=2),
        ),
        SHAPE,
    ),
    "padded channels": (Net(lambda m, x: m.c(F.pad(x, (0, 0, 1, 1, 1, 0))), c=conv(3, 2, (3, 1))), SHAPE),
    "a transposed series": (Net(lambda m, x: m.c(x.flatten(2)), c=nn.ConvTranspose1d(2, 3, 4, 2, 1)), SHAPE),
    "unequal averages": (nn.Sequential(nn.AdaptiveAvgPool2d((5, 3))), (2, 7, 4)),
    "averages beyond the end": (nn.Sequential(nn.AvgPool2d((5, 2), ceil_mode=True)), (2, 12, 3)),
    "averages without their padding": (nn.Sequential(nn.AvgPool2d(3, 2, 1, count_include_pad=False)), (2, 8, 5)),
    "another divisor": (nn.Sequential(nn.AvgPool2d((2, 1), divisor_override=3)), SHAPE),
    "a size that is rounded up": (nn.Sequential(nn.MaxPool2d((3, 2), ceil_mode=True)), (2, 10, 5)),
    "a size that is rounded up far": (nn.Sequential(nn.MaxPool2d(2, 4, ceil_mode=True)), (2, 9, 10)),
    "a dilated pool": (nn.Sequential(nn.MaxPool2d((2, 3), dilation=(3, 2), padding=1)), (2, 9, 9)),
    "adaptive maxima": (nn.Sequential(nn.AdaptiveMaxPool2d((5, 2)), nn.AdaptiveMaxPool2d((5, 1))), (2, 11, 5)),
    "a mean over the length": (Net(lambda m, x: x.mean(2)), (2, 6, 3)),
    "a mean over channels": (
        Net(lambda m, x: x.mean(1, keepdim=True) + x.mean((1, 3)).reshape(-1, 1, 6, 1)), (2, 6, 3)
    ),
    "sums and maxima": (
        Net(lambda m, x: x.sum((2, 3)) + x.amax(dim=(2, 3)) + torch.max(x.flatten(2), dim=2)[0] + x.max(1)[0].sum(1)),
        (3, 6, 3),
    ),
    "a linear layer on maps": (Net(lambda m, x: m.f(x.permute(0, 2, 3, 1)), f=nn.Linear(2, 3)), (2, 6, 3)),
    "slopes": (nn.Sequential(nn.LeakyReLU(0.2), nn.PReLU(), nn.PReLU(2, 0.1), nn.RReLU()), SHAPE),
    "clips": (
        Net(lambda m, x: x.clamp(-2, 1.5) + x.clamp(min=-1) + torch.clamp(x, max=2.0) + F.hardtanh(x, -0.5, 2)), SHAPE
    ),
    "further activations": (
        nn.Sequential(
            nn.ELU(0.5), nn.CELU(2.0), nn.SELU(), nn.Softplus(), nn.Softplus(2.0), nn.LogSigmoid(), nn.Softsign(),
            nn.Mish(), nn.Hardswish(), nn.Hardsigmoid(), nn.Tanhshrink(), nn.GLU(1), nn.Hardtanh(-2, 2),
        ),
        SHAPE,
    ),
    "constants": (
        Net(lambda m, x: 1 - (x * 2 + 1) / 3 - torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1) * x + (-x).abs()), SHAPE
    ),
    "constants by place": (Net(lambda m, x: x * torch.arange(24.0).reshape(24, 1) + 0.5), SHAPE),
    "products": (Net(lambda m, x: x * torch.sigmoid(x) + x**2 - x.square() * x.mean((2, 3), keepdim=True)), SHAPE),
    "a product by channel": (
        Net(lambda m, x: x * m.b(m.a(x).relu()).sigmoid(), a=conv(2, 1, 1), b=conv(1, 2, 1)),
        (2, 5, 3),
    ),
    "broadcasting": (Net(lambda m, x: x + x[:, :1] * x.mean(2, keepdim=True)), (3, 4, 5)),
    "alpha": (Net(lambda m, x: torch.add(x, x.relu(), alpha=2) - torch.sub(x, x.tanh(), alpha=3)), SHAPE),
    "slices": (Net(lambda m, x: x[:, :, 1:-1:2] + x[:, [1, 0], :11] - x.flip(2).narrow(2, 3, 11)), SHAPE),
    "concatenations": (
        Net(lambda m, x: torch.cat([m.c(x), x, torch.cat([x, m.c(x)], 2)[:, :, 5:29]], 1), c=conv(2, 2, 1)), SHAPE
    ),
    "a stack": (Net(lambda m, x: torch.stack([x, x.relu()], 1).transpose(1, 2).reshape(x.shape[0], 4, 24, 1)), SHAPE),
    "chunks and splits": (
        Net(lambda m, x: x.chunk(2, 1)[0].relu() + torch.split(x, [1, 1], dim=1)[1] - x.unbind(1)[0].unsqueeze(1)),
        SHAPE,
    ),
    "a channel shuffle": (
        Net(
            lambda m, x: m.c(x.view(x.size(0), 2, 3, *x.shape[2:]).transpose(1, 2).contiguous().view(x.size())),
            c=conv(6, 2, 3),
        ),
        (6, 4, 5),
    ),
    "nearest": (nn.Sequential(nn.Upsample(scale_factor=2), nn.Upsample((7, 9)), nn.PixelShuffle(1)), (2, 3, 4)),
    "bilinear": (nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear")), (2, 3, 4)),
    "bilinear by three and one": (
        Net(lambda m, x: F.interpolate(x, scale_factor=(3, 1), mode="bilinear", align_corners=False)), (2, 4, 3)
    ),
    "corners aligned": (
        nn.Sequential(nn.UpsamplingBilinear2d(scale_factor=2), nn.Upsample((5, 6), mode="bicubic")), (2, 3, 4)
    ),
    "sizes that are plain numbers": (Net(lambda m, x: sum_of_parts(x)), (4, 6, 3)),
    "a linear series": (Net(lambda m, x: F.interpolate(x.flatten(2), scale_factor=4, mode="linear")), (2, 6, 1)),
    "pixels": (nn.Sequential(nn.PixelUnshuffle(2), conv(4, 8, 1), nn.PixelShuffle(2)), (1, 4, 6)),
    "weights by hand": (Net(lambda m, x: F.conv2d(x, m.c.weight, m.c.bias, padding=1), c=conv(2, 3, 3)), (2, 5, 4)),
    "a layer by itself": (nn.Linear(1, 2), SHAPE),
    "an in-place layer whose input is read again": (
        Net(in_place, c=conv(2, 2, 1), r=nn.ReLU(inplace=True)), SHAPE
    ),
    "an in-place sum": (Net(lambda m, x: in_place_sum(m.c(x)), c=conv(2, 2, 1)), SHAPE),
    "weight norm": (nn.Sequential(nn.utils.parametrizations.weight_norm(conv(2, 3, 3)), nn.Flatten()), (2, 5, 4)),
    "a layer of one's own": (nn.Sequential(Doubled(2, 3, 1), nn.BatchNorm2d(3)), SHAPE),
    "a batch norm behind the flattening": (
        nn.Sequential(conv(2, 3, 1), nn.Flatten(), nn.BatchNorm1d(72), nn.ReLU()), SHAPE
    ),
    "an LSTM": (
        Net(
            lambda m, x: m.f(m.l(x.flatten(2).transpose(1, 2))[0][:, -1]),
            l=nn.LSTM(2, 5, batch_first=True), f=nn.Linear(5, 2),
        ),
        SHAPE,
    ),
    "a deep LSTM in both directions": (
        Net(
            lambda m, x: torch.cat(
                [(r := m.l(x.flatten(2)))[0].flatten(1), r[1][0][-1], r[1][1].permute(1, 0, 2).flatten(1)], 1
            ),
            l=nn.LSTM(4, 3, num_layers=2, batch_first=True, bidirectional=True),
        ),
        (6, 4, 1),
    ),
    "a GRU": (
        Net(
            lambda m, x: m.l(x.flatten(2), torch.zeros(1, x.shape[0], 5))[1].squeeze(0) - m.k(x.flatten(2))[1][0],
            l=nn.GRU(4, 5, batch_first=True), k=nn.GRU(4, 5, batch_first=True, bias=False),
        ),
        (6, 4, 1),
    ),
    "recurrent networks": (
        Net(
            lambda m, x: m.a(x.flatten(2))[0] + m.b(x.flatten(2))[0],
            a=nn.RNN(4, 5, batch_first=True), b=nn.RNN(4, 5, nonlinearity="relu", batch_first=True),
        ),
        (6, 4, 1),
    ),
    "the larger and the smaller": (
        Net(lambda m, x: torch.maximum(x, x.flip(2)) * 2 - torch.minimum(x, -x) + torch.maximum(x, torch.tensor(0.5))),
        SHAPE,
    ),
    "inputs with a default": (WithDefaults(), SHAPE),
    "a vector": (nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)), (6,)),
    "one number": (Net(lambda m, x: m.f(x.flatten(1)).squeeze(1), f=nn.Linear(48, 1)), SHAPE),
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


def test_a_layer_that_reads_the_same_value_twice_is_computed_once() -> None:
    graph = float_graph(
        Net(lambda m, x: m.c(m.n(x)) + m.d(m.n(x)), n=nn.BatchNorm2d(2), c=conv(2, 3, 1), d=conv(2, 3, 1)), SHAPE
    )
    assert [node.op for node in graph.nodes] == ["batch_norm", "conv", "conv", "add"]


def test_a_layer_called_input_does_not_hide_the_input() -> None:
    module = nn.Sequential()
    module.add_module("input", conv(2, 3, 1))
    graph = float_graph(module, SHAPE)
    assert graph.nodes[0].inputs == ("input",) and graph.nodes[0].name != "input"


def test_batch_norms_are_kept_as_nodes() -> None:
    graph = float_graph(build_network((Conv(4, (3, 1)),), SHAPE, 2), SHAPE)
    assert [node.op for node in graph.nodes] == ["batch_norm", "conv", "batch_norm", "relu", "flatten", "linear"]


def test_several_outputs_have_names_of_their_own() -> None:
    module = Net(lambda m, x: {"a": m.c(x), "b": m.c(x).flatten(1)}, c=conv(2, 3, 1))
    traced = trace_module(module, SHAPE)
    assert (list(traced.graph.outputs), traced.structure) == (["a", "b"], "dict")
    traced = trace_module(Net(lambda m, x: (x, m.c(x)), c=conv(2, 3, 1)), SHAPE)
    assert (dict(traced.graph.outputs), traced.structure) == ({"output0": "input", "output1": "c"}, "tuple")


def test_every_node_of_a_layer_says_which_layer_it_is_and_how_it_sees_the_weight() -> None:
    module = Net(
        lambda m, x: m.f(m.t(m.c(m.c(x.flatten(2)))).flatten(2).transpose(1, 2)),
        c=nn.Conv1d(2, 2, 3, padding=1), t=nn.ConvTranspose1d(2, 3, 2), f=nn.Linear(3, 2),
    )  # fmt: skip
    traced = trace_module(module, SHAPE)
    owners = {name: path for name, path in traced.modules.items() if traced.graph.node(name).op == "conv"}
    assert sorted(owners.values()) == ["c", "c", "f", "t"]
    for name, path in owners.items():
        weight = module.get_submodule(path).weight
        assert isinstance(weight, torch.Tensor)
        seen = traced.views[name](weight.detach()).numpy()
        assert np.array_equal(seen, traced.graph.node(name).constants["weight"])


def test_a_softmax_at_the_end_is_left_out_and_said() -> None:
    module = Net(lambda m, x: F.log_softmax(m.c(x), dim=1).flatten(1), c=conv(2, 3, 1))
    traced = trace_module(module, SHAPE)
    (warning,) = traced.warnings
    assert "'log_softmax' (log_softmax) is left out" in warning
    assert [node.op for node in traced.graph.nodes] == ["conv", "flatten"]


def test_zeros_in_front_of_a_convolution_are_its_padding() -> None:
    module = Net(lambda m, x: m.c(F.pad(x, (0, 0, 4, 1))), c=conv(2, 3, (3, 1), padding=(1, 0)))
    (node,) = float_graph(module, SHAPE).nodes
    assert (node.op, node.attributes["padding"]) == ("conv", (5, 0, 2, 0))


def test_the_last_state_alone_needs_no_other_states_beside_it() -> None:
    module = Net(lambda m, x: m.l(x.flatten(2))[0][:, -1], l=nn.LSTM(4, 3, batch_first=True))
    graph = float_graph(module, (5, 4, 1))
    assert "concat" not in {node.op for node in graph.nodes}
    assert len(graph.nodes) < 80


def test_what_moves_back_to_where_it_was_costs_nothing() -> None:
    module = Net(lambda m, x: m.c(x.permute(0, 2, 1, 3).flip(1).flip(1).transpose(1, 2)), c=conv(2, 3, 1))
    assert [node.op for node in float_graph(module, SHAPE).nodes] == ["conv"]


def test_the_module_is_not_changed() -> None:
    module = EXPRESSIBLE["a table"][0].train()
    before = dump(module.state_dict())
    float_graph(module, SHAPE)
    assert module.training and dump(module.state_dict()) == before


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "an LSTM whose batch is second": (Net(lambda m, x: m.l(x.flatten(2))[0], l=nn.LSTM(24, 4)), "use batch_first=True"),
    "an LSTM over too much": (
        Net(lambda m, x: m.l(x.repeat(1, 200, 1, 1).flatten(2))[0], l=nn.LSTM(24, 4, batch_first=True)),
        "is unrolled over 400 places, and 256 are the most",
    ),
    "an LSTM with a state of its own": (
        Net(lambda m, x: m.l(x.flatten(2), torch.ones(1, 2, 4))[0], l=nn.GRU(24, 4, batch_first=True)),
        "begin with zeros",
    ),
    "a projected LSTM": (
        Net(lambda m, x: m.l(x.flatten(2))[0], l=nn.LSTM(24, 4, batch_first=True, proj_size=2)), "use proj_size=0"
    ),
    "a cell": (Net(lambda m, x: m.l(x.flatten(1)), l=nn.GRUCell(48, 4)), "one place of a recurrent layer"),
    "layer norm": (nn.Sequential(nn.LayerNorm([24, 1])), r"'0' \(LayerNorm\): normalises.*use nn.BatchNorm1d"),
    "group norm": (nn.Sequential(nn.GroupNorm(1, 2)), "nn.BatchNorm2d"),
    "attention": (Net(lambda m, x: x @ x.transpose(2, 3)), r"'matmul' \(matmul\).*attention"),
    "softmax inside": (Net(lambda m, x: m.c(x.softmax(1)), c=conv(2, 1, 1)), "only at the network's end"),
    "a place": (Net(lambda m, x: x.flatten(1).argmax(1)), "take the class from the outputs"),
    "places of maxima": (Net(lambda m, x: x.flatten(2).max(2)[1] * 1.0), "reads the places of the largest|gives int64"),
    "mean over all": (Net(lambda m, x: x.mean()), "averages over the dimensions None: leave out the batch"),
    "approximate gelu": (nn.Sequential(nn.GELU("tanh")), "approximate='none'"),
    "indices": (Net(lambda m, x: m.p(x)[0], p=nn.MaxPool2d((2, 1), return_indices=True)), "return_indices=False"),
    "no statistics": (nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False)), "track_running_stats=True"),
    "a quotient": (Net(lambda m, x: x / (x * x + 1)), "divides by a value of the network"),
    "a constant that is not finite": (Net(lambda m, x: x * float("inf")), "constants are not all finite"),
    "a root": (Net(lambda m, x: x.sqrt()), r"'sqrt' \(\.sqrt\(\)\): the integer graph has no such op.*Known: con"),
    "unequal ranks": (Net(lambda m, x: x + x.mean((2, 3))[0]), "batch|dimensions|shape"),
    "a branch on values": (Net(lambda m, x: x if x.sum() > 0 else -x), r"Net\.forward cannot be traced.*\(line \d+"),
    "an input that does not fit": (nn.Sequential(conv(3, 4, 1)), r"'0' does not take an input of shape \(2, 24, 1\)"),
    "a size as result": (Net(lambda m, x: x.size(0)), "output 'output': 2 is not a value of the network"),
    "nothing": (Net(lambda m, x: ()), "returns nothing"),
    "a lost batch": (Net(lambda m, x: x.reshape(1, -1)), r"gives shape \(1, 96\) for a batch of 2"),
    "a turned batch": (Net(lambda m, x: x.flip(0)), "keep the batch as the first dimension"),
    "another attribute": (Net(lambda m, x: x.T), r"'getattr_1' \(getattr\).*keep the batch"),
    "an imaginary part": (Net(lambda m, x: x.real.imag), "does not take an input|reads"),
    "another dtype": (Net(lambda m, x: x.double() + 1), r"'double' \(\.double\(\)\): gives float64"),
    "an embedding": (Net(lambda m, x: m.e(x.long()), e=nn.Embedding(4, 2)), r"'long' \(\.long\(\)\): gives int64"),
    "another padding": (nn.Sequential(nn.ConstantPad2d(1, 3.0)), "pads with 3.0: pad with zeros"),
    "writing": (Net(lambda m, x: written(x)), r"'mul\[\.\.\.\] = ' writes into a value: build it with torch.cat"),
    "writing into a view": (Net(lambda m, x: written_view(x)), "in another shape"),
    "dropping always": (Net(lambda m, x: F.dropout(x, 0.5)), r"write F\.dropout\(x, p, self.training\)"),
    "a hook": (hooked(), "'0' computes something else.*remove hooks"),
    "too many dimensions": (Net(lambda m, x: x.reshape(-1, 2, 4, 3, 2)), r"\(2, 4, 3, 2\): three dimensions"),
    "a resize that is too large": (
        nn.Sequential(nn.Upsample((300, 300), mode="bicubic")), "weighs 24 places for each of 90000: that many weights"
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The use of `x.T`")
@pytest.mark.filterwarnings("ignore:LSTM with projections")
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
