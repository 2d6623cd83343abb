"""An ONNX file that is a network of integers already, for `flowlab compile`: nothing is quantized, nothing changes.

The integers are the file's own. Where they obey the number format of the device's accelerator it takes them; else
every layer runs on the CPU, in the arithmetic that the file has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.contracts import NumberFormat
from flowlab.errors import DataError, GraphError, OptionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowlab.compiler.ir import Graph, Node

ENTRY = "entry"  # the input step of a file that takes integers
WIDTHS = (2, 4, 8)
MOST_APART = 0.12  # relative error of outputs above which they are another network's


def check_asked(name: str, bits: int, *, output_int: bool) -> None:
    """Hold what was asked for against a network whose integers are what they are.

    Raises:
        OptionError: for what would change them.
    """
    if bits != WIDTHS[-1]:
        raise OptionError(f"--bits {bits}: {name} is a network of integers, and keeps those that it has. Leave it out")
    if not output_int:
        raise OptionError(f"--real-outputs: {name} is a network of integers, and ends as it ends. Leave it out")


def with_float_entry(graph: Graph) -> Graph:
    """A graph that takes integers, behind a step that makes them of the numbers that they mean."""
    from flowlab.compiler.ir import Graph, Input, Node, TensorType
    from flowlab.compiler.ops import LIMITS

    (source,) = graph.inputs
    if source.type.dtype == "float32":
        return graph
    low, high = LIMITS[source.type.dtype]
    taken = {source.name, *(node.name for node in graph.nodes)}
    name = next(name for name in (ENTRY, *(f"{ENTRY}{at}" for at in range(len(taken) + 1))) if name not in taken)
    entry = Input(name, TensorType("float32", source.type.shape))
    step = Node(source.name, "quantize_linear", (name,), source.type, {"low": low, "high": high})
    return Graph((entry,), (step, *graph.nodes), graph.outputs, graph.metadata)


def meanings(path: Path, graph: Graph, windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Windows of a graph that takes integers, as the numbers that they mean; others as they are.

    Raises:
        DataError: where a window holds what is no such integer.
    """
    import numpy as np

    from flowlab.compiler.ops import LIMITS

    type_ = graph.inputs[0].type
    if type_.dtype == "float32":
        return windows
    low, high = LIMITS[type_.dtype]
    wrong = (windows != np.floor(windows)) | (windows < low) | (windows > high)
    if wrong.any():
        raise DataError(
            f"{path}: window {int(np.argwhere(wrong)[0][0])} holds {float(windows[wrong][0]):g}; the network takes "
            f"{type_.dtype}: give whole numbers of {low} .. {high}"
        )
    meant: NDArray[np.float32] = (windows - type_.zero_point) * np.float32(type_.scale)
    return meant


def raw(graph: Graph, windows: NDArray[np.float32]) -> NDArray[Any]:
    """The inverse of `meanings`, for ONNX Runtime: in the type that the file takes."""
    import numpy as np

    type_ = graph.inputs[0].type
    if type_.dtype == "float32":
        return windows
    found: NDArray[Any] = (np.rint(windows / np.float32(type_.scale)) + type_.zero_point).astype(type_.dtype)
    return found


def prepared(graph: Graph, formats: Sequence[NumberFormat]) -> Graph:
    """A graph that a program can hold: float input, signed bytes behind it, weights of the least width.

    Its metadata name the first of the formats that it obeys, if there is one.
    """
    from flowlab.compiler.passes.drop_dead import DropDead
    from flowlab.compiler.passes.signed_input import SignedInput
    from flowlab.compiler.verify import verify

    made = DropDead().apply(SignedInput().apply(with_float_entry(graph)))
    verify(made)
    narrow, wide = _with_bits(made, WIDTHS), _with_bits(made, WIDTHS[-1:])
    for form in formats:
        for one in (narrow, wide):
            if not why_not(one, form):
                return replace(one, metadata={**one.metadata, "number_format": form.name})
    return replace(narrow, metadata={**narrow.metadata, "number_format": "of the file"})


def _with_bits(graph: Graph, widths: Sequence[int]) -> Graph:
    from flowlab.compiler.rewrite import replace_nodes

    def change(node: Node) -> Node:
        if "weight" not in node.constants:
            return node
        weight = node.constants["weight"].astype("int64")
        bits = next((bits for bits in widths if abs(weight).max(initial=0) < 2 ** (bits - 1)), widths[-1])
        return node.with_attributes(weight_bits=bits)

    return replace_nodes(graph, change)


def why_not(graph: Graph, form: NumberFormat) -> str:
    """Why an accelerator of this number format does not compute these integers, or an empty text."""
    from flowlab.compiler.verify import verify

    for node in graph.nodes:
        if node.type.zero_point and not form.zero_point:
            return f"'{node.name}' has the zero point {node.type.zero_point}"
        if node.op in ("quantize_linear", "add_float"):
            return f"'{node.name}' ({node.op}) rounds floats to the nearest integer"
        if node.op == "requantize" and node.attributes["bias_before_multiply"] is not form.bias_before_multiply:
            return f"'{node.name}' adds its bias {'before' if not form.bias_before_multiply else 'behind'} the shift"
    try:
        verify(graph, form)
    except GraphError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class Compared:
    """How the integers' outputs stand to those of the file in ONNX Runtime, whose kernels differ from CPU to CPU."""

    alike: tuple[bool, ...]  # a window: whether all of its outputs are equal
    steps: float  # the largest difference, in steps of an output

    @property
    def windows(self) -> int:
        """How many there are."""
        return len(self.alike)

    @property
    def equal(self) -> int:
        """Windows all of whose outputs are equal."""
        return sum(self.alike)

    def first(self, count: int) -> list[int]:
        """Windows to ship with their outputs: those that ONNX Runtime confirms before all others."""
        order = sorted(range(self.windows), key=lambda at: (not self.alike[at], at))
        return sorted(order[:count])

    def sentence(self) -> str:
        """For people."""
        if self.equal == self.windows:
            return f"equal to the file in ONNX Runtime in all of {self.windows} windows"
        return (
            f"equal to the file in ONNX Runtime in {self.equal} of {self.windows} windows, elsewhere at most "
            f"{self.steps:.3g} steps from it, where floats between integers are rounded otherwise"
        )


def is_exact(model: bytes) -> bool:
    """Whether ONNX Runtime, without its optimizers, computes the very integers: whole numbers in float tensors."""
    from flowlab.compiler.import_quantized import is_quantized
    from flowlab.compiler.onnx_model import read_model

    return not is_quantized(read_model(model))


def compared(graph: Graph, found: Mapping[str, Any], runtime: Mapping[str, Any], *, exact: bool) -> Compared:
    """Hold outputs against ONNX Runtime's.

    Args:
        graph: whose outputs they are.
        found: by name.
        runtime: by name, of the file itself.
        exact: whether a single difference is one too many.

    Raises:
        GraphError: where an output has another shape, or they are those of another network.
    """
    import numpy as np

    alike, steps, far = np.ones(len(next(iter(runtime.values()))), bool), 0.0, 0.0
    for name, right in runtime.items():
        type_ = graph.type_of(graph.outputs[name])
        step = graph.type_of(graph.node(graph.outputs[name]).inputs[0]).scale if type_.dtype == "float32" else 1.0
        left, right = (  # noqa: PLW2901
            np.asarray(each, np.float64).reshape(len(each), -1) - type_.zero_point for each in (found[name], right)
        )
        if left.shape != right.shape:
            counts = right.shape[1], left.shape[1]
            raise GraphError(f"output '{name}' has {counts[0]} numbers a window in ONNX Runtime, not {counts[1]}")
        alike &= (left == right).all(axis=1)
        steps = max(steps, float(np.abs(left - right).max(initial=0)) / step)
        far = max(far, float(np.linalg.norm(left - right) / max(float(np.linalg.norm(right)), 1e-30)))
    made = Compared(tuple(alike.tolist()), steps)
    if far > MOST_APART or (exact and not alike.all()):
        raise GraphError(
            f"the integers that were read are not those of the file: {made.sentence()} (relative error {far:.3f}). "
            "On a processor without VNNI instructions ONNX Runtime saturates sums of weights of 8 signed bits; on "
            "another one this is an error of flowlab's: please report it, with the file"
        )
    return made
