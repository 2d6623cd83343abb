"""Choose all scales of a network from calibration data: the real values of every step, then a scale for each group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from flowlab.contracts import NumberFormat
from flowlab.errors import QuantizationError
from flowlab.quant import observe
from flowlab.quant.activation import activate
from flowlab.quant.real_value import real_values, samples_of
from flowlab.quant.sharing import ONE, Sharing, apart, sharing
from flowlab.quant.steps import (
    AddStep,
    AverageStep,
    ConcatStep,
    FloatArray,
    InputStep,
    LayerStep,
    MultiplyStep,
    Step,
    Steps,
    SumStep,
    TableStep,
    TiedStep,
    sources_of,
    value_of,
)

OUTPUT_BITS = 8  # of the network's output, whatever the activations have: narrower ones tie
MOST_ROUNDS = 64  # of coarsening scales until every shift and bias fits
FINER = 1 / 8  # of a halving: the steps in which a free scale is tried
MOST_LOOKED_UP = 1 << 14  # values by which the error behind a table is judged
NEARBY = 4  # multipliers on both sides of the nearest
SMALL = 4  # times smaller than its group's largest, a value has few levels without an outlier's doing


@dataclass(frozen=True)
class Scales:
    """What calibration decides.

    ``scale`` and ``range`` (least and most integer of the type) of every value; for layers their weights' scales and
    shifts; for averages, sums and products their multiplier and shift; for the input step its numbers. ``steps`` are
    those that they are for: with the tables between values of very different sizes, ``sizes`` what these follow from.
    """

    scale: dict[str, float] = field(default_factory=dict)
    range: dict[str, tuple[int, int]] = field(default_factory=dict)
    layers: dict[str, observe.LayerScales] = field(default_factory=dict)
    sums: dict[str, tuple[int, int]] = field(default_factory=dict)
    inputs: dict[str, observe.InputNumbers] = field(default_factory=dict)
    steps: Steps | None = None
    sizes: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Widths:
    """What the choice of one network's scales needs to know besides its values."""

    format: NumberFormat
    weight: int
    weight_of: Mapping[str, int]  # of single steps
    activation: int

    def weights(self, step: Step) -> int:
        """Of a layer's weights."""
        return self.weight_of.get(step.name, self.weight)

    def free(self, step: Step) -> bool:
        """Whether ratios of a step's scales may be anything."""
        return not self.format.power_of_two_scales.get(self.weights(step), False)


def calibrate(
    steps: Steps,
    features: NDArray[np.float32],
    format: NumberFormat,
    weight_bits: int,
    activation_bits: int = 8,
    *,
    bits_of: Mapping[str, int] | None = None,
) -> Scales:
    """Scales of every value and layer.

    Every value between the layers has ``activation_bits``, the quantized input too: it is an activation like the
    others (npu-arithmetic, section 1). Only the network's outputs keep 8 bits, with the values that a pool or a change
    of shape hands on to them.

    Args:
        features: calibration windows from the training split, shape ``(window, channel, height, width)``.
        bits_of: weight bits of single steps, by name.

    Raises:
        QuantizationError: naming the layer, for data that are not finite, for a tensor that an outlier flattens, and
            where no scales fit the number format.
    """
    if len(features) == 0:
        raise QuantizationError("there are no calibration windows; take some from the training split.")
    observe.check_finite(steps.input, features)
    for bits in (weight_bits, *(bits_of or {}).values()):
        if bits not in format.by_weight_bits:
            raise QuantizationError(f"number format '{format.name}' has no {bits}-bit weights.")
    with torch.no_grad():
        values = real_values(steps, torch.from_numpy(np.ascontiguousarray(features)).double())
    for step in steps.steps:
        observe.check_finite(value_of(step), values[value_of(step)].numpy())
    samples = samples_of(values, [value_of(step) for step in steps.steps])
    sizes = {name: observe.range_scale(each, -128, 127) for name, each in samples.items()}
    steps = apart(steps, sizes)
    for step in steps.steps:
        if isinstance(step, TableStep) and step.name not in samples:
            samples[step.name] = samples[step.source]
    widths = _Widths(format, weight_bits, bits_of or {}, activation_bits)
    shared = sharing(steps, free=not format.power_of_two_scales.get(weight_bits, False))
    return replace(_Chooser(steps, samples, widths, shared).run(), steps=steps, sizes=sizes)


@dataclass
class _Chooser:
    """The choice of one network's scales, group by group."""

    steps: Steps
    samples: Mapping[str, FloatArray]
    widths: _Widths
    sharing: Sharing
    scales: Scales = field(default_factory=Scales)
    group: dict[str, float] = field(default_factory=dict)  # scale of each group
    base: dict[str, float] = field(default_factory=lambda: {ONE: 1.0})  # of each family
    known: dict[tuple[str, float, float], observe.LayerScales] = field(default_factory=dict)
    sums: dict[str, list[SumStep]] = field(default_factory=dict)  # of each group: what it takes part in
    tables: dict[str, list[TableStep]] = field(default_factory=dict)  # of a value that nothing else reads
    energy: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Look up what belongs to what, once."""
        self.tables = _only_tables(self.steps)
        self.makers: dict[str, list[Step]] = {}
        self.families: dict[str, list[str]] = {}
        for step in self.steps.steps:
            own = self.sharing.group[value_of(step)]
            if own not in self.families.setdefault(self.sharing.family[own][0], []):
                self.families[self.sharing.family[own][0]].append(own)
            if not isinstance(step, TiedStep | ConcatStep):
                self.makers.setdefault(own, []).append(step)
            if isinstance(step, SumStep):
                self.energy[value_of(step)] = float(np.mean(self.samples[value_of(step)] ** 2))
                for group in {own, *(self.sharing.group[source] for source in sources_of(step))}:
                    self.sums.setdefault(group, []).append(step)

    def run(self) -> Scales:
        """All of them."""
        for step in self.steps.steps:
            self.scales.range[value_of(step)] = self._range(value_of(step))
        for step in self.steps.steps:
            own = self.sharing.group[value_of(step)]
            if own not in self.group:
                self.group[own] = self._scale(own)
                family, exponent = self.sharing.family[own]
                self.base.setdefault(family, self.group[own] * 2.0**-exponent)
                self._check_levels(own)
        self._coarsen()
        for step in self.steps.steps:
            self._numbers(step)
        for own in self.group:
            self._check_levels(own)  # again: some may have been doubled
        return self.scales

    def _range(self, value: str) -> tuple[int, int]:
        bits = OUTPUT_BITS if value in self.sharing.wide else self.widths.activation
        unsigned = value in self.sharing.unsigned and self.widths.format.unsigned_after_relu
        return (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    def _makers(self, own: str) -> list[Step]:
        """The steps that make a group's values, without those that only hand them on."""
        return self.makers[own]

    def _of(self, value: str) -> float:
        """The scale of a value whose group has one."""
        return self.group[self.sharing.group[value]]

    def _scale(self, own: str) -> float:
        makers = self._makers(own)
        family, exponent = self.sharing.family[own]
        if family not in self.base and len(self.families[family]) > 1:
            self.base[family] = self._base(family)
        if family in self.base:
            return self._best(makers, self.base[family] * 2.0**exponent)[0]
        found = self._scale_of_one(makers[0]) if len(makers) == 1 else self._best(makers, None)[0]
        return self._exact(own, found) if self._all_free(makers) else found

    def _base(self, family: str) -> float:
        """Of a family: what the sum of its groups' errors is least with, each in relation to its size."""
        found = []
        for step in range(round(1 / FINER)):
            base = 2.0 ** (step * FINER)
            found.append((sum(self._relative(own, base) for own in self.families[family]), base))
        return float(min(found)[1])

    def _relative(self, own: str, base: float) -> float:
        makers = self._makers(own)
        size = sum(float(np.mean(self.samples[value_of(step)] ** 2)) for step in makers)
        return self._best(makers, base * 2.0 ** self.sharing.family[own][1])[1] / size if size else 0.0

    def _all_free(self, makers: list[Step]) -> bool:
        return all(self.widths.free(step) for step in makers)

    def _widest(self, makers: list[Step]) -> float:
        """The least scale that clips no value, with room above an output that a layer makes."""
        widest = 0.0
        for step in makers:
            value = value_of(step)
            room = observe.HEADROOM if self._is_output(step) else 1.0
            widest = max(widest, room * observe.range_scale(self.samples[value], *self.scales.range[value]))
        return widest

    def _is_output(self, step: Step) -> bool:
        return isinstance(step, LayerStep) and value_of(step) in self.steps.outputs.values()

    def _best(self, makers: list[Step], unit: float | None) -> tuple[float, float]:
        """The scale with the least error of all values, and that error; of ``unit`` times powers of two, if given."""
        widest = self._widest(makers)
        if widest == 0:
            return unit or 1.0, 0.0
        finer = FINER if unit is None else 1.0
        first = widest if unit is None else unit * 2.0 ** np.ceil(np.log2(widest / unit) - 1e-9)
        if any(self._is_output(step) for step in makers):
            return float(first), 0.0
        candidates = [float(first * 2.0 ** (-step * finer)) for step in range(round(observe.FINER_STEPS / finer) + 1)]
        errors = [sum(self._error(step, scale) for step in makers) for scale in candidates]
        place = int(np.argmin(errors))
        return candidates[place], errors[place]

    def _error(self, step: Step, scale: float) -> float:
        """Mean squared error of a step's value at a scale; of what tables make of it, where it has no other readers."""
        value = value_of(step)
        values, (low, high) = self.samples[value], self.scales.range[value]
        tables = self.tables.get(value)
        if not tables:
            return observe.squared_error(values, scale, low, high)
        some = torch.from_numpy(values[:: -(-len(values) // MOST_LOOKED_UP)])
        whole = torch.round(some / scale).clamp(low, high) * scale
        return sum(
            float(
                (activate(step.function, step.attributes, whole) - activate(step.function, step.attributes, some))
                .square()
                .mean()
            )
            for step in tables
        )

    def _scale_of_one(self, step: Step) -> float:
        """Of a group that one step makes, without a law."""
        name = value_of(step)
        values, (low, high) = self.samples[name], self.scales.range[name]
        if isinstance(step, InputStep):
            return observe.input_scale(name, values, low, high)
        if isinstance(step, TableStep):
            return observe.range_scale(values, low, high) or self._of(step.source)
        if not self._widest([step]):
            return self._of(sources_of(step)[0])
        if isinstance(step, LayerStep) and not self.widths.free(step) and not self._is_output(step):
            return self._best([step], self._of(step.source))[0]
        return self._best([step], None)[0]

    def _exact(self, own: str, scale: float) -> float:
        """Of nearly equal scales, the one at which multipliers of 8 bits change the least: they are no free ratios."""
        known = [step for step in self.sums.get(own, ()) if self._is_known(step, own)]
        best, least = scale, self._misfit(known, own, scale)
        for step in known:
            power, ratio = self._power(step, own), self._ratio(step, own, scale)
            if power == 0:
                continue
            multiplier, shift = self._fraction(step, ratio)
            for nearby in range(max(multiplier - NEARBY, 1), multiplier + NEARBY + 1):
                trial = scale * (nearby * 2.0**-shift / ratio) ** (1 / power)
                if abs(np.log2(trial / scale)) < FINER / 2 and (found := self._misfit(known, own, trial)) < least:
                    best, least = trial, found
        return best

    def _is_known(self, step: SumStep, own: str) -> bool:
        """Whether a sum's other values have a scale already."""
        groups = {self.sharing.group[value] for value in (value_of(step), *sources_of(step))}
        return all(each == own or each in self.group for each in groups)

    def _power(self, step: SumStep, own: str) -> int:
        """Of the group's scale in the ratio of a sum."""
        factors = sources_of(step) if isinstance(step, MultiplyStep) else sources_of(step)[:1]
        return sum(self.sharing.group[each] == own for each in factors) - (self.sharing.group[value_of(step)] == own)

    def _ratio(self, step: SumStep, own: str, scale: float) -> float:
        """Of a sum's scale before and behind its requantization, with this scale of the group."""
        before = self.group.get(own)
        self.group[own] = scale
        ratio = self._sum_scale(step) / self._of(value_of(step))
        if before is None:
            del self.group[own]
        else:
            self.group[own] = before
        return ratio

    def _misfit(self, known: list[SumStep], own: str, scale: float) -> float:
        """Squared error that the nearest multipliers bring, of all sums."""
        total = 0.0
        for step in known:
            ratio = self._ratio(step, own, scale)
            multiplier, shift = self._fraction(step, ratio)
            total += (multiplier * 2.0**-shift / ratio - 1) ** 2 * self.energy[value_of(step)]
        return total

    def _sum_scale(self, step: SumStep) -> float:
        """Of a sum before it is requantized."""
        if isinstance(step, AverageStep):
            return self._of(step.source) / step.area
        first, second = (self._of(source) for source in step.sources)
        return first if isinstance(step, AddStep) else first * second

    def _fraction(self, step: SumStep, ratio: float) -> tuple[int, int]:
        """Multiplier and shift nearest to a ratio of scales; a shift alone where ratios are powers of two."""
        form = self.widths.format.by_weight_bits[self.widths.weights(step)]
        least, most = form.shift
        if self.widths.format.rounding == "floor":
            most = min(most, form.bias_bits - 1)  # the rounding offset is a bias
        if isinstance(step, AddStep) or not self.widths.free(step):
            return 1, int(np.clip(np.rint(-np.log2(ratio)), least, most))
        largest = 2**form.multiplier_bits - 1
        shift = int(np.clip(np.floor(np.log2((largest + 0.5) / ratio)), least, most))
        return int(np.clip(np.rint(ratio * 2.0**shift), 1, largest)), shift

    def _coarsen(self) -> None:
        """Double scales until every sum can be shifted to the right and every layer's shift and bias fit."""
        for _ in range(MOST_ROUNDS):
            trouble = ""
            for step in self.steps.steps:
                own, wanted = self.sharing.group[value_of(step)], 0.0
                if isinstance(step, SumStep):
                    wanted = self._least_scale(step)
                elif isinstance(step, LayerStep):
                    wanted = self._layer(step).output
                if wanted > self.group[own] * (1 + 1e-9):
                    self.group[own] *= 2.0 ** np.ceil(np.log2(wanted / self.group[own]) - 1e-9)
                    trouble = f"{step.name}: a scale of {wanted:.3g} is needed"
            if not trouble:
                return
        raise QuantizationError(
            f"{trouble}, and its inputs grow with it: no scales fit. Put a layer between the value and its own sum."
        )

    def _least_scale(self, step: SumStep) -> float:
        """The finest scale of a requantized sum."""
        form = self.widths.format.by_weight_bits[self.widths.weights(step)]
        largest = 1 if isinstance(step, AddStep) or not self.widths.free(step) else 2**form.multiplier_bits - 1
        return self._sum_scale(step) * 2.0 ** form.shift[0] / largest

    def _layer(self, step: LayerStep) -> observe.LayerScales:
        source, made = self._of(step.source), self._of(value_of(step))
        key = (step.name, source, made)
        if key not in self.known:
            bits = self.widths.weights(step)
            self.known[key] = observe.layer_scales(
                step.name,
                weight=step.weight,
                bias=step.bias,
                input_scale=source,
                output_scale=made,
                bits=bits,
                form=self.widths.format.by_weight_bits[bits],
                power_of_two=not self.widths.free(step),
                per_layer=self.widths.format.per == "layer",
                offset=self.widths.format.rounding == "floor",
            )
        return self.known[key]

    def _numbers(self, step: Step) -> None:
        """What a step is computed with, now that scales are known."""
        name = value_of(step)
        self.scales.scale[name] = self._of(name)
        low, high = self.scales.range[name]
        if isinstance(step, InputStep):
            bits = int(high - low + 1).bit_length() - 1
            self.scales.inputs[name] = observe.input_numbers(name, step.bias, step.factor, self._of(name), bits)
        elif isinstance(step, LayerStep):
            self.scales.layers[step.name] = replace(self._layer(step), output=self._of(name))
        elif isinstance(step, SumStep):
            self.scales.sums[step.name] = self._fraction(step, self._sum_scale(step) / self._of(name))

    def _check_levels(self, own: str) -> None:
        """Each value must have levels; of values that share a scale, the large ones."""
        makers = self._makers(own)
        widest = self._widest(makers)
        for step in makers:
            if isinstance(step, TableStep):
                continue  # a function that saturates has few levels without an outlier's doing
            value = value_of(step)
            low, high = self.scales.range[value]
            if len(makers) == 1 or observe.range_scale(self.samples[value], low, high) * SMALL > widest:
                observe.check_levels(value, self.samples[value], self.group[own], high - low + 1)


def _only_tables(steps: Steps) -> dict[str, list[TableStep]]:
    """The tables that read a value, perhaps moved, where nothing else does."""
    readers: dict[str, list[Step]] = {}
    for step in steps.steps:
        for source in sources_of(step):
            readers.setdefault(source, []).append(step)
    found: dict[str, list[TableStep]] = {}
    for step in reversed(steps.steps):
        name, tables = value_of(step), []
        for reader in readers.get(name, []):
            if isinstance(reader, TableStep) and reader.function != "identity":
                tables.append(reader)
            elif isinstance(reader, TiedStep) and value_of(reader) in found:
                tables += found[value_of(reader)]
            else:
                break
        else:
            if tables and name not in steps.outputs.values():
                found[name] = tables
    return found
