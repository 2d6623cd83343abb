"""What of a config may be kept and shown: all but secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowlab.config.address import SECRET_WORDS, VARIABLE, holds_secret, is_address, shown

HIDDEN = "***"


def redacted(value: Any, key: str = "") -> Any:
    """The same JSON value without secrets: user and query of addresses, and values whose key names a secret.

    ``${NAME}`` stays as it is written: only the stage's own process reads the environment.
    """
    if isinstance(value, Mapping):
        return {name: redacted(one, str(name)) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(one, key) for one in value]
    if value is None or isinstance(value, bool) or (isinstance(value, str) and VARIABLE.fullmatch(value)):
        return value
    if any(word in key.lower().replace("-", "_") for word in SECRET_WORDS):
        return HIDDEN
    return shown(value) if isinstance(value, str) and is_address(value) else value


def written_out(value: Any, key: str = "") -> list[str]:
    """The keys, ``section.key``, under which a secret stands as it is, and not as ``${NAME}``."""
    if isinstance(value, Mapping):
        return [
            one for name, inner in value.items() for one in written_out(inner, f"{key}.{name}" if key else str(name))
        ]
    if isinstance(value, (list, tuple)):
        return sorted({one for inner in value for one in written_out(inner, key)})
    if redacted(value, key.rpartition(".")[2]) == HIDDEN:
        return [key]
    return [key] if isinstance(value, str) and is_address(value) and holds_secret(value) else []
