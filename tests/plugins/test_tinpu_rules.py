"""The NPU's rules, each at its edge: the last layer that obeys, the first that does not, and a cure that obeys."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from flowlab.compiler.rules import Layer
from flowlab_tinpu.rules import RULES


def layer(kind: str, channels: tuple[int, int] = (8, 8), **other) -> Layer:
    return Layer("x", kind, *channels, **{"height": 32, "width": 8, **other})


OBEY = [
    layer("FCONV", (1, 4), kernel=(31, 8), stride=(4, 1)),
    layer("GCONV", (4, 12), kernel=(7, 3), stride=(2, 2)),
    layer("GCONV", kernel=(31, 1), stride=(2, 1)),  # any height at width 1
    layer("DWCONV", (12, 12), groups=12, kernel=(9, 7)),
    layer("PWCONV", (4, 8)),
    layer("FC", (16, 3), height=1, width=1),
    layer("FC", (8, 3), height=1, width=1, weight_bits=4),
    layer("FC", (8, 3), height=1, width=1, weight_bits=2),
    layer("MAXPOOL", kernel=(9, 4)),
    layer("AVGPOOL", (5, 5), kernel=(3, 1), height=3, width=1),
]
BREAK = [
    (layer("FCONV", (1, 6)), "multiple of 4", "6 -> 8"),
    (layer("FCONV", (1, 8), kernel=(3, 9)), "at most 8 wide", "9 -> 8"),
    (layer("GCONV", (5, 8)), "multiples of 4", "5 -> 8"),
    (layer("GCONV", (8, 10)), "multiples of 4", "10 -> 12"),
    (layer("GCONV", (6, 10)), "multiples of 4", "6 -> 8 and 10 -> 12"),
    (layer("GCONV", kernel=(8, 2)), "at most 7 high", "8 -> 7"),
    (layer("GCONV", stride=(1, 2)), "stride of a convolution", "(1, 1), (2, 1) or (2, 2)"),
    (layer("GCONV", stride=(3, 1)), "stride of a convolution", "(1, 1), (2, 1) or (2, 2)"),
    (layer("DWCONV", (6, 6), groups=6), "multiple of 4", "6 -> 8"),
    (layer("DWCONV", (8, 16), groups=8), "as many groups", "16 -> 8"),
    (layer("DWCONV", groups=8, kernel=(3, 8)), "at most 7 wide", "8 -> 7"),
    (layer("PWCONV", (4, 2)), "multiples of 4", "2 -> 4"),
    (layer("FC", (12, 3)), "at least 16", "12 -> 16"),
    (layer("FC", (18, 3)), "multiple of 4", "18 -> 20"),
    (layer("FC", (4, 3), weight_bits=4), "8 (4 and 2 bits)", "4 -> 8"),
    (layer("MAXPOOL", (6, 6), kernel=(2, 2)), "multiple of 4", "6 -> 8"),
    (layer("MAXPOOL", kernel=(5, 5)), "1 to 4", "1 to 4"),
    (layer("AVGPOOL", kernel=(2, 1), height=2, width=1), "more than 2", "more than 2"),
    (layer("GCONV", weight_bits=3), "2, 4 or 8 bits", "3 -> 8"),
    (layer("FC", (16, 2), activation_bits=4), "Activations have 8 bits", "4 -> 8"),
]


def broken(given: Layer):
    return [rule for rule in RULES if given.kind in rule.layers and not rule.check(given)]


@pytest.mark.parametrize("given", OBEY, ids=lambda each: f"{each.kind} {each.kernel}")
def test_a_layer_at_the_edge_obeys(given: Layer) -> None:
    assert broken(given) == []


@pytest.mark.parametrize(("given", "sentence", "cure"), BREAK)
def test_a_layer_beyond_the_edge_breaks_one_rule_that_says_what_to_do(given: Layer, sentence: str, cure: str) -> None:
    (rule,) = broken(given)
    assert sentence in rule.sentence
    assert cure in rule.cure(given)


@pytest.mark.parametrize("given", [given for given, _, cure in BREAK if "->" in cure])
def test_a_cure_that_names_a_number_can_be_taken(given: Layer) -> None:
    (rule,) = broken(given)
    cure = rule.cure(given)
    changes = {int(before): int(after) for before, after in re.findall(r"(\d+) -> (\d+)", cure)}
    if "kernel" in cure:
        cured = replace(given, kernel=tuple(changes.get(side, side) for side in given.kernel))
    elif "bit" in cure:
        cured = replace(given, weight_bits=8, activation_bits=8)
    else:
        names = ("in_channels", "out_channels", "groups")
        cured = replace(given, **{name: changes.get(getattr(given, name), getattr(given, name)) for name in names})
    assert broken(cured) == []


def test_every_rule_has_a_sentence_and_is_listed_once() -> None:
    sentences = [rule.sentence for rule in RULES]
    assert all(sentence.endswith(".") for sentence in sentences)
    assert len(set(zip(sentences, (rule.layers for rule in RULES), strict=True))) == len(RULES)
