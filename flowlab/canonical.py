"""Canonical JSON: one text for one value, so that its hash names the value."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def plain(value: Any, where: str = "value") -> Any:
    """The value in JSON's types: frozen dataclasses and mappings become dicts, tuples and lists become lists.

    Raises:
        TypeError: for anything that JSON has no exact word for (a path, a NaN, a set), naming its place.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where}: {value} is no JSON number")
        return float(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name), f"{where}.{item.name}") for item in fields(value)}
    if isinstance(value, (dict, Mapping)):  # dict first: an abstract class is slow to ask
        return {_key(key, where): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise TypeError(f"{where}: {type(value).__name__} is no JSON value")


def _key(key: Any, where: str) -> str:
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise TypeError(f"{where}: key {key!r} is neither text nor an integer")
    return str(key)


def canonical_json(value: Any) -> bytes:
    """UTF-8, keys sorted, no white space, no NaN. ``value`` is plain JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def read_json(data: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError for anything else, and for one that is nested absurdly deep."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None


def digest(value: Any) -> str:
    """The sha256 (hexadecimal) of a plain JSON value's canonical text."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
