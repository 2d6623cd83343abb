"""The typed config as the parameter of a deployment: what Prefect's server checks when a run is submitted.

The model is made from `flowlab.config.sections`: every section and every key, with its type, its choices and limits.
It is stricter than the YAML reader: one spelling of a key, and no key that nothing reads.
`normalised` turns what the reader accepts into this form.
Options beside a plugin's name are checked by the plugin, where the run starts: the schema is frozen when deployed.
Importing this module imports pydantic.
"""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from flowlab.config.field_types import Between, Check, Three
from flowlab.config.sections import PLUGINS, SECTIONS, defaults

OWN_DEFAULTS = ("common", "dataset", "testing")
"""Sections whose built-in defaults no model, dataset or preset replaces.

In the others a default stands in the description only: a form that fills it in would say that the user asked for it,
and take away what the model or the preset brings.
"""


class Keys(BaseModel):
    """A section, or the sections: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class Chosen(BaseModel):
    """A plugin by its name, with options of its own beside it."""

    model_config = ConfigDict(extra="allow", title="name and options")

    name: str


def typed_config(own: Sequence[str] = ()) -> type[Keys]:
    """The model of a whole config; ``own`` are the sections of packages, which check them where the run starts."""
    sections: dict[str, Any] = {}
    for name in SECTIONS:
        model = _section(name)
        needed = any(one.is_required() for one in model.model_fields.values())
        sections[name] = (model, Field(default=... if needed else {}, title=name, description=SECTIONS[name].__doc__))
    for name in own:
        field = Field(default=None, title=name, description="A section of a package: its stage runs where it is given.")
        sections[name] = (dict[str, Any] | None, field)
    return cast(type[Keys], create_model("Config", __base__=Keys, **sections))


def normalised(config: Any) -> dict[str, dict[str, Any]]:
    """What the user gave of a checked config, in the typed form: one spelling of each key, values of its very type.

    Args:
        config: a `flowlab.config.Config`.
    """
    values: Mapping[str, Mapping[str, Any]] = config.as_mapping()
    found: dict[str, dict[str, Any]] = {}
    for section, keys in config.given.items():
        if section not in values:
            found[section] = dict(keys)
            continue
        found[section] = {key: values[section][key] for key in keys}
        for key in PLUGINS.get(section, {}):
            options = config.options_for(section, key)
            if key in found[section] and options:
                found[section][key] = {"name": found[section][key], **options}
    return found


def as_given(config: Any) -> dict[str, dict[str, Any]]:
    """A flow's parameter as a mapping of sections, with only the keys that were given."""
    if not isinstance(config, BaseModel):
        return {name: dict(keys) for name, keys in config.items()}
    given: dict[str, dict[str, Any]] = config.model_dump(mode="json", exclude_unset=True)
    return given


def _section(name: str) -> type[Keys]:
    section = SECTIONS[name]
    fields: dict[str, Any] = {}
    for key, hint in get_type_hints(section, include_extras=True).items():
        kind, check = _parts(hint)
        if key in PLUGINS.get(name, {}):
            kind = Union[(kind, Chosen)]  # noqa: UP007 - made from a value
        fields[key] = (kind, _field(name, key, check))
    return create_model(section.__name__, __base__=Keys, __doc__=section.__doc__, **fields)


def _parts(hint: Any) -> tuple[Any, Check]:
    """A key's type for pydantic, with limits and choices, and its check."""
    kind, check = get_args(hint)[:2]
    plain = _without_none(kind)
    if check.choices and plain is str:
        return Literal[check.choices], check
    return _limited(plain, check.convert), check


def _without_none(kind: Any) -> Any:
    """A value of None means "not given" in a config, and Prefect allows it for every key that is not required."""
    if get_origin(kind) in (Union, types.UnionType):
        return Union[tuple(one for one in get_args(kind) if one is not type(None))]  # noqa: UP007 - made from a value
    return kind


def _limited(kind: Any, convert: Any) -> Any:
    if isinstance(convert, Between):
        limits: dict[str, Any] = {"gt" if convert.above else "ge": convert.least}
        if math.isfinite(convert.most):
            limits["le"] = convert.most
        return Annotated[kind, Field(**limits)]
    origin, parts = get_origin(kind), get_args(kind)
    if origin is tuple and parts[-1] is Ellipsis:
        return list[parts[0]]  # type: ignore[valid-type]
    if origin is tuple:
        item = _limited(parts[0], convert.convert) if isinstance(convert, Three) else parts[0]
        return Annotated[list[item], Field(min_length=len(parts), max_length=len(parts))]  # type: ignore[valid-type]
    if origin in (Union, types.UnionType):
        return Union[tuple(_limited(part, None) for part in parts)]  # noqa: UP007 - made from a value
    if origin is Mapping:
        return dict[str, _limited(parts[1], None)]  # type: ignore[misc]
    return kind


def _field(section: str, key: str, check: Check) -> Any:
    default = defaults(section)[key]
    what = _sentence(check.expected.replace(" (put a number in quotes)", ""))
    if default is MISSING:
        return Field(title=key, description=what)
    shown = list(default) if isinstance(default, tuple) else default
    text = f"{what} Not given: {'nothing' if default is None else shown}"
    if section in OWN_DEFAULTS and default is not None:
        return Field(default=shown, title=key, description=f"{text}.")
    later = "" if section in OWN_DEFAULTS else ", or what the model, the dataset or a preset brings"
    return Field(default=None, title=key, description=f"{text}{later}.", json_schema_extra=_drop_default)


def _drop_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
