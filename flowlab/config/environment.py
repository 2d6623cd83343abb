"""``${NAME}`` in a plugin's options: read from the environment where a stage runs, and nowhere before."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flowlab.config.address import VARIABLE, filled


def from_environment(value: Any, key: str) -> Any:
    """The options with each ``${NAME}`` in a text of theirs filled in; the very same ones where there is none.

    Args:
        value: a dataclass of a plugin, or what is in it.
        key: its place, for the message.

    Raises:
        ConfigError: naming the place and a variable that is not set.
    """
    if isinstance(value, str):
        return filled(value, key=key) if VARIABLE.search(value) else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {}
        for one in (one for one in dataclasses.fields(value) if one.init):
            old = getattr(value, one.name)
            new = from_environment(old, f"{key}.{one.name}")
            if new is not old:
                changed[one.name] = new
        return dataclasses.replace(value, **changed) if changed else value
    if isinstance(value, Mapping):
        found = {name: from_environment(one, f"{key}.{name}") for name, one in value.items()}
        return found if any(found[name] is not value[name] for name in found) else value
    if isinstance(value, (list, tuple)):
        items = [from_environment(one, key) for one in value]
        if any(new is not old for new, old in zip(items, value, strict=True)):
            return tuple(items) if isinstance(value, tuple) else items
    return value
