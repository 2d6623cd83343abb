"""Every value of a config with the tier that it comes from: `flowlab config show`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import Any

from flowlab.config.redaction import redacted
from flowlab.config.sections import EXCEPTIONS, SECTIONS, defaults
from flowlab.config.settings import Config
from flowlab.config.unread import WITHOUT_EFFECT

WIDEST = 40  # characters of the column of values


@dataclass(frozen=True)
class Value:
    """One key: its value, where that comes from, its built-in default, and what there is to say of it.

    ``default`` is None also where there is none; ``required`` tells. Secrets are left out of all of it.
    """

    section: str
    key: str
    value: Any
    tier: str
    default: Any
    required: bool
    note: str = ""

    @property
    def changed(self) -> bool:
        """Whether it is another one than the built-in default."""
        return self.required or self.value != self.default

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {**vars(self), "changed": self.changed}


def explained(config: Config) -> tuple[Value, ...]:
    """Every value, by section and key in their order."""
    found = []
    values = config.as_mapping()
    for section in SECTIONS:
        for key, default in defaults(section).items():
            options = config.options_for(section, key)
            value = {"name": values[section][key], **options} if options else values[section][key]
            plain = list(default) if isinstance(default, tuple) else None if default is MISSING else default
            note = "; ".join(
                text
                for text in (
                    EXCEPTIONS.get(f"{section}.{key}", ""),
                    f"changes nothing: {WITHOUT_EFFECT[section][key]}"
                    if key in WITHOUT_EFFECT.get(section, {})
                    else "",
                )
                if text
            )
            shown = redacted(value, key)
            found.append(Value(section, key, shown, _tier(config, section, key), plain, default is MISSING, note))
    return tuple(found)


def lines(values: Sequence[Value]) -> list[str]:
    """For people: a section's name, then a line a key; an asterisk marks what differs from the built-in default."""
    said: list[str] = []
    width = max((len(one.key) for one in values), default=0)
    texts = {id(one): _text(one.value) for one in values}
    wide = min(max((len(text) for text in texts.values()), default=0), WIDEST)
    for at, one in enumerate(values):
        if at == 0 or values[at - 1].section != one.section:
            said.append(f"{one.section}:")
        default = f" (built-in: {_text(one.default) or 'none'})" if one.changed and not one.required else ""
        note = f"  {one.note}" if one.note else ""
        mark = "*" if one.changed else " "
        said.append(f"{mark} {one.key:<{width}}  {texts[id(one)]:<{wide}}  {one.tier}{default}{note}".rstrip())
    return said


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_text(one)}" for key, one in value.items()) + "}"
    return "" if value is None else str(value)


def _tier(config: Config, section: str, key: str) -> str:
    """A ``--set`` is named without its value, which may be a secret and stands beside it."""
    tier = config.tier(section, key)
    return tier.partition("=")[0] if tier.startswith("--set ") else tier
