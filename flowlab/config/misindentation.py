"""A file that lost its indentation: sections without content, their keys at the top level.

That is what one gets by copying a config from a web page or a PDF.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowlab.config.sections import SECTIONS, keys
from flowlab.config.unread import UNREAD, UNREAD_SECTIONS
from flowlab.config.yaml_source import Pair
from flowlab.errors import ConfigError


def refuse_misindentation(pairs: Sequence[Pair], source: str) -> None:
    """Raise `ConfigError` where keys of sections stand at the top level, naming each, its section and its line."""
    advice = []
    above = ""
    for pair in pairs:
        if pair.key in SECTIONS:
            above = pair.key
        elif pair.key not in UNREAD_SECTIONS and (section := _home(pair.key, above)):
            advice.append(f"indent '{pair.key}' under '{section}:' (line {pair.line})")
    if advice:
        raise ConfigError(f"{source}: keys stand at the top level, outside of any section: {'; '.join(advice)}")


def _home(key: str, above: str) -> str:
    """The section that a key belongs to: the one above it if that knows it, else the first that does."""
    for section in (above, *SECTIONS):
        if section and (key in keys(section) or key in UNREAD[section]):
            return section
    return ""
