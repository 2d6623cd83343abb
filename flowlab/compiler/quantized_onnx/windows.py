"""What slides over pictures: windows, and pools, which are sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flowlab.compiler.import_float import padding_of
from flowlab.compiler.ir import Attribute, TensorType
from flowlab.compiler.onnx_model import attributes_of, node_error
from flowlab.compiler.quantized_onnx.meaning import Pair, Proto, Sum
from flowlab.compiler.quantized_onnx.values import MOST_NUMBERS, Values


class Windows(Values):
    """Pools, and the geometry of whatever slides."""

    def _max_pool(self, proto: Proto) -> None:
        found = attributes_of(proto)
        if found.get("ceil_mode", 0) or len(proto.output) > 1:
            raise node_error(proto, "rounds up, or asks for indices; neither is known. Use ceil_mode=False")
        self._moved(proto, lambda name, value: self._pooled(proto, name, value))

    def _pooled(self, proto: Proto, name: str, value: str) -> str:
        kernel = self._extent(proto, "kernel_shape", None)
        attributes = self._window(proto, kernel, self.types[value].shape, dilates=False)
        return self.add(name, "max_pool", [value], self.types[value], {**attributes, "kernel": kernel})

    def _global_max_pool(self, proto: Proto) -> None:
        self._moved(proto, lambda name, value: self._whole_max(proto, name, value))

    def _whole_max(self, proto: Proto, name: str, value: str) -> str:
        type_ = self.types[value]
        if len(type_.shape) != 3:
            raise node_error(proto, f"reads a value of shape {type_.shape}; (channel, height, width) is needed")
        attributes: dict[str, Attribute] = {"kernel": type_.shape[1:], "stride": (1, 1), "padding": (0, 0, 0, 0)}
        return self.add(name, "max_pool", [value], type_, attributes)

    def _global_average(self, proto: Proto) -> None:
        self.reals[proto.output[0]] = self._mean(proto, self._real(proto, 0))

    def _qlinear_global_average(self, proto: Proto) -> None:
        self._finish(proto, self._mean(proto, self._channels_first(proto)), 3)

    def _mean(self, proto: Proto, value: str) -> Sum:
        type_ = self.types[value]
        if len(type_.shape) != 3:
            raise node_error(proto, f"averages a value of shape {type_.shape}")
        name = self.add(
            self.model.free(f"{proto.output[0]}/sum"), "sum_pool", [value], TensorType("int32", (), type_.scale)
        )
        area = np.float32(type_.shape[1] * type_.shape[2])
        return Sum(name, np.full(type_.shape[0], np.float32(type_.scale) / area, np.float32))

    def _reduce_mean(self, proto: Proto) -> None:
        found = attributes_of(proto)
        axes = self.model.axes(proto)
        rank = 3 if self.series else 4
        if sorted(axis % rank for axis in axes) != list(range(2, rank)):
            raise node_error(proto, f"averages axes {axes}; only height and width together are known")
        sums = self._mean(proto, self._real(proto, 0))
        self.reals[proto.output[0]] = replace(sums, flat=not found.get("keepdims", 1))

    def _average_pool(self, proto: Proto) -> None:
        self.reals[proto.output[0]] = self._average(proto, self._real(proto, 0))

    def _qlinear_average_pool(self, proto: Proto) -> None:
        self._finish(proto, self._average(proto, self._channels_first(proto)), 3)

    def _channels_first(self, proto: Proto) -> str:
        if attributes_of(proto).get("channels_last", 0):
            raise node_error(proto, "has its channels last; channels first is known")
        return self._read(proto, 0, 1)

    def _average(self, proto: Proto, value: str) -> Sum:
        """An average of windows: a convolution of each channel by ones."""
        found, type_ = attributes_of(proto), self.types[value]
        kernel = self._extent(proto, "kernel_shape", None)
        attributes = self._window(proto, kernel, type_.shape, dilates=False)
        if found.get("ceil_mode", 0) or (any(attributes["padding"]) and not found.get("count_include_pad", 0)):  # type: ignore[arg-type]
            raise node_error(proto, "counts fewer places at the border; use no padding, or count_include_pad=1")
        if math.prod(kernel) > MOST_NUMBERS:
            raise node_error(proto, f"averages {math.prod(kernel):,} places")
        channels = type_.shape[0]
        attributes["groups"] = channels
        ones = {"weight": np.ones((channels, 1, *kernel), np.int8)}
        sums = TensorType("int32", (), type_.scale)
        name = self.add(self.model.free(f"{proto.output[0]}/sum"), "conv", [value], sums, attributes, constants=ones)
        area = np.float32(kernel[0] * kernel[1])
        return Sum(name, np.full(channels, np.float32(type_.scale) / area, np.float32))

    def _extent(self, proto: Proto, key: str, default: int | None) -> Pair:
        found = attributes_of(proto).get(key, None if default is None else (default, default))
        if found is not None and self.series and len(found) == 1:
            found = (*found, 1)
        if found is None or len(found) != 2 or min(found) < 1:
            raise node_error(proto, f"attribute '{key}' is {found!r}; two integers above 0 are needed")
        return int(found[0]), int(found[1])

    def _window(
        self, proto: Proto, kernel: Sequence[int], shape: tuple[int, ...], *, dilates: bool
    ) -> dict[str, Attribute]:
        """Stride, padding and dilation of what slides over pictures."""
        if len(shape) != 3:
            raise node_error(proto, f"slides over a value of shape {shape}; (channel, height, width) is needed")
        found = attributes_of(proto)
        stride, dilation = self._extent(proto, "strides", 1), self._extent(proto, "dilations", 1)
        if dilation != (1, 1) and not dilates:
            raise node_error(proto, "is dilated; use dilation 1")
        reach = [(size - 1) * gap + 1 for size, gap in zip(kernel, dilation, strict=True)]
        pads = found.get("pads", (0, 0, 0, 0))
        if self.series and len(pads) == 2:
            pads = (pads[0], 0, pads[1], 0)
        padding = padding_of(proto, pads, reach, stride, shape)
        attributes: dict[str, Attribute] = {"stride": stride, "padding": padding}
        return attributes if dilation == (1, 1) else {**attributes, "dilation": dilation}
