"""Bit widths as a mapping of weight and activation, each with keys that say how it is quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from flowlab.contracts import NumberFormat
from flowlab.errors import OptionError, did_you_mean
from flowlab.quant.mixed import Budget

DEFAULT_BITS = 8
PARTS = {"weight": "per_channel_symmetric", "activation": "per_tensor_symmetric"}
AUTO = "auto_quantization"
_KEYS = ("bitwidth", "qscheme", "power2_scale", "range_max", "fixed_range")


@dataclass(frozen=True)
class Bits:
    """What is quantized to how many bits; ``mixed``: weight bits are chosen by layer, within the budget.

    Without a ``budget`` of its own the mean is ``weight``. ``said``: sentences on what was asked for and is not done.
    """

    weight: int
    activation: int
    mixed: bool = False
    budget: Budget | None = None
    said: tuple[str, ...] = ()


def parse(given: Any, format: NumberFormat) -> Bits:
    """Read the mapping; None is 8 bits for both.

    Raises:
        OptionError: for an unknown key, and for a value that the number format or this quantizer does not have; it
            names the key.
    """
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise OptionError(
            f"qconfig_type: {given!r} is neither None nor a mapping such as "
            "{'weight': {'bitwidth': 8}, 'activation': {'bitwidth': 8}}"
        )
    _refuse_unknown("qconfig_type", given, (*PARTS, AUTO))
    weight = _bits("weight", given, tuple(sorted(format.by_weight_bits, reverse=True)))
    power_of_two = format.power_of_two_scales.get(weight, False)
    mixed, budget = _mixed(given.get(AUTO, False))
    for part, scheme in PARTS.items():
        _check_rest(part, given.get(part) or {}, scheme, power_of_two)
    asked = _bits("activation", given, (8, 4, 2))
    if asked in format.activation_bits:
        return Bits(weight, asked, mixed, budget, _nothing_to_choose(weight, mixed, budget))
    widest = max(format.activation_bits)
    said = (
        f"activation bits {asked} -> {widest}: number format '{format.name}' stores bytes; {asked} would save nothing "
        f"and cost accuracy. The generic wrappers have real {asked}-bit activations"
    )
    return Bits(weight, widest, mixed, budget, (said, *_nothing_to_choose(weight, mixed, budget)))


def _mixed(asked: object) -> tuple[bool, Budget | None]:
    """Whether weight bits are chosen by layer, and within what, where that is not the mean of the bits asked for."""
    where = f"qconfig_type['{AUTO}']"
    if not isinstance(asked, Mapping):
        return _flag(where, asked), None
    known = tuple(each.name for each in fields(Budget))
    _refuse_unknown(where, asked, known)
    (name, value), *more = (*asked.items(), ("", None))
    if more[:-1] or not name:
        raise OptionError(f"{where}: {dict(asked)!r}; one budget is given, of {', '.join(known)}")
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise OptionError(f"{where}['{name}']: {value!r} is no number above 0")
    if name == "weight_bytes":
        return True, Budget(weight_bytes=int(value))
    return True, Budget(mean_bits=float(value)) if name == "mean_bits" else Budget(tolerance=float(value))


def _nothing_to_choose(weight: int, mixed: bool, budget: Budget | None) -> tuple[str, ...]:
    if not mixed or budget is not None or weight < DEFAULT_BITS:
        return ()
    return (
        f"{AUTO}: a mean of {weight} bits leaves nothing to choose. Give a bitwidth of 4 or 2 as the mean, or a budget "
        f"such as {{'mean_bits': 2.5}}",
    )


def _refuse_unknown(where: str, given: Mapping[Any, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise OptionError(f"{where}: no key {key!r}.{did_you_mean(str(key), known)} Known: {', '.join(known)}")


def _bits(part: str, given: Mapping[str, Any], known: tuple[int, ...]) -> int:
    values = given.get(part)
    if values is None:
        return DEFAULT_BITS
    where = f"qconfig_type['{part}']"
    if not isinstance(values, Mapping):
        raise OptionError(f"{where}: {values!r} is no mapping such as {{'bitwidth': 8}}")
    _refuse_unknown(where, values, _KEYS)
    bits = values.get("bitwidth", DEFAULT_BITS)
    if isinstance(bits, bool) or bits not in known:
        raise OptionError(f"{where}['bitwidth']: {bits!r}. Known: {', '.join(map(str, known))}")
    return int(bits)


def _check_rest(part: str, values: Mapping[str, Any], scheme: str, power_of_two: bool) -> None:
    where = f"qconfig_type['{part}']"
    asked = values.get("qscheme")
    if asked is not None and str(asked).rpartition(".")[2] != scheme:
        raise OptionError(f"{where}['qscheme']: {asked!s}; only {scheme} is done here, with zero point 0")
    if "power2_scale" in values and _flag(f"{where}['power2_scale']", values["power2_scale"]) != power_of_two:
        raise OptionError(
            f"{where}['power2_scale']: {values['power2_scale']}; at this width of weights ratios of scales are "
            f"{'powers of two' if power_of_two else 'free'}. Leave the key out"
        )
    if values.get("range_max") is not None or values.get("fixed_range"):
        raise OptionError(f"{where}: ranges come from the data that are seen; leave out 'range_max' and 'fixed_range'")


def _flag(where: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise OptionError(f"{where}: {value!r} is neither True nor False")
    return value
