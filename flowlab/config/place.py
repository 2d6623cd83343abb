"""Where a value of the config was written, so that every message can name it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Place:
    """A file (or ``--set ...``) and a line counted from 1; line 0 means that there is none."""

    source: str
    line: int = 0

    def at(self, where: str = "") -> str:
        """How a message begins: ``arc.yaml, training, line 7``."""
        parts = [self.source, where, f"line {self.line}" if self.line else ""]
        return ", ".join(part for part in parts if part)

    def __str__(self) -> str:
        return self.at()


@dataclass(frozen=True)
class Entry:
    """One value with the place of its key, and the folder from which its relative paths count."""

    value: Any
    place: Place
    base: Path
