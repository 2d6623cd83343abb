"""A sweep's file: one config, and a matrix of what is varied in it. Every cell of the matrix is a config.

config: base.yaml          # one file or several; or the sections themselves, which lie over them
matrix:
  training.seed: [0, 1]    # an axis: a key and its values
  precision:               # or choices by name, each setting several keys
    Float32: {training.quantization: 0}
    INT8: {training.quantization: 2, training.quantization_weight_bitwidth: 8}
exclude:
  - {precision: Float32, training.seed: 1}
baseline: {precision: Float32}
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowlab.config.checks import FOLDER_NAME
from flowlab.config.layer import Layer, from_file, from_sections, from_sets, from_settings, laid_over, own_laid_over
from flowlab.config.loading import load_layers
from flowlab.config.own_sections import NONE, Installed, installed
from flowlab.config.place import Entry, Place
from flowlab.config.problems import Problems
from flowlab.config.sections import SECTIONS
from flowlab.config.settings import Config
from flowlab.config.yaml_source import Node, Pair, parse, plain, read_text, refuse_duplicates
from flowlab.errors import ConfigError, did_you_mean

NAME, CONFIG, MATRIX, EXCLUDE, BASELINE = "name", "config", "matrix", "exclude", "baseline"
KEYS = (NAME, CONFIG, MATRIX, EXCLUDE, BASELINE)  # beside the sections of a config
SEED = "seed"  # the last word of a key whose values are repetitions of one experiment
MAX_CELLS = 1000  # more is taken for a mistake: each is a run with files of its own


@dataclass(frozen=True)
class Choice:
    """One value of an axis: how it is shown, and the settings that it stands for."""

    label: str
    settings: Mapping[str, Entry]


@dataclass(frozen=True)
class Axis:
    """One thing that is varied; ``repeats``: its values are seeds, over which results have a spread."""

    name: str
    choices: tuple[Choice, ...]

    @property
    def repeats(self) -> bool:
        """Whether it sets seeds and nothing else."""
        return all(key.rpartition(".")[2] == SEED for choice in self.choices for key in choice.settings)

    @property
    def short(self) -> str:
        """Its name where there is little room."""
        return self.name.rpartition(".")[2]


Labels = Mapping[str, str]  # by the axis's name


@dataclass(frozen=True)
class Cell:
    """One place of the matrix: its number, counted from 1, and what is chosen of each axis."""

    number: int
    labels: Labels
    choices: tuple[Choice, ...] = ()

    def __str__(self) -> str:
        return ", ".join(f"{axis.rpartition('.')[2]}={label}" for axis, label in self.labels.items())


@dataclass(frozen=True)
class Sweep:
    """A sweep as it was read.

    ``baseline`` are labels of the cells that the others are compared with, empty where nothing is.
    ``given`` is the sweep as plain JSON: reading it as a mapping gives an equal sweep.
    """

    name: str
    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    baseline: Labels = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[Layer, ...] = ()

    def config(self, cell: Cell, catalogue: Any) -> Config:
        """The config of one cell. Raises as `flowlab.config.load` does."""
        known = installed(catalogue)
        return load_layers([*self.layers, *(from_settings(one.settings, known) for one in cell.choices)], catalogue)


def load_sweep(path: Path, sets: Sequence[str] = (), catalogue: Any = None) -> Sweep:
    """Read a sweep's file; ``sets`` lie over its config, and under its matrix. The catalogue has packages' sections.

    Raises:
        ConfigError: naming file, place, what was found and what to do; a line for each problem.
    """
    root = parse(read_text(path), str(path))
    return _Reader(str(path), path.resolve().parent, installed(catalogue)).read(root, path.stem, sets)


def load_sweep_mapping(mapping: Mapping[str, Any], source: str = "sweep", catalogue: Any = None) -> Sweep:
    """The same for what `Sweep.given` holds; relative paths count from the working directory."""
    return _Reader(source, Path.cwd(), installed(catalogue)).read(_node(mapping), source, ())


class _Reader:
    """Reads one source, and collects what is wrong with it."""

    def __init__(self, source: str, base: Path, installed: Installed = NONE) -> None:
        self._source = source
        self._installed = installed
        self._base = base
        self._problems = Problems()

    def read(self, root: Node | None, name: str, sets: Sequence[str]) -> Sweep:
        if root is None or root.kind != "mapping":
            raise ConfigError(f"{self._source}: expected keys of a sweep: {', '.join((*KEYS, *SECTIONS))}")
        refuse_duplicates(root.pairs, self._source)
        found = {pair.key: pair for pair in root.pairs}
        for pair in root.pairs:
            if pair.key not in (*KEYS, *SECTIONS, *self._installed.names):
                known = (*KEYS, *SECTIONS, *self._installed.shown)
                listed = f"Known: {', '.join(known)}{self._installed.broken}"
                self._wrong(pair.line, "", f"no key '{pair.key}'.{did_you_mean(pair.key, known)} {listed}")
        of_config = [one for one in root.pairs if one.key in SECTIONS or one.key in self._installed.names]
        sections = from_sections(of_config, self._source, self._base, self._installed)
        layers = [*self._files(found.get(CONFIG)), sections, from_sets(sets, Path.cwd(), self._installed)]
        for layer in layers:
            self._problems.extend(layer.problems)
        name = self._name(found.get(NAME), name)
        axes = self._axes(found.get(MATRIX))
        self._refuse_set_axes(axes, sets)
        excluded = self._excluded(found.get(EXCLUDE), axes)
        baseline = self._baseline(found.get(BASELINE), axes)
        self._problems.check()
        cells = self._cells(axes, excluded)
        base = {
            section: {key: entry.value for key, entry in entries.items()}
            for section, entries in laid_over(layers).items()
            if entries
        } | {
            section: {key: entry.value for key, entry in entries.items()}
            for section, entries in own_laid_over(layers).items()
        }
        given = self._given(name, base, axes, excluded, baseline)
        return Sweep(name, axes, cells, baseline, given, tuple(layers))

    def _wrong(self, line: int, where: str, text: str) -> None:
        self._problems.add(f"{Place(self._source, line).at(where)}: {text}")

    def _name(self, pair: Pair | None, otherwise: str) -> str:
        """The sweep's name, which is a folder's: as given, else as the file's."""
        if pair is None:
            return otherwise
        value = plain(pair.node, self._source)
        if not isinstance(value, str) or not FOLDER_NAME.fullmatch(value):
            self._wrong(
                pair.line, NAME, f"found {value!r}, expected a folder's name: letters, digits, . + - _ and spaces"
            )
        return str(value)

    def _files(self, pair: Pair | None) -> list[Layer]:
        """The layers of ``config: base.yaml``, or of a list of files."""
        if pair is None:
            return []
        value = plain(pair.node, self._source)
        names = value if isinstance(value, list) else [value]
        layers = []
        for name in names:
            if not isinstance(name, str):
                self._wrong(pair.line, CONFIG, f"found {name!r}, expected the name of a config's file")
                continue
            with self._problems.collected():
                layers.append(from_file(self._base / name, self._installed))
        return layers

    def _axes(self, pair: Pair | None) -> tuple[Axis, ...]:
        if pair is None or pair.node.kind != "mapping" or not pair.node.pairs:
            line = pair.line if pair else 0
            self._wrong(line, MATRIX, "expected axes: keys of the config and their values, as in training.seed: [0, 1]")
            return ()
        with self._problems.collected():
            refuse_duplicates(pair.node.pairs, f"{self._source}, {MATRIX}")
        axes = tuple(self._axis(one) for one in pair.node.pairs)
        setters: dict[str, str] = {}
        for axis in axes:
            for key in dict.fromkeys(key for choice in axis.choices for key in choice.settings):
                if setters.setdefault(key, axis.name) != axis.name:
                    self._wrong(0, f"{MATRIX}.{axis.name}", f"'{key}' is set by '{setters[key]}' too. Leave one out")
        return axes

    def _axis(self, pair: Pair) -> Axis:
        where = f"{MATRIX}.{pair.key}"
        choices: list[Choice] = []
        if pair.node.kind == "list" and pair.node.items:
            for item in pair.node.items:
                value = plain(item, self._source)
                choices.append(Choice(label_of(value), {pair.key: self._entry(value, item.line)}))
        elif pair.node.kind == "mapping" and pair.node.pairs:
            with self._problems.collected():
                refuse_duplicates(pair.node.pairs, f"{self._source}, {where}")
            choices += [self._named(one, where) for one in pair.node.pairs]
        else:
            self._wrong(pair.line, where, "expected a list of values, or names with the keys that each of them sets")
        labels = [choice.label for choice in choices]
        for label in sorted({one for one in labels if labels.count(one) > 1}):
            self._wrong(pair.line, where, f"'{label}' stands twice. Leave one out")
        for choice in choices:
            self._problems.extend(from_settings(choice.settings, self._installed).problems)
        return Axis(pair.key, tuple(choices))

    def _named(self, pair: Pair, where: str) -> Choice:
        """A choice that sets several keys."""
        if pair.node.kind != "mapping" or not pair.node.pairs:
            self._wrong(pair.line, f"{where}.{pair.key}", "expected keys, as in {training.quantization: 0}")
            return Choice(pair.key, {})
        with self._problems.collected():
            refuse_duplicates(pair.node.pairs, f"{self._source}, {where}.{pair.key}")
        settings = {one.key: self._entry(plain(one.node, self._source), one.line) for one in pair.node.pairs}
        return Choice(pair.key, settings)

    def _entry(self, value: Any, line: int) -> Entry:
        return Entry(value, Place(self._source, line), self._base)

    def _refuse_set_axes(self, axes: Sequence[Axis], sets: Sequence[str]) -> None:
        """A key of the matrix has the matrix's values: to set it besides would change nothing."""
        varied = {key: axis.name for axis in axes for choice in axis.choices for key in choice.settings}
        for text in sets:
            key = text.partition("=")[0].strip()
            if key in varied:
                self._problems.add(
                    f"--set {key}: the matrix of {self._source} varies it ('{varied[key]}'). Leave it out"
                )

    def _excluded(self, pair: Pair | None, axes: Sequence[Axis]) -> list[Mapping[str, tuple[str, ...]]]:
        """Conditions: a cell that meets one of them is left out. By axis the labels that it names."""
        if pair is None:
            return []
        if pair.node.kind != "list":
            self._wrong(pair.line, EXCLUDE, "expected a list, as in - {training.seed: 1}")
            return []
        return [found for item in pair.node.items if (found := self._condition(item, axes, EXCLUDE))]

    def _baseline(self, pair: Pair | None, axes: Sequence[Axis]) -> dict[str, str]:
        found = self._condition(pair.node, axes, BASELINE) if pair is not None else {}
        for axis in axes:
            if axis.name in found and (axis.repeats or len(found[axis.name]) != 1) and pair is not None:
                self._wrong(pair.line, f"{BASELINE}.{axis.name}", "expected one value, of an axis that is no seed")
        return {axis: labels[0] for axis, labels in found.items()}

    def _condition(self, node: Node, axes: Sequence[Axis], where: str) -> dict[str, tuple[str, ...]]:
        known = {axis.name: [choice.label for choice in axis.choices] for axis in axes}
        if node.kind != "mapping" or not node.pairs:
            self._wrong(node.line, where, "expected axes of the matrix and their values, as in {training.seed: 1}")
            return {}
        found = {}
        for pair in node.pairs:
            if pair.key not in known:
                hint = did_you_mean(pair.key, known)
                self._wrong(pair.line, where, f"no axis '{pair.key}'.{hint} Known: {', '.join(known) or 'none'}")
                continue
            value = plain(pair.node, self._source)
            labels = tuple(label_of(one) for one in (value if isinstance(value, list) else [value]))
            for label in labels:
                if label not in known[pair.key]:
                    hint = did_you_mean(label, known[pair.key])
                    text = f"the axis has no '{label}'.{hint} Known: {', '.join(known[pair.key])}"
                    self._wrong(pair.line, f"{where}.{pair.key}", text)
            found[pair.key] = labels
        return found

    def _cells(self, axes: Sequence[Axis], excluded: Sequence[Mapping[str, tuple[str, ...]]]) -> tuple[Cell, ...]:
        total = 1
        for axis in axes:
            total *= len(axis.choices)
        if total > MAX_CELLS:
            raise ConfigError(
                f"{self._source}, {MATRIX}: {total:,} cells, at most {MAX_CELLS:,}. Make several sweeps of it"
            )
        cells = tuple(
            Cell(number, labels, choices) for number, (labels, choices) in enumerate(_kept(axes, excluded), start=1)
        )
        if not cells:
            raise ConfigError(f"{self._source}, {EXCLUDE}: every cell of the matrix is excluded. Leave some")
        return cells

    def _given(
        self,
        name: str,
        base: Mapping[str, Any],
        axes: Sequence[Axis],
        excluded: Sequence[Mapping[str, tuple[str, ...]]],
        baseline: Labels,
    ) -> dict[str, Any]:
        """The sweep as plain JSON, with absolute paths; the base's sections in place of its files."""
        matrix: dict[str, Any] = {}
        for axis in axes:
            values = {choice.label: _settled(choice) for choice in axis.choices}
            single = all(set(one) == {axis.name} for one in values.values())
            matrix[axis.name] = [one[axis.name] for one in values.values()] if single else values
        given: dict[str, Any] = {NAME: name, **base, MATRIX: matrix}
        if excluded:
            given[EXCLUDE] = [{axis: list(labels) for axis, labels in one.items()} for one in excluded]
        if baseline:
            given[BASELINE] = dict(baseline)
        return given


def _kept(
    axes: Sequence[Axis], excluded: Sequence[Mapping[str, tuple[str, ...]]]
) -> Iterator[tuple[Labels, tuple[Choice, ...]]]:
    """All combinations but those that are excluded; the last axis varies fastest."""
    for choices in itertools.product(*(axis.choices for axis in axes)):
        labels = {axis.name: choice.label for axis, choice in zip(axes, choices, strict=True)}
        if not any(all(labels[axis] in named for axis, named in one.items()) for one in excluded):
            yield labels, choices


def _settled(choice: Choice) -> dict[str, Any]:
    """What a choice sets, as plain JSON; paths are absolute."""
    entries = from_settings(choice.settings).entries
    values = {}
    for name, entry in choice.settings.items():
        section, _, key = name.partition(".")
        there = entries.get(section, {}).get(key)
        values[name] = there.value if there is not None and isinstance(there.value, str) else entry.value
    return values


def label_of(value: Any) -> str:
    """How a value of an axis is shown, and named in ``exclude``: a plugin by its name, what is no text as JSON."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _node(value: Any) -> Node:
    """Plain values as the YAML reader gives them."""
    if isinstance(value, Mapping):
        return Node("mapping", 0, pairs=[Pair(str(key), 0, _node(one)) for key, one in value.items()])
    if isinstance(value, (list, tuple)):
        return Node("list", 0, items=[_node(one) for one in value])
    return Node("scalar", 0, value)
