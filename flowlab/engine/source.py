"""The roles that no stage makes: ``source``, what the reader will read, and ``notes``, what the config has to say."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flowlab.canonical import canonical_json, plain
from flowlab.config.address import file_name, filled, is_address, problem, request_parts, shown
from flowlab.config.sections import defaults
from flowlab.config.tiers import FEATURES
from flowlab.errors import ConfigError, DataError
from flowlab.roles import role_digest
from flowlab.store.downloads import Download, key_of
from flowlab.store.store import CACHES, Store

DEFAULT_STORE = ".store"  # beside the runs' folders
MAX_ENTRIES = 100_000  # files and folders below the data's folder
MAX_FOLDER_BYTES = 64 << 30

Fetch = Callable[[str, str, str | None], Download]
"""``(address, key, sha256 that it must have or None) -> download``, into the store."""


@dataclass(frozen=True)
class InputFile:
    """One file that a stage reads. ``path`` is set only where the file lies outside the store."""

    sha256: str
    size: int
    path: Path | None = None


RoleFiles = Mapping[str, InputFile]  # by name


def files_digest(files: RoleFiles) -> str:
    """The digest of a role's files."""
    return role_digest({name: file.sha256 for name, file in files.items()})


@dataclass(frozen=True)
class Located:
    """A config whose data are at hand, or known to be missing.

    Where the data come from an address, ``config`` has the downloaded archive's path in its place, and a warning that
    says what they are. ``waiting`` says what must be downloaded first; then ``source`` is not known yet.
    """

    config: Any
    download: Download | None = None
    waiting: str = ""


def located(config: Any, store: Store, fetch: Fetch | None) -> Located:
    """Find the data: download those of an address that the store does not have.

    Args:
        config: as it was loaded.
        store: has what was downloaded before; then no network is needed.
        fetch: downloads, or None where nothing may be downloaded.

    Raises:
        DataError: when the download fails, or is not what ``dataset.sha256`` says.
        ConfigError: for a variable in the path that is not set, or makes an address that cannot be downloaded.
    """
    asked = getattr(config.dataset, "input_data_path", None)
    path = filled(str(asked)) if asked else ""
    pinned = (getattr(config.dataset, "sha256", None) or "").lower() or None
    if not is_address(path):
        return Located(config if path == str(asked or "") else _at(config, path))
    if reason := problem(path):  # what a variable holds was not there when the config was checked
        raise ConfigError(f"{config.where('dataset', 'input_data_path')}: {reason}")
    key = key_of(request_parts(path)[0])
    known = store.downloads.read(key)
    if pinned is not None and (known is None or known.sha256 != pinned):
        known = _held(store, pinned, shown(path))
    if known is None and fetch is None:
        return Located(config, waiting=f"the data of {shown(path)} are not downloaded yet")
    if known is None and fetch is not None:
        known = fetch(path, key, pinned)
    assert known is not None
    link = store.downloads.link(key, file_name(path), known.sha256)
    config = _at(config, str(link))
    return Located(config if pinned else config.with_warnings(_unpinned(known)), known)


def _at(config: Any, path: str) -> Any:
    """The config with this path to its data, and the dataset's name as before."""
    return replace(config, dataset=replace(config.dataset, input_data_path=path, dataset_name=config.dataset_name))


def _held(store: Store, sha256: str, seen: str) -> Download | None:
    """The pinned object, wherever it came from."""
    if not store.objects.holds(sha256):
        return None
    return Download(sha256, store.objects.fetched(sha256).stat().st_size, seen, "")


def _unpinned(download: Download) -> str:
    return (
        f"the data were downloaded from {download.shown} on {download.when} and are not asked for again; "
        f"dataset.sha256: {download.sha256} pins them"
    )


def sources(
    config: Any, store: Store, download: Download | None = None, seen: dict[str, RoleFiles] | None = None
) -> dict[str, RoleFiles]:
    """The roles that no stage makes, for this config.

    ``source`` is empty for a dataset that makes itself (its name, options and code are in ingest's declaration);
    one file for an archive; all files below a folder, by relative path, hidden ones left out.
    ``notes`` is the object ``notes.json``, which `keep_notes` writes.

    Args:
        config: whose data are at hand (`located`), or lie behind an address that is not downloaded yet: no files.
        store: remembers the hashes of files.
        download: what the data's address became.
        seen: files by path that were looked at just now, for another config; it grows by this one's.

    Raises:
        DataError: when ``dataset.input_data_path`` is not there, holds nothing or too much, or is not what
            ``dataset.sha256`` says.
    """
    path = str(getattr(config.dataset, "input_data_path", None) or "")
    if download is not None:
        source: RoleFiles = {Path(path).name: InputFile(download.sha256, download.size)}
    else:
        seen = {} if seen is None else seen
        if path not in seen:
            seen[path] = _source(Path(path), store) if path and not is_address(path) else {}
        source = seen[path]
        _refuse_other_bytes(config, source)
    said = notes(config)
    return {"source": source, "notes": {"notes.json": InputFile(hashlib.sha256(said).hexdigest(), len(said))}}


def keep_notes(config: Any, store: Store) -> None:
    """Write the object ``notes.json``: after the plan is made, so that a config that cannot run leaves nothing."""
    store.objects.add_bytes(notes(config))


def _refuse_other_bytes(config: Any, source: RoleFiles) -> None:
    """Hold a local archive to ``dataset.sha256`` too."""
    pinned = (getattr(config.dataset, "sha256", None) or "").lower()
    path = config.dataset.input_data_path
    if not pinned or (path and is_address(str(path))):
        return
    if not path or not Path(path).is_file():
        raise DataError("dataset.sha256: only an archive has one; dataset.input_data_path leads to none. Leave it out")
    (file,) = source.values()
    if file.sha256 != pinned:
        raise DataError(f"dataset.sha256: {path} has the sha256 {file.sha256}, expected {pinned}. Correct one of them")


def notes(config: Any) -> bytes:
    """``notes.json``: the config's warnings, and the values that the report names.

    Of the features all that is not the built-in default, whichever tier it comes from; of every other section a few.
    Only the report reads them.
    """
    asked = {
        "common": ("task_type", "target_device"),
        "dataset": ("dataset_name", "seed"),
        FEATURES: ("feature_extraction_name", "variables", *_not_default(config, FEATURES)),
        "training": (
            "model_name",
            "training_epochs",
            "batch_size",
            "learning_rate",
            "optimizer",
            "weight_decay",
            "seed",
            "quantization",
            "quantization_method",
            "quantization_weight_bitwidth",
            "quantization_activation_bitwidth",
        ),
        "compilation": ("preset_name",),
    }
    overview = {
        section: {key: getattr(getattr(config, section), key, None) for key in keys}
        for section, keys in asked.items()
        if getattr(config, section, None) is not None
    }
    return canonical_json({"warnings": list(config.warnings), "overview": plain(overview, "config")})


def _not_default(config: Any, section: str) -> list[str]:
    """The keys of a section that have another value than the built-in default."""
    values = getattr(config, section, None)
    return [key for key, default in defaults(section).items() if getattr(values, key, default) != default]


def _source(path: Path, store: Store) -> dict[str, InputFile]:
    if path.is_file():
        found = {path.name: path}
    elif path.is_dir():
        found = dict(_walk(path))
    else:
        raise DataError(f"dataset.input_data_path: {path} is neither a file nor a folder; correct the path")
    if not found:
        raise DataError(f"dataset.input_data_path: {path} holds no files")
    for name in found:
        if not name.isprintable() and any(one < " " or "\x7f" <= one <= "\x9f" for one in name):
            what = f"the name {name!r} holds a control character"
            raise DataError(f"dataset.input_data_path: in {path}, {what}; rename the file")
        if not name.isprintable() and any("\ud800" <= one <= "\udfff" for one in name):
            raise DataError(f"dataset.input_data_path: in {path}, the name {name!r} is not UTF-8; rename the file")
    _refuse_too_much(path, found)
    return {name: _input(store, name, file) for name, file in found.items()}


def _input(store: Store, name: str, file: Path) -> InputFile:
    try:
        return InputFile(store.stats.sha256(file), file.stat().st_size, file)
    except FileNotFoundError:
        raise DataError(f"dataset.input_data_path: {name} was there and is gone. Start the run again") from None
    except OSError as error:
        raise DataError(f"dataset.input_data_path: {name} cannot be read: {error.strerror or error}") from None


def _refuse_too_much(path: Path, found: Mapping[str, Path]) -> None:
    """By the sizes, before a byte is read."""
    total = 0
    for name, file in found.items():
        try:
            total += file.stat().st_size
        except OSError as error:
            raise DataError(f"dataset.input_data_path: {name} cannot be read: {error.strerror or error}") from None
    if total > MAX_FOLDER_BYTES:
        raise DataError(
            f"dataset.input_data_path: {path} holds {total:,} bytes, at most {MAX_FOLDER_BYTES:,} are read. "
            "Point it at the dataset's own folder"
        )


def _is_ours(folder: Path) -> bool:
    """Whether runs are kept there: started from within the data, each run would else be a change of them."""
    return any((folder / name).is_dir() for name in (DEFAULT_STORE, CACHES))


def _walk(folder: Path) -> list[tuple[str, Path]]:
    if folder == Path(folder.anchor):
        raise DataError(f"dataset.input_data_path: {folder} is the whole file system; name the dataset's own folder")
    found = []
    seen = 0
    for place, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not _is_ours(Path(place, name)))
        seen += len(folders) + len(names)
        if seen > MAX_ENTRIES:
            raise DataError(
                f"dataset.input_data_path: {folder} holds more than {MAX_ENTRIES:,} files and folders. "
                "Point it at the dataset's own folder, or pack that into a .zip"
            )
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                found.append((path.relative_to(folder).as_posix(), path))
    return found


def _unreadable(error: OSError) -> None:
    raise DataError(f"dataset.input_data_path: {error.filename} cannot be read: {error.strerror or error}")
