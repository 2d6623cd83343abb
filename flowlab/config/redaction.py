"""What of a config may be kept and shown: all but secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowlab.config.address import VARIABLE, holds_secret, is_address, names_secret, shown

HIDDEN = "***"


def redacted(value: Any, key: str = "") -> Any:
    """The same JSON value without secrets: user and query of addresses, and all under a key that names a secret.

    ``${NAME}`` stays as it is written: only the stage's own process reads the environment.
    """
    if isinstance(value, Mapping):
        return {name: redacted(one, key if names_secret(key) else str(name)) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(one, key) for one in value]
    if value is None or isinstance(value, bool) or (isinstance(value, str) and VARIABLE.fullmatch(value)):
        return value
    if names_secret(key):
        return HIDDEN
    return shown(value) if isinstance(value, str) and is_address(value) else value


def written_out(value: Any, key: str = "") -> list[str]:
    """The keys, ``section.key``, under which a secret stands as it is, and not as ``${NAME}``."""
    if isinstance(value, Mapping) and not names_secret(key.rpartition(".")[2]):
        return [
            one for name, inner in value.items() for one in written_out(inner, f"{key}.{name}" if key else str(name))
        ]
    if isinstance(value, (list, tuple)):
        return sorted({one for inner in value for one in written_out(inner, key)})
    if names_secret(key.rpartition(".")[2]):
        return [key] if redacted(value, key.rpartition(".")[2]) != value else []
    return [key] if isinstance(value, str) and is_address(value) and holds_secret(value) else []


def without_secrets(value: Any) -> Any:
    """The same JSON value, but for what stands under a key that names a secret. Addresses stay whole."""
    if isinstance(value, Mapping):
        return {
            name: redacted(one, str(name)) if names_secret(str(name)) else without_secrets(one)
            for name, one in value.items()
        }
    return [without_secrets(one) for one in value] if isinstance(value, (list, tuple)) else value
