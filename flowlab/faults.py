"""Points at which a test can kill the process, to prove that the next run resumes.

``FLOWLAB_FAULT=<point>`` kills at the first time that the point is reached, ``FLOWLAB_FAULT=<point>:<n>`` at the n-th.
Points: ``batch`` (in the middle of an epoch), ``epoch`` (after an epoch, and its checkpoint where it has one),
``checkpoint-write`` (a checkpoint is half written), ``checkpoint-rename`` (the last one has its second name, the new
one not yet its own), ``object-record`` (objects are stored, their record is not), ``record-write`` (a record's
temporary file is half written), ``record-scratch`` (a record is written, its checkpoints are still there), ``latest``
(all is done, and ``latest`` leads to the run before), ``gc-runs``, ``gc-records`` and ``gc-objects`` (a clean-up has
taken one of them away), ``import-objects`` (those of an imported run are stored, its records are not),
``import-records`` (one more of its records is, its run is not).
"""

from __future__ import annotations

import os
import signal

_reached: dict[str, int] = {}


def fault_point(name: str) -> None:
    """Die here with SIGKILL if the environment asks for it; otherwise cost nothing."""
    asked = os.environ.get("FLOWLAB_FAULT")
    if not asked:
        return
    point, _, count = asked.partition(":")
    if point != name:
        return
    _reached[name] = _reached.get(name, 0) + 1
    if _reached[name] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
