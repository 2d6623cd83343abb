"""Outside programs: started in a process group of their own, ended with it, never through a shell."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from flowlab.errors import StageError

SHOWN = 1500  # characters of a failed program's output, from its beginning and from its end


def run_tool(
    command: Sequence[str | Path],
    *,
    timeout_s: float,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program to its end and return what it printed.

    Args:
        command: the program and its arguments.
        timeout_s: after this many seconds the program and all that it started are killed.
        folder: where it runs.
        environment: variables that it gets besides those of this process.

    Raises:
        StageError: with the program's first and last words, if it fails; or if it takes too long.
    """
    words = [str(word) for word in command]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=folder,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise StageError(f"{_name(words)} took longer than {timeout_s:g} s and was stopped") from None
            raise
    if process.returncode:
        raise StageError(f"{_name(words)} failed (exit {process.returncode}):\n{_shortened(output.strip())}")
    return output


def _name(words: Sequence[str]) -> str:
    """How messages call a program: its file's name, or the module that Python runs."""
    at = words.index("-m") + 1 if "-m" in words[:-1] else 0
    return words[at] if at else Path(words[0]).name


def _shortened(output: str) -> str:
    """Beginning and end: a compiler says first what is wrong, and a traceback last."""
    return output if len(output) <= 2 * SHOWN else f"{output[:SHOWN]}\n...\n{output[-SHOWN:]}"
