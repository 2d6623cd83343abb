"""Rules of an accelerator: a rule is a small function whose docstring is the error message and the table's row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """What rules read: shapes, groups, strides and widths, never weights.

    ``kind`` is the accelerator's word (FCONV, GCONV, DWCONV, PWCONV, FC, MAXPOOL, AVGPOOL), or empty where the
    accelerator has none for this operation. For FC, channels are features and height and width are 1.
    """

    name: str
    kind: str
    in_channels: int
    out_channels: int
    height: int  # of the input
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    weight_bits: int = 8
    activation_bits: int = 8


@dataclass(frozen=True)
class Rule:
    """``check(layer)`` is True where the layer obeys; ``sentence`` says the rule; ``cure(layer)`` what to do."""

    layers: tuple[str, ...]  # kinds that it speaks of
    sentence: str
    check: Callable[[Layer], bool]
    cure: Callable[[Layer], str]


def rule(*layers: str, cure: Callable[[Layer], str] | str = "") -> Callable[[Callable[[Layer], bool]], Rule]:
    """Make a `Rule` of a predicate; its docstring is the sentence."""

    def wrap(check: Callable[[Layer], bool]) -> Rule:
        remedy = cure if callable(cure) else lambda layer: str(cure)
        return Rule(layers, " ".join((check.__doc__ or "").split()), check, remedy)

    return wrap
