"""A graph that grows node by node, each with the shape that follows from what it reads: for importers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from flowlab.compiler.infer import infer_shape
from flowlab.compiler.ir import Attribute, Node, TensorType


@dataclass
class Growing:
    """Nodes so far, and the types of all values by name, inputs included."""

    nodes: list[Node] = field(default_factory=list, kw_only=True)
    types: dict[str, TensorType] = field(default_factory=dict, kw_only=True)

    def add(
        self,
        name: str,
        op: str,
        inputs: Sequence[str],
        type_: TensorType,
        attributes: Mapping[str, Attribute] | None = None,
        *,
        constants: Mapping[str, NDArray[Any]] | None = None,
    ) -> str:
        """One node more; its name. The type's shape counts only where nothing else says it (a reshape, a take).

        Raises:
            GraphError: where operation, constants and inputs do not fit together.
        """
        node = Node(name, op, tuple(inputs), type_, attributes or {}, constants or {})
        shape = infer_shape(node, tuple(self.types[read] for read in inputs))
        node = replace(node, type=replace(type_, shape=shape))
        self.nodes.append(node)
        self.types[name] = node.type
        return name
