"""What flowlab itself costs: a command in which everything is cached, against a bare interpreter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO

from flowlab.errors import FlowlabError


@dataclass(frozen=True)
class Cost:
    """Medians over some starts of one command.

    ``instructions`` (in user mode) is None where ``perf`` is missing or may not count here.
    """

    wall_s: float
    cpu_s: float
    instructions: int | None


@dataclass(frozen=True)
class Overhead:
    """A cached run beside ``python -c pass``."""

    bare: Cost
    run: Cost

    def lines(self) -> list[str]:
        """For people."""
        rows = [
            f"bare interpreter: {self.bare.wall_s:.3f} s wall, {self.bare.cpu_s:.3f} s CPU",
            f"cached run:       {self.run.wall_s:.3f} s wall, {self.run.cpu_s:.3f} s CPU",
            f"ratio:            {self.run.wall_s / self.bare.wall_s:.2f} wall",
        ]
        if self.bare.instructions and self.run.instructions:
            ratio = self.run.instructions / self.bare.instructions
            rows.append(f"instructions:     {self.run.instructions:,} against {self.bare.instructions:,}, {ratio:.2f}")
        else:
            rows.append("instructions:     not counted (perf is missing or not permitted)")
        return rows


def overhead(configs: Sequence[str], sets: Sequence[str] = (), repeat: int = 7) -> list[str]:
    """Measure a run in which everything is cached; returns lines for people.

    Args:
        configs: YAML files; none means the example.
        sets: as behind ``--set``.
        repeat: starts of each command; they take turns.

    Raises:
        FlowlabError: when the run itself fails, with its last lines.
    """
    asked = [part for one in sets for part in ("--set", one)]
    command = [sys.executable, "-m", "flowlab.cli", *(("run", *configs) if configs else ("demo",)), *asked]
    return measure(command, repeat).lines()


def measure(command: Sequence[str], repeat: int) -> Overhead:
    """Start a command and a bare interpreter in turns; the command once before, so that everything is cached.

    Raises:
        FlowlabError: when the command fails.
    """
    bare = [sys.executable, "-c", "pass"]
    first = subprocess.run(command, check=False, capture_output=True, text=True)
    if first.returncode:
        raise FlowlabError(f"the run to measure failed: {first.stderr.strip()[-500:]}")
    pairs = [(_measured(bare), _measured(command)) for _ in range(repeat)]
    return Overhead(
        bare=_cost([pair[0] for pair in pairs], _instructions(bare)),
        run=_cost([pair[1] for pair in pairs], _instructions(command)),
    )


def _cost(taken: Sequence[tuple[float, float]], instructions: int | None) -> Cost:
    return Cost(median(wall for wall, _ in taken), median(cpu for _, cpu in taken), instructions)


def _measured(command: Sequence[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one start."""
    return measured(command, Path.cwd(), os.environ, subprocess.DEVNULL)[:2]


def measured(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], said: int | IO[bytes]
) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds with those of all children, and exit code of one start in a folder.

    Args:
        command: words.
        folder: where it runs.
        environment: what it finds.
        said: where its output goes.
    """
    clock = time.perf_counter()
    # Compiled modules are kept between starts, as they are for everyone who installs with pip.
    seen = {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with subprocess.Popen(command, cwd=folder, stdout=said, stderr=subprocess.STDOUT, env=seen) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return time.perf_counter() - clock, usage.ru_utime + usage.ru_stime, process.returncode


def _instructions(command: Sequence[str]) -> int | None:
    perf = shutil.which("perf")
    if perf is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        counted = Path(folder, "perf.csv")
        asked = [perf, "stat", "-x", ",", "-e", "instructions:u", "-o", str(counted), "--", *command]
        if subprocess.run(asked, check=False, capture_output=True).returncode or not counted.exists():
            return None
        for line in counted.read_text().splitlines():
            number = line.partition(",")[0]
            if number.isdigit():
                return int(number)
    return None
