"""What the NPU's layers can do: each rule's docstring is the error message and the row of the reference table.

Source: "NPU hardware constraints" of the quantization chapter, and the vendor's compiler guide 2.1. Where sources
disagree the wider wording stands here, since a narrower one would call a layer a CPU layer that is none.
"""

from __future__ import annotations

from flowlab.compiler.rules import Layer, Rule, rule

FOUR = 4  # the NPU works on channels in fours
GCONV_STRIDES = ((1, 1), (2, 1), (2, 2))
LEAST_FC_INPUTS = {8: 16, 4: 8, 2: 8}  # 2 bits: assumed as 4


def up(count: int, step: int = FOUR) -> int:
    """The next multiple of ``step``."""
    return -(-count // step) * step


def _channels(*counts: int) -> str:
    return " and ".join(f"{count} -> {up(count)}" for count in dict.fromkeys(counts) if count % FOUR)


def _wider_output(layer: Layer) -> str:
    return f"use {_channels(layer.out_channels)} output channels, or padding"


def _wider(layer: Layer) -> str:
    if layer.groups > 1 and layer.out_channels != layer.in_channels:
        return f"use {layer.out_channels} -> {up(layer.in_channels)} output channels, as many as inputs"
    return f"use {_channels(layer.in_channels, layer.out_channels)} channels, or padding"


def _more_inputs(layer: Layer) -> str:
    least = LEAST_FC_INPUTS.get(layer.weight_bits, max(LEAST_FC_INPUTS.values()))
    return f"use {layer.in_channels} -> {max(up(layer.in_channels), least)} inputs, or padding"


@rule("FCONV", cure=_wider_output)
def fconv_output_channels_in_fours(layer: Layer) -> bool:
    """The output channels of a first convolution (1 input channel) are a multiple of 4."""
    return layer.out_channels % FOUR == 0


@rule("FCONV", cure=lambda layer: f"use a kernel of width {layer.kernel[1]} -> 8 or less")
def fconv_kernel_width(layer: Layer) -> bool:
    """The kernel of a first convolution (1 input channel) is at most 8 wide; its height is free."""
    return layer.kernel[1] <= 8


@rule("GCONV", cure=_wider)
def gconv_channels_in_fours(layer: Layer) -> bool:
    """Input and output channels of a convolution are multiples of 4."""
    return layer.in_channels % FOUR == 0 and layer.out_channels % FOUR == 0


@rule("GCONV", cure=lambda layer: f"use a kernel of height {layer.kernel[0]} -> 7 or less, or of width 1")
def gconv_kernel_height(layer: Layer) -> bool:
    """The kernel of a convolution is at most 7 high, unless it is 1 wide.

    Sources disagree: the documentation says at most 7 always, the configuration guide any height at width 1.
    """
    return layer.kernel[0] <= 7 or layer.kernel[1] == 1


@rule("GCONV", cure=lambda layer: f"use stride {layer.stride} -> (1, 1), (2, 1) or (2, 2)")
def gconv_stride(layer: Layer) -> bool:
    """The stride of a convolution is (1, 1), (2, 1) or (2, 2)."""
    return layer.stride in GCONV_STRIDES


@rule("DWCONV", cure=_wider)
def dwconv_channels_in_fours(layer: Layer) -> bool:
    """A depthwise convolution has as many groups as input channels, and that is a multiple of 4."""
    return layer.groups == layer.in_channels == layer.out_channels and layer.in_channels % FOUR == 0


@rule("DWCONV", cure=lambda layer: f"use a kernel of width {layer.kernel[1]} -> 7 or less")
def dwconv_kernel_width(layer: Layer) -> bool:
    """The kernel of a depthwise convolution is at most 7 wide."""
    return layer.kernel[1] <= 7


@rule("PWCONV", cure=_wider)
def pwconv_channels_in_fours(layer: Layer) -> bool:
    """Input and output channels of a 1x1 convolution are multiples of 4."""
    return layer.in_channels % FOUR == 0 and layer.out_channels % FOUR == 0


@rule("PWCONV", cure="use kernel (1, 1) and stride (1, 1)")
def pwconv_kernel_and_stride(layer: Layer) -> bool:
    """A pointwise convolution has kernel (1, 1) and stride (1, 1)."""
    return layer.kernel == (1, 1) and layer.stride == (1, 1)


@rule("FC", cure=_more_inputs)
def fc_inputs(layer: Layer) -> bool:
    """The inputs of a fully connected layer are a multiple of 4, at least 16 (8-bit weights) or 8 (4 and 2 bits)."""
    least = LEAST_FC_INPUTS.get(layer.weight_bits, max(LEAST_FC_INPUTS.values()))
    return layer.in_channels % FOUR == 0 and layer.in_channels >= least


@rule("MAXPOOL", cure=lambda layer: f"use {_channels(layer.in_channels)} channels, or padding")
def maxpool_channels_in_fours(layer: Layer) -> bool:
    """The channels of a max pool are a multiple of 4."""
    return layer.in_channels % FOUR == 0


@rule("MAXPOOL", cure=lambda layer: f"use a kernel of {layer.kernel} with one side of 1 to 4")
def maxpool_kernel(layer: Layer) -> bool:
    """At least one side of a max pool's kernel is 1 to 4."""
    return min(layer.kernel) in range(1, 5)


@rule("AVGPOOL", cure="use a global average over more than 2 values, or none")
def avgpool_global(layer: Layer) -> bool:
    """An average pool is global, over more than 2 values."""
    return layer.kernel == (layer.height, layer.width) and layer.height * layer.width > 2


@rule("FCONV", "GCONV", "DWCONV", "PWCONV", "FC", cure=lambda layer: f"use {layer.weight_bits} -> 8-bit weights")
def weight_width(layer: Layer) -> bool:
    """Weights have 2, 4 or 8 bits."""
    return layer.weight_bits in (2, 4, 8)


@rule(
    "FCONV", "GCONV", "DWCONV", "PWCONV", "FC", "MAXPOOL", "AVGPOOL",
    cure=lambda layer: f"use {layer.activation_bits} -> 8-bit activations",
)  # fmt: skip
def activation_width(layer: Layer) -> bool:
    """Activations have 8 bits."""
    return layer.activation_bits == 8


RULES: tuple[Rule, ...] = (
    fconv_output_channels_in_fours,
    fconv_kernel_width,
    gconv_channels_in_fours,
    gconv_kernel_height,
    gconv_stride,
    dwconv_channels_in_fours,
    dwconv_kernel_width,
    pwconv_channels_in_fours,
    pwconv_kernel_and_stride,
    fc_inputs,
    maxpool_channels_in_fours,
    maxpool_kernel,
    avgpool_global,
    weight_width,
    activation_width,
)
