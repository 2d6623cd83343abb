"""What packages watch a run with: `flowlab.hookspecs`, the hooks that see and cannot change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flowlab.plugins import Watcher


class Watchers:
    """Tells every watcher, one after the other, in the thread that has something to tell.

    One that raises is reported with its package and hurts nobody; of each hook of a package once in a run.

    Args:
        watchers: of the packages that are installed.
        said: tells people.
    """

    def __init__(self, watchers: Sequence[Watcher], said: Callable[[str], None]) -> None:
        self._watchers = tuple(watchers)
        self._said = said
        self._complaints: dict[tuple[str, str], str] = {}

    @property
    def complaints(self) -> tuple[str, ...]:
        """A sentence for each hook of a package that raised."""
        return tuple(self._complaints.values())

    def tell(self, hook: str, event: Any) -> None:
        """Call every implementation of a hook with a copy of the event."""
        for one in self._watchers:
            if one.hook == hook:
                try:
                    one.tell(event)
                except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's code may raise anything
                    self._complain(one, error)

    def _complain(self, one: Watcher, error: BaseException) -> None:
        key = (one.distribution, one.hook)
        if key not in self._complaints:
            raised = f"{type(error).__name__}: {error}".rstrip(": ")
            self._complaints[key] = f"package {one.distribution}: {one.hook} raises {raised}; the run goes on"
            self._said(self._complaints[key])
