"""Numbers that only move: shapes, orders, joins, frames of zeros."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flowlab.compiler.onnx_model import attributes_of, node_error
from flowlab.compiler.quantized_onnx.meaning import Constant, Function, Joined, Proto, Real
from flowlab.compiler.quantized_onnx.values import FILTER, Values

MOST_PADDED = 1 << 12  # places on one side


class Moves(Values):
    """What moves bytes, wherever they are quantized."""

    def _flatten(self, proto: Proto) -> None:
        if attributes_of(proto).get("axis", 1) != 1:
            raise node_error(proto, "keeps more than the batch. Use axis 1")
        self._moved(proto, lambda name, value: self.add(name, "flatten", [value], self.types[value]))

    def _reshape(self, proto: Proto) -> None:
        self._moved(proto, lambda name, value: self._reshaped(proto, name, value))

    def _reshaped(self, proto: Proto, name: str, value: str) -> str:
        type_ = self.types[value]
        wanted = [int(extent) for extent in self.model.constant(proto, 1).ravel()]
        size, shape = math.prod(type_.shape), wanted[1:]
        if len(wanted) < 2 or wanted[0] not in (0, -1, 1):
            raise node_error(proto, f"gives the shape {wanted}; one that keeps the batch is known")
        known = (*type_.shape, *(0,) * len(shape))
        shape = [known[at] if extent == 0 else extent for at, extent in enumerate(shape)]
        if shape.count(-1) == 1:
            rest = math.prod(extent for extent in shape if extent != -1)
            shape = [size // max(rest, 1) if extent == -1 else extent for extent in shape]
        if math.prod(shape) != size or min(shape) < 1:
            raise node_error(proto, f"gives {size} numbers the shape {wanted}")
        if len(shape) == 1:
            return value if type_.shape == (size,) else self.add(name, "flatten", [value], type_)
        if len(shape) != (FILTER if self.series else FILTER + 1):
            raise node_error(
                proto, f"gives the shape {wanted}, where {FILTER + 1 + (not self.series)} axes are known, or 2"
            )
        if len(shape) == FILTER:
            shape = [*shape, 1]
        return self.add(name, "reshape", [value], replace(type_, shape=tuple(shape)))

    def _squeeze(self, proto: Proto) -> None:
        self._moved(proto, lambda name, value: self._squeezed(proto, name, value))

    def _squeezed(self, proto: Proto, name: str, value: str) -> str:
        type_ = self.types[value]
        if len(type_.shape) != 3 or type_.shape[1:] != (1, 1):
            raise node_error(proto, f"leaves more than (batch, features) of {type_.shape}")
        return self.add(name, "flatten", [value], type_)

    def _unsqueeze(self, proto: Proto) -> None:
        self._moved(proto, lambda name, value: self._unsqueezed(proto, name, value))

    def _unsqueezed(self, proto: Proto, name: str, value: str) -> str:
        axes, type_ = self.model.axes(proto), self.types[value]
        if len(type_.shape) != 1 or sorted(axes) not in ([2], [2, 3]):
            raise node_error(proto, f"adds axes {axes} to {type_.shape}; behind features are known")
        return self.add(name, "reshape", [value], replace(type_, shape=(*type_.shape, 1, 1)))

    def _slice(self, proto: Proto) -> None:
        self._moved(proto, lambda name, value: self._sliced(proto, name, value))

    def _sliced(self, proto: Proto, name: str, value: str) -> str:
        type_ = self.types[value]
        starts, ends = (self.model.constant(proto, at).ravel().tolist() for at in (1, 2))
        axes, steps = (
            self.model.constant(proto, at).ravel().tolist() if at < len(proto.input) and proto.input[at] else default
            for at, default in ((3, list(range(len(starts)))), (4, [1] * len(starts)))
        )
        rank = len(type_.shape) + (0 if self.series and len(type_.shape) == 3 else 1)
        places = np.arange(math.prod(type_.shape), dtype=np.int32).reshape(1, *type_.shape)
        if not len(starts) == len(ends) == len(axes) == len(steps):
            raise node_error(proto, f"slices axes {axes} from {starts} to {ends} by {steps}")
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            if not -rank <= axis < rank or axis % rank == 0 or step < 1:
                raise node_error(proto, f"slices axis {axis} by {step}; forwards, and not the batch, is known")
            cut = [slice(None)] * places.ndim
            cut[axis % rank] = slice(start, end, step)
            places = places[tuple(cut)]
        if not places.size:
            raise node_error(proto, "leaves nothing")
        made = replace(type_, shape=places.shape[1:])
        return self.add(name, "take", [value], made, constants={"index": places.ravel().copy()})

    def _transpose(self, proto: Proto) -> None:
        order = [int(axis) for axis in attributes_of(proto).get("perm", ())]
        constant = self.constants.get(proto.input[0])
        if constant is not None:
            order = order or list(range(constant.integers.ndim))[::-1]
            self.constants[proto.output[0]] = Constant(
                constant.integers.transpose(order), constant.scale, order.index(constant.axis)
            )
            return
        self._moved(proto, lambda name, value: self._transposed(proto, name, value, order))

    def _transposed(self, proto: Proto, name: str, value: str, order: list[int]) -> str:
        type_ = self.types[value]
        rank = 3 if self.series else len(type_.shape) + 1
        if sorted(order) != list(range(rank)) or order[0] != 0:
            raise node_error(proto, f"orders its axes {order}; the batch stays first")
        axes = [axis - 1 for axis in order[1:]]
        axes += [2] if self.series and len(type_.shape) == 3 else []
        places = np.arange(math.prod(type_.shape), dtype=np.int32).reshape(type_.shape).transpose(axes)
        made = replace(type_, shape=places.shape)
        return self.add(name, "take", [value], made, constants={"index": places.ravel().copy()})

    def _concat(self, proto: Proto) -> None:
        axis, out = int(attributes_of(proto).get("axis", 0)), proto.output[0]
        if all(name in self.values for name in proto.input):
            self._check_axis(proto, axis, [self.values[name] for name in proto.input])
            self.values[out] = self._joined([self.values[name] for name in proto.input], out)
            return
        parts = []
        for name in proto.input:
            found = self.reals.get(name)
            if not isinstance(found, (Real, Function)):
                raise node_error(proto, f"joins '{name}', which nothing quantizes before it")
            parts.append(found)
        self._check_axis(proto, axis, [part.value for part in parts])
        self.reals[out] = Joined(tuple(parts))

    def _qlinear_concat(self, proto: Proto) -> None:
        type_ = self._type(proto, 0)
        values = [self._read(proto, at, at + 1) for at in range(2, len(proto.input), 3)]
        out = proto.output[0]
        self._check_axis(proto, int(attributes_of(proto).get("axis", 0)), values)
        self.values[out] = self._quantized(proto, Joined(tuple(Real(value) for value in values)), type_, out)

    def _check_axis(self, proto: Proto, axis: int, values: Sequence[str]) -> None:
        rank = (3 if self.series else 4) if len(self.types[values[0]].shape) == 3 else 2
        if axis not in (1, 1 - rank):
            raise node_error(proto, "joins along another axis than the channels")

    def _pad(self, proto: Proto) -> None:
        self._moved(proto, lambda name, value: self._padded(proto, name, value))

    def _padded(self, proto: Proto, name: str, value: str) -> str:
        type_ = self.types[value]
        pads = [int(one) for one in self.model.constant(proto, 1).ravel()]
        if attributes_of(proto).get("mode", "constant") != "constant" or (len(proto.input) > 3 and proto.input[3]):
            raise node_error(proto, "repeats what is there, or names axes; constants around all axes are known")
        rank = len(type_.shape) + (0 if self.series and len(type_.shape) == 3 else 1)
        if len(pads) != 2 * rank or min(pads) < 0 or pads[0] or pads[rank]:
            raise node_error(proto, f"pads by {pads}; {2 * rank} numbers, none for the batch, are known")
        if max(pads) > MOST_PADDED:
            raise node_error(proto, f"pads by {max(pads):,}; at most {MOST_PADDED:,} are known")
        fill = type_.zero_point if proto.input[0] in self.values else 0
        if len(proto.input) > 2 and proto.input[2] and float(self.model.constant(proto, 2).reshape(())) != fill:
            raise node_error(proto, "adds what means no zero")
        widths = [(pads[at], pads[at + rank]) for at in range(1, rank)] + [(0, 0)] * (len(type_.shape) - rank + 1)
        places = np.arange(math.prod(type_.shape), dtype=np.int32).reshape(type_.shape)
        padded = np.pad(places, widths, constant_values=-1)
        made = replace(type_, shape=padded.shape)
        return self.add(name, "take", [value], made, constants={"index": padded.ravel().copy()})

    def _identity(self, proto: Proto) -> None:
        name, out = proto.input[0], proto.output[0]
        if name in self.values:
            self.values[out] = self.values[name]
        elif name in self.reals:
            self.reals[out] = self.reals[name]
        elif name in self.constants:
            self.constants[out] = self.constants[name]
        else:
            raise node_error(proto, f"reads '{name}', which is no value of the network")
