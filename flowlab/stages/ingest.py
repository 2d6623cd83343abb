"""Stage ``ingest``: from files or a generator to one file of recordings, split, with the proof of the split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from flowlab.contracts import Plugin, Stage, StageJob, StageResult
from flowlab.errors import ConfigError, DataError, NotBuiltYet, unknown_name

if TYPE_CHECKING:
    from flowlab.contracts import Dataset, Reader, Recording
    from flowlab.signal.layout import Entry, Layout
    from flowlab.signal.split import Piece


@dataclass(frozen=True)
class IngestOptions:
    """What decides recordings and split: ``dataset`` is their name; ``seed`` is the split's and the generator's."""

    dataset: str
    split_type: str
    fractions: tuple[float, ...]
    seed: int
    data_dir: str = "classes"
    annotation_dir: str = "annotations"
    annotation_prefix: str = "instances"
    split_names: tuple[str, ...] = ("train", "val", "test")


def options(config: Any, catalogue: Any) -> IngestOptions:
    """Copy them. Raises `NotBuiltYet` for sources that are to come."""
    asked = config.dataset
    if asked.input_annotation_path:
        raise NotBuiltYet(
            "dataset.input_annotation_path is not built yet; put the lists into the dataset's folder 'annotations'"
        )
    return IngestOptions(
        dataset=config.dataset_name,
        split_type=asked.split_type,
        fractions=tuple(asked.split_factor),
        seed=asked.seed,
        data_dir=asked.data_dir or "classes",
        annotation_dir=asked.annotation_dir,
        annotation_prefix=asked.annotation_prefix,
        split_names=tuple(asked.split_names),
    )


def plugins(config: Any, catalogue: Any) -> Mapping[str, tuple[Plugin, Any]]:
    """The reader of the files that the path leads to, or the dataset that makes its own recordings.

    Raises:
        ConfigError: where there is neither.
        DataError: where nobody reads such files.
    """
    asked = config.dataset
    if not asked.input_data_path:
        if not asked.dataset_name:
            raise ConfigError(
                "dataset: neither input_data_path nor dataset_name is given. Point input_data_path at recordings"
            )
        dataset = catalogue.find("dataset", asked.dataset_name)
        if dataset is None:
            known = unknown_name("dataset", asked.dataset_name, catalogue.names("dataset"))
            raise ConfigError(
                f"dataset.dataset_name: {known}. A dataset that flowlab cannot make needs dataset.input_data_path"
            )
        return {"dataset": (dataset, catalogue.options(dataset, config.options_for("dataset", "dataset_name")))}
    from flowlab.config.address import is_address
    from flowlab.signal.layout import Names, first_suffix, source_files, unread

    if is_address(asked.input_data_path):
        return {}  # not downloaded yet: its files choose the reader
    path = Path(asked.input_data_path)
    names = Names(asked.data_dir or "classes", asked.annotation_dir, asked.annotation_prefix)
    suffix = first_suffix(path, names)
    reader = catalogue.reader_for(suffix)
    if reader is None:
        source_files(path, names)  # says it where there is nothing to read
        ends = {end for one in catalogue.of_kind("reader") for end in one.item.suffixes}
        raise DataError(f"{asked.input_data_path}: {unread('*' + suffix, ends)}")
    given = {} if asked.time_column is None else {"time_column": asked.time_column}
    return {"reader": (reader, catalogue.options(reader, given))}


STAGE = Stage(
    name="ingest",
    run="flowlab.stages.ingest:run",
    needs=("source",),
    makes=("recordings", "splits"),
    options=options,
    plugins=plugins,
    code=(
        "flowlab.stages.ingest",
        "flowlab.signal.layout",
        "flowlab.signal.archive",
        "flowlab.signal.split",
        "flowlab.signal.overlap",
        "flowlab.signal.arrow_file",
        "flowlab.signal.recordings_file",
    ),
    libraries=("numpy", "pyarrow"),
)


def run(job: StageJob) -> StageResult:
    """Read or make recordings, split them, prove the split, write both files.

    Raises:
        DataError: naming file, line and column of what cannot be used.
    """
    from flowlab.signal import overlap, recordings_file, split

    asked: IngestOptions = job.options
    if "dataset" in job.plugins:
        pieces, classes, method, warnings, synthetic = _made(job, asked)
    else:
        pieces, classes, method, warnings = _read(job, asked)
        synthetic = False
    drawn = method in (split.AMONGST, split.WITHIN)
    recordings = [piece.recording for piece in pieces]
    shared = overlap.shared_stretches(recordings)
    document = split.document(
        pieces, method, asked.seed if method == split.AMONGST else None, asked.fractions if drawn else None, shared
    )
    repairs = [sentence for item in recordings for sentence in item.repairs]
    meta = {
        "classes": list(classes),
        "synthetic": synthetic,
        "repairs": repairs,
        "origin": asked.dataset,
        **_for_windows(pieces, overlap.places_elsewhere(recordings) if shared else {}),
    }
    recordings_file.write(job.out / "recordings.arrow", recordings, meta)
    said = (*warnings, *_absent(pieces, classes), *_leaks(document["proof"]), *_shortened(repairs))
    document = {**document, "warnings": list(said)}  # for the report
    (job.out / "splits.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    metrics = {
        "recordings": len(recordings),
        "columns": list(recordings[0].columns),
        "samples": sum(len(item.samples) for item in recordings),
        "classes": list(classes),
        "counts": document["counts"],
        "split": method,
        "synthetic": synthetic,
    }
    return StageResult(
        files={
            "recordings": {"recordings.arrow": job.out / "recordings.arrow"},
            "splits": {"splits.json": job.out / "splits.json"},
        },
        metrics=metrics,
        warnings=said,
    )


def _made(job: StageJob, asked: IngestOptions) -> tuple[list[Piece], tuple[str, ...], str, list[str], bool]:
    """Recordings of a dataset that makes its own, with the splits that it gives."""
    from flowlab.signal import split

    dataset = cast("Dataset", job.plugins["dataset"])
    warnings = []
    if dataset.synthetic:
        warnings.append(
            f"the data are synthetic: made by the generator of '{dataset.name}' from dataset.seed {asked.seed}. "
            "A path in dataset.input_data_path takes their place"
        )
    job.progress(f"making the recordings of {dataset.name}", 0.0)
    recordings = list(dataset.recordings(asked.seed, job.plugin_options["dataset"]))
    if not recordings:
        raise DataError(f"dataset '{dataset.name}' made no recordings")
    _same_columns(recordings)
    classes = tuple(sorted({item.label for item in recordings}))
    if all(item.split is None for item in recordings):
        return _split(recordings, asked), classes, asked.split_type, warnings, dataset.synthetic
    return split.given(recordings), classes, split.GIVEN, warnings, dataset.synthetic


def _read(job: StageJob, asked: IngestOptions) -> tuple[list[Piece], tuple[str, ...], str, list[str]]:
    """Recordings from files, with the lists' splits or seeded ones."""
    from flowlab.signal import layout, split

    reader = cast("Reader", job.plugins["reader"])
    names = layout.Names(asked.data_dir, asked.annotation_dir, asked.annotation_prefix, asked.split_names)
    found: Layout = layout.layout(job.inputs["source"], reader.suffixes, names)
    recordings = []
    for done, entry in enumerate(found.entries):
        job.progress(f"reading {entry.name}", done / len(found.entries))
        item = _recording(reader, entry, job.plugin_options["reader"])
        recordings.append(replace(item, label=entry.label, split=entry.split))
    _same_columns(recordings)
    if found.annotated:
        return split.given(recordings), found.classes, split.ANNOTATED, list(found.notes)
    return _split(recordings, asked), found.classes, asked.split_type, list(found.notes)


def _recording(reader: Reader, entry: Entry, options: Any) -> Recording:
    """One recording; what the system refuses is an error of the data, with the file's name."""
    try:
        return reader.read(entry.file, entry.name, options)
    except FileNotFoundError:
        raise DataError(f"{entry.name} was there and is gone. Start the run again") from None
    except OSError as error:
        raise DataError(f"{entry.name} cannot be read: {error.strerror or error}") from None


def _absent(pieces: list[Piece], classes: tuple[str, ...]) -> list[str]:
    """A warning for each split in which a class has no recording; in the training split that is an error."""
    from flowlab.signal.layout import SPLITS

    found = []
    for split in SPLITS:
        have = {piece.recording.label for piece in pieces if piece.split == split}
        if missing := [label for label in classes if label not in have]:
            found.append(f"split '{split}' has no recording of class {', '.join(missing)}: nothing is measured of it")
    return found


def _split(recordings: list[Recording], asked: IngestOptions) -> list[Piece]:
    from flowlab.signal import split

    if asked.split_type == split.WITHIN:
        return split.within(recordings, asked.fractions)
    return split.amongst(recordings, asked.fractions, asked.seed)


def _same_columns(recordings: list[Recording]) -> None:
    """Raise `DataError` naming two files whose columns differ."""
    first = recordings[0]
    for item in recordings:
        if item.columns != first.columns:
            raise DataError(
                f"{item.id} has the columns {', '.join(item.columns)}, but {first.id} has {', '.join(first.columns)}. "
                "All recordings need the same"
            )


def _for_windows(pieces: list[Piece], elsewhere: Mapping[str, list[tuple[int, int]]]) -> dict[str, Any]:
    """What tells windows that share samples: where recordings were cut, and which samples stand in two splits."""
    places = [[row, *one] for row, piece in enumerate(pieces) for one in elsewhere.get(piece.recording.id, ())]
    cut = [[piece.source, piece.start] for piece in pieces]
    whole = all(piece.source == piece.recording.id for piece in pieces)
    return {**({} if whole else {"pieces": cut}), **({"shared": places} if places else {})}


def _leaks(proof: Mapping[str, Any]) -> list[str]:
    """A warning where samples stand in two splits: the accuracies would be too good."""
    count = proof["stretches_in_two_splits"]
    if not count:
        return []
    first = "; ".join(proof["shared"][:2])
    return [f"samples stand in two splits ({count} stretches): {first}. Accuracies may be too good"]


def _shortened(repairs: list[str]) -> list[str]:
    """A few repairs for people: one of each sentence, with the number of files; all of them are in the file."""
    alike: dict[str, list[str]] = {}
    for sentence in repairs:
        file, _, said = sentence.partition(": ")
        alike.setdefault(said, []).append(file)
    few = [
        f"{files[0]}: {said}{f' (and so in {len(files) - 1} more)' if len(files) > 1 else ''}"
        for said, files in alike.items()
    ]
    if len(few) <= 5:
        return few
    folders = {PurePosixPath(sentence.partition(":")[0]).parent.as_posix() for sentence in repairs}
    return [*few[:3], f"and {len(few) - 3} more repairs, in {', '.join(sorted(folders)[:3])}"]
