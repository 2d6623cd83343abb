"""YAML text to plain values that remember their lines.

The text is read event by event, without recursion, and into plain values only: a tag that would build an object,
a reference that grows without bound and a key that stands twice are errors that name the line.
Keys are always text, as they are written (``on:`` is the key "on").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flowlab.config.place import Place
from flowlab.errors import ConfigError

MAX_BYTES = 1 << 20  # a config has a few kB; a larger file is a mistake
MAX_DEPTH = 16
MAX_BITS = 1024  # of a whole number
MAX_KEY = 200  # characters
MAX_VALUES = 20_000  # after references are followed

TAG = "tag:yaml.org,2002:"
SCALAR_TAGS = ("str", "int", "float", "bool", "null", "timestamp")

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Any = yaml.resolver.Resolver()
_CONSTRUCTOR = yaml.constructor.SafeConstructor()


@dataclass
class Node:
    """A scalar (``value``), a list (``items``) or a mapping (``pairs``, in order, repeated keys kept)."""

    kind: str  # "scalar", "list" or "mapping"
    line: int
    value: Any = None
    items: list[Node] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    open: bool = False


@dataclass
class Pair:
    """One key of a mapping."""

    key: str
    line: int
    node: Node


def read_text(path: Path) -> str:
    """The text of a config file. Raises `ConfigError` for what is no readable UTF-8 text of a config's size."""
    try:
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no file of this name"
            raise ConfigError(f"{path}: cannot be read as a config: {found}")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes; this is no config")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{path}: UTF-16 text; save it as UTF-8")
    if b"\0" in data:
        raise ConfigError(f"{path}: binary data, expected YAML text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8 text (byte 0x{data[error.start]:02x}); save it so") from None


def parse(text: str, source: str) -> Node | None:
    """The root of a YAML text, or None where it holds nothing.

    Raises:
        ConfigError: naming ``source``, line and what was found.
    """
    try:
        return _compose(text, source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 0
        raise ConfigError(f"{Place(source, line)}: not YAML: {_problem(text, line, error)}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {str(error).splitlines()[0]}") from None
    except UnicodeError:
        raise ConfigError(f"{source}: not UTF-8 text") from None


def plain(node: Node, source: str) -> Any:
    """The value of a node: str, int, float, bool, None, list, or dict with text keys.

    Raises:
        ConfigError: for a key that stands twice, naming both lines, and for references that grow without bound.
    """
    return _plain(node, source, [0])


def refuse_duplicates(pairs: list[Pair], source: str) -> None:
    """Raise `ConfigError` for a key that stands twice, naming both lines."""
    seen: dict[str, int] = {}
    for pair in pairs:
        if pair.key in seen:
            raise ConfigError(f"{source}: '{pair.key}' stands twice, in line {seen[pair.key]} and in line {pair.line}")
        seen[pair.key] = pair.line


def _compose(text: str, source: str) -> Node | None:
    stack: list[Node] = []
    keys: list[Pair | None] = []  # the key that waits for its value, one for each open collection
    anchors: dict[str, Node] = {}
    root: Node | None = None
    documents = 0
    for event in yaml.parse(text, Loader=_LOADER):
        line = _line(event)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise ConfigError(f"{source}, line {line}: a second document ('---'); one file holds one config")
        elif isinstance(event, yaml.CollectionEndEvent):
            stack.pop().open = False
            keys.pop()
        elif isinstance(event, yaml.NodeEvent):
            node = _node(event, line, source, anchors)
            root = root or node
            if stack:
                _attach(stack[-1], keys, node, event, source)
            if isinstance(event, yaml.CollectionStartEvent):
                node.open = True
                stack.append(node)
                keys.append(None)
                if len(stack) > MAX_DEPTH:
                    raise ConfigError(f"{source}, line {line}: nested deeper than {MAX_DEPTH} levels")
    return root


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _attach(parent: Node, keys: list[Pair | None], node: Node, event: Any, source: str) -> None:
    if parent.kind == "list":
        parent.items.append(node)
    elif (waiting := keys[-1]) is not None:
        waiting.node = node
        keys[-1] = None
    else:
        if not isinstance(event, yaml.ScalarEvent):
            raise ConfigError(f"{source}, line {node.line}: a key must be text")
        if event.value == "<<" and event.implicit[0]:
            raise ConfigError(
                f"{source}, line {node.line}: merge keys ('<<') are not read; lay a second file over this one instead"
            )
        if len(event.value) > MAX_KEY:
            raise ConfigError(f"{source}, line {node.line}: a key of more than {MAX_KEY} characters")
        pair = Pair(str(event.value), node.line, node)
        parent.pairs.append(pair)
        keys[-1] = pair


def _node(event: Any, line: int, source: str, anchors: dict[str, Node]) -> Node:
    if isinstance(event, yaml.AliasEvent):
        known = anchors.get(str(event.anchor))
        if known is None:
            raise ConfigError(f"{source}, line {line}: '*{event.anchor}' refers to nothing above it")
        if known.open:
            raise ConfigError(f"{source}, line {line}: '*{event.anchor}' refers to itself")
        return known
    if isinstance(event, yaml.ScalarEvent):
        node = Node("scalar", line, _scalar(event, line, source))
    else:
        kind, tag = ("list", "seq") if isinstance(event, yaml.SequenceStartEvent) else ("mapping", "map")
        if event.tag not in (None, "!", TAG + tag):
            raise ConfigError(f"{source}, line {line}: tag '{_shown_tag(event.tag)}'; a config holds plain values only")
        node = Node(kind, line)
    if event.anchor:
        anchors[event.anchor] = node
    return node


def _scalar(event: Any, line: int, source: str) -> Any:
    tag = event.tag
    if tag is None or tag == "!":
        tag = _RESOLVER.resolve(yaml.ScalarNode, event.value, event.implicit)
    short = tag.removeprefix(TAG)
    if short in {"merge", "value"}:  # "<<" and "=" as values are text
        short = "str"
    if not tag.startswith(TAG) or short not in SCALAR_TAGS:
        raise ConfigError(f"{source}, line {line}: tag '{_shown_tag(tag)}'; a config holds plain values only")
    if short in ("str", "timestamp"):  # a run named 2026-01-31 is text
        return event.value
    try:
        value = getattr(_CONSTRUCTOR, f"construct_yaml_{short}")(yaml.ScalarNode(tag, event.value))
        if isinstance(value, int) and value.bit_length() > MAX_BITS:  # Python itself refuses to print longer ones
            raise ValueError("too long")
        return value
    except (ValueError, KeyError, IndexError, OverflowError):
        shown = event.value if len(event.value) <= 40 else event.value[:40] + "..."
        raise ConfigError(f"{source}, line {line}: '{shown}' cannot be read as {short}") from None


def _plain(node: Node, source: str, count: list[int]) -> Any:
    count[0] += 1
    if count[0] > MAX_VALUES:
        raise ConfigError(f"{source}, line {node.line}: more than {MAX_VALUES} values; references ('*name') multiply")
    if node.kind == "list":
        return [_plain(item, source, count) for item in node.items]
    if node.kind == "mapping":
        refuse_duplicates(node.pairs, source)
        return {pair.key: _plain(pair.node, source, count) for pair in node.pairs}
    return node.value


def _shown_tag(tag: str) -> str:
    return "!!" + tag.removeprefix(TAG) if tag.startswith(TAG) else tag


def _problem(text: str, line: int, error: yaml.MarkedYAMLError) -> str:
    lines = text.splitlines()
    here = lines[line - 1] if 0 < line <= len(lines) else ""
    indentation = here[: len(here) - len(here.lstrip())]
    if "\t" in indentation:
        return "a tab stands in the indentation; use spaces"
    return " ".join(part for part in (error.context, error.problem) if part)
