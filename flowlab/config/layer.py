"""One source of settings (a file, a ``--set``, a mapping) as entries by section and key.

Here keys are checked against the known ones, two spellings become one, relative paths become absolute, and a value
of None, '' or 'None' becomes "not given", as in the files that users bring.
What is wrong is collected in the layer, so that a user sees all of it at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.config.address import nearly_names_secret
from flowlab.config.own_sections import NONE, Installed
from flowlab.config.place import Entry, Place
from flowlab.config.problems import Problems
from flowlab.config.redaction import HIDDEN, redacted
from flowlab.config.sections import ALIASES, PATHS, PLUGINS, SECTIONS, keys
from flowlab.config.unread import UNREAD, UNREAD_SECTIONS
from flowlab.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from flowlab.config.yaml_source import Node, Pair  # YAML's import is what a mapping can do without

NOT_GIVEN = (None, "", "None")
LONGEST = 300  # characters of a ``--set`` that people see again


@dataclass
class Layer:
    """What one source says. A value of None resets a key to its default.

    ``options`` are options of a plugin by themselves, by the key that chooses it: they lie over what the key has.
    ``own`` are sections of packages; None takes one out again.
    """

    entries: dict[str, dict[str, Entry]] = field(default_factory=dict)
    options: dict[tuple[str, str], dict[str, Entry]] = field(default_factory=dict)
    own: dict[str, dict[str, Entry] | None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    problems: Problems = field(default_factory=Problems)


def from_file(path: Path, installed: Installed = NONE) -> Layer:
    """The settings of a YAML file.

    Args:
        path: the file.
        installed: the sections of packages.

    Raises:
        ConfigError: naming file and line of what is no YAML of sections.
    """
    from flowlab.config.misindentation import refuse_misindentation
    from flowlab.config.yaml_source import parse, read_text, refuse_duplicates

    source = str(path)
    root = parse(read_text(path), source)
    if root is None or (root.kind == "scalar" and root.value is None):
        return Layer()
    if root.kind != "mapping":
        raise ConfigError(f"{source}: holds {_kind(root)}, expected sections: {', '.join(SECTIONS)}")
    refuse_misindentation(root.pairs, source)
    refuse_duplicates(root.pairs, source)
    return from_sections(root.pairs, source, path.resolve().parent, installed)


def from_sections(pairs: Sequence[Pair], source: str, base: Path, installed: Installed = NONE) -> Layer:
    """The settings of a file's sections; relative paths count from ``base``."""
    layer = Layer()
    for pair in pairs:
        if pair.key in installed.names:
            _read_own(layer, pair, source, base)
        elif pair.key not in SECTIONS:
            _unknown_section(layer, pair.key, Place(source, pair.line), installed)
        elif pair.node.kind == "mapping":
            _read_section(layer, pair, source, base)
        elif not (pair.node.kind == "scalar" and pair.node.value in NOT_GIVEN):
            text = f"{source}, {pair.key}, line {pair.line}: holds {_kind(pair.node)}, expected keys"
            layer.problems.add(text, pair.key)
    return layer


def from_settings(settings: Mapping[str, Entry], installed: Installed = NONE) -> Layer:
    """Single settings by their names, ``section.key`` or ``section.key.option``, as ``--set`` writes them."""
    layer = Layer()
    for name, entry in settings.items():
        section, dot, key = name.partition(".")
        if not dot or not key:
            layer.problems.add(f"{entry.place}: '{name}' names no key; expected section.key, as in training.seed")
        elif section not in SECTIONS and section not in installed.names:
            _unknown_section(layer, section, entry.place, installed)
        else:
            _set(layer, section, key, entry)
    return layer


def from_sets(sets: Sequence[str], base: Path, installed: Installed = NONE) -> Layer:
    """The settings of ``--set section.key=value``; values are YAML, relative paths count from ``base``.

    ``section.key.option=value`` sets one option of the plugin that the key chooses.
    """
    layer = Layer()
    for text in sets:
        name, equals, value = text.partition("=")
        source = f"--set {name}{equals}{_shown(name, value)}"[:LONGEST]  # it stands in messages
        section, dot, key = name.strip().partition(".")
        if not equals or not dot or not key:
            layer.problems.add(f"{source}: expected section.key=value, as in --set training.training_epochs=5")
        elif section not in SECTIONS and section not in installed.names:
            _unknown_section(layer, section, Place(source), installed)
        else:
            from flowlab.config.yaml_source import parse, plain

            with layer.problems.collected(section):
                root = parse(value, source)
                found = None if root is None else plain(root, source)
                _set(layer, section, key, Entry(found, Place(source), base))
    return layer


def _shown(name: str, value: str) -> Any:
    """The value as messages show it. Keys get misspelt, so words like those of a secret's key hide it too."""
    beside = f"{name} {value}" if value.lstrip().startswith(("{", "[")) else name
    return HIDDEN if value and nearly_names_secret(beside) else redacted(value, name)


def _set(layer: Layer, section: str, key: str, entry: Entry) -> None:
    if section not in SECTIONS:
        layer.own[section] = {**(layer.own.get(section) or {}), key: entry}
        return
    key, dot, option = key.partition(".")
    if not dot:
        layer.options.pop((section, key), None)  # a later word wins
        _add(layer, section, {key: entry})
    elif key in PLUGINS.get(section, {}):
        layer.options.setdefault((section, key), {})[option] = entry
    elif key not in keys(section):
        layer.problems.add(_unknown_key(section, key, entry.place), section)
    else:
        choosing = ", ".join(f"{name}.{one}" for name, chosen in PLUGINS.items() for one in chosen)
        layer.problems.add(
            f"{entry.place.at(section)}: '{key}' has no options; these have, because they choose a plugin: {choosing}",
            section,
        )


def from_mapping(mapping: Mapping[str, Any], source: str, base: Path, installed: Installed = NONE) -> Layer:
    """The settings of a mapping of sections; relative paths count from ``base``."""
    layer = Layer()
    for section, values in mapping.items():
        if section in installed.names and (values is None or isinstance(values, Mapping)):
            layer.own[section] = (
                None if values is None else {str(key): Entry(one, Place(source), base) for key, one in values.items()}
            )
        elif section not in SECTIONS and section not in installed.names:
            _unknown_section(layer, str(section), Place(source), installed)
        elif isinstance(values, Mapping):
            _add(layer, section, {str(key): Entry(value, Place(source), base) for key, value in values.items()})
        elif values not in NOT_GIVEN:
            layer.problems.add(f"{source}, {section}: holds {type(values).__name__}, expected keys", section)
    return layer


def laid_over(layers: Sequence[Layer]) -> dict[str, dict[str, Entry]]:
    """All layers as one: section by section, a later value in place of an earlier one, lists as a whole.

    Only options that are given by themselves are laid over the ones that are there.
    """
    merged: dict[str, dict[str, Entry]] = {section: {} for section in SECTIONS}
    for layer in layers:
        for section, entries in layer.entries.items():
            merged[section].update(entries)
        for (section, key), options in layer.options.items():
            merged[section][key] = _with_options(merged[section].get(key), options)
    return {section: _given(entries) for section, entries in merged.items()}


def own_laid_over(layers: Sequence[Layer]) -> dict[str, dict[str, Entry]]:
    """The same of the sections of packages: there is one, also without a key, unless the last word took it out."""
    merged: dict[str, dict[str, Entry]] = {}
    for layer in layers:
        for section, entries in layer.own.items():
            if entries is None:
                merged.pop(section, None)
            else:
                merged[section] = {**merged.get(section, {}), **entries}
    return {section: _given(entries) for section, entries in merged.items()}


def _with_options(below: Entry | None, options: Mapping[str, Entry]) -> Entry:
    """What a key chooses, with these options over its own; the place is that of the last option."""
    last = list(options.values())[-1]
    there = below.value if below is not None else None
    chosen = dict(there) if isinstance(there, Mapping) else {} if there is None else {"name": there}
    return Entry({**chosen, **{name: entry.value for name, entry in options.items()}}, last.place, last.base)


def _given(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    return {key: entry for key, entry in entries.items() if entry.value is not None}


def _read_section(layer: Layer, pair: Pair, source: str, base: Path) -> None:
    from flowlab.config.yaml_source import plain, refuse_duplicates

    with layer.problems.collected(pair.key):
        refuse_duplicates(pair.node.pairs, f"{source}, {pair.key}")
        entries = {one.key: Entry(plain(one.node, source), Place(source, one.line), base) for one in pair.node.pairs}
        _add(layer, pair.key, entries)


def _read_own(layer: Layer, pair: Pair, source: str, base: Path) -> None:
    """A section of a package. Empty it says that there is none, which somebody who wrote it hardly meant."""
    from flowlab.config.yaml_source import plain, refuse_duplicates

    if pair.node.kind == "scalar" and pair.node.value is None:
        layer.own[pair.key] = None
        layer.warnings.append(
            f"section {pair.key} is empty, and its stage does not run; '{pair.key}: {{}}' asks for it"
        )
    elif pair.node.kind != "mapping":
        text = f"{source}, {pair.key}, line {pair.line}: holds {_kind(pair.node)}, expected keys"
        layer.problems.add(text, pair.key)
    else:
        with layer.problems.collected(pair.key):
            refuse_duplicates(pair.node.pairs, f"{source}, {pair.key}")
            layer.own[pair.key] = {
                one.key: Entry(plain(one.node, source), Place(source, one.line), base) for one in pair.node.pairs
            }


def _add(layer: Layer, section: str, entries: Mapping[str, Entry]) -> None:
    target = layer.entries.setdefault(section, {})
    written: dict[str, str] = {}  # key -> as it was spelled in this very source
    for spelled, entry in entries.items():
        if spelled in UNREAD[section]:
            layer.warnings.append(f"{section}.{spelled} changes nothing: {UNREAD[section][spelled]}")
            continue
        if spelled not in keys(section):
            layer.problems.add(_unknown_key(section, spelled, entry.place), section)
            continue
        key = ALIASES.get(section, {}).get(spelled, spelled)
        found = Entry(_cleaned(section, key, entry), entry.place, entry.base)
        other = written.get(key)
        if other is not None and target[key].value != found.value:
            layer.problems.add(
                f"{entry.place.at(section)}: '{spelled}' is {found.value!r} and '{other}' (line "
                f"{target[key].place.line}) is {target[key].value!r}; they are one key, keep one of them",
                section,
            )
        written[key] = spelled
        target[key] = found


def _cleaned(section: str, key: str, entry: Entry) -> Any:
    value = entry.value
    if isinstance(value, (str, type(None))) and value in NOT_GIVEN:
        return None
    if key in PATHS.get(section, ()) and isinstance(value, str) and "://" not in value and not value.startswith("${"):
        try:
            return str((entry.base / Path(value).expanduser()).resolve())
        except (RuntimeError, ValueError, OSError):  # no such user, a zero byte, a loop of links: said when it is used
            return value
    return value


def _unknown_key(section: str, key: str, place: Place) -> str:
    start = f"{place.at(section)}: no key '{key}'."
    suggestion = did_you_mean(key, keys(section))
    if not suggestion:
        owners = [f"'{other}:'" for other in _others(section) if key in keys(other) or key in UNREAD[other]]
        if owners:
            return f"{start} It belongs under {' or '.join(owners)}"
        return f"{start} Known: {', '.join(sorted(keys(section)))}"
    return f"{start}{suggestion}"


def _others(section: str) -> Iterator[str]:
    return (other for other in SECTIONS if other != section)


def _unknown_section(layer: Layer, name: str, place: Place, installed: Installed) -> None:
    if name in UNREAD_SECTIONS:
        layer.warnings.append(f"section {name} changes nothing: {UNREAD_SECTIONS[name]}")
    elif name == "include_files":
        layer.problems.add(
            f"{place}: 'include_files' is not read; lay files over each other: flowlab run base.yaml part.yaml"
        )
    elif name == "matrix":
        layer.problems.add(f"{place}: 'matrix' makes many runs of one config; write: flowlab sweep {place.source}")
    else:
        known = (*SECTIONS, *installed.shown)
        layer.problems.add(
            f"{place}: no section '{name}'.{did_you_mean(name, known)} Known: {', '.join(known)}{installed.broken}"
        )


def _kind(node: Node) -> str:
    if node.kind == "scalar":
        return f"the value {node.value!r}" if len(repr(node.value)) < 60 else "a text"
    return {"list": "a list", "mapping": "keys"}[node.kind]
