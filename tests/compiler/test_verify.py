"""Every law of the graph is broken once, and the error says which and where."""

from __future__ import annotations

import pytest

from flowlab.compiler.text import parse_graph
from flowlab.compiler.verify import verify
from flowlab.contracts import NumberFormat, Requantize
from flowlab.errors import GraphError

GOOD = """\
graph 1
input %input: float32[2, 4, 1]
%quantize: int8[2, 4, 1] scale 0.5 = quantize(%input) high=127 low=-128
  bias: float32[2] = 0.5 0.0
  multiplier: int32[2] = 128 -100
  shift: int32[2] = 6 7
%c: int32[2, 2, 1] scale 0.0 = conv(%quantize) groups=1 padding=(0, 0, 1, 0) stride=(2, 1) weight_bits=8
  weight: int8[2, 2, 3, 1] = 1 2 3 -4 -5 -6 1 2 3 4 5 6
%c.bnorm: uint8[2, 2, 1] scale 0.25 = requantize(%c) bias_before_multiply=true high=255 low=0 rounding="floor"
  bias: int32[2] = 3 -3
  multiplier: int32[2] = 1 1
  shift: int32[2] = 2 1
%p: uint8[2, 1, 1] scale 0.25 = max_pool(%c.bnorm) kernel=(2, 1) padding=(0, 0, 0, 0) stride=(2, 1)
%flat: uint8[2] scale 0.25 = flatten(%p)
%fc: int32[2] scale 0.0 = linear(%flat) weight_bits=8
  weight: int8[2, 2] = 1 2 3 -4
%fc.bnorm: int8[2] scale 2.0 = requantize(%fc) bias_before_multiply=true high=127 low=-128 rounding="floor"
  bias: int32[2] = 0 0
  multiplier: int32[2] = 1 1
  shift: int32[2] = 1 1
output "output" = %fc.bnorm
"""


def test_a_graph_that_obeys_is_accepted() -> None:
    verify(parse_graph(GOOD))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("%p: uint8", "%c: uint8"), "node 'c': this name is taken"),
        (("max_pool(%c.bnorm)", "max_pool(%later)"), "node 'p' (max_pool): reads 'later', which no earlier line makes"),
        (('output "output" = %fc.bnorm', 'output "output" = %other'), "output 'output' is 'other', which no line"),
        (('output "output" = %fc.bnorm', ""), "at least one input and one output"),
        (("%p: uint8[2, 1, 1]", "%p: uint8[2, 2, 1]"), "says shape (2, 2, 1), and makes (2, 1, 1)"),
        (("%flat: uint8[2] scale 0.25", "%flat: uint8[2] scale 0.5"), "keeps dtype, scale and zero point"),
        (("%c: int32[2, 2, 1] scale 0.0", "%c: int8[2, 2, 1] scale 0.5"), "the accumulator is int8"),
        (("stride=(2, 1) weight_bits", "stride=2 weight_bits"), "attribute 'stride' is 2; 2 integers are needed"),
        (
            ("stride=(2, 1) weight_bits", "strid=(2, 1) weight_bits"),
            "no attribute named 'strid'. Did you mean 'stride'?",
        ),
        (("groups=1 ", ""), "attribute 'groups' is missing"),
        (("groups=1", "groups=2"), "with 2 groups does not read 2 channels"),
        (("kernel=(2, 1)", "kernel=(5, 1)"), "a kernel of (5, 1) does not fit into (2, 1)"),
        (("high=255", "high=256"), "the range 0 .. 256 does not fit uint8"),
        (("shift: int32[2] = 2 1", "shift: int32[2] = 2 32"), "shift 32 of channel 1 is not in -31 .. 31"),
        (("shift: int32[2] = 6 7", "shift: int32[2] = 6 -1"), "shift -1 of channel 1 is not in 0 .. 31"),
        (("bias: float32[2] = 0.5 0.0", "bias: float32[2] = 0.5 nan"), "a bias is not finite"),
        (('rounding="floor"', 'rounding="up"'), "the rounding is up"),
        (("linear(%flat) weight_bits=8", "linear(%flat) weight_bits=2"), "a weight of 4 does not fit 2 bits"),
        (("bias: int32[2] = 3 -3", "bias: int32[2] = 2147483000 0"), "accumulator + bias of channel 0 can be"),
        (("bias: int32[2] = 3 -3", "bias: int32[1] = 3"), "constant 'bias' has shape (1,)"),
        (("scale 2.0", "scale inf"), "scale inf is not finite and positive"),
        (("scale 2.0", "scale 0.0"), "scale 0 is for accumulators"),
        (("float32[2, 4, 1]", "float32[99999999, 4, 9]"), "is more than 67108864 numbers"),
    ],
)
def test_a_broken_law_is_named_with_its_node(change: tuple[str, str], message: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(GraphError) as error:
        verify(parse_graph(GOOD.replace(*change)))
    assert message in str(error.value)


def test_an_accumulator_that_can_leave_32_bits_is_refused_from_its_real_weights() -> None:
    def summing(features: int) -> str:
        return f"""
            graph 1
            input %input: uint8[{features}]
            %fc: int32[1] scale 0.0 = linear(%input)
              weight: int8[1, {features}] = 127*{features}
            output "output" = %fc
        """

    fits = (2**31 - 1) // (127 * 255)
    verify(parse_graph(summing(fits)))
    with pytest.raises(GraphError, match=r"the accumulator of channel 0 can be 0 \.\. 2147514120"):
        verify(parse_graph(summing(fits + 1)))


def test_a_graph_is_held_against_a_number_format() -> None:
    shift_only = NumberFormat("shift", {8: Requantize(multiplier_bits=0, shift=(0, 31), bias_bits=24)})
    verify(parse_graph(GOOD), shift_only)
    with pytest.raises(GraphError, match=r"multiplier 2 of channel 0 is not in 0 \.\. 1"):
        verify(parse_graph(GOOD.replace("multiplier: int32[2] = 1 1", "multiplier: int32[2] = 2 1")), shift_only)
    narrow = NumberFormat("narrow", {8: Requantize(multiplier_bits=0, shift=(0, 31), bias_bits=2)})
    with pytest.raises(GraphError, match=r"bias 3 of channel 0 is not in -2 \.\. 1"):
        verify(parse_graph(GOOD), narrow)
    with pytest.raises(GraphError, match="number format 'four' has no 8-bit weights"):
        verify(parse_graph(GOOD), NumberFormat("four", {4: Requantize(8, (0, 31), 16)}))


MORE = """\
graph 1
input %input: int8[2, 4, 1] scale 0.5
%c: int32[2, 2, 1] scale 0.0 = conv(%input) dilation=(2, 1) groups=1 padding=(0, 0, 0, 0) stride=(1, 1)
  weight: int8[2, 2, 2, 1] = 1*8
%taken: int8[2, 1, 1] scale 0.5 = take(%input)
  index: int32[2] = 7 -1
%m: int32[2, 4, 1] scale 0.25 = multiply(%input, %taken)
%wide: int8[1, 2, 1] scale 0.5 = reshape(%taken)
%both: int8[4, 4, 1] scale 0.5 = concat(%input, %input)
output "both" = %both
output "c" = %c
output "m" = %m
output "wide" = %wide
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("dilation=(2, 1)", "dilation=(4, 1)"), "a kernel of (5, 1) does not fit into (4, 1)"),
        (("dilation=(2, 1)", "dilation=(0, 1)"), "dilation (0, 1) is at least 1"),
        (("dilation=(2, 1)", "dilation=(2, 1, 1)"), "attribute 'dilation' is (2, 1, 1); 2 integers are needed"),
        (("[2, 2, 1] scale 0.0 = conv(%input) dilation=(2, 1)", "[2, 3, 1] scale 0.0 = conv(%input) dilation=(1, 1)"),
         "attribute 'dilation' is (1, 1), which is not written"),
        (("index: int32[2] = 7 -1", "index: int32[2] = 8 -1"), "index 8 is not in -1 .. 7"),
        (("index: int32[2] = 7 -1", "index: int32[2] = 7 -2"), "index -2 is not in -1 .. 7"),
        (("index: int32[2] = 7 -1", "index: int32[3] = 7 -1 0"), "index is int32(3,); 2 of int32 are needed"),
        (("index: int32[2] = 7 -1", "index: int64[2] = 7 -1"), "index is int64(2,); 2 of int32 are needed"),
        (("multiply(%input, %taken)", "multiply(%input, %wide)"), "no earlier line makes"),
        (("multiply(%input, %taken)", "multiply(%taken, %input)"), "or one factor a channel; found (2, 1, 1) and"),
        (("%m: int32[2, 4, 1] scale 0.25", "%m: int32[2, 4, 1] scale 0.5"), "the product of the scales is 0.25"),
        (("%wide: int8[1, 2, 1] scale 0.5", "%wide: int8[1, 3, 1] scale 0.5"), "(2, 1, 1) cannot become (1, 3, 1)"),
        (("%wide: int8[1, 2, 1] scale 0.5", "%wide: int8[1, 2, 1] scale 1.0"), "keeps dtype, scale and zero point"),
        (("concat(%input, %input)", "concat(%input, %taken)"), "(2, 4, 1) and (2, 1, 1) differ in another one"),
        (("%both: int8[4, 4, 1] scale 0.5 = concat(%input, %input)",
          "%both: int32[4, 4, 1] scale 0.25 = concat(%m, %m)"), "the input is int32"),
    ],
)  # fmt: skip
def test_a_broken_law_of_moves_and_products_is_named(change: tuple[str, str], message: str) -> None:
    verify(parse_graph(MORE))
    assert change[0] in MORE
    with pytest.raises(GraphError) as error:
        verify(parse_graph(MORE.replace(*change)))
    assert message in str(error.value)
