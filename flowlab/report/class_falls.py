"""The class that quantization hurt most, from the confusion matrices of both networks. Light.

An accuracy hides it: one class may fall far while others gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Document = Mapping[str, Any]
POINTS, WINDOWS = 0.05, 3  # a fall counts from both on: of few windows, one or two are a matter of chance


@dataclass(frozen=True)
class ClassFall:
    """Which share of a class's test windows the float and the quantized network find; ``windows``: how many fewer."""

    name: str
    before: float
    after: float
    windows: int
    total: int

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` has it."""
        return {"class": self.name, "float": self.before, "quantized": self.after, "windows": self.windows}


def worst_fall(train: Document, quantized: Document) -> ClassFall | None:
    """The largest fall in points that counts; None where there is none, or nothing was measured."""
    before, after = train.get("confusion"), quantized.get("confusion")
    if not before or not after:
        return None
    falls = []
    for number, name in enumerate(train["classes"]):
        total, found, still = sum(before[number]), before[number][number], after[number][number]
        if found - still >= max(WINDOWS, POINTS * total):
            falls.append(ClassFall(str(name), found / total, still / total, found - still, total))
    return max(falls, key=lambda one: one.before - one.after, default=None)
