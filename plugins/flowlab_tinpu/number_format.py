"""The NPU's integers and requantization, as data (chapter 8.2.15)."""

from __future__ import annotations

from flowlab.contracts import NumberFormat, Requantize

SHIFT = (0, 31)  # the NPU's shifter has 5 bits and goes to the right only
NPU = NumberFormat(
    name="tinpu",
    by_weight_bits={
        8: Requantize(multiplier_bits=0, shift=SHIFT, bias_bits=24),
        4: Requantize(multiplier_bits=8, shift=SHIFT, bias_bits=16),
        2: Requantize(multiplier_bits=8, shift=SHIFT, bias_bits=16),
    },
    activation_bits=(8,),
    per="channel",
    power_of_two_scales={8: True, 4: False, 2: False},
    zero_point=False,
    unsigned_after_relu=True,
    accumulator_bits=32,
    saturation="clip",
    bias_before_multiply=True,
    rounding="floor",
)
