"""`flowlab compile` of torch's own files: an exported program, and a state dict with the module that is imported."""

from __future__ import annotations

import io
import json
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks.exported import exported
from networks.foreign_onnx import windows
from torch import nn

from flowlab.compiler.program import parse
from flowlab.engine.compile_model import Asked, Compiled, compile_model
from flowlab.errors import ConfigError, DataError, FlowlabError, GraphError
from flowlab.plugins import load

CATALOGUE = load()
SHAPE = (2, 64, 1)
SOURCE = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, ends=None):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(2, 8, (5, 1), (2, 1), (2, 0)), nn.BatchNorm2d(8), nn.ReLU(),
                nn.MaxPool2d((3, 1), (2, 1), (1, 0)), nn.Conv2d(8, 16, (3, 1), padding=(1, 0)), nn.ReLU(),
            )
            self.fc, self.ends = nn.Linear(16, 4), ends

        def forward(self, x):
            x = self.fc(self.body(x).mean((2, 3)))
            return x if self.ends is None else self.ends(x)

    def soft():
        return Net(nn.Softmax(1))

    class Divides(Net):
        def forward(self, x):
            x = super().forward(x)
            return x / (x * x + 1)

    class Draws(Net):
        def forward(self, x):
            return super().forward(x) + torch.rand(1)

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.fc = nn.LSTM(2, 8, batch_first=True), nn.Linear(8, 4)

        def forward(self, x):
            return self.fc(self.lstm(x.transpose(1, 2))[0][:, -1])
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The user's own module, which lies in the working folder."""
    (tmp_path / "own_networks.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import own_networks  # type: ignore[import-not-found]

    torch.manual_seed(0)
    yield own_networks
    sys.modules.pop("own_networks")


def trained(module: nn.Module) -> nn.Module:
    """A module whose norms have seen the windows."""
    with torch.no_grad():
        module.train()(torch.from_numpy(windows(64)))
    return module.eval()


def asked(name: str, content: bytes, data: np.ndarray | None = None, module: str | None = None) -> Asked:
    Path(name).write_bytes(content)
    np.save("data.npy", windows(120) if data is None else data)
    return Asked(Path(name), "F28P55", Path("data.npy"), Path("out"), module=module)


def states(module: nn.Module) -> bytes:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    return file.getvalue()


def compiled(what: Asked) -> Compiled:
    return compile_model(what, CATALOGUE)


def refused(what: Asked, kind: type[FlowlabError], said: str) -> None:
    with pytest.raises(kind, match=said):
        compiled(what)
    assert not Path("out").exists() and not list(Path().glob(".flowlab-compile-*"))


@pytest.mark.parametrize("bits", [8, 4])
def test_all_forms_of_one_network_give_the_same_program(bits: int, nets: Any) -> None:
    module = trained(nets.Net())
    programs = []
    for name, content, made in (
        ("net.pt2", exported(module, SHAPE), None),
        ("any.pt2", exported(module, SHAPE, batch=3, dynamic=True), None),
        ("net.pt", states(module), "own_networks:Net"),
    ):
        found = compiled(replace(asked(name, content, module=made), bits=bits, out=Path(f"out {name}")))
        assert found.executions == ("ONNX Runtime", "interpreter", "simulator", "host C")
        assert found.agree is not None and found.agree >= 0.9 and found.error < {8: 0.06, 4: 0.3}[bits]
        assert "against the module in torch" in "\n".join(found.lines())
        assert [row["name"] for row in found.rows if row["macs"]] == ["body.0", "body.4", "fc"]
        parsed = parse(Path(f"out {name}/program/model.flnp").read_bytes())
        weighed = [one for one in parsed.layers if one.weight is not None]
        programs.append([np.concatenate([one.weight.ravel(), one.bias, one.shift]) for one in weighed])
        report = json.loads(Path(f"out {name}/report.json").read_text())
        assert (report["model"], report["by"], report["module"]) == (name, "the module in torch", made)
    for other in programs[1:]:
        assert all(np.array_equal(*pair) for pair in zip(programs[0], other, strict=True))


def test_a_softmax_at_the_end_is_left_out_and_the_rest_held_against_the_module(nets: Any) -> None:
    module = trained(nets.soft())
    for name, content, made in (
        ("net.pt2", exported(module, SHAPE), None), ("net.pth", states(module), "own_networks:soft"),
    ):  # fmt: skip
        found = compiled(replace(asked(name, content, module=made), out=Path(f"out {name}")))
        assert found.error < 0.06 and any("is left out" in one for one in found.warnings)


def test_a_recurrent_network_is_compiled_from_its_state_dict(nets: Any) -> None:
    data = windows(120)[:, :, :8, 0]
    what = asked("net.pt", states(nets.Recurrent()), data, "own_networks:Recurrent")
    found = compiled(replace(what, target="AM13E2"))
    assert found.error < 0.12 and "emulated core" in found.executions


def test_windows_that_do_not_fit_are_refused(nets: Any) -> None:
    module = trained(nets.Net())
    wide = windows(120).reshape(120, 1, 128, 1)
    refused(asked("net.pt2", exported(module, SHAPE), wide), DataError, r"Give float32 of shape \(windows, 2, 64, 1\)")
    said = r"net\.pt: 'body\.0' does not take an input of shape \(1, 128, 1\)"
    refused(asked("net.pt", states(module), wide, "own_networks:Net"), GraphError, said)
    refused(asked("net.pt", states(module), windows(120)[:, 0, 0, 0], "own_networks:Net"), GraphError, r"net\.pt: ")


def test_a_state_dict_alone_and_a_module_for_other_files_are_refused(nets: Any) -> None:
    module = trained(nets.Net())
    refused(asked("net.pt", states(module)), ConfigError, r"net\.pt: a state dict has weights and no network.*--module")
    for name in ("net.pt2", "net.onnx"):
        what = asked(name, b"", module="own_networks:Net")
        refused(what, ConfigError, r"--module own_networks:Net: is for a state dict .* brings its network along")


def test_networks_that_cannot_be_expressed_name_the_place(nets: Any) -> None:
    module = trained(nets.Divides())
    said = r"net\.pt2: 'div' \(div\): divides by a value .* \(own_networks\.py, line \d+: return x / \(x \* x \+ 1\)\)"
    refused(asked("net.pt2", exported(module, SHAPE)), GraphError, said)
    refused(
        asked("net.pt", states(module), module="own_networks:Divides"), GraphError, r"net\.pt: .* divides by a value"
    )
    refused(asked("net.pt", states(module), module="own_networks:Draws"), GraphError, "draws numbers")


def test_weights_that_are_no_numbers_are_refused(nets: Any) -> None:
    module = trained(nets.Net())
    module.fc.weight.data[0, 0] = float("nan")
    for name, content, made in (
        ("net.pt2", exported(module, SHAPE), None), ("net.pt", states(module), "own_networks:Net"),
    ):  # fmt: skip
        refused(asked(name, content, module=made), GraphError, "NaN or infinite")
