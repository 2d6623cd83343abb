"""Where activations lie in fast C: channels last, with the zeros around them that convolutions read.

A tensor of shape (channel, height, width) is kept as rows of columns of channels, in a frame of zeros as wide as the
widest padding of those that read it; so no kernel has to ask whether it has left its input. What renames a tensor has
no frame of its own where the order of the numbers stays the same; a fully connected layer behind such a renaming reads
the numbers as they lie, and its weights are put in that order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flowlab.compiler import allocate
from flowlab.compiler.program import RENAMES, Container, Layer, Tensor

ALIGNED = 4  # bytes: every frame begins where a word does
BEYOND = 8  # bytes behind the last frame that a kernel may read, never use


@dataclass(frozen=True)
class Frame:
    """A tensor's place: bytes of one number, sizes, zeros around it (top, left, bottom, right), offset in the arena."""

    bytes: int
    channels: int
    height: int
    width: int
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    offset: int = 0

    @property
    def by_column(self) -> int:
        """Numbers from one column to the next."""
        return self.channels

    @property
    def by_row(self) -> int:
        """Numbers from one row to the next."""
        return self.channels * (self.padding[1] + self.width + self.padding[3])

    @property
    def first(self) -> int:
        """The number with which the tensor begins, behind zeros."""
        return self.padding[0] * self.by_row + self.padding[1] * self.channels

    @property
    def numbers(self) -> int:
        """Numbers of the frame, zeros included."""
        return (self.padding[0] + self.height + self.padding[2]) * self.by_row

    @property
    def size(self) -> int:
        """Bytes, up to the next word."""
        return -(-self.numbers * self.bytes // ALIGNED) * ALIGNED

    def meets(self, other: Frame) -> bool:
        """Whether the two have a byte in common."""
        return self.offset < other.offset + other.size and other.offset < self.offset + self.size

    @property
    def dense(self) -> bool:
        """Whether the numbers lie in the order of (channel, height, width)."""
        return not any(self.padding) and (self.channels == 1 or self.height * self.width == 1)


@dataclass(frozen=True)
class Layout:
    """Frames by tensor, those of renamed tensors too; which linear layers read (channel, row, column) as they lie."""

    frames: Mapping[int, Frame]
    aliases: Mapping[int, int]  # a renamed tensor: the one whose frame it has
    unfolded: Mapping[int, int]  # a layer: the tensor of three axes that it reads flat
    arena: int


def plan(
    container: Container, number_bytes: int, turns: Mapping[int, tuple[allocate.Turn, ...]] | None = None
) -> Layout:
    """Frames for every 8-bit tensor, placed so that no number is written over that is still read; the plan is checked.

    Args:
        container: the program.
        number_bytes: bytes that an activation takes: 1, or 2 where a kernel reads pairs of 16 bits.
        turns: by layer, how its loops go: its output may lie over its input (`flowlab.compiler.fast_c.overlap`).

    Raises:
        ProgramError: if the plan does not hold.
    """
    tensors, layers = container.tensors, container.layers
    integers = [at for at, tensor in enumerate(tensors) if tensor.dtype != "float32"]
    frames = {at: _frame(container, at, number_bytes) for at in integers}
    aliases, unfolded = _renamed(container, frames)
    for number, source in unfolded.items():
        frames[layers[number].inputs[0]] = frames[source]

    def root(at: int) -> int:
        return aliases.get(at, at)

    steps = [
        allocate.Step(
            tuple(tensors[root(at)].name for at in layer.inputs if at in frames),
            (tensors[layer.output].name,) if layer.output in frames and layer.output not in aliases else (),
            (turns or {}).get(number, ()),
        )
        for number, layer in enumerate(layers)
    ]
    sizes = {tensors[at].name: frames[at].size for at in integers}
    keep = tuple(tensors[root(at)].name for at in _leaving(container))
    buffers = allocate.live_buffers(steps, sizes, keep)
    arena = allocate.allocate(buffers, allocate.lying_over(steps, buffers, ALIGNED))
    allocate.check(arena, steps, sizes, keep)
    placed = {
        at: Frame(f.bytes, f.channels, f.height, f.width, f.padding, arena.offsets.get(tensors[root(at)].name, 0))
        for at, f in frames.items()
    }
    return Layout(placed, aliases, unfolded, arena.size + BEYOND)


def _leaving(container: Container) -> list[int]:
    """The tensors that are copied to the caller at the end: outputs, and what a float output is made of there."""
    made_by = {layer.output: layer for layer in container.layers}
    outputs = container.outputs.values()
    return [at if container.tensors[at].dtype != "float32" else made_by[at].inputs[0] for at in outputs]


def _frame(container: Container, at: int, number_bytes: int) -> Frame:
    tensor = container.tensors[at]
    channels, height, width = (*tensor.shape, 1, 1)[:3]
    padding = [0, 0, 0, 0]
    for layer in container.layers:
        if at in layer.inputs and layer.op in ("conv", "max_pool") and not clipped(layer, tensor):
            padding = [max(one, other) for one, other in zip(padding, layer.padding, strict=True)]
    return Frame(number_bytes, channels, height, width, (padding[0], padding[1], padding[2], padding[3]))


def clipped(layer: Layer, tensor: Tensor) -> bool:
    """Whether a pool must not read zeros around its input: they would be larger than what is there."""
    return layer.op == "max_pool" and tensor.dtype == "int8" and any(layer.padding)


def _renamed(container: Container, frames: Mapping[int, Frame]) -> tuple[dict[int, int], dict[int, int]]:
    """Tensors under another name whose numbers need not be moved, and linear layers that read the frame behind one."""
    aliases: dict[int, int] = {}
    unfolded: dict[int, int] = {}
    for layer in container.layers:
        if layer.op not in RENAMES:
            continue
        source = aliases.get(layer.inputs[0], layer.inputs[0])
        readers = [(number, one) for number, one in enumerate(container.layers) if layer.output in one.inputs]
        if frames[source].dense and frames[layer.output].dense:
            aliases[layer.output] = source
        elif (
            not any(frames[source].padding)
            and readers
            and all(one.op == "linear" for _, one in readers)
            and layer.output not in container.outputs.values()
        ):
            aliases[layer.output] = source
            unfolded.update({number: source for number, _ in readers})
    return aliases, unfolded
