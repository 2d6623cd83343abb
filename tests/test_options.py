from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from flowlab.contracts import Core
from flowlab.errors import OptionError
from flowlab.options import read_options
from flowlab.plugins import Catalogue


@dataclass(frozen=True)
class Knobs:
    rate: float = 0.1
    sizes: tuple[int, ...] = (1, 2)


class Knobbed(Core):
    name = "knobbed"
    Options = Knobs


def test_options_become_an_instance_of_the_frozen_class() -> None:
    assert Catalogue().options(Knobbed(), {"rate": 1, "sizes": [3, 4]}) == Knobs(1.0, (3, 4))
    assert Catalogue().options(Knobbed(), {}) == Knobs()


def test_an_unknown_option_gets_a_suggestion_before_types_are_looked_at() -> None:
    with pytest.raises(OptionError, match=r"core 'knobbed': no option 'rat'. Did you mean 'rate'\? Known: rate, sizes"):
        Catalogue().options(Knobbed(), {"rat": 1, "sizes": "no list"})


def test_an_option_of_the_wrong_type_is_named_with_what_was_found() -> None:
    with pytest.raises(OptionError, match=r"core 'knobbed': option 'rate': .*number.*found 'fast'"):
        Catalogue().options(Knobbed(), {"rate": "fast"})


@dataclass(frozen=True)
class Account:
    api_token: int = 0


class OfAccount(Core):
    name = "of_account"
    Options = Account


def test_what_was_found_under_a_secret_s_name_is_not_said() -> None:
    with pytest.raises(OptionError, match=r"core 'of_account': option 'api_token': .*found '\*\*\*'") as caught:
        Catalogue().options(OfAccount(), {"api_token": "canary"})
    assert "canary" not in str(caught.value)


@dataclass(frozen=True)
class Many:
    flag: bool = False
    count: int = 1
    rate: float = 0.5
    name: str = "x"
    base: float | Literal["e"] | None = None
    either: int | float = 1
    columns: int | tuple[int, ...] | tuple[str, ...] = 1
    pair: tuple[int, float] = (1, 2.0)
    mode: Literal["a", "b", 3] = "a"


class Varied(Core):
    name = "varied"
    Options = Many


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(-2, 2), st.sampled_from(["a", "b", "e", "1", "x"])
)
values = st.one_of(leaves, st.lists(leaves, max_size=3))


@given(st.dictionaries(st.sampled_from(list(Many.__dataclass_fields__)), values, max_size=3))
def test_options_are_what_pydantic_makes_of_them(mapping: dict[str, Any]) -> None:
    try:
        expected: Any = TypeAdapter(Many).validate_python(mapping)
    except ValidationError:
        with pytest.raises(OptionError):
            read_options(Varied(), mapping)
        return
    found = read_options(Varied(), mapping)
    assert found == expected
    assert repr(found) == repr(expected)  # 1, 1.0 and True are equal


def test_options_of_the_right_types_never_import_pydantic() -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.path.insert(0, 'tests/third_party/gearbox')\n"
        "from flowlab_gearbox.plugin import Gearbox\n"
        "from flowlab.options import read_options\n"
        "print(read_options(Gearbox(), {'teeth': 3, 'loads': [1, 2.5]}))\n"
        "assert 'pydantic' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "TeethOptions(teeth=3, loads=(1.0, 2.5))\n"


def test_what_a_class_refuses_by_itself_is_an_option_error() -> None:
    @dataclass(frozen=True)
    class Strict:
        rate: float = 1.0

        def __post_init__(self) -> None:
            if self.rate <= 0:
                raise ValueError("rate is above 0")

    class Refusing(Core):
        name = "refusing"
        Options = Strict

    with pytest.raises(OptionError, match="core 'refusing': rate is above 0"):
        read_options(Refusing(), {"rate": -1.0})


def test_a_missing_option_without_a_default_is_named() -> None:
    @dataclass(frozen=True)
    class Needy:
        rate: float

    class Wanting(Core):
        name = "wanting"
        Options = Needy

    with pytest.raises(OptionError, match=r"core 'wanting': .*'rate'"):
        read_options(Wanting(), {})
