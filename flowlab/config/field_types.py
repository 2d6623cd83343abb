"""The types of the config's keys: what they accept, and how a message words it.

Numbers may be texts, because YAML 1.1 reads ``4e-5`` as one. A flag is never a number.
A value of None, '' or 'None' never comes here: it means that the key is not given (`flowlab.config.layer`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len
from pydantic import BeforeValidator


@dataclass(frozen=True)
class Expected:
    """What a key takes, for messages; ``choices`` are the names among which a suggestion is looked for."""

    text: str
    choices: tuple[str, ...] = ()


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a flag is no number")
    if isinstance(value, str):
        return float(value)
    return value


def _whole(value: Any) -> Any:
    number = _number(value)
    if isinstance(number, float) and number.is_integer():
        return int(number)
    return number


def _flag(value: Any) -> Any:
    """True and False, also as texts; 0 and 1, which TI's own files use."""
    if isinstance(value, str):
        return {"true": True, "false": False}[value.lower()] if value.lower() in ("true", "false") else value
    return bool(value) if value in (0, 1) and isinstance(value, int) else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _several(value: Any) -> Any:
    """A single text stands for a list of one; a text of a list never is taken apart."""
    return (value,) if isinstance(value, str) else value


def _log_base(value: Any) -> Any:
    return value if value == "e" else _number(value)


def _transforms(value: Any) -> Any:
    """Names of transforms; a list inside the list is laid out flat, as TI does."""
    if isinstance(value, (list, tuple)):
        flat: list[Any] = []
        for one in value:
            flat.extend(one if isinstance(one, (list, tuple)) else (one,))
        return tuple(flat)
    return _several(value)


def _variables(value: Any) -> Any:
    return _whole(value) if not isinstance(value, (list, tuple)) else tuple(value)


Flag = Annotated[bool, BeforeValidator(_flag), Expected("True or False")]
OptionalFlag = Annotated[bool | None, BeforeValidator(_flag), Expected("True or False")]
Text = Annotated[str, Expected("a text (put a number in quotes)")]
OptionalText = Annotated[str | None, Expected("a text (put a number in quotes)")]
Texts = Annotated[tuple[str, ...], BeforeValidator(_several), Expected("a list of texts")]
Transforms = Annotated[tuple[str, ...], BeforeValidator(_transforms), Expected("a list of names")]

Whole = Annotated[int, BeforeValidator(_whole), Ge(0), Expected("a whole number, 0 or more")]
Count = Annotated[int, BeforeValidator(_whole), Ge(1), Expected("a whole number, 1 or more")]
OptionalWhole = Annotated[int | None, BeforeValidator(_whole), Ge(0), Expected("a whole number, 0 or more")]
OptionalCount = Annotated[int | None, BeforeValidator(_whole), Ge(1), Expected("a whole number, 1 or more")]
Seed = Annotated[
    int, BeforeValidator(_whole), Ge(0), Le(2**32 - 1), Expected("a whole number between 0 and 4294967295")
]
Number = Annotated[float, BeforeValidator(_number), Expected("a number")]
NotNegative = Annotated[float, BeforeValidator(_number), Ge(0), Expected("a number, 0 or more")]
Positive = Annotated[float, BeforeValidator(_number), Gt(0), Expected("a number above 0")]
OptionalNumber = Annotated[float | None, BeforeValidator(_number), Expected("a number")]
OptionalPositive = Annotated[float | None, BeforeValidator(_number), Gt(0), Expected("a number above 0")]
LogBase = Annotated[
    Literal["e"] | Annotated[float, Gt(0)] | None, BeforeValidator(_log_base), Expected("'e' or a number above 0")
]
Scale = Annotated[float | None, BeforeValidator(_number), Expected("a number")]
Shift = Annotated[int, BeforeValidator(_whole), Ge(0), Le(15), Expected("a whole number between 0 and 15")]

Fractions = Annotated[
    tuple[Annotated[float, BeforeValidator(_number), Gt(0), Le(1)], ...],
    Len(3, 3),
    Expected("three fractions above 0, for train, validation and test, that add up to 1"),
]
Names3 = Annotated[tuple[str, ...], Len(3, 3), Expected("three names, for train, validation and test")]
Counts3 = Annotated[
    tuple[Annotated[int, BeforeValidator(_whole), Ge(0)], ...], Len(3, 3), Expected("three whole numbers, 0 or more")
]
Variables = Annotated[
    Annotated[int, Ge(1)] | tuple[Annotated[int, Ge(0)], ...] | tuple[str, ...],
    BeforeValidator(_variables),
    Expected("how many columns (1 or more), a list of column numbers (from 0), or a list of column names"),
]
TargetVariables = Annotated[
    tuple[Annotated[int, Ge(0)], ...] | tuple[str, ...],
    BeforeValidator(_variables),
    Expected("a list of column numbers (from 0), or a list of column names"),
]
GainVariations = Annotated[
    dict[str, tuple[Positive, Positive]] | None, Expected("for each class a list of two numbers, least and most gain")
]

SplitType = Annotated[
    Literal["amongst_files", "within_files"],
    BeforeValidator(_lower),
    Expected("'amongst_files' or 'within_files'", ("amongst_files", "within_files")),
]
Stacking = Annotated[Literal["2D1", "1D"], BeforeValidator(_upper), Expected("'2D1' or '1D'", ("2D1", "1D"))]
OPTIMIZERS = ("sgd", "sgd*nesterov", "rmsprop", "adam", "adamw")
Optimizer = Annotated[
    Literal["sgd", "sgd*nesterov", "rmsprop", "adam", "adamw"],
    BeforeValidator(_lower),
    Expected("one of " + ", ".join(OPTIMIZERS), OPTIMIZERS),
]
SCHEDULERS = ("cosineannealinglr", "steplr", "exponentiallr", "constantlr", "none")
Scheduler = Annotated[
    Literal["cosineannealinglr", "steplr", "exponentiallr", "constantlr", "none"],
    BeforeValidator(_lower),
    Expected("one of " + ", ".join(SCHEDULERS), SCHEDULERS),
]
Quantization = Annotated[
    Literal[0, 1, 2],
    BeforeValidator(_whole),
    Expected("0 (float), 1 (generic) or 2 (the target's own)"),
]
Method = Annotated[Literal["QAT", "PTQ"], BeforeValidator(_upper), Expected("'QAT' or 'PTQ'", ("QAT", "PTQ"))]
Bits = Annotated[Literal[8, 4, 2], BeforeValidator(_whole), Expected("8, 4 or 2")]
Device = Annotated[Literal["cpu", "cuda"], BeforeValidator(_lower), Expected("'cpu' or 'cuda'", ("cpu", "cuda"))]
Goal = Annotated[Literal["Memory", "Compute"], Expected("'Memory' or 'Compute'", ("Memory", "Compute"))]
Size = Annotated[Literal["s", "m", "l", "xl", "xxl"], BeforeValidator(_lower), Expected("one of s, m, l, xl, xxl")]
