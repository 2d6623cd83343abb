"""What of a config may be kept and shown: all but secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowlab.config.address import VARIABLE, is_address, shown

HIDDEN = "***"
SECRET_WORDS = ("password", "passwd", "secret", "token", "credential", "api_key", "apikey", "access_key")


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
