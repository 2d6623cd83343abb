"""A pass that fails, or that leaves a graph which breaks a law, is blamed by name."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from flowlab.compiler.ir import Graph
from flowlab.compiler.passes.drop_dead import DropDead
from flowlab.compiler.pipeline import apply_passes
from flowlab.errors import GraphError

from .random_graphs import random_graph


@dataclass(frozen=True)
class LoseOutputs:
    name: str = "lose_outputs"

    def apply(self, graph: Graph) -> Graph:
        return replace(graph, outputs={"output": "nothing"})


@dataclass(frozen=True)
class GiveUp:
    name: str = "give_up"

    def apply(self, graph: Graph) -> Graph:
        raise GraphError("node 'x': cannot")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (LoseOutputs(), "pass 'lose_outputs': output 'output' is 'nothing', which no line makes"),
        (GiveUp(), "pass 'give_up': node 'x': cannot"),
    ],
)
def test_a_pass_that_breaks_the_graph_is_blamed_by_name(bad, message) -> None:
    with pytest.raises(GraphError, match=message):
        apply_passes(random_graph(1, quantized=True), (DropDead(), bad))


def test_a_graph_that_is_broken_before_blames_no_pass() -> None:
    with pytest.raises(GraphError) as error:
        apply_passes(LoseOutputs().apply(random_graph(1, quantized=True)), (DropDead(),))
    assert "pass" not in str(error.value)


def test_every_state_can_be_watched() -> None:
    seen: list[str] = []
    apply_passes(random_graph(1, quantized=False), (DropDead(), DropDead()), lambda name, graph: seen.append(name))
    assert seen == ["drop_dead", "drop_dead"]
