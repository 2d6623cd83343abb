"""The closed set of operations: for each its constants, its attributes, and what it computes.

Adding one means a row here and a line in every executor, which is what makes agreement provable; no plugin brings one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Op:
    """A row: how many inputs, which constants (optional ones end in ``?``), which attributes, what it computes."""

    name: str
    inputs: int
    constants: tuple[str, ...]
    attributes: tuple[str, ...]
    meaning: str


_ROWS = (
    Op("conv", 1, ("weight", "bias?"), ("stride", "padding", "groups", "dilation?", "weight_bits?"),
       "2-D convolution, cross-correlation as in ONNX. weight (out, in/groups, kernel_h, kernel_w); stride (h, w); "
       "padding (top, left, bottom, right) with zeros; dilation (h, w), left out where it is (1, 1). Float: + bias. Integer input: weight int8, no bias, int32 out."),
    Op("linear", 1, ("weight", "bias?"), ("weight_bits?",),
       "weight (out, in) times a (feature,) vector. Float: + bias. Integer input: weight int8, no bias, int32 out."),
    Op("sum_pool", 1, (), (), "integers only: the sum over height and width, int32, shape (channel, 1, 1)."),
    Op("average_pool", 1, (), (), "float only: the mean over height and width, shape (channel, 1, 1)."),
    Op("requantize", 1, ("bias", "multiplier", "shift"), ("low", "high", "rounding", "bias_before_multiply"),
       "int32 -> int8 or uint8, one bias (int32), multiplier (int32) and shift (int32) a channel: "
       "clip(floor((acc + bias) * multiplier / 2^shift) + zero_point, low, high) for rounding 'floor'; "
       "a negative shift is to the left. acc + bias fits int32 (verified); the product is exact, so it may need 64 "
       "bits. Other roundings (TFLite's two, ONNX Runtime's), and the bias behind the multiplication: `flowlab.compiler.number_format`."),
    Op("requantize_float", 1, ("ratio", "bias"), ("low", "high"),
       "int32 -> int8 or uint8 with a float bias, one ratio and bias (float32) a channel: "
       "clip(floor(float32(acc) * ratio + bias), low, high); product and sum are float32 operations in this order, each "
       "rounded on its own (never fused). |acc| < 2^24 (verified), so float32 holds it. No accelerator has it."),
    Op("quantize", 1, ("bias", "multiplier", "shift"), ("low", "high"),
       "float32 -> int8, for each channel: clip(floor((x + bias) * multiplier) >> shift, low, high); bias float32, "
       "multiplier int32 (signed), shift int32 (0..31); sum and product are float32 operations in this order. The "
       "floor is an unbounded integer, so an executor either floors again after a float32 multiply by 2^-shift (exact) "
       "and clips before it converts, or saturates the floor to the integers that it has, of at least 48 bits (with 32 "
       "bits only where shift <= 24: there saturation cannot be seen). NaN is an error. There may be more channels "
       "than the input has (padding): those are 0 whatever the input."),
    Op("quantize_linear", 1, (), ("low", "high"),
       "float32 -> int8 or uint8 by the value's own scale and zero point: clip(rint(x / scale) + zero_point, low, high); "
       "a float32 division, then the nearest integer, ties to the even one: ONNX's QuantizeLinear. NaN is an error."),
    Op("max_pool", 1, (), ("kernel", "stride", "padding"),
       "the largest of each window; padding never wins. kernel, stride (h, w), padding (top, left, bottom, right)."),
    Op("flatten", 1, (), (), "(channel, height, width) -> (feature,), C order."),
    Op("reshape", 1, (), (), "the same numbers under the shape of the node's type, C order; nothing moves."),
    Op("take", 1, ("index",), (),
       "each element of the result, in C order, is the element of the input, in C order, that index (int32, flat) names, "
       "or 0 where it is -1; the shape is that of the node's type. Slices, permutations, repeats, zeros between or "
       "around, edges repeated."),
    Op("concat", 2, (), (), "the first value, then the second, along the first axis. Integers: both of one type."),
    Op("relu", 1, (), (), "float only: max(x, 0)."),
    Op("activation", 1, (), ("function",), "float only: 'sigmoid', 'tanh', 'silu', 'gelu', 'relu6', ... by name."),
    Op("table", 1, ("entries",), (),
       "int8 or uint8 -> int8 or uint8: entries[x - least(dtype)], 256 entries; runs on the CPU."),
    Op("batch_norm", 1, ("weight", "bias", "mean", "variance"), ("epsilon",), "float only, inference form."),
    Op("add", 2, (), (), "elementwise. Integers: int8 or uint8 each, both of one scale, int32 out."),
    Op("add_float", 2, (), ("left_scale", "right_scale", "low", "high"),
       "int8 or uint8 each -> int8 or uint8, each of its own scale and zero point: clip(rint(((a - z_a) * left_scale + "
       "(b - z_b) * right_scale) / scale) + z, low, high), every step a float32 operation in this order (never fused), "
       "rint to the even one of two: what ONNX says of DequantizeLinear, Add, QuantizeLinear."),
    Op("multiply", 2, (), (),
       "elementwise; the second input may be (channel, 1, 1): one factor a channel. Integers: int8 or uint8 each, int32 "
       "out, whose scale is the product of the scales."),
    Op("dequantize", 1, (), ("scale",), "integers -> float32: one float32 multiply by scale."),
)

LIMITS: dict[str, tuple[int, int]] = {"int8": (-128, 127), "uint8": (0, 255), "int32": (-(2**31), 2**31 - 1)}
INPUT_STEPS = ("quantize", "quantize_linear")  # float32 -> bytes
OPS: dict[str, Op] = {row.name: row for row in _ROWS}
