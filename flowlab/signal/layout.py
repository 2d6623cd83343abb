"""The layout of classification data: ``classes/<class>/<file>`` and, if it is there, ``annotations/``.

The parent folder is the class. Lists ``<prefix>_{train,val,test}_list.txt`` name files relative to ``classes/``, one a
line; where all three are present they decide the split, where none is, a seed does (`flowlab.signal.split`).
Light: it lists and checks names, and reads no recording.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from flowlab.contracts import Readable
from flowlab.errors import DataError, did_you_mean, plural
from flowlab.signal.archive import MAX_FILE_BYTES, members

SPLITS = ("train", "val", "test")
ARCHIVE = ".zip"
PICKLES = (".pkl", ".pickle", ".joblib")  # run what they hold when they are opened


@dataclass(frozen=True)
class Names:
    """How folders and lists are called; ``split_names`` are the words in the lists' names, in the order of `SPLITS`."""

    data_dir: str = "classes"
    annotation_dir: str = "annotations"
    annotation_prefix: str = "instances"
    split_names: tuple[str, ...] = SPLITS


DEFAULT = Names()


@dataclass(frozen=True)
class Entry:
    """One recording to read: its name relative to the data folder, class, split (None: not decided) and file."""

    name: str
    label: str
    split: str | None
    file: Readable


@dataclass(frozen=True)
class Layout:
    """What a source holds: entries sorted by name, classes sorted, and sentences about what was left out."""

    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    annotated: bool
    notes: tuple[str, ...] = ()


def source_files(path: Path, names: Names = DEFAULT) -> dict[str, Path]:
    """The files that count as the source, by relative name: an archive itself, or what lies in a folder's two trees.

    Raises:
        DataError: if there is no such file or folder, or nothing in it to read.
    """
    if path.is_file():
        if path.suffix.lower() != ARCHIVE:
            raise DataError(f"{path}: recordings come as a folder or a {ARCHIVE} file, found a '{path.suffix}' file")
        return {path.name: path}
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder. Point dataset.input_data_path at recordings")
    found = {
        file.relative_to(path).as_posix(): file
        for folder in (names.data_dir, names.annotation_dir)
        for file in (path / folder).rglob("*")
        if file.is_file() and not is_hidden(file.relative_to(path).as_posix())
    }
    if not any(name.startswith(f"{names.data_dir}/") for name in found):
        raise DataError(_no_data(str(path), names, (item.name for item in path.iterdir())))
    return dict(sorted(found.items()))


def open_source(files: Mapping[str, Path]) -> tuple[str, Mapping[str, Readable]]:
    """The files in a source and how to call it in messages: an archive's members, or the files themselves."""
    if len(files) == 1:
        ((name, path),) = files.items()
        if name.lower().endswith(ARCHIVE):
            return name, members(path)
    return "dataset", dict(files)


def first_suffix(path: Path, names: Names = DEFAULT) -> str:
    """The suffix of a source's first recording, which chooses the reader; ``""`` where none is found quickly.

    Raises:
        DataError: if the source is no folder and no archive that can be read.
    """
    if path.is_dir():
        folders = sorted(item for item in (path / names.data_dir).glob("*") if item.is_dir())
        files = (item for folder in folders for item in sorted(folder.iterdir()))
        return next((item.suffix.lower() for item in files if not is_hidden(item.name)), "")
    shown, found = open_source(source_files(path, names))
    return PurePosixPath(_data(shown, found, names)[0]).suffix.lower()


def layout(files: Mapping[str, Path], suffixes: tuple[str, ...], names: Names = DEFAULT) -> Layout:
    """Find recordings, classes and lists.

    Args:
        files: the source by relative name, as `source_files` gives it.
        suffixes: what the reader reads; a file that ends otherwise is an error.
        names: of folders and lists.

    Raises:
        DataError: naming the file and, in a list, the line.
    """
    shown, found = open_source(files)
    prefix = f"{names.data_dir}/"
    data: dict[str, Readable] = {}
    for name in _data(shown, found, names):
        parts = PurePosixPath(name.removeprefix(prefix)).parts
        if len(parts) != 2:
            raise DataError(f"{shown}: {name} does not lie in {prefix}<class>/: move it there")
        if PurePosixPath(name).suffix.lower() not in suffixes:
            raise DataError(f"{shown}: {unread(name, suffixes)}")
        _refuse_huge(name, found[name])
        data["/".join(parts)] = found[name]
    _refuse_alike(shown, data)
    split_of = read_lists(shown, found, tuple(data), names)
    classes = tuple(sorted({PurePosixPath(name).parts[0] for name in data}))
    if len(classes) < 2:
        raise DataError(f"{shown}: only one class, '{classes[0]}', in {prefix}; classification needs two folders there")
    notes = []
    if split_of is not None:
        outside = [name for name in data if name not in split_of]
        if outside:
            said = plural(
                len(outside),
                "recording stands in no annotation list and is left out",
                "recordings stand in no annotation list and are left out",
            )
            notes.append(f"{said} ({_few(outside)})")
    entries = tuple(
        Entry(name, PurePosixPath(name).parts[0], None if split_of is None else split_of[name], file)
        for name, file in sorted(data.items())
        if split_of is None or name in split_of
    )
    return Layout(entries, classes, split_of is not None, tuple(notes))


def read_lists(
    shown: str, found: Mapping[str, Readable], known: tuple[str, ...], names: Names = DEFAULT
) -> dict[str, str] | None:
    """The split of each listed recording, or None where there are no lists.

    Raises:
        DataError: if some lists are missing or empty, a name is unknown, or a name stands in two lists.
    """
    stem = f"{names.annotation_dir}/{names.annotation_prefix}"
    paths = {split: f"{stem}_{word}_list.txt" for split, word in zip(SPLITS, names.split_names, strict=True)}
    present = [path for path in paths.values() if path in found]
    if not present:
        return None
    missing = [path for path in paths.values() if path not in found]
    if missing:
        raise DataError(
            f"{shown}: {', '.join(missing)} is missing, though {', '.join(present)} is there. "
            "Add it, or remove the others to get a seeded split"
        )
    place: dict[str, tuple[str, str]] = {}  # name -> split, where it stands
    for split, path in paths.items():
        lines = list(_lines(shown, path, found[path]))
        if not lines:
            raise DataError(f"{shown}: {path} names no file; every split needs at least one recording")
        for line, name in lines:
            here = f"{path}, line {line}"
            if name not in known:
                raise DataError(f"{shown}: {here}: no recording '{name}'.{did_you_mean(name, known)}")
            if name in place:
                other, there = place[name]
                twice = "stands twice" if other == split else "is in two splits"
                raise DataError(f"{shown}: '{name}' {twice}: {there}, and {here}. Remove one of the lines")
            place[name] = (split, here)
    return {name: split for name, (split, _) in place.items()}


def unread(name: str, suffixes: Iterable[str]) -> str:
    """Why a file is not read, and what to do.

    Args:
        name: of the file.
        suffixes: that are read there.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in PICKLES:
        return (
            f"{name} is a pickle, which runs what it holds when it is opened: it is not read. Where you trust it, make "
            f"a csv of it: python -c \"import pandas; pandas.read_pickle('a{suffix}').to_csv('a.csv', index=False)\", "
            "or save its array with numpy.save"
        )
    known = ", ".join(sorted(suffixes)) or "none"
    return f"no reader for {name}. Known endings: {known}; the files of one dataset end alike"


def is_hidden(name: str) -> bool:
    """Whether a file is a trace of an operating system or an archiver, not data."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") or part in {"__MACOSX", "Thumbs.db", "desktop.ini"} for part in parts)


def _lines(shown: str, path: str, file: Readable) -> Iterable[tuple[int, str]]:
    """Line number and cleaned name of each line that is not empty."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{shown}: {path} is not UTF-8 text (byte {error.start}). Save it as UTF-8") from None
    for number, line in enumerate(text.splitlines(), 1):
        name = line.strip().replace("\\", "/").removeprefix("./")
        if name:
            yield number, name


def _data(shown: str, found: Mapping[str, Readable], names: Names) -> list[str]:
    """The names of files under the data folder, sorted."""
    data = sorted(name for name in found if name.startswith(f"{names.data_dir}/") and not is_hidden(name))
    if not data:
        raise DataError(_no_data(shown, names, (PurePosixPath(name).parts[0] for name in found)))
    return data


def _no_data(shown: str, names: Names, found: Iterable[str]) -> str:
    top = sorted(set(found))
    return (
        f"{shown}: no files in {names.data_dir}/<class>/.{did_you_mean(names.data_dir, top)} "
        f"Found at the top: {_few(top) or 'nothing'}. Recordings lie in {names.data_dir}/<class>/<file>"
    )


def _refuse_alike(shown: str, names: Iterable[str]) -> None:
    """Names that differ in upper and lower case alone: one file, or one class, on many systems."""
    seen: dict[str, str] = {}
    for name in names:
        for one in (PurePosixPath(name).parts[0], name):
            other = seen.setdefault(one.casefold(), one)
            if other != one:
                raise DataError(
                    f"{shown}: '{other}' and '{one}' differ in upper and lower case alone, and are one on many "
                    "systems. Rename or remove one of them"
                )


def _refuse_huge(name: str, file: Readable) -> None:
    if isinstance(file, Path) and file.stat().st_size > MAX_FILE_BYTES:
        raise DataError(f"{name}: {file.stat().st_size:,} bytes, at most {MAX_FILE_BYTES:,} are read. Cut it in pieces")


def _few(names: Iterable[str]) -> str:
    """Up to three names."""
    every = list(names)
    return ", ".join(every[:3]) + (", ..." if len(every) > 3 else "")
