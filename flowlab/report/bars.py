"""Bars to scale, as inline SVG: the shares of classes in a split, and what of a memory is used."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

WIDTH = 400
COLOURS = 8  # of the style sheet: s0 to s7


def colour(number: int) -> str:
    """The style of a part by its place; from the ninth on paler."""
    return f"s{number % COLOURS}" + (" again" if number >= COLOURS else "")


def stacked(title: str, parts: Sequence[tuple[str, float]], whole: float | None = None) -> Markup:
    """One bar of parts side by side, each with its name as a tooltip.

    Args:
        title: for those who cannot see it.
        parts: name and size of each, in order; those of size 0 are left out.
        whole: what the full width stands for: the sum of the parts where it is None. Parts beyond it are cut off.
    """
    total = sum(size for _, size in parts) if whole is None else whole
    drawn, at = [], 0.0
    for number, (name, size) in enumerate(parts):
        if size <= 0 or total <= 0:
            continue
        wide = size / total * WIDTH
        drawn.append(
            Markup('<rect class="{}" x="{}" y="0" width="{}" height="14"><title>{}</title></rect>').format(
                colour(number), f"{at:.2f}", f"{max(wide, 0.5):.2f}", name
            )
        )
        at += wide
    return Markup(
        '<svg class="stack" viewBox="0 0 {w} 14" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<rect class="rest" width="{w}" height="14"/>{}</svg>'
    ).format(title, Markup("").join(drawn), w=WIDTH)
