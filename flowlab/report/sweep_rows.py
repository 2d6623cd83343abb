"""The rows of a sweep's table: cells, groups of them over their seeds, and which of these are on the front. Light."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Number = int | float | None
SIZES = ("flash_bytes", "weight_bytes")  # the first that every group has is what the front is drawn over
SPEEDS = ("instructions", "estimated_cycles", "model_cycles")  # of one window; the same for the second front
WORDS = {
    "float": "float",
    "drop": "drop",
    "flash_bytes": "flash, bytes",
    "ram_bytes": "RAM, bytes",
    "weight_bytes": "weights, bytes",
    "instructions": "instructions",
    "estimated_cycles": "cycles, estimate",
    "model_cycles": "cycles, model",
    "npu_share": "on NPU",
}
"""The columns behind the axes and the metric; a column that no row has is left out."""


@dataclass(frozen=True)
class Row:
    """A cell as the table has it.

    Args:
        labels: what is chosen of each axis.
        state: ``Completed``, ``Gate missed`` or ``Failed``.
        values: ``metric``, the test split's metric of what ships, and what `WORDS` has; None where it is not known.
        run: the cell's run.
        reason: why it has no result, or which gate it missed.
        report: the address of the run's own page, from the sweep's folder.
    """

    labels: Mapping[str, str]
    state: str
    values: Mapping[str, Number]
    run: str = ""
    reason: str = ""
    report: str = ""


@dataclass(frozen=True)
class Group:
    """Cells that differ in their seeds alone.

    ``values`` are means; ``spread`` standard deviations over the seeds, of what differs between them.
    ``smaller``, ``faster`` and ``lost`` are against the baseline: times as small, times as fast, points of the metric.
    """

    labels: Mapping[str, str]
    cells: int
    failed: int
    values: Mapping[str, Number]
    spread: Mapping[str, float] = field(default_factory=dict)
    front: bool = False
    fast: bool = False
    smaller: float | None = None
    faster: float | None = None
    lost: float | None = None


@dataclass(frozen=True)
class Table:
    """All rows and groups; ``size`` and ``speed`` name the values over which the fronts are drawn, or are empty."""

    metric: str
    axes: tuple[str, ...]
    seeds: tuple[str, ...]
    rows: tuple[Row, ...]
    groups: tuple[Group, ...]
    size: str
    speed: str
    baseline: Mapping[str, str] = field(default_factory=dict)


def table_of(
    metric: str, axes: Sequence[str], seeds: Sequence[str], rows: Sequence[Row], baseline: Mapping[str, str]
) -> Table:
    """Group the rows over their seeds, find the fronts, and compare with the baseline.

    Args:
        metric: the metric's name.
        axes: all of them, in order.
        seeds: those of them that only repeat.
        rows: the cells.
        baseline: labels of the groups to compare with; each group with the one that has its other labels.
    """
    kept = tuple(axis for axis in axes if axis not in seeds)
    members: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        members.setdefault(tuple(row.labels[axis] for axis in kept), []).append(row)
    groups = [_group(dict(zip(kept, labels, strict=True)), found) for labels, found in members.items()]
    size, speed = _common(SIZES, groups), _common(SPEEDS, groups)
    small, fast = front(groups, size), front(groups, speed)
    found = tuple(
        Group(
            **{
                **vars(one),
                "front": number in small,
                "fast": number in fast,
                **_against(one, groups, baseline, size, speed),
            }
        )
        for number, one in enumerate(groups)
    )
    return Table(metric, kept, tuple(seeds), tuple(rows), found, size, speed, baseline)


def front(groups: Sequence[Group], cost: str) -> set[int]:
    """The places of those that no other beats: none costs at most as much and reaches at least as much, and one more.

    Groups without a value of either are not among them; without a ``cost`` there is no front.
    """
    points = {}
    for number, one in enumerate(groups):
        price, reached = one.values.get(cost), one.values.get("metric")
        if price is not None and reached is not None:
            points[number] = (float(price), float(reached))
    return {
        number
        for number, (price, reached) in points.items()
        if not any(
            other_price <= price and other_reached >= reached and (other_price, other_reached) != (price, reached)
            for other_price, other_reached in points.values()
        )
    }


def csv_lines(table: Table) -> list[list[str]]:
    """A header, and a line a cell; numbers as they are, what is not known empty."""
    columns = ["metric", *WORDS]
    header = [*table.axes, *table.seeds, "state", table.metric, *list(WORDS), "run", "reason"]
    lines = [header]
    for row in table.rows:
        labels = [row.labels[axis] for axis in (*table.axes, *table.seeds)]
        values = ["" if (value := row.values.get(name)) is None else repr(value) for name in columns]
        lines.append([*labels, row.state, *values, row.run, row.reason])
    return lines


def shown_rows(table: Table) -> tuple[list[str], list[list[str]]]:
    """The groups for people: a header, and the cells of the table as text; unknown ones are empty."""
    short = [axis.rpartition(".")[2] for axis in table.axes]
    header = [*short, table.metric, *WORDS.values()]
    if table.baseline:
        header += ["size", "speed", "lost"]
    header += ["front", "state"]
    return header, [_shown(table, group) for group in table.groups]


def _shown(table: Table, group: Group) -> list[str]:
    cells = [group.labels[axis] for axis in table.axes]
    cells += [text_of("metric", group)] + [text_of(name, group) for name in WORDS]
    if table.baseline:
        lost = "" if group.lost is None else f"{100 * group.lost:.2f} points"
        cells += [times(group.smaller), times(group.faster), lost]
    fronts = [word for word, there in (("small", group.front), ("fast", group.fast)) if there]
    state = f"{group.failed} of {group.cells} failed" if group.failed else ""
    return [*cells, ", ".join(fronts), state]


def text_of(name: str, group: Group) -> str:
    """A value of a group as people read it, with its spread where seeds differ."""
    value = group.values.get(name)
    if value is None:
        return ""
    if name == "npu_share":
        return f"{100 * value:.1f} %"
    if name in ("metric", "float", "drop"):
        spread = f" ± {group.spread[name]:.4f}" if name in group.spread else ""
        return f"{value:.4f}{spread}"
    return f"{value:,.0f}"


def times(ratio: float | None) -> str:
    """``3.9x``."""
    return "" if ratio is None else f"{ratio:.3g}x"


def _group(labels: Mapping[str, str], rows: Sequence[Row]) -> Group:
    names = ("metric", *WORDS)
    known = {name: [value for row in rows if (value := row.values.get(name)) is not None] for name in names}
    values: dict[str, Any] = {
        name: (found[0] if len(set(found)) == 1 else statistics.fmean(found)) if found else None
        for name, found in known.items()
    }
    spread = {name: statistics.stdev(found) for name, found in known.items() if len(set(found)) > 1}
    return Group(labels, len(rows), sum(row.state == "Failed" for row in rows), values, spread)


def _common(names: Sequence[str], groups: Sequence[Group]) -> str:
    """The first of these values that every group with a result has; empty where there is none."""
    measured = [one for one in groups if one.values.get("metric") is not None]
    return next((name for name in names if measured and all(one.values[name] is not None for one in measured)), "")


def _against(
    one: Group, groups: Sequence[Group], baseline: Mapping[str, str], size: str, speed: str
) -> dict[str, float | None]:
    wanted = {**one.labels, **baseline}
    base = next((other for other in groups if other.labels == wanted), None) if baseline else None
    if base is None:
        return {}
    metric, reached = base.values.get("metric"), one.values.get("metric")
    weights = "weight_bytes" if base.values.get("weight_bytes") and one.values.get("weight_bytes") else size
    return {
        "smaller": _ratio(base.values.get(weights), one.values.get(weights)),
        "faster": _ratio(base.values.get(speed), one.values.get(speed)),
        "lost": None if metric is None or reached is None else round(metric - reached, 12),
    }


def _ratio(before: Number, after: Number) -> float | None:
    return before / after if before and after else None
