"""What agreement on random networks is worth: they have every width, and saturate at both ends."""

from __future__ import annotations

from collections import Counter

import numpy as np

from flowlab.compiler import interpreter
from flowlab.compiler.bounds import value_ranges
from flowlab.compiler.emit_c import emit_c
from flowlab.compiler.lower import lower
from flowlab.compiler.passes.pad_channels import PadChannels
from flowlab.compiler.passes.schedule import Schedule
from flowlab.compiler.passes.split_groups import SplitGroups
from flowlab.compiler.passes.split_max_pool import SplitMaxPool

from .random_graphs import random_features, random_graph

SEEDS = range(80)
RANGES = {(-128, 127): 8, (0, 255): 8, (-8, 7): 4, (0, 15): 4, (-2, 1): 2, (0, 3): 2}


def test_random_networks_have_every_width_and_saturate_at_both_ends() -> None:
    seen: Counter[object] = Counter()
    for seed in SEEDS:
        graph = random_graph(seed, quantized=True)
        values = interpreter.run(graph, random_features(graph, seed, 8))
        for node in graph.nodes:
            seen["op", node.op] += 1
            seen["dilated"] += "dilation" in node.attributes
            if node.op in ("conv", "linear"):
                seen["weights", node.op, node.attributes["weight_bits"]] += 1
            if node.op == "requantize":
                low, high = node.attributes["low"], node.attributes["high"]
                seen["activations", RANGES[low, high]] += 1
                seen["low", low] += int((values[node.name] == low).any())
                seen["high", high] += int((values[node.name] == high).any())
                seen["multiplier"] += int(node.constants["multiplier"].max() > 1)
            if node.op == "quantize":
                seen["input", RANGES[node.attributes["low"], node.attributes["high"]]] += 1
        seen["padded"] += int(PadChannels().apply(graph) is not graph)
        seen["reordered"] += int(Schedule().apply(graph) is not graph)
        for split in (SplitGroups(), SplitMaxPool()):
            seen[split.name] += int(split.apply(graph) is not graph)
        seen["wide"] += int("int_least64_t)" in emit_c(lower(graph, "ab" * 32), skip_normalize=True)["model.c"])
    wanted = [("weights", op, bits) for op in ("conv", "linear") for bits in (8, 4, 2)]
    wanted += [(what, bits) for what in ("activations", "input") for bits in (8, 4, 2)]
    wanted += [("op", op) for op in ("concat", "take", "reshape", "multiply", "add", "table")] + ["dilated"]
    wanted += [pair for low, high in RANGES for pair in (("low", low), ("high", high))]
    assert {what: seen[what] for what in wanted if seen[what] < 5} == {}
    assert min(seen[what] for what in ("multiplier", "padded", "reordered", "split_groups", "split_max_pool")) >= 5
    assert 0 < seen["wide"] < len(SEEDS)


def test_no_value_leaves_the_range_that_is_proven_for_it() -> None:
    for seed in SEEDS:
        graph = random_graph(seed, quantized=True)
        container = lower(graph, "ab" * 32)
        values = interpreter.run(graph, random_features(graph, seed, 8))
        for at, (low, high) in value_ranges(container).items():
            found = values[container.tensors[at].name]
            assert low <= np.min(found) and np.max(found) <= high
