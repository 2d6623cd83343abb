"""Find, load and look up what packages bring; report what is broken.

`load` reads the entry points of one group, imports each announced module and calls each of its hooks on its own:
a package that raises is reported in `Catalogue.broken` and hurts nobody else.
The result is an object, never a global; loading one imports no numpy, torch or pydantic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from flowlab.contracts import (
    Core,
    Dataset,
    FeatureExtractor,
    Model,
    Plugin,
    Preset,
    Quantizer,
    Reader,
    RunEnded,
    RunStarted,
    Stage,
    StageEnded,
    StageFailed,
    StageStarted,
    Target,
)
from flowlab.errors import NotBuiltYet, PluginError, did_you_mean, unknown_name
from flowlab.options import read_options
from flowlab.roles import ROLES

if TYPE_CHECKING:
    from importlib.metadata import Distribution

    import pluggy

OWN = "flowlab"  # the distribution whose names stay bare

HOOKS: Mapping[str, type] = {
    "flowlab_readers": Reader,
    "flowlab_datasets": Dataset,
    "flowlab_feature_extractors": FeatureExtractor,
    "flowlab_models": Model,
    "flowlab_quantizers": Quantizer,
    "flowlab_cores": Core,
    "flowlab_targets": Target,
    "flowlab_presets": Preset,
    "flowlab_stages": Stage,
}
"""Which hook brings which contract."""

WATCHING: Mapping[str, type] = {
    "flowlab_before_run": RunStarted,
    "flowlab_after_run": RunEnded,
    "flowlab_before_stage": StageStarted,
    "flowlab_after_stage": StageEnded,
    "flowlab_stage_failed": StageFailed,
}
"""Which hook watches what."""

Item = Plugin | Preset | Stage

KINDS: tuple[str, ...] = tuple(contract.kind for contract in HOOKS.values() if issubclass(contract, Plugin))
"""What can be asked for by kind and name."""


@dataclass(frozen=True)
class Announced:
    """One entry point: the module that a distribution announces, under a name."""

    name: str
    module: str
    distribution: str


@dataclass(frozen=True)
class Brought:
    """One plugin, preset or stage, and the distribution that brought it."""

    item: Item
    distribution: str

    @property
    def full_name(self) -> str:
        """The name that is never ambiguous: ``distribution:name``."""
        return f"{self.distribution}:{self.asked_for}"

    @property
    def asked_for(self) -> str:
        """What a config writes for it: its name, of a stage its section."""
        return self.item.section if isinstance(self.item, Stage) else self.item.name

    def answers_to(self, name: str) -> bool:
        """Whether a user who writes ``name`` can mean this one."""
        return name in (self.asked_for, self.full_name)


@dataclass(frozen=True)
class Watcher:
    """One implementation of a watching hook, and whether it takes what the hook has to say."""

    hook: str
    distribution: str
    function: Callable[..., object]
    arguments: tuple[str, ...] = ()

    def tell(self, event: Any) -> None:
        """Call it with a copy of its own. Raises what the package's code raises."""
        self.function(*(deepcopy(event) for _ in self.arguments))


@dataclass(frozen=True)
class Catalogue:
    """Everything that the installed packages bring.

    ``broken`` says, by package, why something of it is missing here. What is not built (`Plugin.not_built`) is only
    there to say so: `get` and `preset` refuse its name, and nothing else here knows of it.
    """

    brought: tuple[Brought, ...] = ()
    broken: Mapping[str, str] = field(default_factory=dict)
    watchers: tuple[Watcher, ...] = ()

    def get(self, kind: str, name: str) -> Plugin:
        """The plugin of this kind and name.

        A bundled name is bare; a stranger's equal name is ``distribution:name``.

        Raises:
            PluginError: if nobody brings it (with a suggestion, and the packages that are broken),
                or if two strangers do.
            NotBuiltYet: if it is only known.
        """
        plugin = self.find(kind, name)
        if plugin is None:
            spoken, names = kind.replace("_", " "), self.names(kind)
            self._refuse(kind, name, spoken, names)
            text = unknown_name(spoken, name, names)
            raise PluginError(text + self.broken_text())
        return plugin

    def find(self, kind: str, name: str) -> Plugin | None:
        """Like `get`, but None for a name that nobody brings."""
        found = self._one(kind, name)
        return None if found is None else cast(Plugin, found.item)

    def names(self, kind: str) -> tuple[str, ...]:
        """The names of a kind, sorted, each as a user writes it."""
        of_kind = list(self.of_kind(kind))
        return tuple(sorted(self.shown_name(kind, one) for one in of_kind))

    def origin(self, kind: str, name: str) -> str:
        """The distribution that brings a plugin. Raises `PluginError` like `get`."""
        self.get(kind, name)
        return cast(Brought, self._one(kind, name)).distribution

    def of_kind(self, kind: str) -> Iterator[Brought]:
        """All plugins of a kind, bundled ones first, in the order in which they were brought."""
        if kind not in KINDS:
            raise PluginError(unknown_name("kind of plugin", kind, KINDS))
        yield from self._built.get(kind, ())

    @cached_property
    def _built(self) -> Mapping[str, tuple[Brought, ...]]:
        """By kind: a run asks a thousand times."""
        found: dict[str, list[Brought]] = {}
        for one in self.brought:
            if isinstance(one.item, Plugin) and not one.item.not_built:
                found.setdefault(one.item.kind, []).append(one)
        return {kind: tuple(items) for kind, items in found.items()}

    def shown_name(self, kind: str, one: Brought) -> str:
        """The bare name where it is enough, else ``distribution:name``."""
        if one.distribution == OWN:
            return one.item.name
        rivals = [other for other in self.of_kind(kind) if other.item.name == one.item.name]
        return one.item.name if len(rivals) == 1 else one.full_name

    def reader_for(self, suffix: str) -> Reader | None:
        """The reader of files that end so (``.csv``; upper or lower case), a bundled one first, or None."""
        wanted = suffix.lower()
        for one in self.of_kind("reader"):
            reader = cast(Reader, one.item)
            if wanted in (known.lower() for known in reader.suffixes):
                return reader
        return None

    def preset(self, kind: str, name: str, **when: str) -> Preset | None:
        """The preset of this kind and name that holds here, or None.

        Args:
            kind: ``feature_extraction``, ``compile``, ``example`` or ``bench``.
            name: bare, or ``distribution:name``.
            when: what is known of the config, such as ``target_device="..."``; a preset that is restricted by a key
                which is not given, or to other values, does not hold. Among several the most restricted one wins.

        Raises:
            PluginError: if two packages bring equally restricted presets of this name.
            NotBuiltYet: if it is only known.
        """
        holding = [
            one for one in self.presets(kind) if one.answers_to(name) and _holds(cast(Preset, one.item).when, when)
        ]
        if not holding:
            names = self.preset_names(kind)
            if name not in names:  # one that is restricted to other devices is there
                self._refuse(kind, name, f"{kind.replace('_', ' ')} preset", names)
            return None
        most = max(len(cast(Preset, one.item).when) for one in holding)
        best = [one for one in holding if len(cast(Preset, one.item).when) == most]
        return cast(Preset, _choose(f"{kind.replace('_', ' ')} preset", name, best).item)

    def preset_names(self, kind: str) -> tuple[str, ...]:
        """The names of all presets of a kind, restricted ones too, sorted."""
        bundled = {one.item.name for one in self.presets(kind) if one.distribution == OWN}
        bringers: dict[str, set[str]] = {}
        for one in self.presets(kind):
            bringers.setdefault(one.item.name, set()).add(one.distribution)
        names = set(bundled)
        for one in self.presets(kind):
            if one.distribution != OWN:
                alone = len(bringers[one.item.name]) == 1
                names.add(one.item.name if alone else one.full_name)
        return tuple(sorted(names))

    def presets(self, kind: str) -> Iterator[Brought]:
        """All presets of a kind, restricted ones too, in the order in which they were brought."""
        for one in self.brought:
            if isinstance(one.item, Preset) and one.item.kind == kind and not one.item.not_built:
                yield one

    def stages(self) -> tuple[Brought, ...]:
        """All stages of packages."""
        return tuple(one for one in self.brought if isinstance(one.item, Stage))

    def sections(self) -> tuple[str, ...]:
        """The sections that packages bring, sorted, each as a config writes it."""
        brought = self.stages()
        bare = [one.asked_for for one in brought]
        return tuple(sorted(one.asked_for if bare.count(one.asked_for) == 1 else one.full_name for one in brought))

    def section_names(self) -> frozenset[str]:
        """Every name that a section of a package can have in a config, ambiguous ones too."""
        return frozenset(name for one in self.stages() for name in (one.asked_for, one.full_name))

    def stage_of(self, section: str) -> Stage:
        """The stage that a section asks for.

        Raises:
            PluginError: if two packages bring this section, or none does.
        """
        answering = [one for one in self.stages() if one.answers_to(section)]
        if not answering:
            raise PluginError(unknown_name("section", section, self.sections()) + self.broken_text())
        return cast(Stage, _choose("section", section, answering).item)

    def options(self, plugin: Plugin, mapping: Mapping[str, Any]) -> Any:
        """An instance of the plugin's ``Options``: keys are checked first, then types (by pydantic).

        Raises:
            OptionError: naming plugin, option, what was found and what is known.
        """
        return read_options(plugin, mapping)

    def _one(self, kind: str, name: str) -> Brought | None:
        answering = [one for one in self.of_kind(kind) if one.answers_to(name)]
        return _choose(kind.replace("_", " "), name, answering) if answering else None

    def _refuse(self, kind: str, name: str, spoken: str, built: Sequence[str]) -> None:
        """Raise `NotBuiltYet` where the name is one that is only known."""
        for one in self.brought:
            why = one.item.not_built
            if why and one.item.kind == kind and one.answers_to(name):
                raise NotBuiltYet(f"{spoken} '{name}' is not built yet: {why}. Known: {', '.join(built) or 'none'}")

    def broken_text(self) -> str:
        """What to say behind a name that nobody brings: which packages are broken, and why. Empty where none is."""
        if not self.broken:
            return ""
        reasons = "; ".join(f"{package}: {reason}" for package, reason in sorted(self.broken.items()))
        return f". Packages that could not be loaded fully: {reasons}"


def load(group: str = "flowlab") -> Catalogue:
    """Load what every installed package announces under an entry-point group."""
    return load_announced(installed(group))


def installed(group: str) -> list[Announced]:
    """The entry points of a group, flowlab's own first, then by distribution and name."""
    from importlib.metadata import entry_points

    found = []
    names: dict[int, str] = {}
    for point in entry_points(group=group):
        dist = point.dist
        if dist is not None and id(dist) not in names:
            names[id(dist)] = _name(dist)
        found.append(Announced(point.name, point.value, names.get(id(dist), point.name)))
    unique = dict.fromkeys(found)  # the same package twice on the path announces itself twice
    return sorted(unique, key=lambda one: (one.distribution != OWN, one.distribution, one.name))


def _name(distribution: Distribution) -> str:
    """``distribution.name`` without the parsing of all of its metadata, which takes 20 ms."""
    for line in (distribution.read_text("METADATA") or "").splitlines():
        if line.startswith("Name:"):
            return line.partition(":")[2].strip()
    return distribution.name


def load_announced(announced: Iterable[Announced]) -> Catalogue:
    """Import each announced module, call each of its hooks on its own, keep what is sound."""
    import pluggy

    from flowlab import hookspecs

    broken: dict[str, list[str]] = {}
    brought: list[Brought] = []
    watchers: list[Watcher] = []
    seen: set[tuple[str, str, str]] = set()
    manager = pluggy.PluginManager("flowlab")
    manager.add_hookspecs(hookspecs)
    for one in announced:
        reasons: list[str] = []
        for item in _from_package(manager, one, reasons, watchers):
            known = (item.kind, item.name, one.distribution)
            if not isinstance(item, Preset) and known in seen:  # of presets, one name may hold for several devices
                reasons.append(f"brings a second {item.kind.replace('_', ' ')} named '{item.name}'")
                continue
            seen.add(known)
            brought.append(Brought(item, one.distribution))
        if reasons:
            broken.setdefault(_package(one), []).extend(reasons)
    said = {package: "; ".join(reasons) for package, reasons in broken.items()}
    return Catalogue(tuple(brought), said, tuple(watchers))


def _from_package(
    manager: pluggy.PluginManager, one: Announced, reasons: list[str], watchers: list[Watcher]
) -> list[Item]:
    """What one announced module brings; whatever goes wrong ends as a sentence in ``reasons``."""
    name = f"{one.distribution}:{one.name}"
    try:
        module = import_module(one.module)
        manager.register(module, name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's code may raise anything
        reasons.append(f"cannot be loaded: {_said(error)}")
        return []
    _unmarked(module, manager, name, reasons)
    items: list[Item] = []
    for hook in manager.get_hookcallers(module) or ():
        contract = HOOKS.get(hook.name)
        if contract is None and hook.name not in WATCHING:
            reasons.append(f"there is no hook '{hook.name}'.{did_you_mean(hook.name, (*HOOKS, *WATCHING))}")
            continue
        for implementation in hook.get_hookimpls():
            if implementation.plugin_name != name:
                continue
            if contract is None:
                function, arguments = implementation.function, tuple(implementation.argnames)
                watchers.append(Watcher(hook.name, one.distribution, function, arguments))
            else:
                items.extend(_sound(hook.name, contract, implementation.function, reasons))
    return items


def _sound(hook: str, contract: type, function: Any, reasons: list[str]) -> list[Item]:
    """The items of one hook implementation that obey the contract."""
    try:
        items: Sequence[object] = list(function())
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's code may raise anything
        reasons.append(f"{hook} raises {_said(error)}")
        return []
    sound: list[Item] = []
    for item in items:
        problem = _problem(contract, item)
        if problem:
            reasons.append(f"{hook}: {problem}")
        else:
            sound.append(cast(Item, item))
    return sound


def _problem(contract: type, item: object) -> str:
    """Why an item cannot be used, or an empty text."""
    if isinstance(item, type):
        return f"brings the class {item.__name__}; return an instance, {item.__name__}()"
    if not isinstance(item, contract):
        abstract: Iterable[str] = getattr(contract, "__abstractmethods__", ())
        missing = sorted(name for name in abstract if not hasattr(item, name))
        lacks = f", and has no {', '.join(missing)}" if missing else ""
        return f"{type(item).__name__} is not a {contract.__name__} of flowlab.contracts{lacks}"
    name = getattr(item, "name", None)
    if not isinstance(name, str) or not name or ":" in name:
        return f"{type(item).__name__} has no usable name (found {name!r}; a text without ':')"
    if isinstance(item, Plugin) and not _is_frozen_dataclass(item.Options):
        return f"the Options of '{name}' are not a frozen dataclass"
    return _stage_problem(item) if isinstance(item, Stage) else ""


def _stage_problem(stage: Stage) -> str:
    """Why a package's stage cannot be in any plan, or an empty text."""
    from flowlab.config.own_sections import AFTER
    from flowlab.config.sections import SECTIONS, keys
    from flowlab.config.unread import UNREAD_SECTIONS

    taken = {*SECTIONS, *UNREAD_SECTIONS, *(key for section in SECTIONS for key in keys(section))}
    known = {one.name for one in fields(stage.Options)} if _is_frozen_dataclass(stage.Options) else {AFTER}
    unknown = [role for role in (*stage.needs, *stage.optional, *stage.writes) if role not in ROLES]
    module, _, function = stage.run.partition(":")
    problems = {
        "its name is not of letters, digits and '_'": not stage.name.isidentifier(),
        "it has no section of letters, digits and '_', whose presence puts it into a plan": (
            not stage.section.isidentifier()
        ),
        f"'{stage.section}' is a section or a key of flowlab's own": stage.section in taken,
        "its Options are not a frozen dataclass": not _is_frozen_dataclass(stage.Options),
        f"its Options have a field '{AFTER}', a key that every such section has already": AFTER in known,
        f"run is '{stage.run}', expected 'package.module:function'": not (module and function.isidentifier()),
        f"there is no role {', '.join(unknown)}": bool(unknown),
        "it makes and rewrites nothing": not stage.writes,
    }
    return "".join(f"stage '{stage.name}': {text}" for text in [text for text, holds in problems.items() if holds][:1])


def _is_frozen_dataclass(options: type) -> bool:
    parameters = getattr(options, "__dataclass_params__", None)
    return parameters is not None and parameters.frozen


def _unmarked(module: ModuleType, manager: pluggy.PluginManager, name: str, reasons: list[str]) -> None:
    """A function that is called like a hook but carries no mark would be ignored in silence."""
    for attribute in vars(module):
        if attribute.startswith("flowlab_") and callable(getattr(module, attribute)):
            marked = manager.parse_hookimpl_opts(module, attribute) is not None
            if not marked:
                reasons.append(f"{attribute} is not marked with @hookimpl and is not called")


def _choose(kind: str, name: str, answering: Sequence[Brought]) -> Brought:
    """The one that is meant: the bundled one, or the only one."""
    bundled = [one for one in answering if one.distribution == OWN]
    candidates = bundled or list(answering)
    if len(candidates) > 1:
        who = " and ".join(sorted({one.distribution for one in candidates}))
        full = " or ".join(sorted({f"'{one.full_name}'" for one in candidates}))
        raise PluginError(f"two packages bring a {kind} named '{name}': {who}. Write {full}")
    return candidates[0]


def _holds(restricted: Mapping[str, tuple[str, ...]], given: Mapping[str, str]) -> bool:
    return all(key in given and given[key] in values for key, values in restricted.items())


def _package(one: Announced) -> str:
    return one.module.partition(".")[0] if one.distribution == OWN else one.distribution


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")
