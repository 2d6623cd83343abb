"""What a run's program says of new recordings: the run's windows and features, and the bytes that it compiled.

Everything is taken from the records of the run: which windows, which extractor with which options, which program.
So a prediction is the run's own answer, whatever has been written into config files since.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from flowlab.engine.prediction import Prediction, Said, Window
from flowlab.errors import DataError, OptionError, StageError, StoreError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowlab.contracts import Execution, FeatureExtractor, Plugin, Reader, Recording, Target
    from flowlab.engine.which_run import StoredRun
    from flowlab.signal.windowing import WindowOptions
    from flowlab.store.records import Record

OUTPUT = "output"  # the output that decides, where a network has several


def predict(run: StoredRun, files: Sequence[Path], catalogue: Any, rate_hz: float | None = None) -> Prediction:
    """Run a run's program on recordings.

    Args:
        run: a run in a store, which came at least as far as ``compile``.
        files: recordings, one file each.
        catalogue: where the plugins that the run names are found.
        rate_hz: samples a second; None takes the run's ``sampling_rate``, where its config says one.

    Raises:
        OptionError: for a rate that is none.
        StoreError: where the run is incomplete, or its files are gone.
        DataError: where a recording cannot be used, naming file and place.
        StageError: where no execution of the device runs here, or one fails.
    """
    if rate_hz is not None and not (math.isfinite(rate_hz) and rate_hz > 0):
        raise OptionError(f"--rate {rate_hz:g}: samples a second are a positive number")
    chain = _chain(run, catalogue)
    target = cast("Target", _plugin(run.record("compile"), "target", catalogue)[0])
    execution = _execution(run, target)
    readers = [_reader(path, run, catalogue) for path in files]
    cuts = [_cut(path, chain, _read(path, *chosen)) for path, chosen in zip(files, readers, strict=True)]
    features = _features(chain, cuts)
    outputs = _run_program(run, execution, features)
    said, at = [], 0
    for cut in cuts:
        said.append(_said(cut, outputs[at : at + len(cut.start)], chain))
        at += len(cut.start)
    rate = (
        rate_hz if rate_hz is not None else (chain.windows.sampling_rate if chain.windows.sampling_rate > 1 else None)
    )
    return Prediction(
        run=run.name,
        dataset=run.dataset,
        device=target.name,
        execution=execution.name,
        classes=chain.classes,
        rate_hz=rate,
        recordings=tuple(said),
        warnings=changed(run, chain.extractor, _own(run, readers), target, execution),
    )


def outputs_of(run: StoredRun, features: NDArray[np.float32], catalogue: Any) -> NDArray[Any]:
    """What a run's program says of features, ``(window, output)``: the output that decides.

    Raises:
        StoreError: where the run is incomplete, or its files are gone.
        StageError: where no execution of the device runs here, or one fails.
    """
    target = cast("Target", _plugin(run.record("compile"), "target", catalogue)[0])
    return _run_program(run, _execution(run, target), features)


# --- what the run decided ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chain:
    """From a recording to features, as the run's stage ``extract`` did it."""

    windows: WindowOptions
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    extractor: FeatureExtractor
    options: Any


def _chain(run: StoredRun, catalogue: Any) -> _Chain:
    from flowlab.signal.windowing import WindowOptions

    record = run.record("extract")
    spec = json.loads(run.file("extract", "feature_spec", "feature_spec.json").read_text(encoding="utf-8"))
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in record.document["options"]["windows"].items()
    }
    try:
        windows = WindowOptions(**given)
    except TypeError as error:
        raise StoreError(
            f"run {run.name} was made by another version of flowlab: {error}. Run its config again"
        ) from None
    extractor, options = _plugin(record, "feature_extractor", catalogue)
    channels, height, width = spec["shape"]
    return _Chain(
        windows,
        tuple(spec["columns"]),
        tuple(spec["classes"]),
        (channels, height, width),
        cast("FeatureExtractor", extractor),
        options,
    )


def _plugin(record: Record, kind: str, catalogue: Any) -> tuple[Plugin, Any]:
    """A plugin that a stage used, with the options that it had. Raises what the catalogue raises."""
    said = record.document["plugins"][kind]
    plugin: Plugin = catalogue.get(kind, said["name"])
    return plugin, catalogue.options(plugin, said["options"])


def _execution(run: StoredRun, target: Target) -> Execution:
    """The first way to run the program that there is here, and that agreed when the run compared them.

    Raises `StageError` where there is none.
    """
    from flowlab.contracts import FLOAT
    from flowlab.engine.result import agreement_of

    floats = agreement_of(run.records)["comparison"] == FLOAT
    executions = [one for one in target.executions() if one.floats or not floats]
    agreed = [one.name for one in executions]  # nothing was compared where testing is switched off
    if "simulate" in run.records:
        agreed = agreement_of({"simulate": run.record("simulate")})["executions"]
    reasons = []
    foreign = any(record.imported for record in run.records.values())
    for one in executions:
        if foreign and one.native:
            reasons.append(f"{one.name}: the run was imported, and no code of it is run here")
            continue
        reason = one.missing() or ("" if one.name in agreed else "it did not run when the run compared them")
        if not reason:
            return one
        reasons.append(f"{one.name}: {reason}")
    raise StageError(f"no execution of {target.name} runs the program of {run.name} here: {'; '.join(reasons)}")


@dataclass(frozen=True)
class _Made:
    """What decides a result: hashes of code by module, versions by distribution or tool."""

    code: Mapping[str, str]
    versions: Mapping[str, str]

    def others(self, now: _Made) -> list[str]:
        """What is not the same now: names of modules, then versions, both of them."""
        other = [name for name in sorted({*self.code, *now.code}) if self.code.get(name) != now.code.get(name)]
        return other + [
            f"{name} ({self.versions.get(name) or 'absent'}, now {now.versions.get(name) or 'absent'})"
            for name in sorted({*self.versions, *now.versions})
            if self.versions.get(name) != now.versions.get(name)
        ]


def changed(
    run: StoredRun, extractor: FeatureExtractor, reader: Reader | None, target: Target, execution: Execution
) -> tuple[str, ...]:
    """A sentence for each part of a prediction whose code or libraries are not those of the run's records any more.

    Args:
        run: whose records say what they were.
        extractor: makes the features.
        reader: the run's own; None where it read none of the recordings.
        target: the device, whose code runs the program.
        execution: of the target, the one that runs it.
    """
    from flowlab.engine.facts import DiskFacts
    from flowlab.stages.extract import STAGE

    facts = DiskFacts(run.store)

    def now(plugin: Plugin, code: Iterable[str] = (), libraries: Iterable[str] = ()) -> _Made:
        made = {**(facts.code(code) if code else {}), **facts.code((type(plugin).__module__, *plugin.code))}
        return _Made(made, {name: facts.version(name) for name in (*libraries, *plugin.libraries)})

    document = run.record("extract").document
    stage = (STAGE.run.partition(":")[0], *STAGE.code)
    made = _recorded(document, "feature_extractor", document["code"], document["libraries"])
    sentences = [
        (
            "what makes features",
            made.others(now(extractor, stage, STAGE.libraries)),
            "these features may differ from those that its network learned from",
        )
    ]
    if reader is not None:
        made = _recorded(run.record("ingest").document, "reader", {}, {})
        said = "the samples may differ from those that the run would have read"
        sentences.append(("what reads recordings", made.others(now(reader)), said))
    document = run.record("simulate" if "simulate" in run.records else "compile").document
    tools = {name: version for name, version in document["tools"].items() if name == execution.name}
    runs = now(target)
    runs = _Made(runs.code, {**runs.versions, **({execution.name: execution.version()} if tools else {})})
    made = _recorded(document, "target", {}, tools)
    sentences.append(("what runs its program", made.others(runs), "its outputs may differ from those of the run"))
    return tuple(_sentence(run, what, others, said) for what, others, said in sentences if others)


def _recorded(document: Mapping[str, Any], kind: str, code: Mapping[str, str], versions: Mapping[str, str]) -> _Made:
    """What a record says of a plugin, with what it says of the stage itself."""
    plugin = document["plugins"][kind]
    return _Made({**code, **plugin["code"]}, {**versions, **plugin["libraries"]})


def _sentence(run: StoredRun, what: str, others: Sequence[str], said: str) -> str:
    few = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    return f"since run {run.name} was made, {what} has changed ({few}): {said}. Running its config again settles it"


# --- recordings -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cut:
    """The windows of one recording, float32 ``(window, channel, length)``, and the sample where each starts."""

    recording: Recording
    windows: NDArray[np.float32]
    start: NDArray[np.int64]


def _reader(path: Path, run: StoredRun, catalogue: Any) -> tuple[Reader, Any]:
    """The run's reader with its options where it reads such files, else the one that does."""
    if path.is_dir():
        raise DataError(f"{path} is a folder: name its recordings one by one")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    used = _used_reader(run)
    reader: Reader | None = catalogue.find("reader", used["name"]) if used else None
    if reader is not None and path.suffix.lower() in (known.lower() for known in reader.suffixes):
        options = used["options"]
    else:
        reader, options = catalogue.reader_for(path.suffix), {}
    if reader is None:
        known = ", ".join(sorted({end for one in catalogue.of_kind("reader") for end in one.item.suffixes}))
        raise DataError(f"{path}: no reader for '{path.suffix}' files. Known: {known or 'none'}")
    return reader, catalogue.options(reader, options)


def _used_reader(run: StoredRun) -> Mapping[str, Any]:
    """What the run's records say of its reader; nothing where its data were made."""
    found: Mapping[str, Any] = run.records["ingest"].document["plugins"] if "ingest" in run.records else {}
    used: Mapping[str, Any] = found.get("reader", {})
    return used


def _own(run: StoredRun, readers: Iterable[tuple[Reader, Any]]) -> Reader | None:
    """The run's reader, if it is among these."""
    return next((reader for reader, _ in readers if reader.name == _used_reader(run).get("name")), None)


def _read(path: Path, reader: Reader, options: Any) -> Recording:
    try:
        return reader.read(path, str(path), options)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _cut(path: Path, chain: _Chain, recording: Recording) -> _Cut:
    """Choose the run's columns by name and cut the run's windows."""
    import numpy as np

    from flowlab.signal import windowing

    missing = [name for name in chain.columns if name not in recording.columns]
    if missing:
        raise DataError(
            f"{path}: no column '{missing[0]}'. The run looks at the columns {', '.join(chain.columns)}; "
            f"the file has {', '.join(recording.columns)}"
        )
    columns = [recording.columns.index(name) for name in chain.columns]
    samples = recording.samples
    finite = np.isfinite(samples[:, columns]).all(axis=1)
    if not finite.all():
        raise DataError(f"{path}: sample {int(finite.argmin())} is not finite. Repair the recording")
    windows, start = windowing.cut(samples, columns, chain.windows)
    if not len(windows):
        needed = windowing.span(chain.windows)
        raise DataError(f"{path}: {len(samples)} samples are too few for one window of the run: it takes {needed}")
    return _Cut(recording, windows, start)


def _features(chain: _Chain, cuts: Sequence[_Cut]) -> NDArray[np.float32]:
    import numpy as np

    from flowlab.stages.extract import extract_features

    features = np.concatenate(
        [extract_features(chain.extractor, chain.options, one.windows, chain.shape) for one in cuts]
    )
    good = np.isfinite(features).reshape(len(features), -1).all(axis=1)
    if not good.all():
        owners = [(one.recording.id, int(start)) for one in cuts for start in one.start]
        file, start = owners[int(good.argmin())]
        raise DataError(f"{file}: the window from sample {start} on has features that are not finite")
    return features


def _run_program(run: StoredRun, execution: Execution, features: NDArray[np.float32]) -> NDArray[Any]:
    """The program's deciding output, (window, output)."""
    names = run.record("compile").outputs["program"]
    program = {name: run.file("compile", "program", name) for name in names}
    with TemporaryDirectory(prefix="flowlab-predict-") as scratch:  # a store may be read-only
        try:
            outcome = execution.run(program, features, Path(scratch))
        except StageError as error:
            raise StageError(f"execution '{execution.name}': {error}") from error
    name = OUTPUT if OUTPUT in outcome.outputs else next(iter(outcome.outputs))
    found: NDArray[Any] = outcome.outputs[name].reshape(len(features), -1)
    return found


def _said(cut: _Cut, outputs: NDArray[Any], chain: _Chain) -> Said:
    import numpy as np

    from flowlab.signal import windowing

    span = windowing.span(chain.windows)
    best = outputs.argmax(axis=1)
    ordered = np.sort(outputs, axis=1)
    margins = ordered[:, -1] - ordered[:, -2] if outputs.shape[1] > 1 else np.zeros(len(outputs), outputs.dtype)
    labels = [chain.classes[at] for at in best]
    windows = tuple(
        Window(
            int(start), min(int(start) + span, len(cut.recording.samples)), label, margin.item(), tuple(row.tolist())
        )
        for start, label, margin, row in zip(cut.start, labels, margins, outputs, strict=True)
    )
    counts = {name: labels.count(name) for name in chain.classes}
    most = max(counts.values())
    winners = [name for name, count in counts.items() if count == most]
    return Said(
        cut.recording.id,
        len(cut.recording.samples),
        windows,
        counts,
        winners[0],
        len(winners) > 1,
        cut.recording.repairs,
    )
