"""What a wrapper's ``convert()`` gives: the integers that ship, as a torch module that can be exported."""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowlab.compiler.export_onnx import OPSET, export_onnx
from flowlab.compiler.ir import Graph
from flowlab.errors import OptionError, QuantizationError
from flowlab.quant.border import Border, named
from flowlab.quant.converted import Converted


class IntegerNetwork(nn.Module):
    """The integer network: the caller's features in, the caller's outputs out, whole numbers between.

    Real outputs where the graph ends in its scale, integers where it does not. There is nothing to train: it stays in
    evaluation mode.
    """

    def __init__(self, graph: Graph, border: Border) -> None:
        """``graph`` is an integer graph that a quantizer made."""
        super().__init__()
        self.graph, self.border = graph, border
        self.integers = Converted(graph)
        self.train(False)

    def forward(self, x: Tensor) -> Any:
        """(batch, ...) in the shape that the wrapped network takes -> what it gives.

        Raises:
            QuantizationError: for another shape, and for a NaN, which no integer stands for.
        """
        if len(x) == 0:
            raise QuantizationError("the batch is empty")
        with torch.no_grad():
            return self.border.outside(self.integers(self.border.inside(checked(x, self.border.input))))

    def train(self, mode: bool = True) -> IntegerNetwork:
        """Stays as it is: integers are not trained."""
        super().train(False)
        return self

    def convert(self) -> IntegerNetwork:
        """This network itself: it is converted already."""
        return self

    def export(
        self,
        example_input: Tensor,
        filename: str | os.PathLike[str],
        *,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        opset_version: int | None = None,
        dynamic_axes: object = None,
    ) -> None:
        """Write the network as ONNX: integers in float32 tensors, each layer in the form that vendors' compilers match.

        The file is whole or not there. The batch is always dynamic, whatever the example's and ``dynamic_axes`` say.

        Args:
            example_input: an input; its shape is held against the network's.
            filename: in a folder that is there.
            input_names: the name of the input, in a list.
            output_names: of the outputs.
            opset_version: a warning is given for another than the one that is written.
            dynamic_axes: accepted, and not needed.

        Raises:
            OptionError: for another shape, for names that do not fit, and where the file cannot be written.
            GraphError: where a layer has no exact form in ONNX.
        """
        path = _path(filename)
        if isinstance(example_input, Tensor) and tuple(example_input.shape[1:]) != self.border.input:
            raise OptionError(
                f"the example has the shape {tuple(example_input.shape)}, and the network takes "
                f"(batch, {', '.join(map(str, self.border.input))})"
            )
        if opset_version not in (None, OPSET):
            warnings.warn(f"opset {opset_version} was asked for; opset {OPSET} is written", stacklevel=2)
        model = named(export_onnx(self.graph), self.border, input_names, output_names)
        write_whole(path, model)


def _path(filename: object) -> Path:
    """Where a file can be.

    Raises:
        OptionError: for what is no path, or none of a file.
    """
    if not isinstance(filename, str | os.PathLike):
        raise OptionError(f"filename: {filename!r} is no path")
    text = os.fspath(filename)
    if not isinstance(text, str) or "\0" in text or not Path(text).name:
        raise OptionError(f"filename: {filename!r} is no path of a file")
    return Path(text)


def checked(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The input as float32.

    Raises:
        QuantizationError: for what is no tensor of this shape (with a batch before it), or holds a NaN.
    """
    if not isinstance(x, Tensor):
        raise QuantizationError(f"the input is {type(x).__name__}; a tensor is expected")
    if tuple(x.shape[1:]) != shape or x.ndim != len(shape) + 1:
        raise QuantizationError(
            f"the input has the shape {tuple(x.shape)}, and the network takes (batch, {', '.join(map(str, shape))})"
        )
    if x.is_complex():
        raise QuantizationError(f"the input is {x.dtype}; real numbers are expected")
    x = x.float()
    if bool(x.isnan().any()):
        raise QuantizationError(f"the input has a NaN in {_windows(x.isnan())}; no integer stands for it")
    return x


def check_finite(x: Tensor) -> None:
    """QuantizationError where a window that chooses scales or is trained on is not finite."""
    bad = ~torch.isfinite(x)
    if bool(bad.any()):
        raise QuantizationError(
            f"the input has {int(bad.sum())} values that are NaN or infinite, in {_windows(bad)} of this batch. Remove "
            "these windows, or the step of the data's preparation that makes them"
        )


def _windows(bad: Tensor) -> str:
    rows = torch.nonzero(bad.flatten(1).any(1)).flatten().tolist()
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    return f"window{'s' if len(rows) > 1 else ''} {shown}"


def write_whole(path: Path, data: bytes) -> None:
    """A file that is whole or not there, whatever happens in between.

    Raises:
        OptionError: naming the file, where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OptionError(f"{path}: cannot be written: {error.strerror or error}") from error
