"""What a program says of recordings: values, one JSON object for programs, lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Window:
    """One decision: the samples ``start`` .. ``stop`` (exclusive), the class, and by how much it won.

    ``margin`` is the distance of the best output to the second best, in the units of the network's output.
    """

    start: int
    stop: int
    label: str
    margin: float
    outputs: tuple[float, ...]


@dataclass(frozen=True)
class Said:
    """What the program says of one recording, window by window, and by the vote of its windows."""

    file: str
    samples: int
    windows: tuple[Window, ...]
    counts: Mapping[str, int]
    label: str  # the class with the most windows; of several the one that comes first
    tie: bool
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """What the program of one run says of recordings. ``rate_hz`` is None where nobody says it."""

    run: str
    dataset: str
    device: str
    execution: str
    classes: tuple[str, ...]
    rate_hz: float | None
    recordings: tuple[Said, ...]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What `flowlab predict --json` prints; every key is always there."""
        return {
            "run": self.run,
            "dataset": self.dataset,
            "device": self.device,
            "execution": self.execution,
            "classes": list(self.classes),
            "rate_hz": self.rate_hz,
            "recordings": [self._recording(one) for one in self.recordings],
            "warnings": list(self.warnings),
        }

    def _recording(self, said: Said) -> dict[str, Any]:
        return {
            "file": said.file,
            "samples": said.samples,
            "class": said.label,
            "tie": said.tie,
            "counts": dict(said.counts),
            "repairs": list(said.repairs),
            "windows": [
                {
                    "start": window.start,
                    "stop": window.stop,
                    "start_s": self._seconds(window.start),
                    "stop_s": self._seconds(window.stop),
                    "class": window.label,
                    "margin": window.margin,
                    "outputs": list(window.outputs),
                }
                for window in said.windows
            ],
        }

    def _seconds(self, sample: int) -> float | None:
        return None if self.rate_hz is None else sample / self.rate_hz

    def lines(self) -> tuple[str, ...]:
        """For people: the run, then each recording with its vote and its class over time, equal classes together."""
        made = [f"run {self.run} of {self.dataset}: its program for {self.device}, run by: {self.execution}"]
        for said in self.recordings:
            total = len(said.windows)
            votes = ", ".join(f"{name} {count}" for name, count in said.counts.items() if count)
            tie = ", a tie" if said.tie else ""
            made += ["", f"{said.file}: {said.label} ({said.counts[said.label]} of {total} windows{tie}; {votes})"]
            spans = [(self._span(run), run) for run in runs_of(said.windows)]
            width = max(len(span) for span, _ in spans)
            for span, run in spans:
                count = f"{len(run)} window{'s' if len(run) > 1 else ''}"
                made.append(f"  {span:>{width}}  {run[0].label} ({count})")
            if rest := said.samples - said.windows[-1].stop:
                made.append(f"  the last {rest} samples fill no window")
            made += [f"  mended: {sentence}" for sentence in said.repairs]
        return tuple(made)

    def _span(self, run: Sequence[Window]) -> str:
        if self.rate_hz is None:
            return f"samples {run[0].start}-{run[-1].stop - 1}"
        return f"{run[0].start / self.rate_hz:.3f}-{run[-1].stop / self.rate_hz:.3f} s"


def runs_of(windows: Sequence[Window]) -> list[list[Window]]:
    """Windows in order, those of one class that follow each other together."""
    runs: list[list[Window]] = []
    for window in windows:
        if runs and runs[-1][0].label == window.label:
            runs[-1].append(window)
        else:
            runs.append([window])
    return runs
