"""A private copy of a module, what was fed to it, and the integer network around its parameters: a wrapper's state.

It goes into a state dict as plain values and tensors, and into copies and pickles: the network is then built again.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowlab.contracts import NumberFormat
from flowlab.errors import FlowlabError, OptionError, QuantizationError
from flowlab.quant.average import Average, Writes
from flowlab.quant.border import Border
from flowlab.quant.calibrate import Scales, calibrate
from flowlab.quant.epochs import Epochs, Recurrence
from flowlab.quant.fake_network import FakeQuantized
from flowlab.quant.fold import fold
from flowlab.quant.integer_network import check_finite, checked
from flowlab.quant.lessons import Lesson, Lessons
from flowlab.quant.mixed import Budget, choose_bits
from flowlab.quant.qconfig import Bits
from flowlab.quant.recipe import FULL_BITS, recipe_of
from flowlab.quant.reservoir import Reservoir
from flowlab.quant.scales_state import from_plain, to_plain
from flowlab.quant.shared_parameters import (
    Trace,
    freeze_others,
    share_statistics,
    shared_parameters,
    untrained,
)
from flowlab.quant.steps import Steps
from flowlab.quant.teacher import Teacher

FEWEST = 64  # windows that choose the first scales in training, or measure a norm anew
SETTLED = 2.0  # times as large or small, a value's scale follows its range; less costs more than it gives
REPARAMETERS = ("torch.nn.utils.prune", "torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm")

logger = logging.getLogger("flowlab.quant")


class Wrapped(nn.Module):
    """What `flowlab.quant.wrapper.Wrapper` keeps; a subclass names its number format and tracer.

    ``module`` is the copy whose parameters are trained; ``network`` the integers around them, None before the first
    scales; ``border`` the shapes, None before the first batch; ``reservoir`` what scales are chosen from.
    """

    trains: ClassVar[bool]
    format: ClassVar[NumberFormat]

    def __init__(
        self,
        model: nn.Module,
        bits: Bits,
        epochs: Epochs,
        reservoir: Reservoir,
        *,
        verbose: bool,
        float_ops: bool,
    ) -> None:
        """``model`` is copied, and not changed."""
        super().__init__()
        self.float_ops = float_ops
        self.bits, self.epochs, self.reservoir, self.verbose = bits, epochs, reservoir, verbose
        self.module = own_copy(model)
        self._hold(None)
        self.border: Border | None = None
        self.average = Average()
        self.averaged_at = (0, 0)  # epochs and steps that were done when it was last added to
        self.bits_of: dict[str, int] = {}
        self.norm_modules: dict[str, str] = {}
        self.norms_frozen = False
        self.scales_frozen = False
        self.begun = False  # a batch came in training mode
        self.recurrence = Recurrence()
        self.untouched = self._digest()
        self.copied, self.versions = False, self._versions()
        self.writes = Writes(self.versions)
        self.origin: weakref.ref[Wrapped] | None = None  # what a copy was made of
        self.register_load_state_dict_pre_hook(_loading)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_loaded)  # type: ignore[no-untyped-call]

    @property
    def network(self) -> FakeQuantized | None:
        """The integers around the module's parameters, None before the first scales.

        It is no submodule: what it has of its own follows from the module and the scales, so averages over copies,
        which go through parameters and buffers, find the module's alone.
        """
        found: FakeQuantized | None = self.__dict__["_held"]
        return found

    def _hold(self, network: FakeQuantized | None) -> None:
        self.__dict__.update(_held=network, _held_average=None, _held_state=None)

    @property
    def _averaged(self) -> FakeQuantized | None:
        """The integers of the average, None before they are asked for; no submodule either."""
        found: FakeQuantized | None = self.__dict__["_held_average"]
        return found

    def _hold_average(self, average: Average) -> None:
        """Take another average, whose integers are made when they are asked for."""
        self.average = average
        self.__dict__.update(_held_average=None, _held_state=None)

    def _begin_average(self) -> None:
        """The weights are none that training left: they ship as they are, and an average begins anew behind them."""
        self._hold_average(Average())
        self.averaged_at = self.epochs.done, self.epochs.steps

    def _hold_teacher(self, share: float | None) -> None:
        """Keep the float network as it came, where it is learned from: no submodule either, and never trained."""
        recipe = recipe_of((self._narrowest,))
        if share is None:
            share = recipe.distillation if self._narrowest < FULL_BITS else 0.0
        self.lessons = Lessons(share if self.trains else 0.0, recipe.temperature)
        self.__dict__["_teacher"] = None
        self.__dict__["_taught_by"] = copy.deepcopy(self.module).eval() if self.lessons.share else None

    def _taught(self, x: Tensor, outputs: Tensor) -> Tensor:
        """The outputs, which go back with the float network's share in their gradient."""
        module = self._taught_by
        if module is None or not outputs.requires_grad or outputs.ndim != 2 or outputs.shape[1] < 2:
            return outputs
        assert self.border is not None
        if self.teacher is None:
            self.__dict__["_teacher"] = Teacher(type(self).trace(module, self.border.input).graph)
        assert self.teacher is not None
        taught = self.teacher(self.border.inside(x))
        found = Lesson.apply(outputs, taught.reshape(outputs.shape), self.lessons)  # type: ignore[no-untyped-call]
        assert isinstance(found, Tensor)
        return found

    @property
    def _taught_by(self) -> nn.Module | None:
        found: nn.Module | None = self.__dict__["_taught_by"]
        return found

    @property
    def teacher(self) -> Teacher | None:
        """The float network's real values, None before it is asked."""
        found: Teacher | None = self.__dict__["_teacher"]
        return found

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation, of the module and of the integers."""
        super().train(mode)
        if self.network is not None:
            self.network.train(mode)
        return self

    @staticmethod
    def trace(module: nn.Module, shape: tuple[int, ...]) -> Trace:
        """The module's float graph for an input of this shape, without the batch."""
        raise NotImplementedError

    # --- what is fed -------------------------------------------------------------------------------

    def _learn_shape(self, x: Tensor) -> None:
        """Trace the module for the shape of a first batch, and refuse what has no integer form."""
        if not isinstance(x, Tensor) or x.ndim < 2:
            raise QuantizationError(f"the input is {_kind(x)}; a tensor (batch, ...) is expected")
        shape = tuple(x.shape[1:])
        with exactly():
            self._learn(shape)

    def _learn(self, shape: tuple[int, ...]) -> None:
        traced = type(self).trace(self.module, shape)
        fold(traced.graph)
        endings = self._endings(traced)
        for said in traced.warnings:
            kept = "; in training mode they end in it as before, so that the loss stays what it was" * self.trains
            warnings.warn(said + kept, stacklevel=7)
        trial = copy.deepcopy(self.module).eval()
        with torch.no_grad():
            found = trial(torch.zeros(2, *shape))
        if isinstance(found, Mapping):
            parts = [found[key] for key in traced.graph.outputs]
        else:
            parts = list(found) if isinstance(found, tuple | list) else [found]
        shapes = {name: tuple(part.shape[1:]) for name, part in zip(traced.graph.outputs, parts, strict=True)}
        self.border = Border(shape, traced.graph.inputs[0].type.shape, shapes, traced.structure, endings)

    def _endings(self, traced: Trace) -> dict[str, tuple[str, int]]:
        for name, ending in traced.endings.items():
            if ending is None and self.trains:
                raise QuantizationError(
                    f"'{name}' ends in a softmax with something behind it that moves numbers, so training cannot put "
                    "it back. Let the softmax be the last, or leave it to the loss"
                )
        return {name: ending for name, ending in traced.endings.items() if ending is not None}

    def _checked(self, x: Tensor, more: tuple[Any, ...]) -> Tensor:
        if more:
            raise QuantizationError(f"{len(more) + 1} inputs were given; a network with one input can be quantized")
        if self.border is None:
            self._learn_shape(x)
        assert self.border is not None
        x = checked(x, self.border.input)
        if len(x) == 0:
            raise QuantizationError("the batch is empty")
        return x

    def _observe(self, x: Tensor) -> None:
        check_finite(x)
        with exactly():
            self.reservoir.add(x)

    def _windows(self) -> NDArray[np.float32]:
        """The kept windows as the graph takes them."""
        assert self.border is not None
        assert self.reservoir.kept is not None
        return np.array(self.border.inside(self.reservoir.kept).numpy())

    # --- the network -------------------------------------------------------------------------------

    @property
    def _weight_bits(self) -> int:
        return min(self.bits_of.values()) if self.bits_of else self.bits.weight

    @property
    def _goes_on(self) -> bool:
        """Whether the integers learn, once their bits are chosen."""
        return self.trains

    @property
    def _narrowest(self) -> int:
        """Bits, as they are asked for."""
        return min(self._weight_bits, self.bits.weight, self.bits.activation)

    def _traced(self) -> Trace:
        assert self.border is not None
        return type(self).trace(self.module, self.border.input)

    def _calibrate(self, *, anew: bool = False) -> None:
        """Choose scales from the kept windows and the weights as they are now, and put the integers to work.

        ``anew``: also where no scale has moved far.
        """
        with exactly():
            self._choose(anew)
        self.versions = self._versions()

    def _choose(self, anew: bool) -> None:
        first = self.network is None
        traced = self._traced()
        steps = fold(traced.graph)
        windows = self._windows()
        if first and self.bits.mixed:
            budget = self.bits.budget or Budget(mean_bits=float(self.bits.weight))
            found = choose_bits(
                steps,
                windows,
                self.format,
                budget,
                activation_bits=self.bits.activation,
                tuned=self._goes_on,
                seed=self.reservoir.seed,
            )
            self.bits_of = found.bits_of
            warnings.warn(found.sentence(), stacklevel=6)
        scales = calibrate(
            steps, windows, self.format, self._weight_bits, self.bits.activation, bits_of=self.bits_of or None
        )
        if not anew and not first and self.reservoir.seen >= self.reservoir.count and not _moved(self.network, scales):
            return
        self._build(traced, steps, scales)
        if first:
            self._say(f"scales chosen from {len(windows)} windows, weights of {self.bits.weight} bits")

    def _build(self, traced: Trace, steps: Steps, scales: Scales) -> None:
        first = self.network is None
        network = self._around(self.module, traced, steps, scales)
        freeze_others(network, self.module)
        if first and self.trains and self.begun and (names := untrained(network, self.module, steps, traced)):
            warnings.warn(
                f"{', '.join(names)}: not trained further: the integers of these layers are made of what they are now",
                stacklevel=6,
            )
        self.norm_modules = dict(traced.modules)
        share_statistics(network, self.module, self.norm_modules)
        self._hold(network.train(self.training))

    def _around(self, module: nn.Module, traced: Trace, steps: Steps, scales: Scales) -> FakeQuantized:
        return FakeQuantized(
            steps,
            scales,
            self.format,
            self._weight_bits,
            bits_of=self.bits_of or None,
            live=0.0 if self.norms_frozen else 1.0,
            parameters=shared_parameters(module, traced),
            views=traced.views,
            float_bias=self.float_ops,
        )

    def _shipping(self) -> FakeQuantized:
        """The integers that ship: those of the average where there is one, else of the weights as they are."""
        assert self.network is not None
        if not self.average.count:
            return self.network
        if self._averaged is None:
            with exactly():
                self.__dict__["_held_average"] = self._of_average(self.network)
        assert self._averaged is not None
        return self._averaged

    def _of_average(self, network: FakeQuantized) -> FakeQuantized:
        """A network of its own, with the scales of the trained one and norms measured on the kept windows."""
        assert self.border is not None
        module = copy.deepcopy(self.module).eval()
        self.average.write(module)
        traced = type(self).trace(module, self.border.input)
        found = self._around(module, traced, fold(traced.graph), network.scales)
        share_statistics(found, module, self.norm_modules)
        self._put_chosen(found, self._chosen())
        if self.__dict__["_held_state"] is not None:  # measured before this wrapper was saved
            found.load_state_dict(self.__dict__["_held_state"])
        elif len(self.reservoir) >= FEWEST:
            found.measure_norms(torch.from_numpy(self._windows()))
        found.finish()
        return found.requires_grad_(False).eval()

    @staticmethod
    def _put_chosen(network: FakeQuantized, chosen: Mapping[str, Tensor]) -> None:
        buffers = dict(network.named_buffers())
        for name, value in chosen.items():
            if buffers[name].shape != value.shape:
                raise QuantizationError(f"'{name}' has {value.numel()} numbers, not {buffers[name].numel()}")
            buffers[name].copy_(value)

    def _versions(self) -> int:
        """How often the parameters were written to, to tell whether somebody did since the last scales."""
        return sum(value._version for value in self.module.parameters())

    def _follow(self) -> None:
        """A copy whose weights somebody else writes (an average over a training) takes the scales of what it copied.

        As they are now, since training fits weights to them; where that wrapper is gone, scales are chosen again.
        """
        if not self.copied or self._versions() == self.versions:
            return
        origin = None if self.origin is None else self.origin()
        if origin is not None and origin.network is not None:
            self.set_extra_state(origin.get_extra_state())
            self._begin_average()
        elif self.network is not None and len(self.reservoir):
            self._begin_average()
            self._calibrate(anew=True)
        self.versions = self._versions()
        self.writes.seen(self.versions)

    # --- state ---------------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """What a state dict carries besides tensors: plain values, which torch loads without code."""
        epochs = self.epochs
        return {
            "bits": (self.bits.weight, self.bits.activation, self.bits.mixed),
            "float_ops": self.float_ops,
            "bits_of": dict(self.bits_of),
            "epochs": (epochs.total, epochs.done, epochs.steps, epochs.in_epoch, epochs.told),
            "told_by": (epochs.per_epoch, epochs.followed),
            "frozen": (self.norms_frozen, self.scales_frozen, self.begun),
            "seen": self.reservoir.seen,
            "kept": None if self.reservoir.kept is None else self.reservoir.kept.clone(),
            "shape": None if self.border is None else tuple(self.border.input),
            "scales": None if self.network is None else to_plain(self.network.scales),
            "chosen": self._chosen(),
            "average": {name: _plain(value) for name, value in vars(self.average).items()},
            "averaged": (self.averaged_at, self._averaged_state()),
            "untouched": list(self.untouched),
            "taught_by": None if self._taught_by is None else dict(self._taught_by.state_dict()),
            "lessons": (self.lessons.taught_right, self.lessons.said_right, self.lessons.batches),
        }

    def _chosen(self) -> dict[str, Tensor]:
        """What the network keeps besides the module's parameters and statistics: scales as its layers use them."""
        buffers = {} if self.network is None else dict(self.network.named_buffers())
        theirs = {id(value) for value in self.module.buffers()}
        return {name: value.clone() for name, value in buffers.items() if id(value) not in theirs}

    def _averaged_state(self) -> dict[str, Tensor] | None:
        """Of the average's integers, where they have been made, so that another machine finds the very same."""
        if self._averaged is None:
            found: dict[str, Tensor] | None = self.__dict__["_held_state"]
            return found
        return {name: value.clone() for name, value in self._averaged.state_dict().items()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take it up again; the network is built anew around the same parameters.

        Raises:
            QuantizationError: where the state is that of other bit widths, of other biases, or of another network; the
                wrapper is then as it was.
        """
        bits = (self.bits.weight, self.bits.activation, self.bits.mixed)
        if tuple(state["bits"]) != bits:
            raise QuantizationError(
                f"the state has weights and activations of {state['bits'][0]} and {state['bits'][1]} bits, and this "
                f"wrapper {bits[0]} and {bits[1]}: give it the same qconfig_type"
            )
        if bool(state["float_ops"]) != self.float_ops:
            raise QuantizationError(f"the state has float_ops={state['float_ops']}: give this wrapper the same")
        before = dict(self.__dict__)
        try:
            with exactly(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said when the shape was learned
                self._take_up(state)
        except (FlowlabError, KeyError, RuntimeError, ValueError, IndexError) as error:
            self.__dict__.update(before)
            raise QuantizationError(
                f"the state is that of another network, and nothing of it was taken: {str(error).splitlines()[0]}"
            ) from error

    def _take_up(self, state: dict[str, Any]) -> None:
        self.bits_of = {str(name): int(value) for name, value in state["bits_of"].items()}
        total, done, steps, in_epoch, told = state["epochs"]
        per_epoch, followed = state["told_by"]
        self.epochs = replace(
            self.epochs, total=total, done=done, steps=steps, in_epoch=in_epoch, told=told, followed=followed,
            per_epoch=self.epochs.per_epoch or per_epoch,
        )  # fmt: skip
        self.recurrence = Recurrence()
        self.norms_frozen, self.scales_frozen, self.begun = state["frozen"]
        self.reservoir = Reservoir(self.reservoir.count, self.reservoir.seed)
        self.reservoir.seen = state["seen"]
        self.reservoir.kept = None if state["kept"] is None else state["kept"].clone()
        self.untouched = list(state["untouched"])
        if self._taught_by is not None and state["taught_by"] is not None:
            teacher = copy.deepcopy(self._taught_by)
            teacher.load_state_dict(state["taught_by"])
            self.__dict__.update(_taught_by=teacher, _teacher=None)
            right = dict(zip(("taught_right", "said_right", "batches"), state["lessons"], strict=True))
            self.lessons = replace(self.lessons, **right)
        self._hold(None)
        if state["shape"] is not None and (self.border is None or self.border.input != tuple(state["shape"])):
            self._learn_shape(torch.zeros(1, *state["shape"]))
        if state["scales"] is not None:
            traced = self._traced()
            folded = fold(traced.graph)
            begun, self.begun = self.begun, False  # what is not trained was said before
            self._build(traced, folded, from_plain(state["scales"], folded))
            self.begun = begun
            assert self.network is not None
            self._put_chosen(self.network, state["chosen"])
        self._hold_average(Average(**{name: _plain(value) for name, value in state["average"].items()}))
        self.averaged_at, self.__dict__["_held_state"] = state["averaged"]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A wrapper of its own, also where evaluation keeps no gradients."""
        with torch.inference_mode(False):
            other = type(self).__new__(type(self))
            memo[id(self)] = other
            other.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        other.origin = weakref.ref(self)
        return other

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: the network by its state, since it reads the module through functions."""
        saved = None if self.network is None else (self.get_extra_state(), dict(self.network.state_dict()))
        held = dict.fromkeys(("_held", "_held_average", "_held_state", "_teacher", "origin"))
        return {**self.__dict__, **held, "saved": saved}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the network again."""
        saved = state.pop("saved")
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.copied = True
        if saved is not None:
            self.set_extra_state(saved[0])
            assert self.network is not None
            with torch.inference_mode(False):
                self.network.load_state_dict(saved[1])
        self.versions = self._versions()
        self.writes.seen(self.versions)

    def _digest(self) -> list[str]:
        """What the weights are, to tell whether anything was trained."""
        return [
            hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest()
            for value in self.module.parameters()
        ]

    def _say(self, what: str) -> None:
        if self.verbose:
            logger.info(what)


@contextmanager
def exactly() -> Iterator[None]:
    """What is made stays fit for training, and what is computed is float32, wherever a script calls from."""
    with torch.inference_mode(False), torch.autocast("cpu", enabled=False):
        yield


def own_copy(model: nn.Module) -> nn.Module:
    """A copy that owns all of its parameters.

    Raises:
        OptionError: for a module that cannot be copied, or whose shapes are not known yet; it says what to do.
    """
    for name, value in model.named_parameters():
        if isinstance(value, nn.parameter.UninitializedParameter):
            raise OptionError(f"'{name}' has no shape yet: run one batch through the model before it is wrapped")
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and not value.is_leaf:
                where = f"{name}.{key}".lstrip(".")
                raise OptionError(
                    f"'{where}' is computed from other parameters (pruning, weight norm), which no copy can be. Make "
                    "it permanent: torch.nn.utils.prune.remove, torch.nn.utils.remove_weight_norm"
                )
        hooks = [*module._forward_pre_hooks.values()]
        if any(type(hook).__module__ in REPARAMETERS for hook in hooks):
            raise OptionError(
                f"'{name}' is pruned, or has a weight norm of the old kind, which writes its weight at every forward. "
                "Make it permanent: torch.nn.utils.prune.remove, torch.nn.utils.remove_weight_norm"
            )
    return copy.deepcopy(model)


def _loading(module: nn.Module, state: Mapping[str, Any], prefix: str, *more: object) -> None:
    """Before ``load_state_dict``: weights that come alone are none that training left."""
    assert isinstance(module, Wrapped)
    if f"{prefix}_extra_state" not in state:
        module._begin_average()


def _loaded(module: nn.Module, keys: object) -> None:
    """Behind ``load_state_dict``: scales came with the weights."""
    assert isinstance(module, Wrapped)
    module.versions = module._versions()
    module.writes.seen(module.versions)


def _plain(value: Any) -> Any:
    """A number as it is, numbers by name in another dict; tensors among them are never written to."""
    return dict(value) if isinstance(value, Mapping) else value


def show_log() -> None:
    """Let what the logger says be seen where nobody configured logging: ``verbose`` of a plain script asks for it."""
    if not logger.isEnabledFor(logging.INFO):
        logger.setLevel(logging.INFO)
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        logger.addHandler(handler)


def _moved(network: FakeQuantized | None, scales: Scales) -> bool:
    """Whether a value's scale is another one by `SETTLED`."""
    before = {} if network is None else network.scales.scale
    if before.keys() != scales.scale.keys():
        return True
    return any(max(scale / before[name], before[name] / scale) >= SETTLED for name, scale in scales.scale.items())


def _kind(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
