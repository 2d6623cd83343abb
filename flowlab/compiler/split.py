"""What splitting a layer needs: whether the accelerator takes the parts, zeros for channels counted in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph
    from flowlab.compiler.rules import Rule


def accelerated(graph: Graph, names: Collection[str], rules: Sequence[Rule]) -> bool:
    """Whether every one of these layers runs on the accelerator once its channels are padded; False without rules."""
    from flowlab.compiler.passes.pad_channels import PadChannels
    from flowlab.compiler.place import place

    if not rules:
        return False
    padded = PadChannels(rules=tuple(rules)).apply(graph)
    taken = {row.name for row in place(padded, rules).rows if row.unit == "npu"}
    return taken.issuperset(names)
