"""Web addresses of data: which are downloaded, and what of them people may see.

User, password, query and fragment of an address may be secrets: they are in no message, file name or record.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from flowlab.errors import ConfigError

if TYPE_CHECKING:
    from urllib.parse import SplitResult  # imported where there is an address: most runs have none

SCHEMES = ("http", "https")
ARCHIVE = ".zip"
VARIABLE = re.compile(r"\$\{(\w+)\}")
KEPT = "/%:@!$&'()*+,;=~-._?"  # what stands in an address as it is; the rest is written as %XX
UNNAMED = "data"
LONG = 10  # characters of a query's value that may be a token; "download=1" is none
SECRET_WORDS = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "apikey",
    "accesskey",
    "privatekey",
)
LONGEST = 300  # characters of an address that people see


def is_address(path: str) -> bool:
    """Whether a path is no path but an address."""
    return "://" in path


def names_secret(key: str) -> bool:
    """Whether what stands under this key is a secret, by the key's words: ``api_token``, ``API-Key``, ``accessKey``."""
    plain = key.lower().replace("_", "").replace("-", "")
    return any(word in plain for word in SECRET_WORDS)


def nearly_names_secret(text: str) -> bool:
    """Whether a word of a text is one for a secret, or one letter away from it: ``api_tokn``, ``secrett``."""
    words = re.split(r"[\W_]+", text.lower())
    return names_secret(text) or any(_is_one_letter_away(one, word) for one in words for word in SECRET_WORDS)


def _is_one_letter_away(one: str, other: str) -> bool:
    """Whether a letter is missing, too much, another one, or has changed places with the next."""
    same = next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    a, b = one[same:], other[same:]
    return a[1:] == b or a == b[1:] or a[1:] == b[1:] or (a[1::-1] == b[:2] and a[2:] == b[2:])


def problem(address: str) -> str:
    """Why an address cannot be downloaded, or an empty text."""
    scheme = address.partition("://")[0].lower()
    if scheme not in SCHEMES:
        return f"only http and https are downloaded, found '{scheme[:20]}'. Download it, and give the file's path"
    if not address.isprintable():
        return "the address holds a control character"
    parts = _split(address)
    if parts is None or not parts.hostname:
        return "the address names no host, as in https://host/data.zip"
    return ""


def shown(address: str) -> str:
    """The address without what may be a secret; what was left out is marked by dots."""
    parts = _split(address)
    if parts is None or not parts.scheme or not parts.netloc:  # no way to tell what of it is a secret
        return address.partition("://")[0] + "://..."
    host = parts.netloc.rpartition("@")[2]
    text = f"{parts.scheme}://{host}{parts.path}{'?...' if parts.query else ''}"
    return "".join(one if one.isprintable() else "?" for one in text)[:LONGEST]


def file_name(address: str) -> str:
    """The name of the archive: the last part of the address's path, made fit for a file."""
    from urllib.parse import unquote

    parts = _split(address)
    last = PurePosixPath(unquote(parts.path if parts else "")).name
    stem = last[: -len(ARCHIVE)] if last.lower().endswith(ARCHIVE) else last
    clean = re.sub(r"[^\w.+-]+", "_", stem, flags=re.ASCII)[:80].strip("._-") or UNNAMED
    return f"{clean}{ARCHIVE}"


def filled(text: str, environment: Mapping[str, str] = os.environ, key: str = "dataset.input_data_path") -> str:
    """The text with each ``${NAME}`` read from the environment.

    Raises:
        ConfigError: naming the key and a variable that is not set.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in environment:
            raise ConfigError(f"{key}: '${{{found[1]}}}' is not set in the environment")
        return environment[found[1]]

    return VARIABLE.sub(value, text)


def holds_secret(address: str) -> bool:
    """Whether a secret seems to be written out in an address: a password, a lone user, or a long value of its query.

    ``${NAME}`` is none: it is read from the environment where the address is used.
    """
    parts = _split(VARIABLE.sub("", address))
    if parts is None:
        return shown(address) != address
    user, at, _ = parts.netloc.rpartition("@")
    name, colon, password = user.partition(":")
    pairs = (one.partition("=") for one in re.split("[&;]", parts.query))
    return bool(at and (password if colon else name)) or any(
        value and (len(value) >= LONG or names_secret(key))
        for key, value in ((key, value) if equals else ("", key) for key, equals, value in pairs)
    )


def request_parts(address: str) -> tuple[str, str]:
    """The address as it is asked for, without user and fragment, and ``user:password`` (or an empty text)."""
    from urllib.parse import quote, unquote, urlsplit

    parts = urlsplit(address)
    user, _, host = parts.netloc.rpartition("@")
    query = f"?{quote(parts.query, safe=KEPT)}" if parts.query else ""
    return f"{parts.scheme}://{host}{quote(parts.path, safe=KEPT) or '/'}{query}", unquote(user)


def _split(address: str) -> SplitResult | None:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(address)
        _ = parts.port  # raises for one that is no number
    except ValueError:
        return None
    return parts
