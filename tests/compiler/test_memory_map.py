from __future__ import annotations

from integer_graphs import awkward_graph, example_graph, moving_graph

from flowlab.compiler.lower import lower, roots
from flowlab.compiler.memory_map import memory_map
from flowlab.compiler.program import OUTSIDE, RENAMES, Container, encode, parse

from .random_graphs import random_graph

GRAPHS = [example_graph(), awkward_graph(), moving_graph(), *(random_graph(seed, quantized=True) for seed in range(20))]


def needed(container: Container, step: int) -> set[str]:
    """The stored tensors that a layer or a later one reads, or that are outputs, and that were made: by hand."""
    root = roots(container.layers)
    layers = [layer for layer in container.layers if layer.op not in RENAMES]
    made = {layer.output for layer in layers[: step + 1]}
    read = {root[at] for layer in layers[step:] for at in layer.inputs} | {layers[step].output}
    kept = {root[at] for at in container.outputs.values()}
    return {container.tensors[at].name for at in made & (read | kept) if container.tensors[at].offset != OUTSIDE}


def test_each_layer_has_what_it_and_later_ones_need() -> None:
    for graph in GRAPHS:
        container = parse(encode(lower(graph, "ab" * 32)))
        found = memory_map(container)
        for step in range(len(found.layers)):
            there = {one.name for one in found.tensors if one.first <= step <= one.last}
            assert there == needed(container, step)
        assert all(one.offset + one.size <= found.size for one in found.tensors)


def test_the_example_needs_its_whole_arena_once_and_its_layers_have_their_names() -> None:
    container = lower(example_graph(), "ab" * 32)
    found = memory_map(container, lambda name: name.upper())
    assert max(found.live().values()) == found.size == 512
    assert found.layers[:2] == ("QUANTIZE", "CONV1.BNORM") and len(found.layers) == len(set(found.layers))
    assert found.to_json()["live"]["CONV1.BNORM"] == 256
    assert found.to_json()["tensors"][0] == {"name": "CONV1.BNORM", "offset": 0, "size": 256, "first": 1, "last": 2}
