"""What `flowlab show model.flnp` prints: a program's header, its layers, and how wide its sums can become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flowlab.compiler.bounds import given_range, largest_sums, value_ranges
from flowlab.compiler.lower import constant_bytes, memory, weight_bytes
from flowlab.compiler.program import MAJOR, MINOR, OUTSIDE, REQUANTIZED, Container, Layer, Tensor, parse
from flowlab.engine import table
from flowlab.errors import DataError, ProgramError

if TYPE_CHECKING:
    from flowlab.contracts import NumberFormat, Target
    from flowlab.plugins import Catalogue

LAYERS = ("layer", "operation", "unit", "input", "output", "geometry", "weights", "bits", "constants", "clip", "arena")
BOUNDS = ("layer", "accumulator", "bits", "bias", "bits", "product", "bits")
ACCUMULATOR, PRODUCT = 32, 64  # bits that an executor has for a sum, and at most for a product
CPU_BIAS = 32  # bits of a bias on a CPU
MOST_BYTES = 1 << 28  # of a file that is read: far above any microcontroller


@dataclass(frozen=True)
class Bound:
    """The largest magnitudes, for any input: of a layer's accumulator, its bias, and the product behind both.

    ``bias_bits`` are those of the bias register; None where no installed device says how wide it is.
    """

    layer: str
    accumulator: int
    bias: int
    product: int
    bias_bits: int | None = CPU_BIAS

    def to_json(self) -> dict[str, Any]:
        """Numbers and the bits that they take, the sign's included."""
        return {
            "layer": self.layer,
            **{
                what: {"magnitude": value, "bits": signed_bits(value), "available": available}
                for what, value, available in self._parts()
            },
        }

    def row(self) -> tuple[str, ...]:
        """For people."""
        cells = [(f"{value:,}", f"{signed_bits(value)} of {available or '?'}") for _, value, available in self._parts()]
        return (self.layer, *(text for cell in cells for text in cell))

    def _parts(self) -> tuple[tuple[str, int, int | None], ...]:
        return (
            ("accumulator", self.accumulator, ACCUMULATOR),
            ("bias", self.bias, self.bias_bits),
            ("product", self.product, PRODUCT),
        )


@dataclass(frozen=True)
class Shown:
    """A program file, read; ``bounds`` are there where they were asked for."""

    path: Path
    size: int
    container: Container
    bounds: tuple[Bound, ...] = ()

    def lines(self) -> list[str]:
        """For people."""
        container = self.container
        golden = len(container.golden.features) if container.golden is not None else 0
        parts = memory(container)
        head = [
            f"program     {self.path}, {self.size:,} bytes, version {MAJOR}.{MINOR}",
            f"made from   a network with SHA-256 {container.source_sha256}",
            f"input       {_tensor(container.tensors[container.first().inputs[0]])}",
            *(f"output      {name}: {_tensor(container.tensors[at])}" for name, at in container.outputs.items()),
            f"flash       {sum(parts['flash'].values()):,} bytes of constants, weights packed in "
            f"{sum(weight_bytes(layer) for layer in container.layers):,}",
            f"RAM         {sum(parts['ram'].values()):,} bytes, {container.arena:,} of them the arena",
            f"golden      {golden} vectors",
            "",
        ]
        if self.bounds:
            return [*head, *table.lines(BOUNDS, [bound.row() for bound in self.bounds]), "", PROOF]
        return [*head, *table.lines(LAYERS, [self._row(layer) for layer in container.layers])]

    def to_json(self) -> dict[str, Any]:
        """The same as numbers."""
        container = self.container
        return {
            "bytes": self.size,
            "version": [MAJOR, MINOR],
            "source_sha256": container.source_sha256,
            "arena_bytes": container.arena,
            "memory": memory(container),
            "golden_vectors": 0 if container.golden is None else len(container.golden.features),
            "outputs": {name: list(container.tensors[at].shape) for name, at in container.outputs.items()},
            "layers": [dict(zip(LAYERS, self._row(layer), strict=True)) for layer in container.layers],
            **({"bounds": [bound.to_json() for bound in self.bounds]} if self.bounds else {}),
        }

    def _row(self, layer: Layer) -> tuple[str, ...]:
        tensors = self.container.tensors
        result = tensors[layer.output]
        clip = f"{layer.low} .. {layer.high}" if layer.op == "quantize" or layer.op in REQUANTIZED else ""
        return (
            layer.name,
            layer.kind,
            layer.unit.upper(),
            " + ".join(_shape(tensors[at]) for at in layer.inputs),
            f"{result.dtype} {_shape(result)}",
            _geometry(layer),
            f"{weight_bytes(layer):,}" if layer.weight is not None else "",
            str(layer.weight_bits) if layer.weight is not None else "",
            f"{size:,}" if (size := constant_bytes(layer)) else "",
            clip,
            "" if result.offset == OUTSIDE else f"{result.offset}",
        )


PROOF = (
    "Largest magnitudes for any input, from the clips and tables of what a layer reads and from its real weights; bits "
    "include the sign. A sum holds in any order."
)


def accelerators(catalogue: Catalogue, device: str | None = None) -> list[NumberFormat]:
    """The number formats of a device's accelerator, or of all that are installed: a program names neither.

    Raises:
        PluginError: where nobody brings the device.
    """
    if device is None:
        targets = [cast("Target", one.item) for one in catalogue.of_kind("target")]
    else:
        targets = [cast("Target", catalogue.get("target", device))]
    found: list[NumberFormat] = []
    for target in targets:
        found += [form for name, form in target.formats.items() if name != "cpu" and form not in found]
    return found


def show(path: Path, *, bounds: bool, formats: Sequence[NumberFormat] = ()) -> Shown:
    """Read a program file; ``formats`` are those that an accelerator's layers may obey.

    Raises:
        DataError: naming the file, where it cannot be read or is no program of this version.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise DataError(f"{path}: {size:,} bytes are no program for a microcontroller")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        container = parse(data)
    except ProgramError as error:
        raise DataError(f"{path}: {error}") from error
    return Shown(path, len(data), container, tuple(_bounds(container, formats)) if bounds else ())


def _bounds(container: Container, formats: Sequence[NumberFormat]) -> list[Bound]:
    ranges: Mapping[int, tuple[int, int]] = value_ranges(container)
    found = []
    for layer in container.layers:
        if layer.op not in REQUANTIZED or layer.bias is None:
            continue
        widest = given_range(container, layer, ranges)
        sums, products = largest_sums(layer, container.tensors[layer.inputs[0]], widest)
        bias, register = int(abs(layer.bias.astype("int64")).max()), _bias_register(layer, formats)
        found.append(Bound(layer.name, sums, bias, products, register))
    return found


def _bias_register(layer: Layer, formats: Sequence[NumberFormat]) -> int | None:
    """Bits of the bias register; None where the formats do not agree on it, or there is none.

    A layer without weights obeys the widths of one kind of weights, whichever its multipliers fit.
    """
    if layer.unit == "cpu":
        return CPU_BIAS
    assert layer.multiplier is not None
    largest, found = int(layer.multiplier.max()), set()
    for form in formats:
        kinds = tuple(form.by_weight_bits) if layer.weight is None else (layer.weight_bits,)
        widths = [form.by_weight_bits[bits] for bits in kinds if bits in form.by_weight_bits]
        fitting = [one.bias_bits for one in widths if largest <= max(1, 2**one.multiplier_bits - 1)]
        found.update([max(fitting)] if fitting else [])
    return found.pop() if len(found) == 1 else None


def signed_bits(magnitude: int) -> int:
    """Bits of a two's complement number that holds +- this."""
    return magnitude.bit_length() + 1


def _tensor(tensor: Tensor) -> str:
    return f"{tensor.name}, {tensor.dtype} {_shape(tensor)}"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _geometry(layer: Layer) -> str:
    if layer.op not in ("conv", "max_pool"):
        return ""
    parts = [f"{layer.kernel[0]}x{layer.kernel[1]}", f"/{layer.stride[0]}x{layer.stride[1]}"]
    if layer.dilation != (1, 1):
        parts.append(f"dilation {layer.dilation[0]}x{layer.dilation[1]}")
    if layer.groups > 1:
        parts.append(f"{layer.groups} groups")
    return " ".join(parts)
