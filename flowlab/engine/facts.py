"""Facts for fingerprints: hashes of the code that decides, and versions of libraries. Nothing is imported for it.

The code of a stage is what its module imports, found in the sources: so a declaration cannot forget a module.
Only the packages that a stage or plugin names, and flowlab itself, count as code; all others are libraries.
Paths are texts in this file: a cached run asks for every import of every module, and `Path` takes ten times as long.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata, util
from pathlib import Path

from flowlab.canonical import digest, read_json
from flowlab.errors import PluginError
from flowlab.store.store import Store

# They carry the other modules and decide nothing: a new version number or a reworded error repeats no training.
UNCOUNTED = frozenset({"flowlab", "flowlab.stages", "flowlab.errors", "flowlab.faults"})


INIT = "/__init__.py"


class DiskFacts:
    """Answers from disk, through a store's stat cache. One instance a command: it remembers within it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sha: dict[str, str] = {}
        self._places: dict[str, str | None] = {}
        self._found: dict[tuple[str, ...], dict[str, str]] = {}
        self._versions: dict[str, str] = {}
        self._imports: dict[str, list[str]] | None = None
        self._learnt = False

    def code(self, names: Iterable[str]) -> Mapping[str, str]:
        """sha256 by module of these modules and of all that they import from the same packages or from flowlab.

        A package counts with every file in it (``package/file`` for what is no module), a module with itself.

        Raises:
            PluginError: when a name is neither a module nor a package.
        """
        key = tuple(sorted(set(names)))
        if key not in self._found:
            self._found[key] = self._closure(key)
        return self._found[key]

    def version(self, distribution: str) -> str:
        """The installed version of a distribution, or ``absent``."""
        if distribution not in self._versions:
            try:
                self._versions[distribution] = _version(metadata.distribution(distribution))
            except metadata.PackageNotFoundError:
                self._versions[distribution] = "absent"
        return self._versions[distribution]

    def save(self) -> None:
        """Keep what was learnt about imports, in the store."""
        if self._learnt and self._imports is not None:
            noted = {"imports": self._imports, "check": digest(self._imports)}
            self._store.files.replace("imports.json", json.dumps(noted).encode())
            self._learnt = False

    def _closure(self, roots: Iterable[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        tops = {"flowlab"}
        waiting: list[str] = []
        for root in roots:
            tops.add(root.partition(".")[0])
            place = self._place(root)
            if place is None:
                raise PluginError(f"code '{root}' is neither an importable module nor a package")
            waiting.append(root)
            if place.endswith(INIT):
                waiting += self._package(root, place.removesuffix(INIT), found)
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in seen or name in UNCOUNTED or name.partition(".")[0] not in tops:
                continue
            seen.add(name)
            waiting.append(name.rpartition(".")[0])
            path = self._place(name)
            if path is not None:
                found[name] = self._hash(path)
                waiting += self._imported(name, path)
        return dict(sorted(found.items()))

    def _package(self, name: str, folder: str, found: dict[str, str]) -> list[str]:
        """The modules of a package; its other files are hashed at once."""
        modules = []
        for place, folders, files in os.walk(folder):
            folders[:] = [one for one in folders if one != "__pycache__" and not one.startswith(".")]
            inner = place[len(folder) :].replace(os.sep, "/")
            for file in files:
                if file == "__init__.py":
                    modules.append(name + inner.replace("/", "."))
                elif file.endswith(".py"):
                    modules.append(f"{name}{inner.replace('/', '.')}.{file[:-3]}")
                elif not file.startswith("."):
                    found[f"{name}{inner}/{file}"] = self._hash(f"{place}/{file}")
        return modules

    def _hash(self, path: str) -> str:
        if path not in self._sha:
            self._sha[path] = self._store.stats.sha256(path)
        return self._sha[path]

    def _place(self, name: str) -> str | None:
        """The source file of a module or package, or None; nothing is imported for it."""
        if name not in self._places:
            above, _, last = name.rpartition(".")
            package = self._place(above) if above else None
            if not above:
                self._places[name] = _top(name)
            elif package is not None and package.endswith(INIT):
                self._places[name] = _below(package.removesuffix(INIT), last)
            else:
                self._places[name] = None
        return self._places[name]

    def _imported(self, name: str, path: str) -> list[str]:
        """Names that a module's source imports, remembered by the source's hash."""
        if self._imports is None:
            self._imports = self._read_imports()
        package = name if path.endswith(INIT) else name.rpartition(".")[0]
        key = f"{package}:{self._hash(path)}"
        if key not in self._imports:
            from flowlab.engine.imports import imports_of

            self._imports[key] = imports_of(Path(path).read_text(encoding="utf-8"), package)
            self._learnt = True
        return self._imports[key]

    def _read_imports(self) -> dict[str, list[str]]:
        try:
            noted = read_json(self._store.files.read("imports.json"))
            read = noted["imports"]
            if not isinstance(read, dict) or noted["check"] != digest(read):
                return {}  # a name that a flipped bit hides would be code that no fingerprint counts
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return {key: names for key, names in read.items() if isinstance(names, list) and all(map(_is_text, names))}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _below(folder: str, name: str) -> str | None:
    """A module or package in a package's folder."""
    for path in (f"{folder}/{name}.py", f"{folder}/{name}{INIT}"):
        if os.path.isfile(path):  # noqa: PTH113 - see above
            return path
    return None


def _top(name: str) -> str | None:
    """The source of a package or module that is nobody's part."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        try:
            spec = util.find_spec(name)
        except (ImportError, ValueError):
            return None
        file = spec.origin if spec is not None else None
    return file if file is not None and file.endswith(".py") else None


def _version(distribution: metadata.Distribution) -> str:
    """``distribution.version`` without the parsing of all of its metadata."""
    for line in (distribution.read_text("METADATA") or "").splitlines():
        if line.startswith("Version:"):
            return line.partition(":")[2].strip()
    return distribution.version
