"""Surgery: what is replaced, by what, and every way in which a replacement can be wrong."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flowlab.errors import GraphError, OptionError
from flowlab.quant.lite import (
    ACTIVATIONS,
    MOST_KERNEL,
    MOST_POOL,
    default_replacements,
    lite,
    small_kernels,
    small_pools,
    split_kernel,
    split_padding,
)
from flowlab.quant.squeeze_excite import SqueezeExcite
from flowlab.quant.surgery import operate

X = torch.linspace(-1, 1, 2 * 4 * 16).reshape(2, 4, 16, 1)


class Squeeze(nn.Module):
    """Squeeze-and-excite as the papers' code has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(channels, 2), nn.ReLU(), nn.Linear(2, channels), nn.Sigmoid())

    def forward(self, x):
        b, c, _, _ = x.size()
        y = self.fc(self.pool(x).view(b, c)).view(b, c, 1, 1)
        return x * y.expand_as(x)


class Inline(nn.Module):
    """The same with convolutions, written into the parent's forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 1)
        self.reduce, self.expand = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x):
        x = F.gelu(self.first(x))
        gate = torch.sigmoid(self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True)))))
        return torch.mul(gate, x)


def network() -> nn.Module:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(4, 4, (3, 1), padding=(1, 0)), nn.BatchNorm2d(4), nn.GELU())
    return nn.Sequential(block, Squeeze(4), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def kinds(module: nn.Module) -> set[type]:
    return {type(one) for one in module.modules()}


def test_defaults_leave_relu_and_no_squeeze_and_excite_and_the_callers_model_as_it_was() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    done = lite(model)
    assert not kinds(done.module) & {nn.GELU, nn.Hardswish, nn.Sigmoid, Squeeze}
    assert {nn.GELU, nn.Hardswish, nn.Sigmoid, Squeeze} <= kinds(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert sorted(str(one) for one in done.replaced) == [
        "0.2: GELU(approximate='none') -> ReLU()",
        "1.fc: squeeze and excite -> removed",
        "2: Hardswish() -> ReLU()",
    ]
    assert done.module.training
    assert done.module(X).shape == (2, 3)
    kept = dict(done.module.named_parameters())
    assert torch.equal(kept["0.0.weight"], model[0][0].weight)
    assert kept["0.0.weight"] is not model[0][0].weight


def test_squeeze_and_excite_and_activations_are_found_in_a_forward_too() -> None:
    torch.manual_seed(0)
    model = Inline().eval()
    done = lite(model)
    assert torch.equal(done.module(X), F.relu(model.first(X)))
    assert not done.module.training
    assert {name.partition(".")[0] for name, _ in done.module.named_parameters()} == {"first"}


def test_a_product_that_is_no_gate_of_its_own_average_stays() -> None:
    class Other(nn.Module):
        def forward(self, x):
            y = torch.relu(x)
            return x * torch.sigmoid(y.mean((2, 3), keepdim=True)), x * torch.sigmoid(x), x * x.mean((2, 3), True)

    done = operate(Other(), {SqueezeExcite: nn.Identity}, may_be_absent=[SqueezeExcite])
    assert done.replaced == ()
    assert all(torch.equal(a, b) for a, b in zip(done.module(X), Other()(X), strict=True))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda kind: kind.__name__)
def test_every_activation_that_is_no_clip_becomes_relu(activation) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), activation())
    assert isinstance(lite(model).module[1], nn.ReLU)


@pytest.mark.parametrize("stays", [nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Sigmoid, nn.Tanh], ids=lambda kind: kind.__name__)
def test_clips_and_gates_stay(stays) -> None:
    assert lite(nn.Sequential(nn.Conv2d(4, 4, 1), stays())).replaced == ()


@pytest.mark.parametrize("kernel", [(9, 9), (3, 9), (8, 8), (1, 15), (11, 3), (12, 10)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (2, 3)])
@pytest.mark.parametrize("padding", [(0, 0), (4, 4), (2, 1), "half"])
def test_a_stack_of_small_kernels_sees_what_the_large_one_saw(kernel, stride, padding) -> None:
    if padding == "half":
        padding = (kernel[0] // 2, kernel[1] // 2)
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, kernel, stride, padding, groups=2)
    stack = small_kernels(layer)
    convolutions = [one for one in stack if isinstance(one, nn.Conv2d)]
    assert len(convolutions) > 1
    assert all(max(one.kernel_size) <= MOST_KERNEL for one in convolutions)
    assert [sum(one.kernel_size[side] - 1 for one in convolutions) + 1 for side in (0, 1)] == list(kernel)
    x = torch.randn(1, 2, 20, 23, requires_grad=True)
    out = stack.eval()(x)
    assert out.shape == layer(x).shape
    for one in convolutions:  # with positive weights every input that can count does
        one.weight.data.fill_(1.0)
    x.data.fill_(1.0)
    middle = (out.shape[2] // 2, out.shape[3] // 2)
    (seen,) = torch.autograd.grad(stack(x)[0, 0, middle[0], middle[1]], x)
    layer.weight.data.fill_(1.0)
    (wanted,) = torch.autograd.grad(layer(x)[0, 0, middle[0], middle[1]], x)
    assert torch.equal(seen != 0, wanted != 0)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, (101, 1)), nn.Conv2d(4, 4, (7, 7)), nn.Conv2d(1, 4, (3, 8)),
        nn.Conv2d(4, 4, (9, 9), dilation=2),
    ],
    ids=str,
)  # fmt: skip
def test_a_kernel_that_is_small_enough_stays(layer) -> None:
    assert small_kernels(layer) is layer


def test_kernels_and_paddings_are_split_without_a_rest() -> None:
    for size in range(1, 40):
        for count in range(1, 8):
            assert sum(part - 1 for part in split_kernel(size, count)) == size - 1
            assert sum(split_padding(size, split_kernel(size, count))) == size


@pytest.mark.parametrize("kernel", [(8, 8), (6, 9), (5, 5), (7, 12)])
@pytest.mark.parametrize("stride", [None, (1, 1), (2, 3)])
@pytest.mark.parametrize("padding", [(0, 0), (2, 1)])
def test_a_stack_of_small_pools_is_the_same_maximum(kernel, stride, padding) -> None:
    torch.manual_seed(0)
    layer = nn.MaxPool2d(kernel, stride, padding)
    stack = small_pools(layer)
    assert all(min(one.kernel_size) <= MOST_POOL for one in stack)
    x = torch.randn(3, 4, 25, 31) - 2
    assert torch.equal(stack(x), layer(x))


def test_a_pool_with_one_small_side_stays() -> None:
    layer = nn.MaxPool2d((4, 9))
    assert small_pools(layer) is layer


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d((3, 1), (2, 1)), nn.AvgPool2d((3, 1), (2, 1), (1, 0)),
        nn.AvgPool2d((3, 1), (3, 1), ceil_mode=True),
        nn.AdaptiveAvgPool2d((4, 1)), nn.AdaptiveAvgPool2d((6, 1)),
    ],
    ids=str,
)  # fmt: skip
def test_averages_over_parts_become_depthwise_convolutions_where_the_shape_is_known(pool) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), pool)
    done = lite(model, example=X)
    assert done.module[1].groups == 4
    assert done.module(X).shape == model(X).shape
    even = not getattr(pool, "ceil_mode", False) and getattr(pool, "output_size", None) != (6, 1)
    assert torch.allclose(done.module(X), model(X), atol=1e-6) == even
    assert lite(model).replaced == ()


def test_the_global_average_stays() -> None:
    model = nn.Sequential(nn.AvgPool2d((16, 1)), nn.AdaptiveAvgPool2d(1))
    assert lite(model, example=X).replaced == ()


def test_a_name_wins_over_a_pattern_and_a_pattern_over_a_class() -> None:
    model = nn.Sequential(nn.GELU(), nn.GELU(), nn.Sequential(nn.GELU()))
    done = operate(model, {nn.GELU: nn.ReLU, "2.*": nn.Tanh, "1": nn.ReLU6}).module
    assert [type(done[0]), type(done[1]), type(done[2][0])] == [nn.ReLU, nn.ReLU6, nn.Tanh]


def test_an_instance_is_copied_to_each_place_and_a_function_gets_the_module() -> None:
    mine = nn.PReLU()
    model = nn.Sequential(nn.GELU(), nn.Conv2d(4, 4, 1), nn.GELU(), nn.Conv2d(4, 6, 1))
    done = operate(
        model, {nn.GELU: mine, "3": lambda old: nn.Conv2d(old.in_channels, old.out_channels, (3, 1), padding=(1, 0))}
    ).module
    assert len({id(mine), id(done[0]), id(done[2])}) == 3
    assert done[3].kernel_size == (3, 1)
    assert done(X).shape == (2, 6, 16, 1)


def test_a_module_at_two_places_stays_one() -> None:
    act = nn.GELU()
    done = operate(nn.Sequential(nn.Conv2d(4, 4, 1), act, nn.Conv2d(4, 4, 1), act), {nn.GELU: nn.PReLU}).module
    assert done[1] is done[3]
    assert isinstance(done[1], nn.PReLU)


def test_the_network_itself_can_be_replaced() -> None:
    assert isinstance(lite(nn.GELU()).module, nn.ReLU)


def test_a_replacement_has_the_mode_and_the_dtype_of_what_it_replaces() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1)).double().eval()
    done = operate(model, {"0": nn.Conv2d(4, 4, 1)}).module
    assert done[0].weight.dtype == torch.float64
    assert not done[0].training


def named(value: object) -> str:
    """An id without an address in it: workers that run in parallel must collect equal tests."""
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("0.7", "replacement of '0.7': no module has this name. Did you mean '0.2'? Known: 0, 0.0, 0.1, 0.2, 1"),
        ("features.*", "replacement of 'features.*': no module has this name"),
        (nn.Tanh, "replacement of Tanh: the network has none. Known: AdaptiveAvgPool2d, BatchNorm2d"),
        (nn.modules.batchnorm._BatchNorm, "Classes below it count by themselves: BatchNorm2d"),
        (F.glu, "replacement of glu: forward does not call it"),
        (7, "replacement of 7: a key is a module's class"),
    ],
    ids=named,
)
def test_a_key_that_matches_nothing_is_an_error(key, text) -> None:
    with pytest.raises(OptionError, match=re.escape(text)):
        operate(network(), {key: nn.ReLU})
    with pytest.raises(OptionError, match=re.escape(text)):
        lite(network(), {**default_replacements(), key: nn.ReLU})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (nn.Conv2d, "'0.2' (GELU): Conv2d fails with TypeError"),
        (lambda old: None, "'0.2' (GELU): <lambda> gives None, which is no module"),
        (lambda old: 1 / 0, "'0.2' (GELU): <lambda> fails with ZeroDivisionError"),
        ("relu", "replacement of GELU by 'relu': a value is"),
    ],
    ids=named,
)
def test_a_value_that_gives_no_module_is_an_error(value, text) -> None:
    with pytest.raises(OptionError, match=re.escape(text)):
        operate(network(), {nn.GELU: value})


WRONG = [
    (nn.Conv2d(4, 8, 1), "'0.2': Conv2d(4, 8, kernel_size=(1, 1), stride=(1, 1)) in the place of GELU"),
    (nn.Conv2d(5, 4, 1), "does not take an input of shape (2, 4, 16, 1)"),
    (nn.MaxPool2d((2, 1)), "gives shape (2, 4, 8, 1) for an input of shape (2, 4, 16, 1), and (2, 4, 16, 1) is needed"),
]


@pytest.mark.parametrize(("value", "text"), WRONG, ids=str)
def test_a_replacement_of_another_shape_is_an_error_with_an_example(value, text) -> None:
    with pytest.raises(OptionError, match=re.escape(text)):
        operate(network(), {nn.GELU: value}, example=X)


@pytest.mark.parametrize(("value", "text"), [WRONG[2]], ids=str)
def test_a_replacement_of_another_shape_is_an_error_at_the_first_forward_without_one(value, text) -> None:
    done = pickle.loads(pickle.dumps(operate(network(), {nn.GELU: value}).module))
    with pytest.raises(OptionError, match=re.escape(text)):
        copy.deepcopy(done)(X)


def test_a_replacement_that_fits_is_tried_once() -> None:
    done = operate(network(), {nn.GELU: nn.ReLU}).module
    assert len(done[0][2]._forward_hooks) == 1
    done(X)
    assert len(done[0][2]._forward_hooks) == 0


def test_an_example_that_does_not_go_through_is_said() -> None:
    with pytest.raises(OptionError, match=re.escape("the example of shape (1, 3, 16, 1) does not go through")):
        lite(network(), example=torch.zeros(1, 3, 16, 1))


def test_a_forward_that_cannot_be_traced_keeps_its_functions_and_says_so_where_one_is_asked_for() -> None:
    class Branchy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.GELU()

        def forward(self, x):
            return self.act(x) if x.sum() > 0 else F.glu(x)

    assert isinstance(lite(Branchy()).module.act, nn.ReLU)
    with pytest.raises(GraphError, match=r"Branchy\.forward cannot be traced"):
        operate(Branchy(), {F.glu: nn.Identity})


def test_after_surgery_a_network_can_be_copied_pickled_and_loaded() -> None:
    done = lite(network()).module.eval()
    again = pickle.loads(pickle.dumps(copy.deepcopy(done)))
    again.load_state_dict(done.state_dict())
    assert torch.equal(again(X), done(X))


class Drops(nn.Module):
    """Dropout by a function that asks for the mode, beside a function that is replaced."""

    def __init__(self, branch: bool = False) -> None:
        super().__init__()
        self.conv, self.fc, self.branch = nn.Conv2d(4, 4, 1), nn.Linear(4, 3), branch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.gelu(self.conv(x)).mean((2, 3))
        if self.branch and self.training:
            y = y + 1
        return self.fc(nn.functional.dropout(y, 0.5, self.training))


@pytest.mark.parametrize("training", [True, False])
def test_dropout_by_a_function_follows_the_mode(training: bool) -> None:
    module = lite(Drops().train(training)).module
    assert module.training == training
    assert torch.equal(module.eval()(X), module(X))
    module.train()
    assert not torch.equal(module(X), module(X))


def test_a_forward_that_goes_another_way_in_training_keeps_its_functions_and_is_said() -> None:
    with pytest.warns(UserWarning, match="takes another way in training.*functions in it stay"):
        assert lite(Drops(branch=True)).replaced == ()


@pytest.mark.parametrize(
    ("model", "replacements", "example"), [(None, None, None), (nn.GELU(), [1], None), (nn.GELU(), None, 3)]
)
def test_what_is_no_network_no_dictionary_and_no_tensor_is_said(model, replacements, example) -> None:
    with pytest.raises(OptionError, match="is expected"):
        lite(model, replacements, example=example)


def test_a_pattern_of_everything_replaces_parts_and_not_the_network() -> None:
    model = nn.Sequential(nn.GELU(), nn.GELU())
    assert [str(one).partition(":")[0] for one in operate(model, {"*": nn.ReLU}).replaced] == ["0", "1"]
