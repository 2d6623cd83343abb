"""Whether two executions give the same integers, and where they part: by output, by vector, by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowlab.contracts import Outcome
from flowlab.errors import AgreementError


@dataclass(frozen=True)
class Difference:
    """Where the first vector that differs does so first; ``node`` is an output's name where no layer tells."""

    node: str
    vector: int


@dataclass(frozen=True)
class Comparison:
    """How many vectors were held against the reference, and how many of them differ anywhere."""

    vectors: int
    mismatches: int
    first: Difference | None


def compare(reference: Outcome, found: Outcome, order: Sequence[str]) -> Comparison:
    """Hold every integer of every output, and every layer's checksum, against the reference.

    Args:
        reference: outputs and trace that are right.
        found: the outcome of an execution; a trace may be empty (a machine that keeps none).
        order: the layers in the order in which they run.

    Raises:
        AgreementError: if the outcomes cannot be compared: other outputs, shapes, layers or numbers of vectors.
    """
    _same_names("outputs", reference.outputs, found.outputs)
    if found.trace:
        _same_names("layers", reference.trace, found.trace)
    count = len(next(iter(reference.outputs.values())))
    wrong = np.zeros(count, bool)
    by_node: dict[str, NDArray[np.bool_]] = {}
    for name in order if found.trace else ():
        by_node[name] = _differs(f"layer '{name}'", reference.trace[name], found.trace[name])
    for name, right in reference.outputs.items():
        by_node[f"output '{name}'"] = _differs(f"output '{name}'", right, found.outputs[name])
    for differs in by_node.values():
        wrong |= differs
    if not wrong.any():
        return Comparison(count, 0, None)
    vector = int(np.argmax(wrong))
    node = next(name for name, differs in by_node.items() if differs[vector])
    return Comparison(count, int(wrong.sum()), Difference(node, vector))


def _same_names(what: str, right: Mapping[str, object], found: Mapping[str, object]) -> None:
    if set(right) != set(found):
        lacking, strange = sorted(set(right) - set(found)), sorted(set(found) - set(right))
        raise AgreementError(f"{what} differ: lacking {lacking}, unknown {strange}")


def _differs(name: str, right: NDArray[np.generic], found: NDArray[np.generic]) -> NDArray[np.bool_]:
    """By vector; floats are compared by their bits, so that a NaN equals itself."""
    if right.shape != found.shape or (right.dtype.kind == "f") != (found.dtype.kind == "f"):
        raise AgreementError(
            f"{name}: {found.dtype} of shape {found.shape} where {right.dtype} of shape {right.shape} is right"
        )
    if right.dtype.kind == "f":
        right, found = (np.ascontiguousarray(item, np.float32).view(np.uint32) for item in (right, found))
    return np.asarray((right != found).reshape(len(right), -1).any(axis=1))
