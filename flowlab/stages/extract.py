"""Stage ``extract``: from recordings to windows, and from windows to features of three splits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, cast

from flowlab.contracts import FeatureExtractor, Plugin, Stage, StageJob, StageResult
from flowlab.errors import DataError, NotBuiltYet, OptionError, plural
from flowlab.signal.windowing import STRIDES, WindowOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowlab.signal.recordings_file import RecordingTable

DEFAULT_EXTRACTOR = "fft"  # its options are the section's own keys
BATCH = 2048  # windows at a time: bounds memory
SHOWN_WINDOWS = 64  # raw windows that are kept for golden vectors and the report
NOT_BUILT = ("gain_variations", "nn_for_feature_extraction")


@dataclass(frozen=True)
class ExtractOptions:
    """Where windows start, and under which name the values came.

    ``own_chain``: no preset lists the transforms, so what the extractor notes of its options is a warning.
    """

    windows: WindowOptions
    preset: str | None
    own_chain: bool = True


def options(config: Any, catalogue: Any) -> ExtractOptions:
    """Copy them. Raises `NotBuiltYet` for keys that are to come."""
    section = config.data_processing_feature_extraction
    for key in NOT_BUILT:
        if getattr(section, key):
            where = config.where("data_processing_feature_extraction", key)
            raise NotBuiltYet(f"{where}: '{key}' is not built yet. Leave the key out")
    preset = config.presets.get("feature_extraction")
    own_chain = preset is None or "feat_ext_transform" in config.given.get("data_processing_feature_extraction", {})
    return ExtractOptions(_windows(section), preset, own_chain)


def _windows(section: Any) -> WindowOptions:
    """The section's keys that decide which windows there are; a stride that nothing reads decides nothing."""
    values = {item.name: getattr(section, item.name) for item in fields(WindowOptions)}
    if STRIDES not in section.data_proc_transforms:
        del values["stride_size"]
    return WindowOptions(**values)


def plugins(config: Any, catalogue: Any) -> Mapping[str, tuple[Plugin, Any]]:
    """The extractor that the name chooses, with its options from the section; a preset's values are there already."""
    from flowlab.config import extractor_options

    name = config.data_processing_feature_extraction.feature_extraction_name
    extractor = catalogue.find("feature_extractor", name) if name else None
    if extractor is None:
        extractor = catalogue.get("feature_extractor", DEFAULT_EXTRACTOR)
    given = {key: value for key, value in extractor_options(config, extractor).items() if value is not None}
    chosen = catalogue.options(extractor, given)
    _check(config, extractor, chosen)
    return {"feature_extractor": (extractor, chosen)}


def _check(config: Any, extractor: Any, chosen: Any) -> None:
    """Refuse windows and a chain that make no sense before any recording is read, by the place of the key."""
    from flowlab.signal import windowing

    section = config.data_processing_feature_extraction
    windows = _windows(section)
    columns = windows.variables if isinstance(windows.variables, int) else len(windows.variables)
    with _placed(config):
        windowing.check(windows)
        extractor.shape((columns, windows.length), chosen)


def check(config: Any, made: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse columns that the recordings do not have, as soon as it is known which they have."""
    from flowlab.signal import windowing

    columns = made.get("ingest", {}).get("columns")
    if columns is not None:
        with _placed(config):
            windowing.choose(columns, config.data_processing_feature_extraction.variables)


@contextmanager
def _placed(config: Any) -> Iterator[None]:
    """Say an error with the place of the key that it begins with, else with that of what chooses the chain."""
    try:
        yield
    except (OptionError, DataError, NotBuiltYet) as error:
        section = "data_processing_feature_extraction"
        key, colon, text = str(error).partition(": ")
        if not colon or not hasattr(config.section(section), key):
            listed = "feat_ext_transform" in config.given.get(section, {})
            key, text = "feat_ext_transform" if listed else "feature_extraction_name", str(error)
        raise type(error)(f"{config.where(section, key)}: {text}") from None


STAGE = Stage(
    name="extract",
    run="flowlab.stages.extract:run",
    needs=("recordings",),
    makes=("features_train", "features_val", "features_test", "windows", "feature_spec"),
    options=options,
    plugins=plugins,
    check=check,
    code=(
        "flowlab.stages.extract",
        "flowlab.signal.windowing",
        "flowlab.signal.leak",
        "flowlab.signal.chain",
        "flowlab.signal.arrow_file",
        "flowlab.signal.recordings_file",
        "flowlab.signal.features_file",
    ),
    libraries=("numpy", "pyarrow"),
)


@dataclass(frozen=True)
class Cut:
    """The windows of one split: windows, labels, rows of recordings, first samples."""

    windows: NDArray[np.float32]
    labels: NDArray[np.int64]
    recording: NDArray[np.int32]
    start: NDArray[np.int64]


def run(job: StageJob) -> StageResult:
    """Cut windows, extract features, write one file a split.

    Raises:
        OptionError: where windows or chain make no sense.
        DataError: where a split has no window, a column is constant, or a feature is not finite.
    """
    import numpy as np

    from flowlab.signal import features_file, leak, recordings_file, windowing
    from flowlab.signal.layout import SPLITS

    asked: ExtractOptions = job.options
    extractor = cast(FeatureExtractor, job.plugins["feature_extractor"])
    chosen = job.plugin_options["feature_extractor"]
    windowing.check(asked.windows)
    table = recordings_file.read(job.input("recordings"))
    columns = windowing.choose(table.columns, asked.windows.variables)
    window = (len(columns), asked.windows.length)
    shape = extractor.shape(window, chosen)
    spec: dict[str, Any] = {
        "shape": list(shape),
        "window": list(window),
        "columns": [table.columns[i] for i in columns],
        "classes": list(table.classes),
        "synthetic": table.meta["synthetic"],
        "dataset": table.meta["origin"],
        "extractor": extractor.name,
        "preset": asked.preset,
        "options": _plain(asked.windows, chosen),
        "counts": {},
        "counts_by_class": {},
        "notes": list(extractor.notes(chosen)),
    }
    files = {}
    cuts = {}
    warnings = list(spec["notes"]) if asked.own_chain else []
    for step, split in enumerate(SPLITS):
        job.progress(f"features of {split}", step / len(SPLITS))
        cut, short = _cut(table, split, columns, asked.windows)
        cuts[split] = cut.recording, cut.start
        warnings += short
        if split == "train":
            _refuse_constant(cut.windows, spec["columns"])
        features = extract_features(extractor, chosen, cut.windows, shape)
        _refuse_not_finite(features, cut, table)
        meta = {"classes": spec["classes"], "split": split, "provenance": _provenance(spec)}
        path = job.out / split / "features.arrow"
        path.parent.mkdir()
        features_file.write(path, features, cut.labels, cut.recording, cut.start, meta)
        files[f"features_{split}"] = {"features.arrow": path}
        spec["counts"][split] = len(features)
        spec["counts_by_class"][split] = np.bincount(cut.labels, minlength=len(table.classes)).tolist()
    rows = _spread(cut.labels, len(table.classes))
    features_file.write(
        job.out / "windows.arrow",
        cut.windows[rows],
        cut.labels[rows],
        cut.recording[rows],
        cut.start[rows],
        {**meta, "provenance": "raw windows"},
        index=rows,
    )
    leaks = leak.measure(table, cuts, asked.windows)
    warnings += leaks.warnings()
    spec["leak"] = leaks.to_json()
    spec["warnings"] = warnings  # for the report
    (job.out / "feature_spec.json").write_text(json.dumps(spec, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    files["windows"] = {"windows.arrow": job.out / "windows.arrow"}
    files["feature_spec"] = {"feature_spec.json": job.out / "feature_spec.json"}
    metrics = {"shape": list(shape), "counts": spec["counts"], "leak": spec["leak"]}
    return StageResult(files=files, metrics=metrics, warnings=tuple(warnings))


def _cut(table: RecordingTable, split: str, columns: tuple[int, ...], asked: WindowOptions) -> tuple[Cut, list[str]]:
    """All windows of a split, and a sentence about recordings that are too short for one."""
    import numpy as np

    from flowlab.signal import windowing

    windows, labels, recording, start, short = [], [], [], [], []
    for row in table.of_split(split):
        found, at = windowing.cut(table.samples[row], columns, asked)
        if not len(found):
            short.append(table.ids[row])
            continue
        windows.append(found)
        labels.append(np.full(len(found), table.classes.index(table.labels[row]), np.int64))
        recording.append(np.full(len(found), row, np.int32))
        start.append(at)
    if not windows:
        raise DataError(
            f"split '{split}' has no window of {asked.length} samples"
            f"{f' after keeping one of {asked.factor} samples' if asked.factor > 1 else ''}: "
            f"its {plural(len(short), 'recording is', 'recordings are')} shorter. "
            "Make frame_size or num_frame_concat smaller"
        )
    cut = Cut(np.concatenate(windows), np.concatenate(labels), np.concatenate(recording), np.concatenate(start))
    missing = [name for i, name in enumerate(table.classes) if not (cut.labels == i).any()]
    if split == "train" and missing:
        raise DataError(
            f"split 'train' has no window of {asked.length} samples of class '{missing[0]}': its recordings are "
            "shorter. Make frame_size or num_frame_concat smaller"
        )
    if not short:
        return cut, []
    few = ", ".join(short[:3]) + (", ..." if len(short) > 3 else "")
    said = plural(
        len(short),
        f"recording of {split} is shorter than one window and gives none",
        f"recordings of {split} are shorter than one window and give none",
    )
    return cut, [f"{said} ({few})"]


def extract_features(
    extractor: FeatureExtractor, chosen: Any, windows: NDArray[np.float32], shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Features of all windows, a batch at a time.

    Args:
        extractor: what makes them.
        chosen: its options.
        windows: float32 ``(window, channel, length)``.
        shape: (channel, height, width) of a feature, as the extractor announces it.

    Raises:
        OptionError: where the extractor gives another shape.
    """
    import numpy as np

    out = np.empty((len(windows), *shape), np.float32)
    for begin in range(0, len(windows), BATCH):
        part = extractor.extract(windows[begin : begin + BATCH], chosen)
        if part.shape != out[begin : begin + BATCH].shape:
            raise OptionError(
                f"feature extractor '{extractor.name}' gave features of shape {part.shape[1:]}, announced was {shape}"
            )
        out[begin : begin + BATCH] = part
    return out


def _refuse_constant(windows: NDArray[np.float32], columns: list[str]) -> None:
    """Raise `DataError` for a column that never changes in the training split."""
    for i, name in enumerate(columns):
        least, most = windows[:, i].min(), windows[:, i].max()
        if least == most:
            raise DataError(
                f"column '{name}' is {least:g} in every training window: there is nothing to learn from it. "
                "Leave it out of 'variables', or look at the sensor"
            )


def _refuse_not_finite(features: NDArray[np.float32], cut: Cut, table: RecordingTable) -> None:
    """Raise `DataError` for features that are no numbers, or all equal."""
    import numpy as np

    good = np.isfinite(features).all(axis=(1, 2, 3))
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        raise DataError(
            f"{int((~good).sum())} windows have features that are not finite; the first starts at sample "
            f"{int(cut.start[first])} of {table.ids[int(cut.recording[first])]}. "
            "Look at its values, or raise log_threshold"
        )
    if features.min() == features.max():
        raise DataError(f"every feature is {features.flat[0]:g}: the chain leaves nothing of the signal")


def _spread(labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Rows of the first windows, equally many of each class as far as there are, in ascending order."""
    import numpy as np

    each = max(1, SHOWN_WINDOWS // classes)
    rows = np.concatenate([np.flatnonzero(labels == label)[:each] for label in range(classes)])
    return np.sort(rows)[:SHOWN_WINDOWS].astype(np.int64)


def _plain(windows: WindowOptions, chosen: Any) -> dict[str, Any]:
    """Options as plain JSON values."""
    from flowlab.canonical import plain

    values: dict[str, Any] = {**plain(windows), **plain(chosen)}
    return values


def _provenance(spec: dict[str, Any]) -> str:
    return f"{spec['dataset']}: {spec['preset'] or spec['extractor']}"
