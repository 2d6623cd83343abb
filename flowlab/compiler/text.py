"""The graph's text form: it prints and parses back, and two graphs are equal where their texts are.

One line a value, in order; attributes, constants, metadata and outputs are sorted by name, so that one graph has one
text::

    graph 1
    metadata "quantizer" = "example"
    input %input: float32[1, 8, 1]
    %conv: float32[2, 4, 1] = conv(%input) groups=1 padding=(0, 0, 0, 0) stride=(2, 1)
      bias: float32[2] = 0.5 -1.0
      weight: float32[2, 1, 2, 1] = 1.0*4
    output "output" = %conv

``1.0*4`` is the value four times; floats stand as Python's ``repr`` of the exact value. Without constants (the form
that travels beside a state dict) the part from ``=`` on is left out of constants' lines.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from numbers import Integral
from typing import TYPE_CHECKING

from flowlab.compiler.ir import DTYPES, Attribute, Graph, Input, Node, TensorType
from flowlab.compiler.ops import OPS
from flowlab.errors import GraphError, unknown_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HEADER = "graph 1"  # the version of the text form
CONSTANT_DTYPES = ("float32", "float64", "int8", "uint8", "int16", "int32", "int64")
MAX_ELEMENTS = 1 << 26  # of one constant: text from outside must not fill the memory
LEAST_RUN = 4  # shorter runs of one value are written out

_NAME = r'%(?:"(?:[^"\\]|\\.)*"|[A-Za-z0-9_./:\-]+)'
_STRING = r'"(?:[^"\\]|\\.)*"'
_NUMBER = r"[-+]?(?:inf|nan|[0-9][0-9.eE+\-]*)"
_TYPE = rf"(?P<dtype>\w+)\[(?P<shape>[0-9, ]*)\](?: scale (?P<scale>{_NUMBER}))?(?: zero_point (?P<zero>-?[0-9]+))?"
_VALUE = rf"true|false|\([-0-9, ]*\)|{_STRING}|{_NUMBER}"

_METADATA_LINE = re.compile(rf"metadata (?P<key>{_STRING}) = (?P<value>{_STRING})")
_INPUT_LINE = re.compile(rf"input (?P<name>{_NAME}): {_TYPE}")
_OUTPUT_LINE = re.compile(rf"output (?P<key>{_STRING}) = (?P<name>{_NAME})")
_NODE_LINE = re.compile(
    rf"(?P<name>{_NAME}): {_TYPE} = (?P<op>\w+)\((?P<inputs>(?:{_NAME}(?:, {_NAME})*)?)\)"
    rf"(?P<attributes>(?: \w+=(?:{_VALUE}))*)"
)
_ATTRIBUTE = re.compile(rf" (?P<key>\w+)=(?P<value>{_VALUE})")
_CONSTANT_LINE = re.compile(r"  (?P<key>\w+): (?P<dtype>\w+)\[(?P<shape>[0-9, ]*)\](?: = ?(?P<values>.*))?")
_BARE = re.compile(r"[A-Za-z0-9_./:\-]+")


# --- printing -----------------------------------------------------------------------------------


def print_graph(graph: Graph, constants: bool = True) -> str:
    """The text form of a graph.

    Args:
        graph: any graph; it need not be verified.
        constants: whether the numbers stand in the text, or only their dtype and shape.
    """
    lines = [HEADER]
    lines += [f"metadata {json.dumps(key)} = {json.dumps(graph.metadata[key])}" for key in sorted(graph.metadata)]
    lines += [f"input {_name(value.name)}: {_type(value.type)}" for value in graph.inputs]
    for node in graph.nodes:
        lines += _node_lines(node, constants)
    lines += [f"output {json.dumps(key)} = {_name(graph.outputs[key])}" for key in sorted(graph.outputs)]
    return "\n".join(lines) + "\n"


def same(left: Graph, right: Graph) -> bool:
    """Whether two graphs are equal: their text forms are, constants included."""
    return print_graph(left) == print_graph(right)


def constants_of(graph: Graph) -> dict[str, NDArray[np.generic]]:
    """Every constant by ``<node>.<constant>``: what `parse_graph` takes beside a text without constants."""
    return {f"{node.name}.{key}": array for node in graph.nodes for key, array in node.constants.items()}


def _name(name: str) -> str:
    return f"%{name}" if _BARE.fullmatch(name) else f"%{json.dumps(name)}"


def _float(value: float) -> str:
    return repr(float(value))


def _shape(shape: tuple[int, ...]) -> str:
    return ", ".join(str(int(extent)) for extent in shape)


def _type(tensor: TensorType) -> str:
    scale = "" if tensor.scale == 1.0 else f" scale {_float(tensor.scale)}"
    zero = "" if tensor.zero_point == 0 else f" zero_point {int(tensor.zero_point)}"
    return f"{tensor.dtype}[{_shape(tensor.shape)}]{scale}{zero}"


def _attribute(value: Attribute) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        return f"({_shape(value)})"
    return str(int(value)) if isinstance(value, Integral) else _float(value)


def _node_lines(node: Node, constants: bool) -> Iterator[str]:
    inputs = ", ".join(_name(value) for value in node.inputs)
    attributes = "".join(f" {key}={_attribute(node.attributes[key])}" for key in sorted(node.attributes))
    yield f"{_name(node.name)}: {_type(node.type)} = {node.op}({inputs}){attributes}"
    for key in sorted(node.constants):
        array = node.constants[key]
        values = f" = {_numbers(array)}".rstrip(" ") if constants else ""
        yield f"  {key}: {array.dtype.name}[{_shape(array.shape)}]{values}"


def _numbers(array: NDArray[np.generic]) -> str:
    words = []
    for text, run in groupby(map(repr, array.ravel().tolist())):
        count = sum(1 for _ in run)
        words += [f"{text}*{count}"] if count >= LEAST_RUN else [text] * count
    return " ".join(words)


# --- parsing ------------------------------------------------------------------------------------


def parse_graph(text: str, constants: Mapping[str, NDArray[np.generic]] | None = None) -> Graph:
    """The graph of a text form.

    Args:
        text: as `print_graph` makes it; blank lines and common indentation are allowed.
        constants: arrays by ``<node>.<constant>``, for those that the text leaves out.

    Raises:
        GraphError: naming the line, what was found, and what was expected.
    """
    return _Parser(constants or {}).parse(text)


class _Parser:
    def __init__(self, constants: Mapping[str, NDArray[np.generic]]) -> None:
        self.given = constants
        self.line = 0
        self.inputs: list[Input] = []
        self.nodes: list[Node] = []
        self.outputs: dict[str, str] = {}
        self.metadata: dict[str, str] = {}
        self.constants: dict[str, NDArray[np.generic]] = {}

    def error(self, message: str) -> GraphError:
        return GraphError(f"graph text, line {self.line}: {message}")

    def parse(self, text: str) -> Graph:
        import textwrap

        header_seen = False
        for number, line in enumerate(textwrap.dedent(text).splitlines(), 1):
            self.line = number
            if not line.strip():
                continue
            if header_seen:
                self._line(line.rstrip())
            elif line.strip() == HEADER:
                header_seen = True
            else:
                raise self.error(f"found {_shown(line)}; the first line is '{HEADER}'")
        if not header_seen:
            raise GraphError(f"graph text: empty; the first line is '{HEADER}'")
        return Graph(tuple(self.inputs), tuple(self.nodes), self.outputs, self.metadata)

    def _line(self, line: str) -> None:
        if match := _CONSTANT_LINE.fullmatch(line):
            self._constant(match)
        elif match := _NODE_LINE.fullmatch(line):
            self._node(match)
        elif match := _INPUT_LINE.fullmatch(line):
            self.inputs.append(Input(self._unquote(match["name"]), self._tensor(match)))
        elif match := _OUTPUT_LINE.fullmatch(line):
            self._once(self.outputs, self._string(match["key"]), self._unquote(match["name"]), "output")
        elif match := _METADATA_LINE.fullmatch(line):
            self._once(self.metadata, self._string(match["key"]), self._string(match["value"]), "metadata")
        else:
            raise self.error(
                f"cannot read {_shown(line)}; a line is 'metadata \"key\" = \"value\"', 'input %name: type', "
                "'%name: type = op(%input) key=value', '  constant: dtype[shape] = numbers' or 'output \"key\" = %name'"
            )

    def _once(self, known: dict[str, str], key: str, value: str, kind: str) -> None:
        if key in known:
            raise self.error(f"{kind} '{key}' stands twice")
        known[key] = value

    def _string(self, quoted: str) -> str:
        try:
            return str(json.loads(quoted))
        except ValueError as problem:
            raise self.error(f"{_shown(quoted)} is no JSON string: {problem}") from None

    def _unquote(self, name: str) -> str:
        return self._string(name[1:]) if name.startswith('%"') else name[1:]

    def _extents(self, text: str) -> tuple[int, ...]:
        words = [word.strip() for word in text.split(",")] if text.strip() else []
        if not all(re.fullmatch("-?[0-9]{1,10}", word) for word in words):
            raise self.error(f"'({text})' is no list of integers")
        return tuple(int(word) for word in words)

    def _number(self, text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise self.error(f"{_shown(text)} is no number") from None

    def _tensor(self, match: re.Match[str]) -> TensorType:
        if match["dtype"] not in DTYPES:
            raise self.error(unknown_name("type", match["dtype"], DTYPES))
        scale = 1.0 if match["scale"] is None else self._number(match["scale"])
        return TensorType(match["dtype"], self._extents(match["shape"]), scale, int(match["zero"] or 0))

    def _node(self, match: re.Match[str]) -> None:
        if match["op"] not in OPS:
            raise self.error(unknown_name("operation", match["op"], OPS))
        attributes: dict[str, Attribute] = {}
        for found in _ATTRIBUTE.finditer(match["attributes"]):
            if found["key"] in attributes:
                raise self.error(f"attribute '{found['key']}' stands twice")
            attributes[found["key"]] = self._attribute(found["value"])
        inputs = tuple(self._unquote(name) for name in re.findall(_NAME, match["inputs"]))
        self.constants = {}
        name = self._unquote(match["name"])
        self.nodes.append(Node(name, match["op"], inputs, self._tensor(match), attributes, self.constants))

    def _attribute(self, text: str) -> Attribute:
        if text in ("true", "false"):
            return text == "true"
        if text.startswith('"'):
            return self._string(text)
        if text.startswith("("):
            return self._extents(text[1:-1])
        return int(text) if re.fullmatch("-?[0-9]{1,19}", text) else self._number(text)

    def _constant(self, match: re.Match[str]) -> None:
        if not self.nodes:
            raise self.error(f"constant '{match['key']}' stands before the first node")
        if match["key"] in self.constants:
            raise self.error(f"constant '{match['key']}' stands twice")
        if match["dtype"] not in CONSTANT_DTYPES:
            raise self.error(unknown_name("type of a constant", match["dtype"], CONSTANT_DTYPES))
        shape = self._extents(match["shape"])
        if math.prod(shape) > MAX_ELEMENTS:
            raise self.error(f"constant '{match['key']}' has {math.prod(shape)} numbers; at most {MAX_ELEMENTS}")
        place = f"{self.nodes[-1].name}.{match['key']}"
        if match["values"] is None:
            self.constants[match["key"]] = self._given(place, match["dtype"], shape)
        else:
            self.constants[match["key"]] = self._array(place, match["values"], match["dtype"], shape)

    def _given(self, place: str, dtype: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
        import numpy as np

        if place not in self.given:
            raise self.error(f"'{place}' has no numbers here, and {unknown_name('given array', place, self.given)}")
        array: NDArray[np.generic] = np.asarray(self.given[place])
        if array.dtype.name != dtype or array.shape != shape:
            raise self.error(
                f"constant '{place}' is {dtype}[{_shape(shape)}] in the text, "
                f"and the given array {array.dtype.name}[{_shape(array.shape)}]"
            )
        return array

    def _array(self, place: str, text: str, dtype: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
        import numpy as np

        wanted = math.prod(shape)
        read = float if dtype.startswith("float") else int
        values: list[float] = []
        for word in text.split():
            number, _, times = word.partition("*")
            count = int(times) if re.fullmatch("[0-9]{1,10}", times) else (0 if times else 1)
            if len(values) + count > wanted:
                raise self.error(f"constant '{place}' has more than the {wanted} numbers of its shape")
            try:
                values += [read(number)] * count
            except ValueError:
                raise self.error(f"constant '{place}': {_shown(number)} is no {dtype}") from None
        if len(values) != wanted:
            raise self.error(f"constant '{place}' has {len(values)} numbers; its shape has {wanted}")
        try:
            return np.array(values, dtype=dtype).reshape(shape)
        except OverflowError:
            raise self.error(f"constant '{place}' has a number that is no {dtype}") from None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
