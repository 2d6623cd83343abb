"""Fast C without a compiler: where activations lie, how long two sums fit one register, which kernels a core gets."""

from __future__ import annotations

import numpy as np
import pytest
from integer_graphs import Builder, awkward_graph, example_graph, moving_graph, narrow_graph

from flowlab.compiler.fast_c.emit import emit, style_for
from flowlab.compiler.fast_c.layout import BEYOND, Frame, plan
from flowlab.compiler.fast_c.overlap import turns
from flowlab.compiler.fast_c.source import STYLES, Source
from flowlab.compiler.fast_c.windows import convolution, safe_length
from flowlab.compiler.ir import Graph, Node
from flowlab.compiler.lower import lower, memory
from flowlab.compiler.program import Container, Layer, Tensor
from flowlab.contracts import Core
from flowlab_cores.cores import CORES
from flowlab_generic.host import HostCore

SHA = "ab" * 32
GRAPHS = {
    "example": example_graph,
    "awkward": awkward_graph,
    "moving": moving_graph,
    "two": lambda: narrow_graph((2, 8)),
}


def series(out: int = 8, kernel: int = 5) -> Graph:
    builder = Builder((1, 32, 1), 3)
    builder.conv("one", out, (kernel, 1), (2, 1), padding=(kernel // 2, 0, kernel // 2, 0))
    builder.max_pool("pool", (3, 1), (2, 1), (1, 0, 1, 0))
    return builder.conv("two", 4, (3, 1), (1, 1), padding=(1, 0, 1, 0)).flatten().linear("fc", 2).graph()


def by_name(container: Container) -> dict[str, int]:
    return {tensor.name: at for at, tensor in enumerate(container.tensors)}


def test_a_frame_has_the_zeros_that_its_widest_reader_needs() -> None:
    container = lower(series(), SHA)
    frames, at = plan(container, 1).frames, by_name(container)
    assert frames[at["quantize"]].padding == (2, 0, 2, 0)
    assert frames[at["one.bnorm"]].padding == (1, 0, 1, 0)  # a pool of unsigned numbers reads zeros too
    assert frames[at["two.bnorm"]].padding == (0, 0, 0, 0)
    assert frames[at["one.bnorm"]].numbers == 8 * (16 + 2)


def test_a_pool_of_signed_numbers_reads_no_zeros() -> None:
    builder = Builder((4, 8, 1), 3).conv("one", 4, (3, 1), unsigned=False)
    graph = builder.max_pool("pool", (3, 1), (2, 1), (1, 0, 1, 0)).graph()
    container = lower(graph, SHA)
    assert plan(container, 1).frames[by_name(container)["one.bnorm"]].padding == (0, 0, 0, 0)
    assert "iy >= 0" in emit(container, "bytes", skip_normalize=True).texts["model.c"]


def test_a_linear_layer_reads_a_flattened_tensor_as_it_lies() -> None:
    container = lower(series(), SHA)
    layout, at = plan(container, 1), by_name(container)
    assert layout.aliases == {at["flatten"]: at["two.bnorm"]}
    (number,) = layout.unfolded
    layer = container.layers[number]
    assert layer.name == "fc.bnorm" and layer.weight is not None
    text = emit(container, "bytes", skip_normalize=True).texts["model.c"]
    wanted = layer.weight.reshape(2, 4, 8).transpose(0, 2, 1).ravel()
    row = ", ".join(map(str, wanted[:8]))
    assert f"static const int8_t weight_{number}[] = {{\n    {row}" in text


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("number_bytes", [1, 2])
def test_frames_that_live_at_one_time_do_not_overlap(name: str, number_bytes: int) -> None:
    container = lower(GRAPHS[name](), SHA)
    layout = plan(container, number_bytes)
    assert all(frame.offset % 4 == 0 and frame.offset + frame.size <= layout.arena - BEYOND
               for frame in layout.frames.values())  # fmt: skip
    for layer in container.layers:
        if layer.output not in layout.frames or layer.output in layout.aliases:
            continue
        made = layout.frames[layer.output]
        for at in layer.inputs:
            if at in layout.frames:
                read = layout.frames[at]
                assert made.offset + made.size <= read.offset or read.offset + read.size <= made.offset


@pytest.mark.parametrize("style", STYLES)
def test_what_a_float_output_is_made_of_lies_untouched_until_the_end(style: str) -> None:
    builder = Builder((1, 16, 1), 3).conv("one", 4, (3, 1))
    value = builder.last
    builder.flatten().linear("fc", 2).dequantize("first")
    builder.nodes.append(Node("again", "reshape", (value.name,), value.type, {}, {}))
    builder.conv("two", 16, (3, 1)).conv("three", 16, (3, 1)).flatten("flat").linear("other", 2).dequantize("second")
    container = lower(builder.graph(first="first", second="second"), SHA)
    layers = [layer.name for layer in container.layers]
    assert layers.index("first") < layers.index("two.bnorm")
    size = 2 if style == "pairs" else 1
    layout = plan(container, size, turns(Source(container, plan(container, size), style)))  # type: ignore[arg-type]
    at = by_name(container)
    for later in ("two.bnorm", "three.bnorm", "other.bnorm"):
        assert not layout.frames[at["fc.bnorm"]].meets(layout.frames[at[later]])


def test_numbers_of_sixteen_bits_take_twice_the_arena_and_the_header_says_so() -> None:
    container = lower(series(), SHA)
    one, two = (plan(container, number_bytes).arena for number_bytes in (1, 2))
    assert 1.8 < (two - BEYOND) / (one - BEYOND) <= 2.0
    made = emit(container, "pairs", skip_normalize=True)
    assert f"#define MODEL_ARENA {made.arena} " in made.texts["model.h"]
    assert made.arena < two  # a pool lies over its input
    assert memory(container, 1, made.constants, made.arena)["ram"]["arena"] == made.arena


@pytest.mark.parametrize(
    ("weights", "given", "length"),
    [
        ([7] * 30, (0, 255), 18),  # 18 * 7 * 255 = 32130 < 32768
        ([-7] * 30, (0, 255), 18),
        ([7, -7] * 15, (0, 255), 30),  # at most 15 * 7 * 255 of either sign
        ([7, -7] * 15, (-128, 127), 30),
        ([1] * 200, (0, 255), 128),
        ([127] * 4, (0, 255), 1),
        ([127] * 4, (-1024, 1023), 0),
        ([4] * 64, (-128, 127), 63),  # 64 * 4 * -128 is -2^15, which two sums in one register cannot both be
    ],
)
def test_two_sums_share_a_register_as_long_as_the_real_weights_allow(
    weights: list[int], given: tuple[int, int], length: int
) -> None:
    weight = np.array(weights, np.int64).reshape(1, 1, -1)
    found = safe_length(weight, given)
    assert found == length
    for start in range(0, len(weights), max(found, 1)):
        piece = weight[0, 0, start : start + found]
        most = int(np.maximum(piece * given[0], piece * given[1]).sum())
        least = int(np.minimum(piece * given[0], piece * given[1]).sum())
        assert least >= -(2**15) and most < 2**15


def test_a_window_as_wide_as_its_frame_is_one_run() -> None:
    layer = Layer("conv", "conv", "GCONV", "cpu", (0,), 1, kernel=(5, 1), stride=(2, 1), padding=(2, 0, 2, 0),
                  weight=np.zeros((8, 4, 5, 1), np.int8))  # fmt: skip
    window = convolution(layer, Frame(1, 4, 16, 1, (2, 0, 2, 0)), Frame(1, 8, 8, 1))
    assert window.runs == ((1, 0), (1, 0)) and window.length == 20 and window.start == -8
    assert (window.rows, window.line, window.steps, window.made) == (1, 8, (0, 8), (0, 8))


def test_a_window_inside_a_wider_frame_has_a_run_for_each_row_of_its_kernel() -> None:
    layer = Layer("conv", "conv", "GCONV", "cpu", (0,), 1, kernel=(3, 3), weight=np.zeros((8, 4, 3, 3), np.int8))
    window = convolution(layer, Frame(1, 4, 9, 7), Frame(1, 8, 7, 5))
    assert window.runs == ((3, 28), (1, 0)) and window.length == 12
    assert (window.rows, window.line) == (7, 5)


def test_a_core_gets_the_kernels_that_it_can_run() -> None:
    cores = {core.name: core for core in CORES}
    chosen = {
        (name, kernels): style_for(core, kernels) for name, core in cores.items() for kernels in ("speed", "size")
    }
    assert chosen["Cortex-M33", "speed"] == "pairs" and chosen["Cortex-M33", "size"] == "quads"
    assert chosen["Cortex-M0+", "speed"] == "bytes" and chosen["Cortex-M0+", "size"] is None
    assert {chosen[name, "speed"] for name in ("C28x", "C28x-FPU64", "C29x")} == {None}
    assert style_for(HostCore(), "speed") is None
    assert all(style_for(core, "plain") is None for core in cores.values())


@pytest.mark.parametrize("style", STYLES)
def test_constants_are_counted_as_c_holds_them(style: str) -> None:
    container = lower(series(), SHA)
    made = emit(container, style, skip_normalize=True)
    sizes = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "int32_t": 4, "uint32_t": 4, "channel": 8, "float": 4}
    counted = 0
    for line in made.texts["model.c"].replace("\n   ", "").splitlines():
        words = line.split()
        if line.startswith("static const ") and "[]" in line and words[2] in sizes:
            values = line.partition("= {")[2].rstrip("};")
            parts = values.split("}, {") if words[2] == "channel" else values.split(",")
            counted += sizes[words[2]] * len([part for part in parts if part.strip()])
    assert counted == sum(made.constants.values())


def test_a_core_without_eight_bit_chars_is_never_asked_for_fast_c() -> None:
    odd = Core.__new__(type(CORES[0]))
    odd.__dict__.update(CORES[0].__dict__, char_bits=16)
    assert style_for(odd, "speed") is None


def test_a_tensor_that_nothing_renames_keeps_its_own_frame() -> None:
    tensor = Tensor("x", "uint8", (4, 8, 1), 4, 0)
    frame = Frame(2, *tensor.shape, padding=(1, 0, 1, 0))
    assert (frame.by_column, frame.by_row, frame.first, frame.size) == (4, 4, 4, 80)
    assert not frame.dense and Frame(1, 4, 1, 1).dense and Frame(1, 1, 4, 4).dense
