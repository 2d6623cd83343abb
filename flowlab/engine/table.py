"""Tables for people: columns as wide as their widest cell."""

from __future__ import annotations

from collections.abc import Sequence


def lines(header: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """The header and a line a row; a column in which no row has anything is left out."""
    kept = [at for at in range(len(header)) if any(row[at] for row in rows)]
    table = [[row[at] for at in kept] for row in ([*header], *rows)]
    widths = [max(len(row[at]) for row in table) for at in range(len(kept))]
    return [
        (indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()
        for row in table
    ]
