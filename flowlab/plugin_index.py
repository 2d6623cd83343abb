"""What each package brought when it was last loaded, so that a command imports only the packages that it needs.

A file of names in the user's cache folder; nothing of it decides a result, and a wrong or missing one costs a moment.
An entry counts only while every source file of its package has the size and the time that it had then, and flowlab's
own loader has; a package of which anything was broken has none, so it is looked at again each time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import util
from pathlib import Path
from typing import Any

from flowlab import __version__
from flowlab.canonical import read_json

FORMAT = 1
MOST_BYTES = 16 << 20
LOADER = ("contracts.py", "hookspecs.py", "plugins.py", "plugin_index.py")  # of flowlab: what they refuse may change
TEXTS = 4  # of one thing that is brought: kind, name, what a config writes for it, why it is not built


def index_file() -> Path:
    """Where it lies: ``$XDG_CACHE_HOME/flowlab/plugins.json``; nowhere for a home that nobody has."""
    folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(folder).expanduser() / "flowlab" / "plugins.json"
    except RuntimeError:
        return Path(os.devnull) / "plugins.json"


class Index:
    """The entries by package; reads at once, writes only what is new."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._entries = _read(file)
        self._states: dict[str, str | None] = {}
        self._changed = False

    def entry(self, key: str, module: str) -> Mapping[str, Any] | None:
        """What is known of an announced module as it is on disk now, or None."""
        entry = self._entries.get(key)
        state = self._state(module) if entry is not None else None
        return entry if entry is not None and state is not None and entry["state"] == state else None

    def keep(self, key: str, module: str, items: Sequence[Sequence[str]], watches: Sequence[str]) -> None:
        """Remember what an announced module brought."""
        state = self._state(module)
        if state is not None:
            self._entries[key] = {"state": state, "items": [list(one) for one in items], "watches": list(watches)}
            self._changed = True

    def forget(self, key: str) -> None:
        """It is broken now."""
        self._changed |= self._entries.pop(key, None) is not None

    def save(self) -> None:
        """Write the file whole, or not at all: a folder that cannot be written costs time and nothing else."""
        if not self._changed:
            return
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}")
            temporary.write_text(json.dumps({"format": FORMAT, "packages": self._entries}), encoding="utf-8")
            temporary.replace(self._file)

    def _state(self, module: str) -> str | None:
        top = module.partition(".")[0]
        if top not in self._states:
            self._states[top] = _state_of(top)
        return self._states[top]


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        if not file.is_file() or file.stat().st_size > MOST_BYTES:  # a pipe would never end
            return {}
        value = read_json(file.read_bytes())
        if value["format"] != FORMAT:
            return {}
        return {str(key): entry for key, entry in value["packages"].items() if _is_entry(entry)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is_entry(entry: Any) -> bool:
    texts = [*entry["items"], entry["watches"]]
    return isinstance(entry["state"], str) and all(
        isinstance(words, list) and all(isinstance(one, str) for one in words) for words in texts
    ) and all(len(words) == TEXTS for words in entry["items"])  # fmt: skip


def _state_of(package: str) -> str | None:
    """A digest of name, size and time of every source file of a package; nothing is imported for it."""
    try:
        spec = util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    files = [str(origin), *(str(Path(__file__).with_name(name)) for name in LOADER)]
    for folder in spec.submodule_search_locations or ():
        for place, folders, names in os.walk(folder):
            folders[:] = sorted(one for one in folders if one != "__pycache__")
            files += [f"{place}/{name}" for name in sorted(names) if name.endswith(".py")]
    seen = hashlib.sha256(__version__.encode())
    for file in files:
        try:
            found = os.stat(file)  # noqa: PTH116 - many of them in every command
        except OSError:
            return None
        seen.update(f"{file}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    return seen.hexdigest()
