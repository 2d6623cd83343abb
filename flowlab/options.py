"""A mapping from the config becomes an instance of a plugin's ``Options``: keys first, then types.

Values that already have the fields' types (what a config gives) are taken as they are.
Everything else is pydantic's to convert or to refuse: its import takes as long as a whole cached run may.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from flowlab.contracts import Plugin
from flowlab.errors import OptionError, did_you_mean


class _NotExact(Exception):  # noqa: N818 - no error: it means that pydantic decides
    """A value is not of its field's type as it stands."""


def read_options(plugin: Plugin, mapping: Mapping[str, Any]) -> Any:
    """An instance of ``plugin.Options``.

    Args:
        plugin: whose options.
        mapping: plain JSON values by name; what is not given has its default.

    Raises:
        OptionError: naming plugin, option, what was found and what is known.
    """
    known = [one.name for one in dataclasses.fields(plugin.Options) if one.init]
    place = f"{plugin.kind.replace('_', ' ')} '{plugin.name}'"
    for key in mapping:
        if key not in known:
            raise OptionError(
                f"{place}: no option '{key}'.{did_you_mean(str(key), known)} Known: {', '.join(known) or 'none'}"
            )
    try:
        values = _exact_values(plugin.Options, mapping)
    except _NotExact:
        return _by_pydantic(plugin, mapping, place)
    try:
        return plugin.Options(**values)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{place}: {error}") from None


def read_fields(options: type, mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Values of some fields of a frozen dataclass, by name, of these fields' types.

    Raises:
        OptionError: what was found and what is expected; who asks says where.
    """
    try:
        return _exact_values(options, mapping)
    except _NotExact:
        pass
    from pydantic import TypeAdapter, ValidationError

    hints = get_type_hints(options, include_extras=True)
    try:
        return {key: TypeAdapter(hints.get(key, Any)).validate_python(value) for key, value in mapping.items()}
    except ValidationError as error:
        raise OptionError("; ".join(f"found {one['input']!r}. {one['msg']}" for one in error.errors())) from None


def _exact_values(options: type, mapping: Mapping[str, Any]) -> dict[str, Any]:
    if not mapping:
        return {}
    try:
        hints = get_type_hints(options, include_extras=True)
    except NameError:  # a type that only a type checker imports
        raise _NotExact from None
    return {key: _exact(value, hints.get(key, Any)) for key, value in mapping.items()}


def _exact(value: Any, hint: Any) -> Any:
    """The value, if it is of this type; lists become tuples and whole numbers floats, as pydantic does it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if hint in (bool, int, float, str, NoneType, None):
        return _plain(value, hint)
    if origin is Literal:
        if any(type(value) is type(one) and value == one for one in arguments):
            return value
    elif origin in (Union, UnionType):
        return _one_of(value, arguments)
    elif origin is Annotated:
        if not any(type(one).__module__.partition(".")[0] in {"pydantic", "annotated_types"} for one in arguments[1:]):
            return _exact(value, arguments[0])
    elif origin is tuple and isinstance(value, (list, tuple)):
        return _tuple(value, arguments)
    raise _NotExact


def _plain(value: Any, hint: Any) -> Any:
    if type(value) is hint or (value is None and hint in (None, NoneType)):
        return value
    if hint is float and type(value) is int:
        return float(value)
    raise _NotExact


def _one_of(value: Any, hints: tuple[Any, ...]) -> Any:
    """By the very type first: 1 stays a whole number where both are allowed."""
    if type(value) in hints:
        return value
    for hint in hints:
        try:
            return _exact(value, hint)
        except _NotExact:
            continue
    raise _NotExact


def _tuple(value: list[Any] | tuple[Any, ...], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_exact(one, arguments[0]) for one in value)
    if len(arguments) != len(value):
        raise _NotExact
    return tuple(_exact(one, hint) for one, hint in zip(value, arguments, strict=True))


def _by_pydantic(plugin: Plugin, mapping: Mapping[str, Any], place: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    from flowlab.config.redaction import redacted

    try:
        return TypeAdapter(plugin.Options).validate_python(dict(mapping))
    except ValidationError as error:
        problems = "; ".join(
            f"option '{(where := '.'.join(str(part) for part in one['loc']))}': {one['msg']}, "
            f"found {redacted(one['input'], where)!r}"
            for one in error.errors()
        )
        raise OptionError(f"{place}: {problems}") from None
