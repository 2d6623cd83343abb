"""The roles that no stage makes: ``source``, what the reader will read, and ``notes``, what the config has to say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowlab.canonical import canonical_json, plain
from flowlab.errors import DataError
from flowlab.roles import role_digest
from flowlab.store.store import Store

DEFAULT_STORE = ".store"  # beside the runs' folders


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


def sources(config: Any, store: Store) -> dict[str, RoleFiles]:
    """The roles that no stage makes, for this config.

    ``source`` is empty for a dataset that makes itself (its name, options and code are in ingest's declaration);
    one file for an archive; all files below a folder, by relative path, hidden ones left out.
    ``notes`` is the object ``notes.json``.

    Raises:
        DataError: when ``dataset.input_data_path`` is not there, or holds nothing.
    """
    path = getattr(config.dataset, "input_data_path", None)
    source = _source(Path(path), store) if path else {}
    sha, size = store.objects.add_bytes(notes(config))
    return {"source": source, "notes": {"notes.json": InputFile(sha, size)}}


def notes(config: Any) -> bytes:
    """``notes.json``: the config's warnings, and the few values that the report's first lines name."""
    asked = {
        "common": ("task_type", "target_device"),
        "dataset": ("dataset_name", "seed"),
        "data_processing_feature_extraction": ("feature_extraction_name", "variables"),
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
        if not name.isprintable() and any("\ud800" <= one <= "\udfff" for one in name):
            raise DataError(f"dataset.input_data_path: in {path}, the name {name!r} is not UTF-8; rename the file")
    return {name: InputFile(store.stats.sha256(file), file.stat().st_size, file) for name, file in found.items()}


def _is_ours(folder: Path) -> bool:
    """Whether runs are kept there: started from within the data, each run would else be a change of them."""
    return (folder / DEFAULT_STORE).is_dir()


def _walk(folder: Path) -> list[tuple[str, Path]]:
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not _is_ours(Path(place, name)))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                found.append((path.relative_to(folder).as_posix(), path))
    return found
