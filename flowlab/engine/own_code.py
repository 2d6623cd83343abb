"""The sources behind a state dict's module: what a change of must be noticed. Nothing is imported for it.

All Python files of the user's own are followed that an import statement leads to, from the current folder first;
of installed packages the version counts. What code imports or reads in other ways is not seen.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import machinery, metadata
from pathlib import Path

from flowlab.engine.imports import imports_of
from flowlab.errors import ConfigError

INIT = "__init__.py"
MOST_FILES = 2000  # of a user's own


@dataclass(frozen=True)
class OwnCode:
    """``files``: by module, with its path; ``libraries``: versions by distribution."""

    files: Mapping[str, Path]
    libraries: Mapping[str, str]


def own_code(module: str) -> OwnCode:
    """What ``package.module:name`` imports.

    Raises:
        ConfigError: where a source is no Python, or there are too many.
    """
    files: dict[str, Path] = {}
    packages: set[str] = set()
    waiting, seen = [module.partition(":")[0]], set()
    while waiting:
        name = waiting.pop()
        top = name.partition(".")[0]
        if name in seen or not name or top in sys.stdlib_module_names:
            continue
        seen.add(name)
        place = _top(top)
        if place is None:
            continue
        if _is_installed(place):
            packages.add(top)
            continue
        for part, path in _down(name, place):
            if part not in files:
                files[part] = path
                waiting += _imported(module, part, path)
        if len(files) > MOST_FILES:
            raise ConfigError(f"--module {module}: imports more than {MOST_FILES:,} files of your own")
    return OwnCode(dict(sorted(files.items())), _versions(packages))


def _top(name: str) -> Path | None:
    """A module's file, or a package's folder, of the current folder or of where Python looks."""
    spec = machinery.PathFinder.find_spec(name, [str(Path.cwd()), *sys.path])
    if spec is None:
        return None
    if spec.origin is not None and spec.origin.endswith(".py"):
        path = Path(spec.origin)
        return path.parent if path.name == INIT else path
    folders = list(spec.submodule_search_locations or ())
    return Path(folders[0]) if folders else None


def _is_installed(path: Path) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts)


def _down(name: str, place: Path) -> Iterator[tuple[str, Path]]:
    """The files that an import of this name runs: those of its packages, and its own."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        dotted = ".".join(parts[:count])
        if place.is_file():
            yield dotted, place
            return
        if (place / INIT).is_file():
            yield dotted, place / INIT
        if count < len(parts):
            below = place / parts[count]
            place = below if below.is_dir() else below.with_name(f"{parts[count]}.py")
            if not place.exists():
                return  # a name within the package, or none of Python's


def _imported(module: str, name: str, path: Path) -> list[str]:
    package = name if path.name == INIT else name.rpartition(".")[0]
    try:
        return imports_of(path.read_text(encoding="utf-8"), package)
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"--module {module}: {path.name} cannot be imported: {first}") from None


def _versions(packages: set[str]) -> dict[str, str]:
    """The versions of the distributions that bring these packages."""
    if not packages:
        return {}
    owners = metadata.packages_distributions()
    names = sorted({owner for package in packages for owner in owners.get(package, ())})
    return {name: metadata.version(name) for name in names}
