"""Charts as inline SVG, drawn by hand: a few lines, no script, colours from the page's style sheet.

Every function returns the text of one ``<svg>``. On the page the style sheet colours it; `standalone` makes the same
text a picture of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from flowlab.report import axes
from flowlab.report.axes import Axis, Box, place
from flowlab.report.bars import colour

WIDTH, HEIGHT = 400, 240
BOX = Box(left=54, top=12, right=WIDTH - 12, bottom=HEIGHT - 44)
WAVE = Box(left=46, top=6, right=WIDTH - 8, bottom=118)
WAVE_HEIGHT = 158
WAVES = 8  # lines of a wave that have a colour of their own: w0 to w7
MAP_WIDTH, MAP_HEIGHT = 860, 300
MAP = Box(left=58, top=10, right=MAP_WIDTH - 10, bottom=MAP_HEIGHT - 44)
LETTER, LINE = 6.6, 15  # width and height of text in a box
ROC_SIZE = 250
MARGIN = 3  # how many times as large as the distance of a curve from the corner what is shown is
ZOOMS = (0.02, 0.05, 0.1, 0.2, 0.5)
LOGARITHMIC = 10  # a loss whose values are this many times apart is drawn by decades

STYLE = """
svg { font-family: system-ui, sans-serif; background: #fff; }
.grid { stroke: #dfe3ea; } .tick, .name { fill: #5c6778; font-size: 11.5px; }
.end { text-anchor: end; } .mid { text-anchor: middle; } .zero, .split { stroke: #aab3c2; stroke-dasharray: 3 3; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .soft { stroke-width: 1.5; stroke-dasharray: 4 3; }
.a { stroke: #1d5fd1; } .b { stroke: #c2570c; } .c { stroke: #6d4bc3; }
.mark { fill: #fff; stroke: #1a2130; stroke-width: 2; }
.cell { fill: #eef1f5; } .cell.right { fill: #1d5fd1; } .cell.wrong { fill: #c2570c; } .count { fill: #1a2130; }
"""


@dataclass(frozen=True)
class Line:
    """One line of a chart: its name, its style (``a``, ``b`` or ``c``, ``soft`` for dashes), and points (x, y)."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]


def curve(
    title: str,
    lines: Sequence[Line],
    *,
    marks: Sequence[tuple[float, float, str]] = (),
    splits: Sequence[float] = (),
    log: bool = False,
) -> Markup:
    """A line chart over epochs.

    Args:
        title: for those who cannot see it.
        lines: values that are not finite are left out; a chart without any point says so.
        marks: points (x, y, text) that stand out.
        splits: where a vertical line parts what comes before from what comes after.
        log: by decades, where all values are above 0, and none so near to it that there is no decade.
    """
    points = [point for line in lines for point in _finite(line.points)]
    if not points:
        return Markup("<p class='quiet'>{}: no epoch was trained.</p>").format(title)
    ys = [y for _, y in points]
    decades = log and min(ys) >= axes.SMALLEST and max(ys) <= axes.LARGEST
    upright = axes.decades(min(ys), max(ys)) if decades else axes.round_steps(min(ys), max(ys))
    across = axes.whole_numbers(min(x for x, _ in points), max(x for x, _ in points))
    parts = [_open(WIDTH, HEIGHT, title), axes.frame(BOX, across, upright, "epoch")]
    for x in splits:
        at = place(BOX, across, upright, x, upright.low)[0]
        parts.append(
            Markup('<line class="split" x1="{x}" x2="{x}" y1="{}" y2="{}"/>').format(BOX.top, BOX.bottom, x=_n(at))
        )
    for line in lines:
        parts.append(_drawn(line, [place(BOX, across, upright, *point) for point in _finite(line.points)]))
    for x, y, text in marks:
        if math.isfinite(y):
            cx, cy = place(BOX, across, upright, x, y)
            parts.append(
                Markup('<circle class="mark" cx="{}" cy="{}" r="4"><title>{}</title></circle>').format(
                    _n(cx), _n(cy), text
                )
            )
    return Markup("").join([*parts, Markup("</svg>")])


def training_curve(
    quantity: str,
    floats: Sequence[Mapping[str, Any]],
    quantized: Sequence[Mapping[str, Any]] = (),
    kept: tuple[int, int] = (0, 0),
) -> Markup:
    """Loss or metric of training and validation split by epoch, the epochs of quantization behind the float ones.

    Args:
        quantity: ``loss`` or a metric's name: ``accuracy``.
        floats: rows of the float training: ``epoch``, ``train_<quantity>``, ``val_<quantity>``.
        quantized: rows of the quantization-aware training; none where nothing was trained.
        kept: the epochs that were kept, of both; 0 is none.
    """
    lines, marks = [], []
    forms = (("float", "a", floats, 0, kept[0]), ("quantized", "b", quantized, len(floats), kept[1]))
    for form, style, rows, before, best in forms:
        for split, soft in (("train", " soft"), ("val", "")):
            lines.append(Line(f"{form}, {split}", style + soft, _history(rows, f"{split}_{quantity}", before)))
        for x, y in _history(rows, f"val_{quantity}", before):
            if best and x == best + before:
                marks.append((x, y, f"kept: epoch {best} of the {form} training, validation {quantity} {y:.4f}"))
    values = [y for line in lines for _, y in _finite(line.points) if y > 0]
    log = quantity == "loss" and bool(values) and max(values) > LOGARITHMIC * min(values)
    splits = (len(floats) + 0.5,) if floats and quantized else ()
    return curve(f"{quantity} by epoch", lines, marks=marks, splits=splits, log=log)


def confusion(title: str, classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> Markup:
    """A confusion matrix as a picture: rows are the true class, columns what was said; shaded by the row's share."""
    cell, left, top = max(34, min(64, 420 // max(len(classes), 1))), 110, 46
    size = cell * len(classes)
    parts = [
        _open(left + size + 10, top + size + 10, title),
        Markup('<text class="name" x="4" y="16">{}</text>').format(title),
    ]
    for i, name in enumerate(classes):
        middle = i * cell + cell / 2
        parts.append(
            Markup('<text class="tick mid" x="{}" y="{}">{}</text>').format(_n(left + middle), top - 8, _short(name, 9))
        )
        parts.append(
            Markup('<text class="tick end" x="{}" y="{}">{}</text>').format(
                left - 8, _n(top + middle + 4), _short(name, 16)
            )
        )
        total = sum(matrix[i])
        for j, count in enumerate(matrix[i]):
            share = count / total if total else 0.0
            kind = "" if not count else " right" if i == j else " wrong"
            parts.append(
                Markup(
                    '<rect class="cell{}" x="{x}" y="{y}" width="{w}" height="{w}" fill-opacity="{}"/>'
                    '<text class="tick count mid" x="{}" y="{}">{}</text>'
                ).format(
                    kind,
                    f"{0.15 + 0.4 * share:.2f}" if count else "1",
                    _n(left + j * cell + cell / 2),
                    _n(top + middle + 4),
                    f"{count:,}",
                    x=left + j * cell + 1,
                    y=top + i * cell + 1,
                    w=cell - 2,
                )
            )
    return Markup("").join([*parts, Markup("</svg>")])


def roc(title: str, found: Sequence[tuple[str, Mapping[str, Any]]], zoom: float = 1.0, size: int = ROC_SIZE) -> Markup:
    """True against false positives, one line a network.

    Args:
        title: for those who cannot see it.
        found: style and curve of each network (see `flowlab.learn.roc`).
        zoom: the part of both axes that is shown, from the upper left corner.
        size: of the picture, both ways.
    """
    across, upright = axes.shares(0.0, zoom, 2, before=0.04), axes.shares(1.0 - zoom, 1.0, 5, behind=0.04)
    box = Box(left=52, top=8, right=size - 18, bottom=size - 44)
    inner = Box(0, 0, box.width, box.height)
    lines, marks = [], []
    for style, one in found:
        shares = [(0.0, 0.0), *_shares(one)]
        lines.append(_drawn(Line("", style, shares), [place(inner, across, upright, *point) for point in shares]))
        said = _said(one)
        if said is not None:
            x, y = place(inner, across, upright, *said)
            marks.append(Markup('<circle class="mark {}" cx="{}" cy="{}" r="4"/>').format(style, _n(x), _n(y)))
    clipped = Markup('<svg x="{}" y="{}" width="{w}" height="{h}" viewBox="0 0 {w} {h}">').format(
        _n(box.left), _n(box.top), w=_n(box.width), h=_n(box.height)
    )
    below = "false alarms, of the other classes"
    return Markup("").join(
        [
            _open(size, size, title),
            axes.frame(box, across, upright, below),
            clipped,
            *lines,
            *marks,
            Markup("</svg></svg>"),
        ]
    )


def roc_zoom(found: Sequence[Mapping[str, Any]]) -> float:
    """The part of the axes, from the upper left corner, in which all these curves can be told apart; 1 is all.

    What the network says lies in it.
    """
    nearest = [min((max(x, 1 - y) for x, y in _shares(one)), default=1.0) for one in found]
    said = [max(x, 1 - y) for x, y in filter(None, map(_said, found))]
    need = max([MARGIN * max(nearest, default=1.0), *said])
    return next((zoom for zoom in ZOOMS if zoom >= need), 1.0)


def wave(label: str, lines: Sequence[Sequence[float]], across: str, step: int = 1) -> Markup:
    """Values over their number, a line for each of several (w0 to w7): a raw window's channels, or a feature.

    Args:
        label: for those who cannot see it.
        lines: values that are not finite are left out.
        across: what the numbers count: ``sample``.
        step: how many numbers there are from one value to the next.
    """
    values = [value for line in lines for value in line if math.isfinite(value)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    rows = axes.inside(low, high)
    columns = axes.whole_numbers(0, step * max([len(line) - 1 for line in lines] or [1]), 5)
    parts = [_open(WIDTH, WAVE_HEIGHT, label), axes.frame(WAVE, columns, rows, across)]
    for number, line in enumerate(lines):
        points = _finite([(float(i * step), value) for i, value in enumerate(line)])
        style = f"w{number % WAVES} thin"
        parts.append(_drawn(Line("", style, points), [place(WAVE, columns, rows, *point) for point in points]))
    return Markup("").join([*parts, Markup("</svg>")])


def memory_map(title: str, size: int, layers: int, tensors: Sequence[Mapping[str, Any]]) -> Markup:
    """Who lies where in a memory while layers run: a box a tensor, its bytes upright, its life across.

    Args:
        title: for those who cannot see it.
        size: bytes of the memory.
        layers: how many run, one after the other.
        tensors: ``name``, ``offset`` and ``size`` in bytes, ``first`` and ``last`` layer, counted from 0.
    """
    numbers = axes.whole_numbers(1, layers, 24)
    across = Axis(0.5, layers + 0.5, [tick for tick in numbers.ticks if tick[0] <= layers])
    upright = axes.whole_numbers(0, size, 5)
    boxes = [_box(number, one, across, upright) for number, one in enumerate(tensors)]
    frame = axes.frame(MAP, across, upright, "layer, in the order in which they run")
    return Markup("").join([_open(MAP_WIDTH, MAP_HEIGHT, title, "chart wide"), frame, *boxes, Markup("</svg>")])


def standalone(svg: str) -> str:
    """The same picture for a place without the page's style sheet."""
    opening, rest = svg.split(">", 1)
    return f'{opening} xmlns="http://www.w3.org/2000/svg"><style>{STYLE}</style>{rest}'


# --- parts --------------------------------------------------------------------------------------


def _open(width: float, height: float, title: str, style: str = "chart") -> Markup:
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        style, _n(width), _n(height), title
    )


def _box(number: int, one: Mapping[str, Any], across: Axis, upright: Axis) -> Markup:
    """A tensor of a memory map, with its name where that fits."""
    left, bottom = place(MAP, across, upright, one["first"] + 0.5, one["offset"])
    right, top = place(MAP, across, upright, one["last"] + 1.5, one["offset"] + one["size"])
    name = Markup("")
    if right - left > LETTER * len(one["name"]) + 8 and bottom - top > LINE:
        name = Markup('<text class="inbox mid" x="{}" y="{}">{}</text>').format(
            _n((left + right) / 2), _n((top + bottom) / 2 + 4), one["name"]
        )
    life = f"layers {one['first'] + 1} to {one['last'] + 1}"
    text = f"{one['name']}: {one['size']:,} bytes from byte {one['offset']:,}, {life}"
    return Markup('<rect class="box {}" x="{}" y="{}" width="{}" height="{}" rx="2"><title>{}</title></rect>{}').format(
        colour(number), _n(left + 1), _n(top), _n(right - left - 2), _n(bottom - top), text, name
    )


def _drawn(line: Line, places: Sequence[tuple[float, float]]) -> Markup:
    if len(places) == 1:  # a line through one point is nothing to see
        ((x, y),) = places
        return Markup('<circle class="line {}" cx="{}" cy="{}" r="3"/>').format(line.style, _n(x), _n(y))
    text = " ".join(f"{_n(x)},{_n(y)}" for x, y in places)
    return Markup('<polyline class="line {}" points="{}"/>').format(line.style, text) if places else Markup("")


def _history(rows: Sequence[Mapping[str, Any]], key: str, before: int) -> list[tuple[float, float]]:
    return [
        (float(row.get("epoch", i + 1)) + before, float(row[key]))
        for i, row in enumerate(rows)
        if row.get(key) is not None
    ]


def _shares(one: Mapping[str, Any]) -> list[tuple[float, float]]:
    negatives, positives = one["negatives"] or 1, one["positives"] or 1
    return [(row[0] / negatives, row[1] / positives) for row in one["points"]]


def _said(one: Mapping[str, Any]) -> tuple[float, float] | None:
    """Where the class is the one that the network says."""
    places = [place for place, row in zip(_shares(one), one["points"], strict=True) if row[2] >= 0]
    return places[-1] if places else None


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _n(value: float) -> str:
    """A coordinate with one decimal, without one where it is 0."""
    return f"{value:.1f}".removesuffix(".0")
