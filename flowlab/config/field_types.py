"""The types of the config's keys: what each accepts, what it becomes, and how a message words it.

A type is ``Annotated[<python type>, Check(...)]``; the check turns what YAML gave into that type or raises ValueError.
Numbers may be texts, because YAML 1.1 reads ``4e-5`` as one. A flag is never a number.
A value of None, '' or 'None' never comes here: it means that the key is not given (`flowlab.config.layer`).
(pydantic checks the options of plugins; here its import alone would take half of the time that a cached run may.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

Convert = Callable[[Any], Any]


@dataclass(frozen=True)
class Check:
    """What a key takes: in words, as a function, and as names among which a suggestion is looked for."""

    expected: str
    convert: Convert
    choices: tuple[str, ...] = ()


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("no number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not _number(value).is_integer():
        raise ValueError("no whole number")
    return int(_number(value))


def _flag(value: Any) -> bool:
    """True and False, also as texts; 0 and 1, which upstream's own files use."""
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise ValueError("no flag")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return value


def _listed(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError("no list")
    return tuple(value)


def _texts(value: Any) -> tuple[str, ...]:
    """A list of texts; one text stands for a list of one."""
    return tuple(_text(one) for one in ((value,) if isinstance(value, str) else _listed(value)))


def _transforms(value: Any) -> tuple[str, ...]:
    """Names of transforms; a list inside the list is laid out flat, as upstream does."""
    names: list[str] = []
    for one in (value,) if isinstance(value, str) else _listed(value):
        names.extend(_texts(one))
    return tuple(names)


@dataclass(frozen=True)
class Between:
    """A conversion, and then a range; ``above`` leaves out the least value itself."""

    convert: Convert
    least: float
    most: float
    above: bool

    def __call__(self, value: Any) -> Any:
        """The converted value; raises ValueError where it is out of range."""
        number = self.convert(value)
        if number < self.least or number > self.most or (self.above and number == self.least):
            raise ValueError("out of range")
        return number


@dataclass(frozen=True)
class Three:
    """A list of three, each converted."""

    convert: Convert

    def __call__(self, value: Any) -> tuple[Any, ...]:
        """The converted values; raises ValueError where they are not three."""
        items = _listed(value)
        if len(items) != 3:
            raise ValueError("not three")
        return tuple(self.convert(one) for one in items)


def _between(convert: Convert, least: float, most: float = math.inf, *, above: bool = False) -> Convert:
    return Between(convert, least, most, above)


def _whole_from(least: int, most: float = math.inf) -> Convert:
    return _between(_whole, least, most)


def _counted(least: int, most: int) -> Check:
    """A whole number; the bound keeps a slip of the keyboard from taking all memory, or all of a year."""
    return Check(f"a whole number, {least} or more, at most {most:,}", _whole_from(least, most))


def _one_of(*choices: str | int) -> Convert:
    """A name in upper or lower case, or a number, that is one of a few."""

    def check(value: Any) -> str | int:
        for choice in choices:
            if isinstance(choice, str):
                if isinstance(value, str) and value.lower() == choice.lower():
                    return choice
            elif _whole(value) == choice:
                return choice
        raise ValueError("none of these")

    return check


def _surgery(value: Any) -> str | int:
    """A name; YAML 1.1 reads ``off`` as False."""
    return "off" if value is False else _one_of("auto", "off", "force")(value)


def _columns(value: Any) -> tuple[Any, ...]:
    items = _listed(value)
    if all(isinstance(one, str) for one in items):
        return items
    return tuple(_whole_from(0)(one) for one in items)


def _variables(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        if not value:
            raise ValueError("no columns")
        return _columns(value)
    return _whole_from(1, MOST)(value)


def _time_column(value: Any) -> int | str:
    """A column's number, or its name."""
    return str(_text(value)) if isinstance(value, str) else int(_whole_from(0)(value))


def _log_base(value: Any) -> float | str:
    return "e" if value == "e" else float(_between(_number, 0, above=True)(value))


def _gains(value: Any) -> dict[str, tuple[float, float]]:
    if not isinstance(value, Mapping):
        raise ValueError("no classes")
    gains: dict[str, tuple[float, float]] = {}
    for name, limits in value.items():
        least, most = (float(_between(_number, 0, above=True)(one)) for one in _listed(limits))
        gains[str(name)] = (least, most)
    return gains


MOST = 1_000_000  # frames, features, windows, columns: more is a slip
MOST_EPOCHS = 100_000
MOST_SAMPLES = 2**24  # of one frame
MOST_IN_BATCH = 2**20
MOST_BYTES = 2**40
MOST_NUMBER = 1e12

_WHOLE = _counted(0, MOST)
_COUNT = _counted(1, MOST)
_EPOCHS = _counted(0, MOST_EPOCHS)
_BYTES = _counted(1, MOST_BYTES)
_NUMBER = Check("a number", _number)
_POSITIVE = Check(f"a number above 0, at most {MOST_NUMBER:g}", _between(_number, 0, MOST_NUMBER, above=True))
_FLAG = Check("True or False", _flag)
_TEXT = Check("a text (put a number in quotes)", _text)
_OPTIMIZERS = ("sgd", "sgd*nesterov", "rmsprop", "adam", "adamw")
_SCHEDULERS = ("cosineannealinglr", "steplr", "exponentiallr", "constantlr", "none")
_SIZES = ("s", "m", "l", "xl", "xxl")

Flag = Annotated[bool, _FLAG]
OptionalFlag = Annotated[bool | None, _FLAG]
Text = Annotated[str, _TEXT]
OptionalText = Annotated[str | None, _TEXT]
Texts = Annotated[tuple[str, ...], Check("a list of texts", _texts)]
Transforms = Annotated[tuple[str, ...], Check("a list of names", _transforms)]
Whole = Annotated[int, _WHOLE]
Count = Annotated[int, _COUNT]
OptionalCount = Annotated[int | None, _COUNT]
Epochs = Annotated[int, _EPOCHS]
OptionalEpochs = Annotated[int | None, _EPOCHS]
BatchSize = Annotated[int, _counted(1, MOST_IN_BATCH)]
Samples = Annotated[int, _counted(1, MOST_SAMPLES)]
Threads = Annotated[int, _counted(1, 1024)]
OptionalBytes = Annotated[int | None, _BYTES]
_RATE = Check("a number above 0, at most 100", _between(_number, 0, 100, above=True))
Rate = Annotated[float, _RATE]
OptionalRate = Annotated[float | None, _RATE]
Seed = Annotated[int, Check("a whole number between 0 and 4294967295", _whole_from(0, 2**32 - 1))]
Shift = Annotated[int, Check("a whole number between 0 and 15", _whole_from(0, 15))]
NotNegative = Annotated[
    float, Check(f"a number, 0 or more, at most {MOST_NUMBER:g}", _between(_number, 0, MOST_NUMBER))
]
Stride = Annotated[
    float,
    Check(
        f"a fraction of frame_size, 0 or more, at most {MOST_NUMBER:g}; SimpleWindow reads it",
        _between(_number, 0, MOST_NUMBER),
    ),
]
Positive = Annotated[float, _POSITIVE]
OptionalPositive = Annotated[float | None, _POSITIVE]
OptionalFraction = Annotated[float | None, Check("a fraction between 0 and 1, as in 0.01", _between(_number, 0, 1))]
OptionalMeanBits = Annotated[float | None, Check("a number between 2 and 8", _between(_number, 2, 8))]
OptionalNumber = Annotated[float | None, _NUMBER]
LogBase = Annotated[float | Literal["e"] | None, Check("'e' or a number above 0", _log_base)]
Fractions = Annotated[
    tuple[float, float, float],
    Check("three fractions above 0, for train, validation and test", Three(_between(_number, 0, 1, above=True))),
]
ThreeNames = Annotated[tuple[str, str, str], Check("three names, for train, validation and test", Three(_text))]
ThreeCounts = Annotated[tuple[int, int, int], Check("three whole numbers, 0 or more", Three(_whole_from(0)))]
Variables = Annotated[
    int | tuple[int, ...] | tuple[str, ...],
    Check("how many columns (1 or more), a list of column numbers (from 0), or a list of column names", _variables),
]
Columns = Annotated[
    tuple[int, ...] | tuple[str, ...], Check("a list of column numbers (from 0), or a list of column names", _columns)
]
TimeColumn = Annotated[int | str | None, Check("a column's number (from 0), its name, or 'keep'", _time_column)]
GainVariations = Annotated[
    Mapping[str, tuple[float, float]] | None, Check("for each class a list of two numbers, least and most gain", _gains)
]
SplitType = Annotated[
    Literal["amongst_files", "within_files"],
    Check(
        "'amongst_files' or 'within_files'", _one_of("amongst_files", "within_files"), ("amongst_files", "within_files")
    ),
]
Stacking = Annotated[Literal["2D1", "1D"], Check("'2D1' or '1D'", _one_of("2D1", "1D"), ("2D1", "1D"))]
_OPTIMIZER = Check("one of " + ", ".join(_OPTIMIZERS), _one_of(*_OPTIMIZERS), _OPTIMIZERS)
Optimizer = Annotated[str, _OPTIMIZER]
OptionalOptimizer = Annotated[str | None, _OPTIMIZER]
Scheduler = Annotated[str, Check("one of " + ", ".join(_SCHEDULERS), _one_of(*_SCHEDULERS), _SCHEDULERS)]
Quantization = Annotated[Literal[0, 1, 2], Check("0 (float), 1 (generic) or 2 (the target's own)", _one_of(0, 1, 2))]
Method = Annotated[Literal["QAT", "PTQ"], Check("'QAT' or 'PTQ'", _one_of("QAT", "PTQ"), ("QAT", "PTQ"))]
Surgery = Annotated[
    Literal["auto", "off", "force"], Check("'auto', 'off' or 'force'", _surgery, ("auto", "off", "force"))
]
_BITS = Check("8, 4 or 2", _one_of(8, 4, 2))
Bits = Annotated[Literal[8, 4, 2], _BITS]
OptionalBits = Annotated[Literal[8, 4, 2] | None, _BITS]
Device = Annotated[Literal["cpu", "cuda"], Check("'cpu' or 'cuda'", _one_of("cpu", "cuda"), ("cpu", "cuda"))]
Goal = Annotated[
    Literal["Memory", "Compute"],
    Check("'Memory' or 'Compute'", _one_of("Memory", "Compute"), ("Memory", "Compute")),
]
Size = Annotated[str, Check("one of " + ", ".join(_SIZES), _one_of(*_SIZES), _SIZES)]
