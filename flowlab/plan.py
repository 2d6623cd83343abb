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
from flowlab.errors import ConfigError, StageError
from flowlab.roles import ROLES

SCHEMA = 1  # of fingerprints and records: raise it when the engine itself changes what a result is
_FOR_PEOPLE = frozenset({"name", "version", "summary"})  # a plugin's name has its own place in the document
SOURCES = ("source", "notes")  # roles that no stage makes


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

    ``needs`` are the roles that it reads in this plan. ``asked`` is the fingerprint's document without ``inputs``.
    """

    stage: Stage
    options: Any
    plugins: Mapping[str, tuple[Plugin, Any]]
    needs: tuple[str, ...]
    asked: Mapping[str, Any]
    recipe: str

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

    def maker(self, role: str) -> Node | None:
        """The node that makes a role, or None for a source."""
        return next((node for node in self.nodes if role in node.stage.makes), None)

    def waits_for(self, node: Node) -> tuple[Node, ...]:
        """The nodes that must have finished before this one: makers of its inputs, and ``after``."""
        makers = {maker.name for role in node.needs if (maker := self.maker(role))}
        return tuple(other for other in self.nodes if other.name in makers or other.name in node.stage.after)


def plan(stages: Sequence[Stage], config: Any, catalogue: Any, *, sources: Mapping[str, str], facts: Facts) -> Plan:
    """Order the stages that the config asks for and compute their recipes.

    Args:
        stages: declarations, in any order.
        config: what the stages' ``options`` and ``plugins`` read.
        catalogue: where they find plugins.
        sources: digests of the roles that no stage makes.
        facts: code hashes and versions.

    Raises:
        ConfigError: when a section is switched off that nothing can replace.
        StageError: when roles and stages do not fit together.
    """
    ordered = _order(_asked_for(stages, config), sources)
    made_by = {role: stage for stage in ordered for role in stage.makes}
    recipes: dict[str, str] = dict(sources)
    nodes = []
    for stage in ordered:
        needs = (*stage.needs, *(role for role in stage.optional if role in made_by or role in sources))
        options = stage.options(config, catalogue)
        plugins = dict(stage.plugins(config, catalogue))
        asked = _document(stage, options, plugins, stage.tools(config, catalogue), facts)
        if stage.torch:
            asked["threads"] = getattr(getattr(config, "training", None), "threads", 1)
        recipe = digest({**asked, "recipes": {role: recipes[role] for role in needs}})
        recipes.update({role: digest([recipe, role]) for role in stage.makes})
        nodes.append(Node(stage, options, plugins, needs, asked, recipe))
    return Plan(tuple(nodes))


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


def _asked_for(stages: Sequence[Stage], config: Any) -> list[Stage]:
    """Drop what the config switches off."""
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
    return [stage for stage in stages if stage.name not in dropped]


def _order(stages: Sequence[Stage], sources: Mapping[str, str]) -> list[Stage]:
    """Sort so that every stage comes after those that make what it reads; otherwise as given."""
    made_by: dict[str, str] = {}
    for stage in stages:
        for role in (*stage.needs, *stage.optional, *stage.makes):
            if role not in ROLES:
                raise StageError(f"stage {stage.name}: role '{role}' is not in the table of roles (flowlab/roles.py)")
        for role in stage.makes:
            if role in made_by or role in SOURCES:
                raise StageError(f"role '{role}' is made by {stage.name} and by {made_by.get(role, 'no stage')}")
            made_by[role] = stage.name
    waiting = list(stages)
    names = {stage.name for stage in stages}
    done: list[Stage] = []
    ready: set[str] = set()
    while waiting:
        for stage in waiting:
            missing = [role for role in stage.needs if role not in made_by and role not in sources]
            if missing:
                raise StageError(f"stage {stage.name} needs {', '.join(missing)}, which no stage of this plan makes")
            roles = (*stage.needs, *stage.optional)
            before = {made_by[role] for role in roles if role in made_by} | (set(stage.after) & names)
            if before <= ready:
                break
        else:
            raise StageError(f"stages wait for each other: {', '.join(stage.name for stage in waiting)}")
        waiting.remove(stage)
        done.append(stage)
        ready.add(stage.name)
    return done
