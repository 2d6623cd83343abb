"""The exception tree, the exit codes, and how "did you mean" is worded.

Every error that a user can cause is a `FlowlabError`; the command line prints its text and no traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar

FAILED = 1  # flowlab itself or an outside tool failed
UNUSABLE = 2  # what was given cannot be used, or the operating system refuses it
MISSED = 3  # a gate was missed
INTERRUPTED = 130  # what a shell says of a program that Ctrl-C ended

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

    Args:
        name: what was found.
        known: the names that would have been right.
    """
    by_case = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), list(by_case), n=1, cutoff=0.6)
    return f" Did you mean '{by_case[close[0]]}'?" if close else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence for a name that no one brings, with a suggestion and all known names."""
    names = sorted(known)
    return f"no {kind} named '{name}'.{did_you_mean(name, names)} Known: {', '.join(names) or 'none'}"
