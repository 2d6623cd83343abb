"""One stage for a run whose driver is elsewhere: JSON in, JSON out, and a store that both reach.

`job_of` writes what a machine must know; `perform` does it there. It loads the config and plans the stage again, with
its own code, plugins, libraries and tools, and refuses where what decides the result is not what the driver planned.
``${NAME}`` stays as it is written: only the environment of the process that runs the stage is read.

``python -m flowlab.engine.far_stage`` reads one job from standard input and ends with its parent: a process of its own
has the code that is on the disk now, and whoever kills the worker ends the stage too.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from flowlab import errors
from flowlab.canonical import canonical_json, read_json
from flowlab.config.address import is_address
from flowlab.errors import ConfigError, DataError, FlowlabError, StageError
from flowlab.store.objects import DamagedObject
from flowlab.store.store import Store, open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flowlab.contracts import Progress, Stage
    from flowlab.engine.local import Prepared
    from flowlab.engine.source import RoleFiles
    from flowlab.plan import Node
    from flowlab.store.records import Record

VERSION = 1
ARTIFACTS = Path("artifacts")  # in the worker's folder: copies of what it needs from a remote store
PATH = "input_data_path"
SHOWN = 5  # fields that a refusing worker names


# --- where the run is ---------------------------------------------------------------------------


def job_of(prepared: Prepared, node: Node, inputs: Mapping[str, RoleFiles]) -> dict[str, Any]:
    """What another machine must know to do one stage: plain JSON, without paths of this machine and without secrets.

    Raises:
        ConfigError: where a secret is written out in the config.
        DataError: where a source file changed meanwhile.
    """
    from flowlab.config.redaction import written_out

    config, store = prepared.config, prepared.store
    if secrets := written_out(config.given):
        raise ConfigError(
            f"{', '.join(secrets)}: a secret is written out, and a stage that runs elsewhere gets the config. "
            "Write ${NAME} in its place: the environment of the worker answers"
        )
    path = str(config.dataset.input_data_path or "")
    return {
        "version": VERSION,
        "store": store.place,
        "stage": node.name,
        "config": _portable(config.given),
        "dataset": config.dataset_name,
        "source": ("file" if _is_one_file(path, inputs) else "folder") if path and "source" in inputs else "",
        "inputs": {role: _in_store(files, store) for role, files in inputs.items()},
        "asked": dict(node.asked),
    }


def _portable(given: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The config as it was given, with the name alone of a path to the data: its files come through the store."""
    sections = {name: dict(keys) for name, keys in given.items()}
    path = sections.get("dataset", {}).get(PATH)
    if path and not is_address(str(path)):
        sections["dataset"][PATH] = Path(str(path)).name
    return sections


def _is_one_file(path: str, inputs: Mapping[str, RoleFiles]) -> bool:
    return list(inputs["source"]) == [Path(path).name] and not Path(path).is_dir()


def _in_store(files: RoleFiles, store: Store) -> dict[str, list[Any]]:
    """Hash and size by name; what lies outside the store is brought in, for who does not see this disk."""
    for name, file in files.items():
        if file.path is not None and not store.objects.holds(file.sha256) and _added(file.path, store) != file.sha256:
            raise DataError(f"{name}: the file changed since it was hashed. Start the run again")
    return {name: [file.sha256, file.size] for name, file in files.items()}


def _added(path: Path, store: Store) -> str:
    return store.objects.add(path)[0]


def result_of(answer: str, node: Node, fingerprint: str) -> tuple[Record, bool]:
    """The record that a worker's answer holds, and whether the store had it.

    Raises:
        FlowlabError: as the stage raised it there.
        StageError: for an answer that is none.
    """
    from flowlab.store.records import Record

    try:
        value = read_json(answer.encode())
        error = value.get("error")
        record = Record.from_json(value["record"]) if error is None else None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StageError(f"stage {node.name}: its worker gave no answer that can be read") from None
    if record is None:
        raise _error(error)
    if record.fingerprint != fingerprint:
        raise StageError(f"stage {node.name}: its worker did another stage than was asked for")
    return record, bool(value["cached"])


def _error(value: Mapping[str, Any]) -> FlowlabError:
    """The error that a worker told of."""
    if value.get("object"):
        return DamagedObject(str(value["object"]), str(value["text"]))
    kind = getattr(errors, str(value.get("kind")), StageError)
    known = isinstance(kind, type) and issubclass(kind, FlowlabError)
    return kind(str(value["text"])) if known else StageError(str(value["text"]))


# --- where the stage runs -----------------------------------------------------------------------


def perform(job: Mapping[str, Any], progress: Progress) -> tuple[Record, bool]:
    """Plan one stage again, compare, and do it.

    Raises:
        StageError: naming what differs here, if this machine would make another result.
        FlowlabError: of the stage.
    """
    from flowlab.engine.execute import execute
    from flowlab.engine.source import InputFile

    if job["version"] != VERSION:
        raise StageError(f"{_here()} has another version of flowlab than the run. Install the same on both")
    store = open_store(str(job["store"]), ARTIFACTS)
    inputs = {
        role: {name: InputFile(str(sha), int(size)) for name, (sha, size) in files.items()}
        for role, files in job["inputs"].items()
    }
    with store.workspace() as place:
        node = _planned(job, inputs, store, place)
        if different := _different(job["asked"], node.asked):
            raise StageError(
                f"stage {node.name}: {_here()} would make another result than the run asks for: {different}. "
                "Install the same flowlab, plugins, libraries and tools on every worker"
            )
        return execute(node, inputs, store, progress)


def _planned(job: Mapping[str, Any], inputs: Mapping[str, RoleFiles], store: Store, place: Path) -> Node:
    """The stage as this machine would do it."""
    from flowlab.config import load_mapping
    from flowlab.engine.facts import DiskFacts
    from flowlab.plan import node_of
    from flowlab.plugins import load

    catalogue = load()
    config = load_mapping(_with_path_here(job["config"], place), catalogue)
    if job["source"]:  # its files choose the reader
        store.links(place, {name: file.sha256 for name, file in inputs["source"].items()})
        path = place / next(iter(inputs["source"])) if job["source"] == "file" else place
        config = replace(config, dataset=replace(config.dataset, input_data_path=str(path)))
    config = replace(config, dataset=replace(config.dataset, dataset_name=job["dataset"]))
    facts = DiskFacts(store)
    node = node_of(_stage(str(job["stage"]), config), config, catalogue, needs=tuple(inputs), facts=facts)
    facts.save()
    return node


def _with_path_here(given: Mapping[str, Any], place: Path) -> Mapping[str, Any]:
    """The config, with a folder of this machine where the driver's path to its data stands."""
    path = str(given.get("dataset", {}).get(PATH) or "")
    return {**given, "dataset": {**given["dataset"], PATH: str(place)}} if path and not is_address(path) else given


def _stage(name: str, config: Any) -> Stage:
    from flowlab.stages import STAGES

    own: Iterable[Stage] = (one.stage for one in config.own.values())
    for stage in (*STAGES, *own):
        if stage.name == name:
            return stage
    raise StageError(f"{_here()} has no stage '{name}'. Install the same flowlab and plugins on every worker")


def _different(asked: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The fields in which what decides the result differs, with both values; empty where none does."""
    from flowlab.engine.status import changes

    found = changes(asked, read_json(canonical_json(dict(here))))
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(f"{one.full()}" for one in found[:SHOWN]) + more


def _here() -> str:
    return f"the worker on {os.uname().nodename}"


def answer_of(job: str, progress: Progress) -> dict[str, Any]:
    """Do a job; what is raised is an answer too. A defect leaves its traceback in this worker's log."""
    try:
        record, cached = perform(json.loads(job), progress)
        return {"record": record.to_json(), "cached": cached}
    except DamagedObject as error:
        return {"error": {"kind": "DamagedObject", "object": error.sha256, "text": error.found}}
    except FlowlabError as error:
        return {"error": {"kind": type(error).__name__, "text": str(error)}}
    except OSError as error:
        reason = f"{error.filename or 'the disk'}: {error.strerror or error}"
        return {"error": {"kind": "StageError", "text": f"{_here()}: {reason}"}}
    except Exception as error:  # noqa: BLE001 - whoever asked must hear of it
        import traceback

        traceback.print_exc()
        text = f"{_here()}: {type(error).__name__}: {error}. Its log has the traceback"
        return {"error": {"kind": "StageError", "text": text}}


@contextmanager
def _only_answers() -> Iterator[TextIO]:
    """Yield standard output; what a library or a compiler writes there lands in the worker's log."""
    kept = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(kept, "w", encoding="utf-8") as out:
        yield out


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Do the job on standard input: a line for each progress, and one with the answer."""
    job = sys.stdin.readline()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with _only_answers() as out:

        def progress(what: str, fraction: float) -> None:
            out.write(json.dumps({"progress": [what, fraction]}) + "\n")
            out.flush()

        out.write(json.dumps(answer_of(job, progress)) + "\n")


if __name__ == "__main__":
    main()
