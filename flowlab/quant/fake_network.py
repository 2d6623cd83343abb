"""The network as it is trained: whole numbers forwards, gradients straight through.

Every value is a whole number in a float tensor, computed by the very arithmetic that ships, so in evaluation mode the
result is the integers' to the bit; only the last multiplication by the output's scale makes real logits of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowlab.contracts import NumberFormat
from flowlab.quant.calibrate import Scales
from flowlab.quant.fake_layer import FakeLayer, LayerForm, View
from flowlab.quant.fake_parts import part_of
from flowlab.quant.recipe import live_epochs
from flowlab.quant.steps import LayerStep, Step, Steps, sources_of, value_of


class FakeQuantized(nn.Module):
    """The whole network: float32 features (batch, channel, height, width) -> real outputs, whole numbers inside.

    Its norms may be live for the first part of a training: `begin_epoch` says where it stands, and once the part is
    over they are frozen for good. Evaluation is what ships at any time.
    """

    def __init__(
        self,
        steps: Steps,
        scales: Scales,
        format: NumberFormat,
        bits: int,
        *,
        bits_of: Mapping[str, int] | None = None,
        live: float = 0.0,
        learn_scales: bool = False,
        parameters: Mapping[str, nn.Parameter] | None = None,
        views: Mapping[str, View] | None = None,
        float_bias: bool = False,
    ) -> None:
        """
        Args:
            bits: of the weights; ``bits_of`` of single steps, by name.
            live: share of the epochs with live norms, 0 to 1.
            learn_scales: train the weights' scales where their ratios are free.
            parameters: used in place of own copies, by ``<node>.<constant>`` of the float graph; ``views``, by step,
                turn a module's weight into the step's shape.
            float_bias: leave the biases of layers with weights floats.
        """
        super().__init__()
        steps = scales.steps or steps
        self.plan, self.scales, self.format, self.live = steps, scales, format, live
        self.bits_of = {step.name: (bits_of or {}).get(step.name, bits) for step in steps.steps}
        self.turned = _can_turn(steps)
        how = LayerForm(live > 0, learn_scales, parameters, views, float_bias)
        self.parts = nn.ModuleList(self._part(step, how) for step in steps.steps)
        self.output_scales = {name: float(np.float32(scales.scale[value])) for name, value in steps.outputs.items()}
        self.set_live(live > 0)

    @property
    def finished(self) -> bool:
        """Whether every norm is frozen."""
        return not any(part.live for part in self.layers())

    def layers(self) -> list[FakeLayer]:
        """The parts with weights, in order."""
        return [part for part in self.parts if isinstance(part, FakeLayer)]

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Freeze the norms where their part of the ``epochs`` is over; ``epoch`` counts from 0."""
        self.set_live(epoch < live_epochs(self.live, epochs))

    def finish(self) -> None:
        """Freeze what is still live, now."""
        self.set_live(False)

    def set_live(self, live: bool) -> None:
        """Let all norms use the statistics of the batch in training, or freeze them."""
        for part in self.layers():
            if live:
                part.live = part.has_statistics
            else:
                part.freeze()

    def measure_norms(self, x: Tensor) -> None:
        """Freeze every norm with the statistics that it has in one batch, with the weights as they are."""
        was_training = self.training
        self.train()
        with torch.no_grad(), ExitStack() as stack:
            for part in self.layers():
                stack.enter_context(part.measured())
            self._values(x)
        self.train(was_training)

    def forward(self, x: Tensor) -> Any:
        """Real outputs: integers times their scale, one float32 multiplication; a dict where there are several."""
        whole = self.whole_numbers(x)
        if isinstance(whole, Tensor):
            return whole * next(iter(self.output_scales.values()))
        return {name: value * self.output_scales[name] for name, value in whole.items()}

    def whole_numbers(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """The network's output as whole numbers in float32; by name where there are several."""
        values = self._values(x)
        if len(self.plan.outputs) == 1:
            return self._back(values[self.plan.output])
        return {name: self._back(values[value]) for name, value in self.plan.outputs.items()}

    def values(self, x: Tensor) -> dict[str, Tensor]:
        """Every value of the network by name, as whole numbers in float32 (the input itself: real)."""
        return {name: self._back(value) for name, value in self._values(x).items()}

    def _values(self, x: Tensor) -> dict[str, Tensor]:
        if self.turned:
            x = x.transpose(2, 3).contiguous(memory_format=torch.channels_last)
        values = {self.plan.input: x}
        for step, part in zip(self.plan.steps, self.parts, strict=True):
            values[value_of(step)] = part(*(values[source] for source in sources_of(step)))
        return values

    def _back(self, value: Tensor) -> Tensor:
        return value.transpose(2, 3) if self.turned and value.ndim == 4 else value

    def _part(self, step: Step, how: LayerForm) -> nn.Module:
        if isinstance(step, LayerStep):
            return self._layer(step, how)
        return part_of(step, self.scales, turned=self.turned)

    def _layer(self, step: LayerStep, how: LayerForm) -> FakeLayer:
        bits = self.bits_of[step.name]
        return FakeLayer(
            step,
            self.scales,
            bits=bits,
            form=self.format.by_weight_bits[bits],
            power_of_two=self.format.power_of_two_scales.get(bits, False),
            turned=self.turned,
            how=how,
            offset=self.format.rounding == "floor",
        )


def _can_turn(steps: Steps) -> bool:
    """Series that lie along the height are trained along the width: the same sums, two to three times faster."""
    shapes = [steps.input_shape, *(step.shape for step in steps.steps)]
    return all(len(shape) != 3 or shape[2] == 1 for shape in shapes) and len(steps.input_shape) == 3
