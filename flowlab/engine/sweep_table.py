"""How far a sweep is, as a table that is drawn again and again: a line a stage, and what runs just now."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group

WIDTH = 24  # of a bar


class SweepTable:
    """Counts nodes and cells. Told from several threads.

    Args:
        counts: nodes of each stage.
        cells: how many cells go on.
    """

    def __init__(self, counts: Mapping[str, int], cells: int) -> None:
        self._counts = dict(counts)
        self._cells = cells
        self._ended: dict[str, dict[str, int]] = {stage: {} for stage in counts}
        self._running: dict[str, tuple[str, str, float]] = {}  # about, what it does, part that is done
        self._states: dict[str, int] = {}
        self._lock = threading.Lock()

    def started(self, stage: str, name: str, about: str) -> None:
        """A node is begun."""
        with self._lock:
            self._running[name] = (about, "", 0.0)

    def progress(self, name: str, what: str, fraction: float) -> None:
        """A node says how far it is."""
        with self._lock:
            if name in self._running:
                self._running[name] = (self._running[name][0], what, fraction)

    def ended(self, stage: str, name: str, state: str) -> None:
        """A node has ended."""
        with self._lock:
            self._running.pop(name, None)
            self._ended[stage][state] = self._ended[stage].get(state, 0) + 1

    def cell(self, state: str) -> None:
        """A cell has ended."""
        with self._lock:
            self._states[state] = self._states.get(state, 0) + 1

    def drawn(self) -> Group:
        """The table as it stands."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for name in ("stage", "", "nodes", "run", "cached", "failed", "running now"):
            table.add_column(name, no_wrap=True)
        with self._lock:
            for stage, count in self._counts.items():
                ended = self._ended[stage]
                total = sum(ended.values())
                bar = ProgressBar(total=count, completed=total, width=WIDTH)
                numbers = [str(ended.get(state, 0) or "") for state in ("done", "cached", "failed")]
                table.add_row(stage, bar, f"{total}/{count}", *numbers, Text(self._now(stage)))
            said = ", ".join(f"{count} {state.lower()}" for state, count in self._states.items())
        return Group(table, Text(f"{self._cells} cells{': ' if said else ''}{said}"))

    def _now(self, stage: str) -> str:
        texts = []
        for name, (about, what, fraction) in self._running.items():
            if name.partition(" ")[0] == stage:
                texts.append(f"{about or name} {100 * fraction:.0f} % {what}".strip())
        return "; ".join(texts)
