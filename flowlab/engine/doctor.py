"""`flowlab doctor`: whether what flowlab needs is here, a line each, with a cure for what is not.

Nothing heavy is imported: versions stand in the packages' metadata, and whether a package is whole is asked of
`importlib` without running it.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal

from flowlab.config.address import shown
from flowlab.engine import server
from flowlab.errors import ConfigError, FlowlabError
from flowlab.store.store import open_store, store_address, store_root

OWN = "flowlab"
LIBRARIES = (  # distribution, module, what lacks without it
    ("torch", "torch", "nothing can be trained"),
    ("prefect", "prefect", "only `--engine local` works"),
    ("onnxruntime", "onnxruntime", "no export can be checked"),
    ("onnx", "onnx", "no network can be exported"),
    ("numpy", "numpy", "nothing works"),
    ("pyarrow", "pyarrow", "no recording can be kept"),
)
OLDEST_PYTHON = (3, 11)
LITTLE_BYTES, FEW_BYTES = 64 << 20, 2 << 30  # below the first nothing can be kept; a demo needs some 100 MB
ASK_TIMEOUT_S = 3.0

State = Literal["ok", "warning", "unusable"]


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, what was found, and what to do about it."""

    name: str
    state: State
    found: str
    cure: str = ""

    def to_json(self) -> dict[str, str]:
        """For programs."""
        return dict(vars(self))

    def text(self) -> str:
        """For people, behind the name."""
        return f"{self.state:<8}  {self.found}{f'. {self.cure}' if self.cure else ''}"


def doctor(catalogue: Any, store: str | None, artifacts: Path) -> tuple[Finding, ...]:
    """Look at everything; returns a line for each.

    Args:
        catalogue: what is installed.
        store: the store's folder, or None for the default.
        artifacts: where runs and the default store go.
    """
    return (
        _python(),
        *_libraries(),
        _compiler(),
        *_plugins(catalogue),
        *_store(store, artifacts),
        _server(artifacts / ".prefect"),
    )


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        return Finding("python", "unusable", version, "Use Python 3.11 or newer")
    return Finding("python", "ok", version)


def _libraries() -> Iterator[Finding]:
    asked = _requirements()
    for name, module, without in LIBRARIES:
        wanted = asked.get(name, "")
        cure = f"Write: pip install '{name}{wanted}'"
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(name, "unusable", f"is not installed: {without}", cure)
            continue
        if util.find_spec(module) is None:
            yield Finding(name, "unusable", f"{version} is announced, but cannot be imported: {without}", cure)
        elif not _fits(version, wanted):
            yield Finding(name, "unusable", f"{version}, and flowlab needs {wanted}", cure)
        else:
            yield Finding(name, "ok", f"{version}{f' (needed: {wanted})' if wanted else ''}")


def _requirements() -> Mapping[str, str]:
    """What flowlab asks of its libraries, by name, as its own metadata say it."""
    found = {}
    for line in metadata.requires(OWN) or ():
        text = line.partition(";")[0].strip()
        name = next((text[:at] for at, one in enumerate(text) if one in "<>=!~ ["), text)
        if "extra ==" not in line:
            found[name.lower()] = text[len(name) :].strip()
    return found


def _fits(version: str, wanted: str) -> bool:
    """Whether a version is within ``>=1.2,<2``; suffixes such as ``+cpu`` or ``rc1`` do not count."""
    here = _numbers(version)
    for part in filter(None, wanted.split(",")):
        limit = _numbers(part.lstrip("<>=!~ "))
        if part.startswith(">=") and here < limit:
            return False
        if part.startswith("<") and not part.startswith("<=") and here >= limit:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    found = []
    for part in version.partition("+")[0].split("."):
        digits = part[: next((at for at, one in enumerate(part) if not one.isdigit()), len(part))]
        if not digits:
            break
        found.append(int(digits))
    return tuple(found)


def _compiler() -> Finding:
    from flowlab.cpu.host_compiler import MISSING, find

    compiler = find()
    if compiler is None:
        return Finding("compiler", "warning", MISSING.partition(". ")[0], MISSING.partition(". ")[2])
    return Finding("compiler", "ok", compiler.version())


def _plugins(catalogue: Any) -> Iterator[Finding]:
    packages = sorted({one.distribution for one in catalogue.brought})
    if not packages:
        yield Finding("plugins", "unusable", "no package brings anything", "Install flowlab whole: pip install flowlab")
    else:
        count = sum(not one.item.not_built for one in catalogue.brought)
        yield Finding("plugins", "ok", f"{count} things from {', '.join(packages)}")
    for package, reason in sorted(catalogue.broken.items()):
        yield Finding("plugins", "warning", f"{package} is broken: {reason}", "Update it, or uninstall it")


def _store(asked: str | None, artifacts: Path) -> Iterator[Finding]:
    try:
        address = store_address(asked)
        root = store_root(asked, artifacts) if address is None else open_store(asked, artifacts).root
    except FlowlabError as error:
        yield Finding("store", "unusable", str(error))
        return
    there = next(one for one in (root, *root.parents) if one.exists())
    problem = _unwritable(there)
    if problem:
        cure = "Change its permissions, or name another folder with --store"
        yield Finding("store", "unusable", f"{there} cannot be written: {problem}", cure)
    elif address is not None:
        yield _remote(address)
    elif there != root:
        yield Finding("store", "ok", f"{root}: not there yet, the first run makes it")
    else:
        yield Finding("store", "ok", f"{root}: {_size(_bytes(root))}, writable")
    free = shutil.disk_usage(there).free
    if free < LITTLE_BYTES:
        yield Finding("disk", "unusable", f"{_size(free)} free", "Free some space, or name another disk with --store")
    elif free < FEW_BYTES:
        yield Finding("disk", "warning", f"{_size(free)} free", "A run of large recordings needs more")
    else:
        yield Finding("disk", "ok", f"{_size(free)} free")


def _remote(address: str) -> Finding:
    """Whether the address of a store can be opened and listed; nothing is written."""
    from flowlab.store.remote import RemoteFiles

    try:
        count = len(RemoteFiles(address).names("runs"))
    except FlowlabError as error:
        return Finding("store", "unusable", str(error))
    return Finding("store", "ok", f"{address}: {count} runs, not tried whether it can be written")


def _unwritable(folder: Path) -> str:
    if not folder.is_dir():
        return "it is no folder"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _bytes(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(f"{place}/{name}").st_size
            except OSError:
                continue  # another process took it away
    return total


def _server(home: Path) -> Finding:
    from flowlab.engine import claim

    try:
        named = server.api_url()
    except ConfigError as error:
        return Finding("server", "warning", *str(error).split(". ", 1))
    standing = claim.find(home)
    api = named or (standing.api if standing is not None else None)
    if api is None:
        return Finding("server", "ok", "none is up; a run has a temporary one of its own, `flowlab up` starts one")
    source = "PREFECT_API_URL" if named else "flowlab up"
    problem = server.problem_of(api, ASK_TIMEOUT_S)
    if problem is None:
        return Finding("server", "ok", f"{shown(api)} ({source}) answers")
    cure = "Unset PREFECT_API_URL, or start that server" if named else "Write: flowlab down, then flowlab up"
    return Finding(
        "server", "warning", f"{shown(api)} ({source}) does not answer: {problem}", f"{cure}; --engine local needs none"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
