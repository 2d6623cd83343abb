"""Archives of torch.export: every network that the tracing knows comes back the same, and nothing in a file runs."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks.exported import changed, exported, with_json
from networks.random_networks import draw
from torch import nn

from flowlab.errors import DataError, FlowlabError, GraphError
from flowlab.learn.pt2_archive import read_program
from flowlab.learn.pt2_module import ProgramModule, module_of
from flowlab.learn.trace import trace_module
from flowlab.plugins import load

PATH = Path("net.pt2")
ZOO = ("CLS_1k_NPU", "CLS_4k_NPU", "CLS_ResAdd_3k", "CLS_ResCat_3k", "CLS_500_NPU", "CLS_2k_NPU")
FORMS: dict[str, dict[str, Any]] = {
    "batch of 1": {"batch": 1}, "batch of 2": {"batch": 2}, "any batch": {"batch": 3, "dynamic": True},
    "core ATen": {"batch": 2, "core": True},
}  # fmt: skip


def read(data: bytes) -> ProgramModule:
    return module_of(read_program(data, PATH))


def flat(result: Any) -> list[torch.Tensor]:
    if isinstance(result, dict):
        return list(result.values())
    return list(result) if isinstance(result, (tuple, list)) else [result]


class Series(nn.Module):
    """A network of series with a branch, two outputs by name, and a ReLU that writes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(2, 8, 5, 2, 2), nn.BatchNorm1d(8), nn.ReLU(inplace=True))
        self.pool, self.fc, self.other = nn.MaxPool1d(3, 2, 1), nn.Linear(8, 4), nn.Linear(8 * 16, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.pool(self.first(x))
        return {"classes": self.fc(x.mean(-1)), "other": self.other(x.view(x.size(0), -1))}


SERIES = (2, 64)


def series() -> Series:
    torch.manual_seed(0)
    return Series().eval()


def same_as(module: nn.Module, shape: tuple[int, ...], data: bytes) -> tuple[list[str], list[str]]:
    """Hold an archive's module against the one that it was made of; the operations of both graphs."""
    found = read(data)
    with torch.no_grad():
        for count in (1, 5):
            x = torch.randn(count, *shape)
            for wanted, given in zip(flat(module(x)), flat(found(x)), strict=True):
                torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-5)
    own, graph = trace_module(module, shape).graph, trace_module(found, shape).graph
    assert list(graph.outputs) == list(own.outputs)
    return [node.op for node in graph.nodes], [node.op for node in own.nodes]


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, form) for at, name in enumerate(ZOO) for place, form in enumerate(FORMS) if at == 1 or place == at % 4],
)
def test_networks_of_the_zoo_come_back_with_the_same_graph(name: str, form: str) -> None:
    model, shape = load().get("model", name), (1, 128, 1)
    torch.manual_seed(0)
    module = model.build(shape, 3, model.Options()).eval()
    found, own = same_as(module, shape, exported(module, shape, **FORMS[form]))
    assert found == own


@pytest.mark.parametrize("form", FORMS)
def test_a_network_of_series_with_two_outputs_comes_back(form: str) -> None:
    found, own = same_as(series(), SERIES, exported(series(), SERIES, **FORMS[form]))
    assert form == "core ATen" or found == own


def test_random_networks_come_back_or_are_refused_by_name() -> None:
    """Of what they hold only recurrent layers, and what core ATen writes out, are refused."""
    right = 0
    for seed in range(24):
        drawn, form = draw(seed), list(FORMS.values())[seed % 4]
        try:
            same_as(drawn.module, drawn.shape, exported(drawn.module, drawn.shape, **form))
            right += 1
        except GraphError as error:
            known = any(word in str(error) for word in ("recurrent", "aten.exp", "aten.bmm", "aten.gt"))
            assert known and "random_networks.py, line" in str(error), error
    assert right >= 20


def test_layers_keep_the_names_that_their_author_gave() -> None:
    graph = trace_module(read(exported(series(), SERIES)), SERIES).graph
    assert {"first.0", "first.1", "fc", "other"} <= {node.name for node in graph.nodes}


class Reads:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", ["sample inputs", "weights", "constants", "extra", "text of sizes"])
def test_nothing_in_a_hostile_archive_runs(kind: str, tmp_path: Path) -> None:
    """torch 2.13's own loader runs all of these but the extra file."""
    trap = tmp_path / "ran"
    bomb = pickle.dumps(Reads(trap))
    data, refused = exported(series(), SERIES, dynamic=True, batch=3), True
    if kind == "sample inputs":
        file = io.BytesIO()
        torch.save(Reads(trap), file)
        data, refused = changed(data, {"sample_inputs/model.pt": lambda _: file.getvalue()}), False
    elif kind == "weights":
        data = with_json(
            data, lambda config: config["config"]["first.0.weight"].update(use_pickle=True), "weights_config.json"
        )
        data = changed(data, {"weights/weight_0": lambda _: bomb})
    elif kind == "constants":
        entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        data = with_json(data, lambda config: config["config"].update(evil=entry), "constants_config.json")
        spec = {"custom_obj": {"arg": {"name": "evil", "class_fqn": "x.Y"}, "custom_obj_name": "evil"}}
        data = with_json(data, lambda whole: whole["graph_module"]["signature"]["input_specs"].append(spec))
        data = with_member(data, "data/constants/opaque_obj_0", bomb)
    elif kind == "extra":
        data, refused = with_member(data, "data/extra/evil.pkl", bomb), False
    else:
        text = f"__import__('pathlib').Path({str(trap)!r}).touch()"

        def size(whole: Any) -> None:
            for sizes in whole["graph_module"]["graph"]["tensor_values"].values():
                for one in sizes["sizes"]:
                    if "as_expr" in one:
                        one["as_expr"]["expr_str"] = text

        data, refused = with_json(data, size), False
    if refused:
        with pytest.raises(
            DataError, match=r"net\.pt2: (holds 'first\.0\.weight' as a pickle|has an input of the kind)"
        ):
            read(data)
    else:
        assert trace_module(read(data), SERIES).graph.nodes
    assert not trap.exists()
    pickle.loads(bomb)
    assert trap.exists()


def with_member(data: bytes, name: str, content: bytes) -> bytes:
    file = io.BytesIO(data)
    with zipfile.ZipFile(file, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/{name}", content)
    return file.getvalue()


def first(whole: Any, operation: str) -> Any:
    nodes = whole["graph_module"]["graph"]["nodes"]
    return next(node for node in nodes if f".{operation}." in node["target"])


def argument(whole: Any, operation: str, name: str, value: Any) -> None:
    found = next(one for one in first(whole, operation)["inputs"] if one["name"] == name)
    found["arg"] = value


CHANGES: dict[str, tuple[Callable[[Any], object], type[FlowlabError], str]] = {
    "schema": (lambda w: w["schema_version"].update(major=9), DataError, "schema version 9, and 8 is known"),
    "two inputs": (
        lambda w: w["graph_module"]["signature"]["input_specs"].append(
            {"user_input": {"arg": {"as_tensor": {"name": "y"}}}}
        ),
        DataError, r"has 2 inputs \(x, y\)",
    ),
    "unknown operation": (
        lambda w: first(w, "relu_").update(target="torch.ops.aten.erfinv.default"),
        GraphError, r"step 'relu_' \(aten\.erfinv\.default, test_pt2\.py, line \d+: .*\): .* has no such operation",
    ),
    "another library's operation": (
        lambda w: first(w, "relu_").update(target="os.system"),
        GraphError, r"step 'relu_' \(os\.system, .*no such operation",
    ),
    "an attribute": (
        lambda w: first(w, "relu_").update(target="torch.ops.aten.__class__.default"), GraphError, "__class__",
    ),
    "an argument that nobody knows": (
        lambda w: first(w, "relu_")["inputs"].append({"name": "evil", "arg": {"as_int": 1}, "kind": 1}),
        GraphError, "step 'relu_' .*torch does not run it",
    ),
    "a text": (
        lambda w: argument(w, "conv1d", "padding", {"as_string": "'); import os"}),
        GraphError, "a text that no operation",
    ),
    "a graph as argument": (
        lambda w: argument(w, "conv1d", "padding", {"as_graph": {}}), DataError, "an argument of the kind 'graph'",
    ),
    "padding without end": (
        lambda w: argument(w, "conv1d", "padding", {"as_ints": [1 << 30]}), GraphError,
        "step 'conv1d' .*(makes [0-9,]+ numbers a window|does not run it)",
    ),
    "a size of a view": (
        lambda w: argument(w, "view", "size", {"as_ints": [1, 7, -1]}), GraphError, "step 'view'",
    ),
    "a value that nobody makes": (
        lambda w: argument(w, "linear", "input", {"as_tensor": {"name": "evil"}}), GraphError, "reads 'evil', which no",
    ),
    "a step of nothing": (lambda w: first(w, "relu_").update(inputs=[]), GraphError, "makes a value of nothing"),
    "no nodes": (lambda w: w["graph_module"]["graph"].pop("nodes"), DataError, "or damaged"),
    "nodes that are none": (lambda w: w["graph_module"]["graph"].update(nodes=[1]), DataError, "or damaged"),
    "a buffer that changes": (
        lambda w: w["graph_module"]["signature"]["output_specs"].append(
            {"buffer_mutation": {"arg": {"name": "relu_"}, "buffer_name": "b"}}
        ),
        DataError, "changes its buffer 'b': export the module in eval mode",
    ),
    "an input of any length": (
        lambda w: w["graph_module"]["graph"]["tensor_values"]["x"]["sizes"].__setitem__(2, {"as_expr": {}}),
        GraphError, r"input 'x' has shape \(2, 'any'\) behind the batch",
    ),
    "an input beyond memory": (
        lambda w: w["graph_module"]["graph"]["tensor_values"]["x"]["sizes"].__setitem__(2, {"as_int": 1 << 40}),
        GraphError, "one to three fixed sizes can be compiled",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_programs_that_are_hostile_or_damaged_are_refused(what: str) -> None:
    change, kind, said = CHANGES[what]
    with pytest.raises(kind, match=said):
        trace_module(read(with_json(exported(series(), SERIES), change)), SERIES)


def test_weights_that_are_not_there_or_another_size_are_refused() -> None:
    whole = exported(series(), SERIES)
    short = changed(whole, {"weights/weight_0": lambda content: content[:8]})
    with pytest.raises(DataError, match=r"holds 8 bytes of 'first\.0\.weight', fewer than its shape \(8, 2, 5\) needs"):
        read(short)

    def repeated(config: Any) -> None:
        meta = config["config"]["first.0.weight"]["tensor_meta"]
        meta["sizes"], meta["strides"] = [{"as_int": 1 << 40}], [{"as_int": 0}]

    with pytest.raises(DataError, match=r"repeats 'first\.0\.weight'"):
        read(with_json(whole, repeated, "weights_config.json"))
    with pytest.raises(DataError, match="or damaged"):
        read(changed(whole, {"weights/weight_0": lambda _: None}))


@pytest.mark.parametrize("module", [nn.Dropout(0.5), nn.Dropout2d(0.5), nn.BatchNorm2d(4)])
def test_what_was_exported_in_training_mode_says_so(module: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), module, nn.Flatten(), nn.Linear(4 * 36, 3))
    with pytest.raises(FlowlabError, match=r"(export the module in eval mode|call module.eval\(\) before)"):
        read(exported(network, (1, 8, 8), training=True, batch=2))


def test_a_recurrent_network_is_sent_to_its_state_dict() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 8, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.lstm(x)[0][:, -1]

    with pytest.raises(GraphError, match=r"\(aten\.lstm\.input, test_pt2\.py, line \d+: .*a state dict"):
        read(exported(Recurrent(), (16, 3)))


def test_an_error_of_the_tracing_names_the_line() -> None:
    class Divides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return y / (y + 9)

    found = read(exported(Divides(), (1, 16)))
    with pytest.raises(GraphError, match="'div'") as error:
        trace_module(found, (1, 16))
    line = Divides.forward.__code__.co_firstlineno + 2
    assert found.explained(str(error.value)).endswith(f"(test_pt2.py, line {line}: return y / (y + 9))")


JUNK: tuple[Any, ...] = (
    None,
    -1,
    0,
    1 << 70,
    "x",
    "",
    [],
    {},
    [[]],
    1e308,
    True,
    {"as_int": -5},
    "__class__",
    "_inside",
)


def places_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(each for key, one in inner for each in places_of(one, (*path, key)))]


@pytest.mark.parametrize("member", ["models/model.json", "weights_config.json"])
def test_junk_anywhere_in_the_json_ends_in_an_error_of_ours_or_in_a_network(member: str) -> None:
    whole = exported(series(), SERIES)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(member))
        every = places_of(json.loads(archive.read(name)))[1:]
    random, refused = np.random.default_rng(0), 0
    for at in random.integers(0, len(every), 250):
        *above, last = every[at]
        junk = JUNK[int(random.integers(len(JUNK)))]

        def change(values: Any, above: list[Any] = above, last: Any = last, junk: Any = junk) -> None:
            for key in above:
                values = values[key]
            values[last] = junk

        try:
            trace_module(read(with_json(whole, change, member)), SERIES)
        except FlowlabError:
            refused += 1
    assert refused > 40


def test_truncations_and_flipped_bytes_end_in_an_error_of_ours_or_in_another_network() -> None:
    whole = exported(series(), SERIES)
    random = np.random.default_rng(0)
    broken = [whole[: int(at)] for at in random.integers(0, len(whole), 30)]
    for at in random.integers(0, len(whole), 120):
        bent = bytearray(whole)
        bent[at] ^= 1 << int(random.integers(8))
        broken.append(bytes(bent))
    refused = 0
    for data in broken:
        try:
            read(data)
        except FlowlabError as error:
            refused += "net.pt2: " in str(error) or isinstance(error, GraphError)
    assert refused >= 30


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no exported program, or damaged"),
        (b"PK\x03\x04 no zip", "no exported program, or damaged"),
        (b"\x80\x04.", "no exported program, or damaged"),
    ],
)
def test_files_that_are_no_archive_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(data)


def test_other_archives_are_named() -> None:
    def archive(*members: tuple[str, bytes]) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
            for name, content in members:
                made.writestr(name, content)
        return file.getvalue()

    with pytest.raises(DataError, match=r"of torch 2\.7 or older\. Give what"):
        read(archive(("version", b"8.8"), ("serialized_exported_program.json", b"{}")))
    with pytest.raises(DataError, match=r"no archive of torch\.export\.save"):
        read(archive(("a/data.pkl", b"")))
    with pytest.raises(DataError, match="holds compiled code"):
        read(archive(("a/archive_format", b"pt2"), ("a/data/aotinductor/model/x.so", b"")))
    with pytest.raises(DataError, match="unpacks to more than 256 MB"):
        read(archive(("a/archive_format", b"pt2"), ("a/models/model.json", bytes(300 << 20))))
    with pytest.raises(DataError, match="or damaged"):
        read(archive(("a/archive_format", b"pt2"), ("a/models/model.json", b"[" * 200_000)))
