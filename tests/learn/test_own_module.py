"""A module that is imported by its name, with the weights of a state dict; and all that can be wrong with both."""

from __future__ import annotations

import io
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flowlab.errors import ConfigError, DataError
from flowlab.learn.own_module import made, own_module, read_state

SOURCE = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv1d(2, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(self.conv(x).mean(-1))

    class Makers:
        @staticmethod
        def small():
            return Net()

    instance = Net()
    number = 3

    def sized(channels):
        return Net()

    def broken():
        return 1 / 0

    def leaves():
        raise SystemExit(3)

    def nothing():
        return None
"""
PATH = Path("weights.pt")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the user's own modules in it."""
    (tmp_path / "own_nets.py").write_text(textwrap.dedent(SOURCE))
    (tmp_path / "own_broken.py").write_text("import torch\nraise RuntimeError('no licence')\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("own_nets", "own_broken"):
        sys.modules.pop(name, None)


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = {**nn.Conv1d(2, 4, 3).state_dict(prefix="conv."), **nn.Linear(4, 3).state_dict(prefix="fc.")}
    return dict(state)


@pytest.mark.parametrize("name", ["Net", "Makers.small", "instance"])
def test_a_class_a_function_or_a_module_gets_the_file_s_weights(name: str, folder: Path) -> None:
    before = list(sys.path)
    module = own_module(f"own_nets:{name}", saved(weights()), PATH)
    assert not module.training and sys.path == before
    assert all(torch.equal(module.state_dict()[key], value) for key, value in weights().items())


def test_a_checkpoint_with_one_state_dict_in_it_is_taken(folder: Path) -> None:
    checkpoint = {"epoch": 3, "model": weights(), "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}
    assert own_module("own_nets:Net", saved(checkpoint), PATH).state_dict().keys() == weights().keys()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_nets", r"is no name of that kind\. Give package\.module:name"),
        ("own_nets:", "is no name of that kind"),
        ("own nets:Net", "is no name of that kind"),
        ("../own_nets:Net", "is no name of that kind"),
        ("own_nets:Net()", "is no name of that kind"),
        ("own_netz:Net", "own_netz cannot be imported: ModuleNotFoundError"),
        ("own_broken:Net", r"own_broken cannot be imported: RuntimeError: no licence \(own_broken\.py, line 2\)"),
        ("own_nets:net", r"own_nets has no 'net'\. Did you mean 'Net'\?"),
        ("own_nets:number", "is int, which cannot be called"),
        ("own_nets:nothing", "gives NoneType, not an nn.Module"),
        ("own_nets:sized", r"without arguments, and raises TypeError: .*'channels'\. Write a function that gives them"),
        ("own_nets:broken", r"raises ZeroDivisionError: division by zero \(own_nets\.py, line \d+\)"),
        ("own_nets:leaves", "raises SystemExit: 3"),
    ],
)  # fmt: skip
def test_names_that_lead_to_no_module_are_refused(name: str, said: str, folder: Path) -> None:
    before = list(sys.path)
    with pytest.raises(ConfigError, match=f"--module .*{said}"):
        made(name)
    assert sys.path == before


def test_weights_of_another_module_are_named(folder: Path) -> None:
    state = weights()
    state["head.weight"] = state.pop("fc.weight")
    state["conv.weight"] = torch.zeros(4, 2, 5)
    with pytest.raises(DataError) as error:
        own_module("own_nets:Net", saved(state), PATH)
    assert str(error.value) == (
        "weights.pt: is the state dict of another module than own_nets:Net: lacks 'fc.weight'; "
        "has 'head.weight', which the module has not; 'conv.weight' has shape (4, 2, 5), the module's (4, 2, 3)"
    )


class Runs:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_nothing_in_a_hostile_file_runs(whole: bool, legacy: bool, folder: Path) -> None:
    trap, file = folder / "ran", io.BytesIO()
    value = Runs(trap) if whole else {**weights(), "evil": Runs(trap)}
    torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(DataError, match=r"weights\.pt: holds Python objects, which are not loaded\. Give what"):
        read_state(file.getvalue(), PATH)
    assert not trap.exists()
    torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    assert trap.exists()


def test_a_whole_module_is_refused() -> None:
    with pytest.raises(DataError, match="holds Python objects"):
        read_state(saved(nn.Linear(2, 3)), PATH)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "torch cannot read it: EOFError"),
        (b"no weights", "torch cannot read it"),
        (b"PK\x03\x04 no zip", "torch cannot read it"),
        (saved([torch.zeros(3)]), "holds no state dict but list"),
        (saved(torch.zeros(3)), "holds no state dict but Tensor"),
        (saved({}), "holds no state dict but an empty dict"),
        (saved({"epoch": 3, "lr": 0.1}), "holds no state dict but a dict of 'epoch', 'lr'"),
        (saved({"a": weights(), "b": weights()}), "holds no state dict but a dict of 'a', 'b'"),
    ],
)
def test_files_without_a_state_dict_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_state(data, PATH)


def test_a_file_that_unpacks_to_what_no_memory_holds_is_not_unpacked() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data/0", bytes(300 << 20))
    with pytest.raises(DataError, match="unpacks to more than 256 MB"):
        read_state(file.getvalue(), PATH)


def test_every_truncation_is_refused() -> None:
    whole = saved(weights())
    for at in range(0, len(whole) - 1, 97):
        with pytest.raises(DataError):
            read_state(whole[:at], PATH)
