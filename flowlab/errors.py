"""The exception tree, the exit codes, and how "did you mean" and counts are worded.

Every error that a user can cause is a `FlowlabError`; the command line prints its text and no traceback.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, ClassVar

FAILED = 1  # flowlab itself or an outside tool failed
UNUSABLE = 2  # what was given cannot be used, or the operating system refuses it
MISSED = 3  # a gate was missed
INTERRUPTED = 130  # what a shell says of a program that Ctrl-C ended

SHORTEST_WORD = 3  # letters of a part of a name that is worth a suggestion
SUGGESTED = 3  # names of equal right in one suggestion

EXIT_CODES = (
    (0, "fine"),
    (FAILED, "flowlab itself or an outside tool failed"),
    (UNUSABLE, "what was given cannot be used: command line, config, data, or a disk that refuses"),
    (MISSED, "a gate was missed: --require, or a limit in the config"),
    (INTERRUPTED, "stopped by Ctrl-C"),
)
"""Every exit code of the command line, and what it means."""


class FlowlabError(Exception):
    """An error that says what was found, what is known, and what to do. ``exit_code`` is the command line's."""

    exit_code: ClassVar[int] = UNUSABLE


class ConfigError(FlowlabError):
    """The YAML file, an overlay or a ``--set`` cannot be used as it stands."""


class DataError(FlowlabError):
    """A recording, an archive or an annotation list cannot be read."""


class OptionError(FlowlabError):
    """An option of a plugin, or a combination of options, makes no sense."""


class PluginError(FlowlabError):
    """A plugin cannot be found, loaded or used."""


class StageError(FlowlabError):
    """A stage cannot do its work."""

    exit_code = FAILED


class StoreError(FlowlabError):
    """An object or a record in the store cannot be trusted."""


class GraphError(FlowlabError):
    """A graph breaks a law of the compiler's IR, or cannot be expressed in it."""


class QuantizationError(FlowlabError):
    """A layer cannot be quantized to the number format that was asked for."""


class ProgramError(FlowlabError):
    """Program bytes are damaged, of an unknown version, or too large for the device."""


class AgreementError(FlowlabError):
    """Two executions of one program give different integers."""

    exit_code = FAILED


class GateError(FlowlabError):
    """A finished run misses a limit that was set for it. ``result`` is what the run has to say all the same."""

    exit_code = MISSED
    result: Any = None


class NotBuiltYet(FlowlabError):
    """A documented feature that this version of flowlab does not have."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The suggestion behind an unknown name: ``" Did you mean 'x'?"``, or an empty text.

    Names that hold what was found as a whole word come first, the generic one and the shortest ones before others,
    because a part of a name says nothing about the rest; then the one that is spelled most alike.

    Args:
        name: what was found.
        known: the names that would have been right.
    """
    by_case = {candidate.lower(): candidate for candidate in known}
    asked = name.lower()
    found = [asked] if asked in by_case else _holding(asked, by_case)
    if not found:
        import difflib  # most commands suggest nothing

        found = difflib.get_close_matches(asked, list(by_case), n=1, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(by_case[one]) for one in found)}?" if found else ""


def _holding(word: str, names: Iterable[str]) -> list[str]:
    """The few names that have this word between their ends, underscores and other marks."""
    if len(word) < SHORTEST_WORD:
        return []
    whole = re.compile(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])")
    found = [one for one in names if whole.search(one)]
    return sorted(found, key=lambda one: (not one.startswith("generic"), len(one)))[:SUGGESTED]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence for a name that no one brings, with a suggestion and all known names."""
    names = sorted(known)
    return f"no {kind} named '{name}'.{did_you_mean(name, names)} Known: {', '.join(names) or 'none'}"


def plural(count: int, one: str, many: str) -> str:
    """The count, and what is said of one thing or of any other number of them: ``1 file is``, ``2 files are``."""
    return f"{count:,} {one if count == 1 else many}"
