"""A sweep's page and its plots: what every combination reaches, what it takes, and which no other one beats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from flowlab.report import axes, sweep_rows
from flowlab.report.axes import Box, place
from flowlab.report.charts import standalone
from flowlab.report.sweep_rows import Group, Table

FOLDER = Path(__file__).parent
WIDTH, HEIGHT = 640, 340
BOX = Box(left=64, top=14, right=WIDTH - 20, bottom=HEIGHT - 48)
NAMED = 16  # points that have their names beside them; more would lie over each other
SHORTEST = 12  # units between two names


def render(name: str, run: str, table: Table, numbers: Mapping[str, Any]) -> str:
    """The page as HTML text: no script, nothing fetched; every value from outside is escaped by the template."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from flowlab.report.page import breakable

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(breakable=breakable)
    header, rows = sweep_rows.shown_rows(table)
    kept = [at for at in range(len(header)) if any(row[at] for row in rows)]
    return environment.get_template("sweep.html").render(
        style=(FOLDER / "style.css").read_text(encoding="utf-8"),
        name=name,
        run=run,
        table=table,
        header=[header[at] for at in kept],
        rows=[
            ([row[at] for at in kept], group.front or group.fast) for row, group in zip(rows, table.groups, strict=True)
        ],
        left=len(table.axes),
        plots=[(words, drawn) for _, words, drawn in _drawn(table)],
        failed=[row for row in table.rows if row.reason],
        all_axes=(*table.axes, *table.seeds),
        numbers=_block(numbers),
    )


def plots(table: Table) -> dict[str, str]:
    """The plots as pictures of their own, by file name."""
    return {name: standalone(str(drawn)) for name, _, drawn in _drawn(table)}


def scatter(title: str, table: Table, cost: str, on_front: Mapping[int, bool]) -> Markup:
    """The metric over a cost, a ring for each group, filled and joined where no other one beats it."""
    points = [
        (number, one, float(one.values[cost] or 0), float(one.values["metric"] or 0))
        for number, one in enumerate(table.groups)
        if one.values.get(cost) is not None and one.values.get("metric") is not None
    ]
    xs, ys = [x for _, _, x, _ in points], [y for _, _, _, y in points]
    across, upright = axes.inside(min(xs), max(xs), 5), axes.inside(min(ys), max(ys), 4)
    parts = [
        Markup('<svg class="chart wide" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, title),
        axes.frame(BOX, across, upright, sweep_rows.WORDS[cost]),
    ]
    best = sorted((x, y) for number, _, x, y in points if on_front[number])
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py in (place(BOX, across, upright, *one) for one in best))
    if len(best) > 1:
        parts.append(Markup('<polyline class="line a soft" points="{}"/>').format(line))
    taken: list[tuple[float, float]] = []
    for number, one, x, y in sorted(points, key=lambda found: not on_front[found[0]]):
        at = place(BOX, across, upright, x, y)
        parts.append(_point(one, table, at, on_front[number]))
        if len(taken) < NAMED and all(abs(at[1] - old[1]) > SHORTEST or abs(at[0] - old[0]) > 120 for old in taken):
            parts.append(_name(one, at))
            taken.append(at)
    return Markup("").join([*parts, Markup("</svg>")])


def _drawn(table: Table) -> list[tuple[str, str, Markup]]:
    """File name, title and picture of each front that there is."""
    found = []
    for name, cost, member in (("size.svg", table.size, "front"), ("speed.svg", table.speed, "fast")):
        if cost:
            words = f"{table.metric} over {sweep_rows.WORDS[cost]}"
            on_front = {number: bool(getattr(one, member)) for number, one in enumerate(table.groups)}
            found.append((name, words, scatter(words, table, cost, on_front)))
    return found


def _point(one: Group, table: Table, at: tuple[float, float], best: bool) -> Markup:
    what = ", ".join(f"{axis.rpartition('.')[2]} {label}" for axis, label in one.labels.items())
    text = f"{what}: {table.metric} {sweep_rows.text_of('metric', one)}"
    style = "mark a" if best else "mark"
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>').format(
        style, *at, 5 if best else 3.5, text
    )


def _name(one: Group, at: tuple[float, float]) -> Markup:
    right = at[0] > BOX.left + 0.7 * BOX.width
    text = " ".join(one.labels.values())
    return Markup('<text class="tick{}" x="{:.1f}" y="{:.1f}">{}</text>').format(
        " end" if right else "", at[0] + (-9 if right else 9), at[1] - 5, text if len(text) <= 40 else text[:39] + "…"
    )


def _block(numbers: Mapping[str, Any]) -> Markup:
    """The numbers as JSON that may stand in a page: no text in it can end the element around it."""
    text = json.dumps(numbers, ensure_ascii=True, sort_keys=True, indent=1)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704 - escaped above
