"""The plan of `flowlab compile`: a network of the user's own and its inputs are what no stage makes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowlab.canonical import canonical_json, plain
from flowlab.engine.facts import DiskFacts
from flowlab.engine.local import Prepared
from flowlab.engine.own_code import own_code
from flowlab.engine.source import InputFile, files_digest
from flowlab.errors import DataError
from flowlab.plan import plan
from flowlab.stages.own.declared import OWN_STAGES, OwnConfig
from flowlab.stages.own.files import MOST_MODEL, MOST_WINDOWS
from flowlab.store.store import Store

A_MODEL = "an ONNX file, or one of torch's"
TOO_LARGE, TOO_MANY = "that is no network for a microcontroller", "a few hundred windows are enough"
WINDOWS = "some hundred of the network's own inputs as a .npy file"


def prepare_own(config: OwnConfig, model: Path, inputs: Path, catalogue: Any, store: Store) -> Prepared:
    """Hash network, inputs and the user's code, and plan. Reads files, writes only the notes and the stat cache.

    Raises:
        ConfigError: for a module whose sources cannot be read.
        DataError: for a file that is not there, or far too large.
    """
    found = {
        "own_model": {model.name: _input(model, store, MOST_MODEL, TOO_LARGE, A_MODEL)},
        "own_inputs": {inputs.name: _input(inputs, store, MOST_WINDOWS, TOO_MANY, WINDOWS)},
    }
    if config.module is not None:
        code = own_code(config.module)
        found["own_code"] = {f"{name}.py": _source(path, store) for name, path in code.files.items()}
        config = replace(config, libraries=code.libraries)
    said = notes(config)
    found["notes"] = {"notes.json": InputFile(hashlib.sha256(said).hexdigest(), len(said))}
    facts = DiskFacts(store)
    digests = {role: files_digest(files) for role, files in found.items()}
    made = plan(OWN_STAGES, config, catalogue, sources=digests, facts=facts)
    keep_own_notes(config, store)
    facts.save()
    store.stats.save()
    return Prepared(made, found, store, config)


def keep_own_notes(config: OwnConfig, store: Store) -> None:
    """Write the object ``notes.json``: after the plan is made, so that what cannot run leaves nothing."""
    store.objects.add_bytes(notes(config))


def notes(config: OwnConfig) -> bytes:
    """``notes.json``: what was asked for, as the report shows it."""
    asked: Mapping[str, Any] = {
        "bits": config.bits,
        "module": config.module,
        "real-outputs": not config.output_int or None,
        **config.device_options,
    }
    overview = {"common": {"target_device": config.device}, "compile": plain(asked, "compile")}
    return canonical_json({"warnings": list(config.warnings), "overview": overview})


def _input(path: Path, store: Store, most: int, large: str, what: str) -> InputFile:
    """A file of the user's, hashed; DataError naming it, and ``what`` to give."""
    if not path.name.isprintable():  # records and pages keep it
        raise DataError(f"the name {path.name!r} holds what cannot be printed; rename the file")
    try:
        if not path.is_file():
            path.open("rb").close()  # says what is the matter, where something is
            raise DataError(f"{path}: is no file. Give {what}")
        size = path.stat().st_size
        if size > most:
            raise DataError(f"{path}: larger than {most >> 20} MB; {large}")
        return InputFile(store.stats.sha256(path), size, path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}. Give {what}") from None


def _source(path: Path, store: Store) -> InputFile:
    try:
        return InputFile(store.stats.sha256(path), path.stat().st_size, path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
