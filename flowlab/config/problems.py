"""Errors of a config that are collected, so that all of them are said at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flowlab.errors import ConfigError, FlowlabError


class Problems:
    """What is wrong so far, and in which sections: what builds on a wrong section is not looked at."""

    def __init__(self) -> None:
        self._errors: list[FlowlabError] = []
        self._sections: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._errors)

    def add(self, problem: str | FlowlabError, *sections: str) -> None:
        """One more: a sentence, or an error that was caught."""
        self._errors.append(ConfigError(problem) if isinstance(problem, str) else problem)
        self._sections.update(sections)

    def extend(self, other: Problems) -> None:
        """All of another one."""
        self._errors += other._errors
        self._sections |= other._sections

    def spare(self, *sections: str) -> bool:
        """Whether nothing is wrong in these sections."""
        return self._sections.isdisjoint(sections)

    @contextmanager
    def collected(self, *sections: str) -> Iterator[None]:
        """Collect what is raised inside, as a problem of these sections."""
        try:
            yield
        except FlowlabError as error:
            self.add(error, *sections)

    def check(self) -> None:
        """Raise what was collected: one error as it is, several as one `ConfigError` with a line each."""
        if not self._errors:
            return
        texts = list(dict.fromkeys(str(error) for error in self._errors))
        kinds = {type(error) for error in self._errors}
        kind = kinds.pop() if len(kinds) == 1 else ConfigError
        raise self._errors[0] if len(texts) == 1 else kind("\n".join(texts))
