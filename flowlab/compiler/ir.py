"""The network in the compiler's form: a frozen graph in single assignment, carrying integers and what they mean.

Every node makes one value, which has the node's name. A value's type says whether it is float or integer, so one
operation (`conv`, `linear`, `max_pool`, ...) serves both. Shapes are without the batch: ``(channel, height, width)``
or ``(feature,)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Attribute = int | float | str | bool | tuple[int, ...]
DTYPES = ("float32", "int8", "uint8", "int32")


@dataclass(frozen=True)
class TensorType:
    """What a value is: its integers (or floats), its shape without the batch, and what the integers mean.

    ``real = scale * (integer - zero_point)``. An accumulator (int32) whose scale differs by channel has scale 0.
    """

    dtype: str
    shape: tuple[int, ...]
    scale: float = 1.0
    zero_point: int = 0


@dataclass(frozen=True, eq=False)
class Node:
    """One operation of `flowlab.compiler.ops`; ``constants`` are numpy arrays by the operation's parameter name."""

    name: str
    op: str
    inputs: tuple[str, ...]
    type: TensorType
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    constants: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

    def with_attributes(self, **changes: Attribute) -> Node:
        """The same node with some attributes set."""
        return replace(self, attributes={**self.attributes, **changes})


@dataclass(frozen=True)
class Input:
    """A value that comes from outside."""

    name: str
    type: TensorType


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in an order in which every value stands before its use; outputs are a dict by name.

    Two graphs are equal where their text forms with constants are (`flowlab.compiler.text`).
    """

    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: Mapping[str, str]  # output name -> value name
    metadata: Mapping[str, str] = field(default_factory=dict)

    def node(self, name: str) -> Node:
        """The node of this name; KeyError where there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def type_of(self, value: str) -> TensorType:
        """The type of an input or of a node's value; KeyError where there is none."""
        for known in self.inputs:
            if known.name == value:
                return known.type
        return self.node(value).type

    def users(self, value: str) -> tuple[Node, ...]:
        """The nodes that read a value."""
        return tuple(node for node in self.nodes if value in node.inputs)


def is_float(graph: Graph) -> bool:
    """Whether every value is a float: the network as it was trained, not quantized."""
    types = (*(value.type for value in graph.inputs), *(node.type for node in graph.nodes))
    return all(type_.dtype == "float32" for type_ in types)
