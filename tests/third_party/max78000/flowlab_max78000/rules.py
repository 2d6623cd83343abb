"""What a layer of the accelerator can do: each rule's docstring is the error message and the table's row.

Source: "Limitations of MAX78000 Networks" in the README of analogdevicesinc/ai8x-training, as of 2024. 1-D kernels of up
to 9 and element-wise operations, which the machine has too, are left out here.
"""

from __future__ import annotations

from flowlab.compiler.rules import Layer, Rule, rule

CONVOLUTIONS = ("FCONV", "GCONV", "PWCONV")
WEIGHTED = (*CONVOLUTIONS, "FC")
MOST_CHANNELS = 1024
MOST_POOL = 16
MOST_PADDING = 2


@rule(*CONVOLUTIONS, cure=lambda layer: f"use kernel {layer.kernel} -> (3, 3), (3, 1) or (1, 1)")
def kernel(layer: Layer) -> bool:
    """A kernel has 1 or 3 rows and columns."""
    return set(layer.kernel) <= {1, 3}


@rule(*CONVOLUTIONS, cure="use stride 1, and a max pool before the layer")
def stride(layer: Layer) -> bool:
    """A convolution has stride 1."""
    return layer.stride == (1, 1)


@rule(*CONVOLUTIONS, cure="use the same padding of 0, 1 or 2 on both sides")
def padding(layer: Layer) -> bool:
    """A convolution is padded by 0, 1 or 2 zeros, as many on both sides."""
    top, left, bottom, right = layer.padding
    return top == bottom <= MOST_PADDING and left == right <= MOST_PADDING


@rule("DWCONV", cure="use groups=1")
def depthwise(layer: Layer) -> bool:
    """There is no depthwise convolution."""
    return False


@rule(*WEIGHTED, cure=f"use at most {MOST_CHANNELS} inputs and outputs, or a pool before the layer")
def channels(layer: Layer) -> bool:
    """A layer has at most 1024 input and output channels."""
    return max(layer.in_channels, layer.out_channels) <= MOST_CHANNELS


@rule("MAXPOOL", cure=lambda layer: f"use a pool of {layer.kernel} -> at most (16, 16), without padding")
def pool(layer: Layer) -> bool:
    """A max pool and its stride are at most 16, without padding."""
    return max(*layer.kernel, *layer.stride) <= MOST_POOL and not any(layer.padding)


@rule("AVGPOOL", cure="flatten, or use a max pool")
def average(layer: Layer) -> bool:
    """An average pool is not built here."""
    return False


@rule(*WEIGHTED, cure=lambda layer: f"use {layer.weight_bits} -> 8-bit weights")
def weight_width(layer: Layer) -> bool:
    """Weights have 2, 4 or 8 bits (1 bit, which the machine has too, no graph of flowlab carries)."""
    return layer.weight_bits in (2, 4, 8)


@rule(*WEIGHTED, "MAXPOOL", cure=lambda layer: f"use {layer.activation_bits} -> 8-bit activations")
def activation_width(layer: Layer) -> bool:
    """Activations have 8 bits."""
    return layer.activation_bits == 8


RULES: tuple[Rule, ...] = (
    kernel, stride, padding, depthwise, channels, pool, average, weight_width, activation_width,
)  # fmt: skip
