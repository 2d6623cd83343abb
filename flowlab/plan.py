"""What will be done: stages in order, each with the recipe of its result. Pure: it runs nothing and reads no file.

A *recipe* is the hash of how a result is asked for, with the recipes of its inputs: known before anything has run.
A *fingerprint* is the same with the content hashes of the inputs: it keys the store and gives early cut-off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol

from flowlab.canonical import digest, plain
from flowlab.config.redaction import without_secrets, written_out
from flowlab.contracts import Plugin, Stage
from flowlab.errors import ConfigError, StageError, unknown_name
from flowlab.roles import ROLES

SCHEMA = 1  # of fingerprints and records: raise it when the engine itself changes what a result is
_FOR_PEOPLE = frozenset({"name", "version", "summary"})  # a plugin's name has its own place in the document
SOURCES = ("source", "notes", "own_model", "own_inputs", "own_code")  # roles that no stage makes


class Facts(Protocol):
    """What a plan asks about the machine; `flowlab.engine.facts` answers it from disk."""

    def code(self, names: Iterable[str]) -> Mapping[str, str]:
        """sha256 by module of everything that these modules and packages import of their own."""
        ...

    def version(self, distribution: str) -> str:
        """The installed version of a distribution, or ``absent``."""
        ...


@dataclass(frozen=True)
class Node:
    """One stage of one plan, with all that decides its result but the content of its inputs.

    ``needs`` are the roles that it reads in this plan, ``versions`` the stages whose versions of them it gets (none for
    a source). ``asked`` is the fingerprint's document without ``inputs``.
    """

    stage: Stage
    options: Any
    plugins: Mapping[str, tuple[Plugin, Any]]
    needs: tuple[str, ...]
    asked: Mapping[str, Any]
    recipe: str
    versions: Mapping[str, str]

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    def document(self, inputs: Mapping[str, str]) -> dict[str, Any]:
        """The fingerprint's document: plain JSON. ``inputs`` are the digests of the roles in ``needs``."""
        return {**self.asked, "inputs": {role: inputs[role] for role in self.needs}}

    def fingerprint(self, inputs: Mapping[str, str]) -> str:
        """The key of this node's result in the store."""
        return digest(self.document(inputs))


@dataclass(frozen=True)
class Plan:
    """Nodes in an order in which they can run."""

    nodes: tuple[Node, ...]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def node(self, stage: str) -> Node:
        """The node of a stage. Raises KeyError."""
        for node in self.nodes:
            if node.name == stage:
                return node
        raise KeyError(stage)

    def maker(self, role: str, reader: Node | None = None) -> Node | None:
        """The node whose version of a role a reader gets, else the one that writes the last; None for a source."""
        if reader is not None:
            return self.node(reader.versions[role]) if role in reader.versions else None
        return next((node for node in reversed(self.nodes) if role in node.stage.writes), None)

    def waits_for(self, node: Node) -> tuple[Node, ...]:
        """The nodes that must have finished before this one: makers of its inputs, and ``after``."""
        makers = {maker.name for role in node.needs if (maker := self.maker(role, node))}
        return tuple(other for other in self.nodes if other.name in makers or other.name in node.stage.after)


@dataclass(frozen=True)
class Shared:
    """One node of several plans: work that is the same for all of them, and done once.

    Args:
        node: what is done.
        plans: the numbers of the plans that have it.
        reads: the recipes of the nodes whose results it reads; the same in each of these plans.
        after: for each of its plans the recipes of the nodes that it only waits for.
    """

    node: Node
    plans: tuple[int, ...]
    reads: tuple[str, ...]
    after: Mapping[int, tuple[str, ...]]

    @property
    def recipe(self) -> str:
        """What makes it one: equal recipes are equal work."""
        return self.node.recipe


def merged(plans: Sequence[Plan]) -> tuple[Shared, ...]:
    """The nodes of all plans, each once, in the order of their stages."""
    nodes: dict[str, Node] = {}
    served: dict[str, list[int]] = {}
    reads: dict[str, tuple[str, ...]] = {}
    after: dict[str, dict[int, tuple[str, ...]]] = {}
    places: dict[str, int] = {}
    for number, one in enumerate(plans):
        named = {node.name: node.recipe for node in one}
        for place, node in enumerate(one):
            places[node.name] = max(place, places.get(node.name, 0))
            nodes.setdefault(node.recipe, node)
            served.setdefault(node.recipe, []).append(number)
            makers = tuple(dict.fromkeys(named[node.versions[role]] for role in node.needs if role in node.versions))
            waits = (named[name] for name in node.stage.after if name in named)
            reads[node.recipe] = makers
            after.setdefault(node.recipe, {})[number] = tuple(recipe for recipe in waits if recipe not in makers)
    found = [Shared(node, tuple(served[recipe]), reads[recipe], after[recipe]) for recipe, node in nodes.items()]
    return tuple(sorted(found, key=lambda one: places[one.node.name]))


def plan(
    stages: Sequence[Stage],
    config: Any,
    catalogue: Any,
    *,
    sources: Mapping[str, str],
    facts: Facts,
    known: dict[Any, Node] | None = None,
) -> Plan:
    """Order the stages that the config asks for and compute their recipes.

    Args:
        stages: declarations, in any order.
        config: what the stages' ``options`` and ``plugins`` read.
        catalogue: where they find plugins.
        sources: digests of the roles that no stage makes.
        facts: code hashes and versions.
        known: nodes of other plans with the same stages, facts and catalogue, by what they were asked for; it grows
            by this plan's.

    Raises:
        ConfigError: when a section is switched off that nothing can replace.
        StageError: when roles and stages do not fit together.
    """
    ordered = _order(_asked_for(stages, config), sources)
    made = {role for stage in ordered for role in stage.makes}
    versions: dict[str, str] = {}
    recipes: dict[str, str] = {role: sources[role] for role in SOURCES if role in sources}
    nodes = []
    for stage in ordered:
        optional = (role for role in stage.optional if role in made or role in sources)
        needs = tuple(dict.fromkeys((*stage.needs, *optional, *stage.rewrites)))
        options = stage.options(config, catalogue) if stage.options is not None else stage.Options()
        plugins = dict(stage.plugins(config, catalogue))
        tools = stage.tools(config, catalogue)
        threads = getattr(getattr(config, "training", None), "threads", 1) if stage.torch else None
        inputs = {role: recipes[role] for role in needs}
        read = _of(versions, needs)
        same = _same(stage, options, plugins, (tools, threads, inputs, read)) if known is not None else ""
        node = known.get(same) if known is not None else None
        if node is None:
            asked = _document(stage, options, plugins, tools, facts)
            if stage.torch:
                asked["threads"] = threads
            node = Node(stage, options, plugins, needs, asked, digest({**asked, "recipes": inputs}), read)
        if known is not None:
            known[same] = node
        recipes.update({role: digest([node.recipe, role]) for role in stage.writes})
        nodes.append(node)
        versions.update(dict.fromkeys(stage.writes, stage.name))
    return Plan(tuple(nodes))


def _of(versions: Mapping[str, str], roles: Iterable[str]) -> dict[str, str]:
    return {role: versions[role] for role in roles if role in versions}


def _same(stage: Stage, options: Any, plugins: Mapping[str, tuple[Plugin, Any]], others: tuple[Any, ...]) -> str:
    """What tells a node from others of one command, without code and versions: they are the same for all of them."""
    chosen = [(kind, id(plugin), _plain(given, stage, kind)) for kind, (plugin, given) in sorted(plugins.items())]
    return repr((stage.name, _plain(options, stage, "options"), chosen, *others))


def _document(
    stage: Stage,
    options: Any,
    plugins: Mapping[str, tuple[Plugin, Any]],
    tools: Mapping[str, str],
    facts: Facts,
) -> dict[str, Any]:
    """All that decides a stage's result but its inputs."""
    return {
        "schema": SCHEMA,
        "stage": stage.name,
        "options": _deciding(options, _plain(options, stage, "options")),
        "plugins": {
            kind: {
                "name": plugin.name,
                "options": _no_secrets(_plain(chosen, stage, f"plugins.{kind}.options"), plugin),
                "values": _values(plugin),
                "code": dict(facts.code((type(plugin).__module__, *plugin.code))),
                "libraries": {name: facts.version(name) for name in plugin.libraries},
            }
            for kind, (plugin, chosen) in sorted(plugins.items())
        },
        "code": dict(facts.code((stage.run.partition(":")[0], *stage.code))),
        "libraries": {name: facts.version(name) for name in stage.libraries},
        "tools": dict(tools),
    }


def _values(plugin: Plugin) -> dict[str, Any]:
    """What distinguishes this instance from others of its class, as far as JSON can say it.

    Plugins that are rows of a table have their data here; functions and classes are in the code's hash.
    """
    found = {}
    for name, value in sorted(getattr(plugin, "__dict__", {}).items()):
        if name not in _FOR_PEOPLE and not name.startswith("_"):
            try:
                found[name] = plain(value, name)
            except TypeError:
                continue
    return found


def _plain(value: Any, stage: Stage, where: str) -> Any:
    try:
        return plain(value, where)
    except TypeError as error:
        raise StageError(f"stage {stage.name}: {error}; the fingerprint holds JSON values only") from None


def _deciding(options: Any, found: Any) -> Any:
    """The options' JSON without the fields on which no result depends."""
    if not is_dataclass(options):
        return found
    aside = {one.name for one in fields(options) if not one.metadata.get("decides", True)}
    return {name: value for name, value in found.items() if name not in aside}


def _no_secrets(options: Any, plugin: Plugin) -> Any:
    """The options as records keep them: a secret decides no result.

    Raises:
        ConfigError: where one stands in an address: without it two addresses might be taken for one.
    """
    kept = without_secrets(options)
    if found := written_out(kept):
        raise ConfigError(
            f"options of {plugin.kind.replace('_', ' ')} '{plugin.name}': a secret is written out in the address of "
            f"{', '.join(found)}, and records keep it. Write ${{NAME}} in its place: the environment of the run answers"
        )
    return kept


def node_of(stage: Stage, config: Any, catalogue: Any, *, needs: Sequence[str], facts: Facts) -> Node:
    """One stage by itself, where its inputs are at hand: as a plan has it, but for the recipe and the versions.

    Args:
        stage: its declaration.
        config: what its ``options`` and ``plugins`` read.
        catalogue: where they find plugins.
        needs: the roles that it reads.
        facts: code hashes and versions.
    """
    options = stage.options(config, catalogue) if stage.options is not None else stage.Options()
    plugins = dict(stage.plugins(config, catalogue))
    asked = _document(stage, options, plugins, stage.tools(config, catalogue), facts)
    if stage.torch:
        asked["threads"] = getattr(getattr(config, "training", None), "threads", 1)
    return Node(stage, options, plugins, tuple(needs), asked, "", {})


def _asked_for(stages: Sequence[Stage], config: Any) -> list[Stage]:
    """Drop what the config switches off, add what its sections of packages ask for."""
    instead = {
        "dataset": "point dataset.input_data_path at recordings, or name a dataset that makes its own",
        "training": "remove the line; stages whose result is in the store are not repeated anyway",
    }
    for section, advice in instead.items():
        if getattr(getattr(config, section, None), "enable", True) is False:
            raise ConfigError(f"{section}.enable: False leaves nothing to compile. Instead: {advice}")
    dropped: set[str] = set()
    if getattr(getattr(config, "testing", None), "enable", True) is False:
        dropped |= {"simulate"}
    if getattr(getattr(config, "compilation", None), "enable", True) is False:
        dropped |= {"compile", "simulate"}
    own = getattr(config, "own", {})
    asked = [*(stage for stage in stages if stage.name not in dropped), *(one.stage for one in own.values())]
    names = [stage.name for stage in asked]
    for section, one in own.items():
        for name in one.after:
            if name not in names:
                raise ConfigError(f"{config.where(section, 'after')}: {unknown_name('stage', name, names)}")
    return asked


def _order(stages: Sequence[Stage], sources: Mapping[str, str]) -> list[Stage]:
    """Sort so that every stage comes after those that write what it reads; otherwise as given."""
    made_by = _makers(stages)
    waiting = list(stages)
    done: list[Stage] = []
    before = {stage.name: _before(stage, stages, made_by, sources) for stage in stages}
    while waiting:
        ready = {stage.name for stage in done}
        stage = next((one for one in waiting if before[one.name] <= ready), None)
        if stage is None:
            raise StageError(f"stages wait for each other: {', '.join(stage.name for stage in waiting)}")
        waiting.remove(stage)
        done.append(stage)
    _refuse_undecided(done, before)
    return done


def _makers(stages: Sequence[Stage]) -> dict[str, str]:
    """The stage that makes each role, by role; StageError where roles and stages do not fit together."""
    made_by: dict[str, str] = {}
    names: set[str] = set()
    for stage in stages:
        if stage.name in names:
            raise StageError(f"two stages of this plan are named '{stage.name}'")
        names.add(stage.name)
        for role in (*stage.needs, *stage.optional, *stage.writes):
            if role not in ROLES:
                raise StageError(f"stage {stage.name}: role '{role}' is not in the table of roles (flowlab/roles.py)")
        for role in stage.makes:
            if role in made_by or role in SOURCES:
                raise StageError(f"role '{role}' is made by {stage.name} and by {made_by.get(role, 'no stage')}")
            made_by[role] = stage.name
    return made_by


def _before(stage: Stage, stages: Sequence[Stage], made_by: Mapping[str, str], sources: Mapping[str, str]) -> set[str]:
    """The stages that must have finished before this one: of what it reads, those that make and rewrite it."""
    for roles, verb, known in ((stage.needs, "needs", {*made_by, *sources}), (stage.rewrites, "rewrites", {*made_by})):
        if missing := [role for role in roles if role not in known]:
            raise StageError(f"stage {stage.name} {verb} {', '.join(missing)}, which no stage of this plan makes")
    reads = {*stage.needs, *stage.optional} - {*stage.rewrites}
    found = {made_by[role] for role in (*reads, *stage.rewrites) if role in made_by}
    found |= {other.name for other in stages if reads & {*other.rewrites}}
    return found | ({*stage.after} & {other.name for other in stages})


def _refuse_undecided(ordered: Sequence[Stage], before: Mapping[str, set[str]]) -> None:
    """Of two stages that rewrite one role, one must wait for the other: the result depends on it."""
    ancestors: dict[str, set[str]] = {}
    last: dict[str, Stage] = {}
    for stage in ordered:
        ancestors[stage.name] = {*before[stage.name]}.union(*(ancestors[name] for name in before[stage.name]))
        for role in stage.rewrites:
            other = last.get(role)
            if other is not None and other.name not in ancestors[stage.name]:
                raise ConfigError(
                    f"stages {other.name} and {stage.name} both rewrite '{role}', and nothing says which goes first. "
                    f"Write 'after: {other.name}' under '{stage.section}:', or 'after: {stage.name}' under "
                    f"'{other.section}:'"
                )
            last[role] = stage
