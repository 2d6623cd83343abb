"""Quantization around a user's own training script: wrap a module, run one's own loop, convert, export.

The wrapper holds a private copy of the module, and the copy's own parameters are what is trained: an optimizer that is
made of the wrapper trains the right ones from the first step on. Shapes are learned from the first batch; the scales
are chosen from a seeded sample of what was fed (`flowlab.quant.reservoir`), and then every forward is the very
arithmetic that ships (`flowlab.quant.fake_network`).
"""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowlab.contracts import Quantized, QuantizeJob
from flowlab.errors import OptionError, QuantizationError
from flowlab.quant.bias_correction import correct_biases
from flowlab.quant.epochs import Epochs, norm_epochs, observer_epochs, whole
from flowlab.quant.fake_network import FakeQuantized
from flowlab.quant.fidelity import RIGHT_ERROR, differences, errors, first_bad_layer
from flowlab.quant.integer_network import IntegerNetwork
from flowlab.quant.qconfig import parse
from flowlab.quant.recipe import FULL_BITS
from flowlab.quant.reservoir import Reservoir
from flowlab.quant.wrapped import Wrapped, exactly, show_log

CALIBRATION_COUNT = 512  # windows that are kept
FLOAT_OPS = (
    "float_ops: every convolution and linear layer gets a float bias, and runs on the CPU for that reason: "
    "clip(floor(float32(sum) * ratio + bias)), product and sum rounded in float32 one after the other. None of their "
    "multiplications counts as the NPU's"
)


class Wrapper(Wrapped):
    """What both kinds of wrapper have. A subclass names its number format, quantizer and tracer.

    Args:
        model: the float network; it is not changed, and what is trained is a copy.
        qconfig_type: None (8 bits), or ``{"weight": {"bitwidth": 4}, "activation": {"bitwidth": 8}}``
            (`flowlab.quant.qconfig`); with ``"auto_quantization": True`` the bits are a mean, chosen by layer, and a
            mapping in its place is another budget: ``{"mean_bits": 2.5}``, ``{"weight_bytes": 1200}`` or
            ``{"tolerance": 0.01}`` (`flowlab.quant.mixed.Budget`).
        example_inputs: an input with its batch; without it the first batch says the shape.
        is_qat: may be given, and says the same as the class.
        backend: a known name is accepted, and changes nothing: no global switch of torch is touched.
        total_epochs: of the training; 0 where they are not known.
        num_batch_norm_update_epochs: None freezes batch norm at the midpoint (with three epochs or less at the end),
            False at the end, a number after so many epochs.
        num_observer_update_epochs: False: scales follow until training has settled; a number: no longer than so many
            epochs.
        bias_calibration_factor: the part of each layer's mean error, 0 to 1, that its bias takes over when scales are
            first chosen.
        verbose: say what happens to the logger ``flowlab.quant``; without a handler of its own it writes to stderr.
        float_ops: leave the biases of convolutions and linear layers floats. No accelerator adds them: these layers run
            on the CPU, by the arithmetic of ``requantize_float`` (`flowlab.compiler.ops`); a warning says so.
        steps_per_epoch: batches of an epoch, for loops that never evaluate.
        calibration_count: the most windows that are kept to choose scales by.
        seed: of their choice.
        finetune: after post-training quantization the integers learn the float network's outputs on the kept windows
            (`flowlab.quant.finetune`); False: scales alone. Not where biases are calibrated.
        distillation: in training with cross entropy, the float network's share of the gradient, 0 to 1
            (`flowlab.quant.lessons`); None: what the recipe for the bits says below 8, else 0.
        average: in training, what is evaluated and ships once batch norm is frozen is an average of the weights over
            the epochs since, its norms with the statistics that the kept windows have then (`flowlab.quant.average`);
            what is trained stays as it is. False: the weights as they are; None: below 8 bits alone.

    Raises:
        OptionError: naming an argument that makes no sense.
    """

    quantizer: ClassVar[str]
    backends: ClassVar[tuple[str, ...]] = ()  # names that scripts give; none changes anything

    def __init__(  # noqa: PLR0917 - names and order are those that users' scripts have
        self,
        model: nn.Module,
        qconfig_type: Mapping[str, Any] | None = None,
        example_inputs: Tensor | None = None,
        is_qat: bool | None = None,
        backend: str | None = None,
        total_epochs: int = 0,
        num_batch_norm_update_epochs: bool | int | None = None,
        num_observer_update_epochs: bool | int | None = False,
        bias_calibration_factor: float = 0.0,
        verbose: bool = False,
        float_ops: bool = False,
        *,
        steps_per_epoch: int | None = None,
        calibration_count: int = CALIBRATION_COUNT,
        seed: int = 0,
        finetune: bool = True,
        distillation: float | None = None,
        average: bool | None = None,
    ) -> None:
        self._check_arguments(model, is_qat, backend)
        bits = parse(qconfig_type, self.format)
        if steps_per_epoch is not None:
            whole("steps_per_epoch", steps_per_epoch, 1)
        epochs = Epochs(whole("total_epochs", total_epochs), steps_per_epoch)
        reservoir = Reservoir(whole("calibration_count", calibration_count, 1), whole("seed", seed) % 2**63)
        norms_until = norm_epochs(num_batch_norm_update_epochs, total_epochs)
        observe_until = observer_epochs(num_observer_update_epochs)
        bias_factor = _fraction("bias_calibration_factor", bias_calibration_factor)
        super().__init__(model, bits, epochs, reservoir, verbose=verbose, float_ops=bool(float_ops))
        if verbose:
            show_log()
        self.finetune = bool(finetune)
        self.averages = self._narrowest < FULL_BITS if average is None else bool(average)
        if distillation is not None:
            distillation = _fraction("distillation", distillation)
        self._hold_teacher(distillation)
        self.norms_asked, self.norms_until = num_batch_norm_update_epochs, norms_until
        self.observe_until, self.bias_factor, self.seed = observe_until, bias_factor, reservoir.seed
        self.norms_frozen = self.norms_until == 0
        self.scales_frozen = self.observe_until == 0 and not self.trains
        for said in (*bits.said, *([FLOAT_OPS] if float_ops else [])):
            warnings.warn(said, stacklevel=2)
        if example_inputs is not None:
            if isinstance(example_inputs, tuple | list):
                if len(example_inputs) != 1:
                    raise OptionError(f"example_inputs: {len(example_inputs)} of them; a network takes one here")
                example_inputs = example_inputs[0]
            self._learn_shape(example_inputs)

    def _check_arguments(self, model: object, is_qat: bool | None, backend: str | None) -> None:
        name = type(self).__name__
        if isinstance(model, Wrapper | IntegerNetwork):
            raise OptionError(
                f"{name}: the model is wrapped already, by {type(model).__name__}: wrap the float network"
            )
        if not isinstance(model, nn.Module):
            raise OptionError(f"{name}: the model is {type(model).__name__}; an nn.Module is expected")
        if is_qat is not None and bool(is_qat) != self.trains:
            other = "PTQ" if self.trains else "QAT"
            raise OptionError(f"{name}: is_qat={is_qat} says the opposite of the class. Use the class of {other}")
        if backend and backend not in self.backends:
            raise OptionError(f"backend: '{backend}'. Known: {', '.join(self.backends)}; none changes anything")
        for where, value in (*model.named_parameters(), *model.named_buffers()):
            if value.device.type != "cpu":
                raise OptionError(f"{name}: '{where}' is not on the CPU, where quantization works: use model.cpu()")
            if value.is_floating_point() and value.dtype != torch.float32:
                raise OptionError(f"{name}: '{where}' is {value.dtype}; float32 is quantized: use model.float()")

    @property
    def _goes_on(self) -> bool:
        return self.trains or (self.finetune and not self.bias_factor)

    def _calibrate(self, *, anew: bool = False) -> None:
        first = self.network is None
        super()._calibrate(anew=anew)
        assert self.network is not None
        if first and self.trains and min(self._weight_bits, self.bits.activation) >= FULL_BITS:
            found = first_bad_layer(self.network, self._windows(), RIGHT_ERROR)
            self.network.train(self.training)
            if found:
                warnings.warn(f"before training: {found}", stacklevel=6)
        if first and self.bias_factor:
            correct_biases(self.network, torch.from_numpy(self._windows()), self.bias_factor)
            self.network.train(self.training)
            self.untouched = self._digest()

    def _job(self, windows: NDArray[np.float32], output_int: bool) -> QuantizeJob:
        return QuantizeJob(
            model=copy.deepcopy(self.module).eval(),
            graph=self._traced().graph,
            format=self.format,
            weight_bits=self._weight_bits,
            activation_bits=self.bits.activation,
            calibration=windows,
            fit=_no_fit,
            output_int=output_int,
            scratch=Path(tempfile.gettempdir()),
            seed=self.seed,
            progress=lambda what, done: self._say(what),
            bits_of=self.bits_of,
            finetune=self.finetune,
            float_bias=self.float_ops,
        )

    def _converted(self, output_int: bool) -> Quantized:
        raise NotImplementedError

    def convert(self, *, output_int: bool = False) -> IntegerNetwork:
        """The integer network. The wrapper stays as it is, and may be trained on and converted again.

        Args:
            output_int: leave the outputs as integers; else they end in one float32 multiplication by their scale.

        Raises:
            QuantizationError: where nothing was fed, and where training left something that is no number, or does not
                fit the machine.
        """
        if self.border is None or not len(self.reservoir):
            raise QuantizationError(
                f"{type(self).__name__}.convert(): nothing was calibrated. Run the model on windows of the training "
                "split first; an empty loader runs nothing"
            )
        with exactly():  # fine-tuning needs gradients, wherever it is asked for
            quantized = self._converted(output_int)
        for said in quantized.warnings:
            warnings.warn(said, stacklevel=2)
        return IntegerNetwork(quantized.graph, self.border)

    def export(self, example_input: Tensor, filename: str | os.PathLike[str], **options: Any) -> None:
        """Convert, and write the ONNX: see `IntegerNetwork.export`."""
        self.convert().export(example_input, filename, **options)

    def _measured(self) -> FakeQuantized:
        """A network whose whole numbers are held against its real values."""
        raise NotImplementedError

    def freeze(self, freeze_bn: bool = True, freeze_observers: bool = True) -> Self:
        """Freeze batch norm and scales now, for good."""
        if freeze_bn:
            self.norms_frozen = True
            if self.network is not None:
                self.network.finish()
        self.scales_frozen = self.scales_frozen or freeze_observers
        return self

    def measure_stats(self, float_output: Tensor | None = None, quant_output: Tensor | None = None) -> dict[str, float]:
        """How far integers are from real values.

        Of two outputs: the largest, mean and relative (L2) difference, and the share of equal classes. Without them:
        the relative difference of every value of the network, by name, on the kept windows.

        Raises:
            QuantizationError: for two outputs of different shapes, and without them before anything was calibrated.
        """
        if float_output is None or quant_output is None:
            if self.border is None or not len(self.reservoir):
                raise QuantizationError("measure_stats(): nothing was calibrated, and no outputs are given")
            with exactly():
                found = errors(self._measured(), self._windows())
        else:
            found = differences(float_output, quant_output)
        self._say("; ".join(f"{name} {value:.4g}" for name, value in found.items()))
        return found


def _fraction(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise OptionError(f"{name}: {value!r} is no number from 0 to 1")
    return float(value)


def _no_fit(module: nn.Module) -> Mapping[str, Any]:
    raise AssertionError("a wrapper is trained by its user's own loop")
