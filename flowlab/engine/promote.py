"""Promotion: which run of a dataset is the one in use. ``artifacts/<dataset>/promoted`` is a link to its folder.

A run takes the place of the one that is promoted when it reaches at least as much on the same test windows: those of
the new run, which the promoted program is run on where it has not seen them. Equal counts as better, because the newer
network has learned from newer data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowlab.engine.which_run import StoredRun, which_run
from flowlab.errors import FlowlabError, StoreError
from flowlab.store.run_folder import PROMOTED, RunFolder
from flowlab.store.store import Store

BY_HAND = "`flowlab promote RUN` puts a run in its place without comparing"


@dataclass(frozen=True)
class Promotion:
    """What became of a run that asked to be promoted.

    Args:
        promoted: whether it is the promoted run now.
        before: the run that was promoted before; empty for the first.
        metric: the metric's name.
        limit: what the one before reaches on this run's test windows, None where there is none or it cannot be run.
        value: what this run reaches on them.
        reason: a sentence for people.
    """

    promoted: bool
    before: str
    metric: str
    limit: float | None
    value: float | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return dict(vars(self))


def promote(folder: RunFolder, run: StoredRun, catalogue: Any) -> Promotion:
    """Promote a completed run, if it is not worse than the one that is promoted.

    Args:
        folder: the run's, in the artifacts in which the link lies.
        run: its records.
        catalogue: where the plugins that the promoted run names are found.
    """
    with run.store.lock(f"promoted.{run.dataset}"):  # who compares moves the link before another one compares
        standing, why = _standing(folder, run.store)
        found = _compared(run, standing, why, catalogue)
        if found.promoted:
            folder.becomes_promoted()
        return found


def promote_by_hand(name: str, store: str | None, artifacts: Path) -> str:
    """Let ``promoted`` lead to a run, whatever it reaches; returns a line for people.

    Raises:
        StoreError: where there is no such run, or its folder is gone.
    """
    run = which_run(name, store, artifacts)
    folder = RunFolder(artifacts, run.dataset, run.name)
    if not folder.path.is_dir():
        raise StoreError(
            f"run {run.name}: its folder {folder.path} is gone. Run its config again, and promote that run"
        )
    before = promoted_name(artifacts, run.dataset)
    with run.store.lock(f"promoted.{run.dataset}"):
        folder.becomes_promoted()
    instead = f" in place of {before}" if before and before != run.name else ""
    return f"{run.name} is the promoted run of {run.dataset}{instead}"


def promoted_name(artifacts: Path, dataset: str) -> str:
    """The name of a dataset's promoted run, or an empty text."""
    try:
        return (artifacts / dataset / PROMOTED).readlink().name
    except OSError:
        return ""


def _standing(folder: RunFolder, store: Store) -> tuple[StoredRun | None, str]:
    """The promoted run, or why its records cannot be read; neither where none is promoted."""
    name = promoted_name(folder.path.parent.parent, folder.path.parent.name)
    if not name:
        return None, ""
    try:
        return which_run(name, str(store.root), folder.path.parent.parent), ""
    except StoreError as error:
        return None, f"the promoted run {name} cannot be compared: {error}"


def _compared(run: StoredRun, standing: StoredRun | None, why: str, catalogue: Any) -> Promotion:
    metrics = run.records["simulate"].metrics.get("simulated", {}) if "simulate" in run.records else {}
    metric = next(iter(metrics), "")
    value = float(metrics[metric]) if metric else None
    if why or value is None:
        reason = why or "nothing was simulated, so nothing says what it reaches"
        return Promotion(False, "", metric, None, value, f"{reason}. {BY_HAND}")
    if standing is None:
        return Promotion(
            True, "", metric, None, value, f"{metric} {value:.4f}: the first promoted run of {run.dataset}"
        )
    if _digest(run, "compile", "program") == _digest(standing, "compile", "program"):
        reason = f"the promoted run {standing.name} has this very program"
        return Promotion(False, standing.name, metric, value, value, reason)
    try:
        limit = _reached(standing, run, metric, catalogue)
    except FlowlabError as error:
        reason = f"the promoted run {standing.name} cannot be compared: {error}. {BY_HAND}"
        return Promotion(False, standing.name, metric, None, value, reason)
    better = value >= limit
    said = f"{metric} {value:.4f}, and the promoted run {standing.name} reaches {limit:.4f} on the same test windows"
    return Promotion(better, standing.name, metric, limit, value, f"{said}{'' if better else ': it stays'}")


def _reached(standing: StoredRun, run: StoredRun, metric: str, catalogue: Any) -> float:
    """What the promoted program reaches on the new run's test windows.

    Raises:
        StoreError: where its features are made otherwise, or its files are gone.
        StageError: where nothing runs its program here.
    """
    if _digest(run, "extract", "features_test") == _digest(standing, "extract", "features_test"):
        known = standing.record("simulate").metrics.get("simulated", {})
        if metric in known:
            return float(known[metric])
    if _chain(run) != _chain(standing):
        raise StoreError("its windows or features are made otherwise than those of this run")
    from flowlab.engine.predict import outputs_of
    from flowlab.learn.problems import PROBLEMS
    from flowlab.signal import features_file

    table = features_file.read(run.file("extract", "features_test", "features.arrow"))
    values = outputs_of(standing, table.features, catalogue)
    problem = PROBLEMS[standing.record("train").document["options"]["problem"]]
    return float(problem.measure(values, table.labels)[metric])


def _chain(run: StoredRun) -> Mapping[str, Any]:
    """What decides the features of a recording: options and extractor, and the classes and shape that came of them."""
    document = run.record("extract").document
    extractor = document["plugins"]["feature_extractor"]
    spec = json.loads(run.file("extract", "feature_spec", "feature_spec.json").read_text(encoding="utf-8"))
    said = {name: spec.get(name) for name in ("shape", "classes", "columns")}
    windows = document["options"]["windows"]
    return {"windows": windows, "name": extractor["name"], "options": extractor["options"], **said}


def _digest(run: StoredRun, stage: str, role: str) -> str:
    """The digest of a role; of one that the run does not have a text that equals no other's."""
    record = run.records.get(stage)
    return record.digest(role) if record is not None and role in record.outputs else f"{run.name} has none"
