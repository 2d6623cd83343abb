"""Sections that packages bring: each puts a stage of theirs into the plan (`flowlab.hookspecs.flowlab_stages`).

What they hold is checked like the sections of flowlab's own: keys first, with a suggestion, then each value's type.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowlab.config.place import Entry
from flowlab.config.problems import Problems
from flowlab.config.redaction import redacted
from flowlab.contracts import Stage
from flowlab.errors import ConfigError, FlowlabError, did_you_mean
from flowlab.options import read_fields

AFTER = "after"  # a key of every such section: stages that go before, where two rewrite one role


@dataclass(frozen=True)
class Installed:
    """Which sections packages bring here: every name that a config may write, those to show, and what is broken."""

    names: frozenset[str] = frozenset()
    shown: tuple[str, ...] = ()
    broken: str = ""


NONE = Installed()


def installed(catalogue: Any) -> Installed:
    """The sections of a catalogue; none of one that knows no stages."""
    if not hasattr(catalogue, "section_names"):
        return NONE
    return Installed(catalogue.section_names(), catalogue.sections(), catalogue.broken_text())


@dataclass(frozen=True)
class OwnSection:
    """A section of a package as the plan reads it: the stage with this config's options, and what goes before it."""

    stage: Stage
    values: Any
    after: tuple[str, ...] = ()


def read_sections(
    given: Mapping[str, Mapping[str, Entry]], catalogue: Any, problems: Problems
) -> dict[str, OwnSection]:
    """The stages that sections of packages ask for, by section; what cannot be used is added to ``problems``."""
    found = {}
    for section, entries in sorted(given.items()):
        try:
            read = _read(section, catalogue.stage_of(section), entries, problems)
        except FlowlabError as error:
            problems.add(f"{_place(section, entries)}: {error}", section)
            continue
        if read is not None:
            found[section] = read
    return found


def _read(section: str, stage: Stage, entries: Mapping[str, Entry], problems: Problems) -> OwnSection | None:
    known = [one.name for one in dataclasses.fields(stage.Options) if one.init]
    sound = True
    values: dict[str, Any] = {}
    for key, entry in entries.items():
        if key == AFTER:
            continue
        if key not in known:
            place = entry.place.at(section)
            listed = ", ".join((*known, AFTER))
            problems.add(f"{place}: no key '{key}'.{did_you_mean(key, known)} Known: {listed}", section)
            sound = False
            continue
        try:
            values |= read_fields(stage.Options, {key: entry.value})
        except FlowlabError as error:
            problems.add(f"{entry.place.at(f'{section}.{key}')}: {_without_secret(error, entry.value, key)}", section)
            sound = False
    after = _after(section, entries.get(AFTER), problems)
    if not sound or after is None:
        return None
    options = _made(stage, values)
    made = dataclasses.replace(stage, after=(*stage.after, *after))
    if stage.options is None:
        made = dataclasses.replace(made, options=lambda config, catalogue: options)
    return OwnSection(made, options, after)


def _made(stage: Stage, values: Mapping[str, Any]) -> Any:
    """An instance of ``Options``, whose own checks may raise; a key without a default that is not given is named."""
    missing = [
        one.name
        for one in dataclasses.fields(stage.Options)
        if one.init
        and one.name not in values
        and one.default is dataclasses.MISSING
        and one.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{', '.join(missing)} must be given")
    try:
        return stage.Options(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from None


def _place(section: str, entries: Mapping[str, Entry]) -> str:
    first = next(iter(entries.values()), None)
    return first.place.at(section) if first is not None else section


def _after(section: str, entry: Entry | None, problems: Problems) -> tuple[str, ...] | None:
    if entry is None:
        return ()
    value: Sequence[Any] = [entry.value] if isinstance(entry.value, str) else entry.value
    if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
        return tuple(value)
    problems.add(
        f"{entry.place.at(f'{section}.{AFTER}')}: found {entry.value!r}, expected a stage's name, or a list of them",
        section,
    )
    return None


def _without_secret(error: FlowlabError, value: Any, key: str) -> str:
    """The error's text, with what a secret's key holds left out."""
    shown = redacted(value, key)
    return str(error) if shown == value else str(error).replace(repr(value), repr(shown))
