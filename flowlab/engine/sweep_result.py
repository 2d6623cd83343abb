"""What a sweep has to say: a result for each cell, the table over them, and the files in which it is kept."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowlab.config.redaction import redacted
from flowlab.config.sweep import Cell, Sweep
from flowlab.engine import table
from flowlab.engine.result import RunResult
from flowlab.engine.session import Session
from flowlab.errors import FAILED, GateError, StageError
from flowlab.report import sweep_rows
from flowlab.report.sweep_rows import Number, Row, Table

COMPLETED, GATE_MISSED, BROKEN = "Completed", "Gate missed", "Failed"
PAGE, TABLE_FILE, JSON_FILE = "sweep.html", "sweep.csv", "sweep.json"


@dataclass(frozen=True)
class CellResult:
    """How one cell ended. ``error`` is what ended it, and ``where`` the node; a missed gate leaves its numbers."""

    cell: Cell
    run: str
    state: str
    metric: str
    values: Mapping[str, Number]
    error: Exception | None = None
    where: str = ""
    report: Path | None = None
    folder: Path | None = None

    @property
    def reason(self) -> str:
        """What went wrong, in one line; empty where nothing did."""
        return f"{self.where}: {' '.join(str(self.error).split())}" if self.error is not None else ""


def cell_result(
    cell: Cell, result: RunResult | None, session: Session, where: str = "", error: Exception | None = None
) -> CellResult:
    """Collect a cell's numbers from its run; those of a cell without a result are not known."""
    state = COMPLETED if error is None else GATE_MISSED if isinstance(error, GateError) else BROKEN
    if result is None:
        return CellResult(cell, session.name, state, "", {}, error, where)
    metric, values = _values(result, session)
    return CellResult(cell, result.run, state, metric, values, error, where, result.report, result.folder)


def _values(result: RunResult, session: Session) -> tuple[str, dict[str, Number]]:
    """What `flowlab.report.sweep_rows` has columns for."""
    floats = result.metrics.get("float") or {}
    ships = result.metrics.get("simulated") or result.metrics.get("quantized") or floats
    metric = next((name for name in ships if name in floats), next(iter(ships), ""))
    reached, before = ships.get(metric), floats.get(metric)
    compiled = session.done["compile"].record.metrics if "compile" in session.done else {}
    needed = compiled.get("needed", {})
    weights = result.sizes.get("packed_bytes")
    measured = [one["instructions"] for one in result.measured.values() if "instructions" in one]
    return metric, {
        "metric": reached,
        "float": before,
        "drop": None if reached is None or before is None else round(before - reached, 12),
        "flash_bytes": needed.get("flash"),
        "ram_bytes": needed.get("ram"),
        "weight_bytes": result.sizes.get("float_bytes") if weights is None else weights,
        "instructions": min(measured, default=None),
        "estimated_cycles": (result.costs.get("estimate") or {}).get("cycles"),
        "model_cycles": (result.costs.get("model") or {}).get("cycles"),
        "npu_share": result.about.get("npu_share"),
    }


@dataclass(frozen=True)
class SweepResult:
    """The result of one sweep. The keys of `to_json` are a promise to other programs."""

    sweep: str
    run: str
    engine: str
    cells: tuple[CellResult, ...]
    table: Table
    nodes: Mapping[str, Mapping[str, int]]
    folder: Path

    @property
    def exit_code(self) -> int:
        """0 where every cell completed, that of a missed gate where nothing else went wrong, else 1."""
        states = {one.state for one in self.cells}
        return FAILED if BROKEN in states else GateError.exit_code if GATE_MISSED in states else 0

    def check(self) -> None:
        """Raise where a cell has none of its results, or missed a gate.

        Raises:
            GateError: where gates were missed and nothing else went wrong.
            StageError: where cells failed.
        """
        broken = [one for one in self.cells if one.error is not None]
        if not broken:
            return
        kind = GateError if self.exit_code == GateError.exit_code else StageError
        raise kind("\n".join(f"{one.state}: {one.cell}: {one.reason}" for one in broken))

    def to_json(self) -> dict[str, Any]:
        """What `flowlab sweep --json` prints, and what lies in ``sweep.json``; every key is always there."""
        return {
            "sweep": self.sweep,
            "run": self.run,
            "engine": self.engine,
            "nodes": {stage: dict(counts) for stage, counts in self.nodes.items()},
            "metric": self.table.metric,
            "cells": [
                {
                    "cell": one.cell.number,
                    "labels": dict(one.cell.labels),
                    "state": one.state,
                    "run": one.run,
                    **dict.fromkeys(("metric", *sweep_rows.WORDS)),
                    **one.values,
                    "reason": one.reason,
                }
                for one in self.cells
            ],
            "groups": [_plain_group(one) for one in self.table.groups],
            "folder": str(self.folder),
        }

    def lines(self) -> list[str]:
        """The table for people, what failed and why, and where the files are."""
        header, rows = sweep_rows.shown_rows(self.table)
        broken = [one for one in self.cells if one.error is not None]
        ran = sum(counts["done"] for counts in self.nodes.values())
        total = sum(sum(counts.values()) for counts in self.nodes.values())
        lines = [
            *table.lines(header, rows),
            "",
            f"{len(self.cells) - len(broken)} of {len(self.cells)} cells completed; {ran} nodes run, "
            f"{total - ran} cached or dropped; engine {self.engine}",
        ]
        return lines + [f"{one.state}: {one.cell}: {one.reason}" for one in broken]


def sweep_result(
    sweep: Sweep,
    run: str,
    engine: str,
    cells: Sequence[CellResult],
    *,
    nodes: Mapping[str, Mapping[str, int]],
    folder: Path,
) -> SweepResult:
    """Make the table of the cells."""
    rows = [
        Row(one.cell.labels, one.state, one.values, one.run, one.reason, _address(one.report, folder)) for one in cells
    ]
    metric = next((one.metric for one in cells if one.metric), "metric")
    axes, seeds = [axis.name for axis in sweep.axes], [axis.name for axis in sweep.axes if axis.repeats]
    found = sweep_rows.table_of(metric, axes, seeds, rows, sweep.baseline)
    return SweepResult(sweep.name, run, engine, tuple(cells), found, nodes, folder)


def files_of(result: SweepResult, sweep: Sweep) -> dict[str, str]:
    """The sweep's files by name: table, numbers, the page, and the sweep as it was asked for."""
    from flowlab.report.sweep_page import plots, render

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(sweep_rows.csv_lines(result.table))
    asked = redacted(sweep.given)
    return {
        TABLE_FILE: text.getvalue(),
        JSON_FILE: json.dumps({**result.to_json(), "asked": asked}, indent=1, sort_keys=True) + "\n",
        PAGE: render(result.sweep, result.run, result.table, result.to_json()),
        **plots(result.table),
    }


def _address(path: Path | None, folder: Path) -> str:
    """From the sweep's folder to a run's page, as a link: artifacts/ may be moved as a whole."""
    from urllib.parse import quote

    return quote(Path(os.path.relpath(path, folder)).as_posix()) if path is not None else ""


def _plain_group(one: sweep_rows.Group) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(one).items()}
