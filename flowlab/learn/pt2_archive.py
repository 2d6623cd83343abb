"""What `torch.export.save` writes, read without torch's loader: a zip of JSON and of tensors' plain bytes.

torch's own loader unpickles sample inputs and custom objects, and evaluates the text of symbolic sizes; so nothing of
it is used here. The graph is JSON, weights are bytes of a dtype and shape that JSON says; whatever is a pickle in the
archive is never opened, and a weight that exists as a pickle only is refused.
Checked against torch 2.13: schema 8.20, archive version 0 (torch/_export/serde/schema.py, torch/export/pt2_archive).
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowlab.errors import DataError

SCHEMA = 8  # major version of the graph's JSON
MOST_BYTES = 1 << 28  # of all members, unpacked
DTYPES = {4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool}
HOW = "Give what torch.export.save(torch.export.export(module.eval(), ...), path) writes, with torch 2.8 or newer"
DAMAGED = (
    ArithmeticError, AttributeError, EOFError, LookupError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip

Size = int | None  # None: another number each time


@dataclass(frozen=True)
class Reference:
    """A value of the graph by its name."""

    name: str


@dataclass(frozen=True)
class Step:
    """One ATen operation: its name, arguments by their names in the schema, results, and where the user wrote it."""

    operation: str
    arguments: Mapping[str, Any]
    results: tuple[str, ...]
    several: bool  # the results are one list
    place: str


@dataclass(frozen=True)
class ExportedProgram:
    """A program: what each name of its tensors is, its only input, its steps, and what it returns.

    ``sizes``: of every value, with the batch; ``tensors``: by the name in the module (``conv.weight``).
    ``inside``: names in the graph of the module's tensors.
    """

    input: str
    sizes: Mapping[str, tuple[Size, ...]]
    tensors: Mapping[str, Tensor]
    inside: Mapping[str, str]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    structure: tuple[str, ...] | str  # keys of a dict, or ``tensor``, ``tuple``


def read_program(data: bytes, path: Path) -> ExportedProgram:
    """Read an archive's bytes.

    Raises:
        DataError: naming the file, what it is instead, and what to give.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _program(_members(archive))
    except DataError as error:
        raise DataError(f"{path}: {error}. {HOW}") from None
    except DAMAGED as error:
        said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"
        raise DataError(f"{path}: is no exported program, or damaged ({said}). {HOW}") from None


def _members(archive: zipfile.ZipFile) -> Mapping[str, bytes]:
    """What is read of an archive, without its first folder; nothing else is even unpacked."""
    infos = archive.infolist()
    roots = [one.filename.removesuffix("archive_format") for one in infos if one.filename.endswith("archive_format")]
    if not roots:
        old = any(one.filename == "serialized_exported_program.json" for one in infos)
        raise DataError("is of torch 2.7 or older" if old else "is a zip, but no archive of torch.export.save")
    wanted = {
        one.filename.removeprefix(roots[0]): one
        for one in infos
        if one.filename.startswith(roots[0]) and not one.filename.startswith(f"{roots[0]}data/sample_inputs")
    }
    if sum(one.file_size for one in wanted.values()) > MOST_BYTES:
        raise DataError(f"unpacks to more than {MOST_BYTES >> 20} MB; that is no network for a microcontroller")
    return {name: archive.read(one) for name, one in wanted.items()}


def _program(members: Mapping[str, bytes]) -> ExportedProgram:
    _check_versions(members)
    names = [name for name in members if name.startswith("models/") and name.endswith(".json")]
    if len(names) != 1:
        compiled = any(name.startswith("data/aotinductor/") for name in members)
        what = "compiled code" if compiled else f"{len(names)} programs"
        raise DataError(f"holds {what}, and one exported program is expected")
    model = names[0].removeprefix("models/").removesuffix(".json")
    whole = json.loads(members[names[0]])
    if whole["schema_version"]["major"] != SCHEMA:
        raise DataError(f"is of schema version {int(whole['schema_version']['major'])}, and {SCHEMA} is known")
    module = whole["graph_module"]
    graph, specs = module["graph"], module["signature"]
    sizes = {name: tuple(map(_size, meta["sizes"])) for name, meta in graph["tensor_values"].items()}
    given, inside = _inputs(specs["input_specs"])
    weights = _tensors(members, "weights", model, set(inside.values()))
    constants = _tensors(members, "constants", model, set(inside.values()))
    outputs = tuple(_output(one) for one in specs["output_specs"])
    steps = tuple(step for node in graph["nodes"] if (step := _step(node)) is not None)
    return ExportedProgram(
        given, sizes, {**weights, **constants}, inside, steps, outputs, _structure(module["module_call_graph"], outputs)
    )


def _check_versions(members: Mapping[str, bytes]) -> None:
    if members["archive_format"].strip() != b"pt2":
        raise DataError("is a zip, but no archive of torch.export.save")
    if members.get("byteorder", b"little").strip() != b"little":
        raise DataError("was written on a machine with the other order of bytes")


def _size(value: Mapping[str, Any]) -> Size:
    return None if "as_int" not in value else int(value["as_int"])


def _inputs(specs: list[Mapping[str, Any]]) -> tuple[str, dict[str, str]]:
    """The name of the only input, and the module's name of each tensor of its own by the graph's."""
    given: list[str] = []
    inside: dict[str, str] = {}
    for spec in specs:
        ((kind, value),) = spec.items()
        if kind == "user_input":
            if "as_none" not in value["arg"]:
                given.append(str(value["arg"].get("as_tensor", {"name": "a plain value"})["name"]))
        elif kind in ("parameter", "buffer", "tensor_constant"):
            inside[str(value["arg"]["name"])] = str(value[f"{kind}_name"])
        elif kind != "constant_input":
            raise DataError(f"has an input of the kind '{kind}': only tensors can be compiled")
    if len(given) != 1:
        raise DataError(f"has {len(given)} inputs ({', '.join(given)}): a network with one can be compiled")
    return given[0], inside


def _output(spec: Mapping[str, Any]) -> str:
    ((kind, value),) = spec.items()
    if kind == "buffer_mutation":
        raise DataError(f"changes its buffer '{value['buffer_name']}': export the module in eval mode")
    if kind != "user_output" or "as_tensor" not in value["arg"]:
        raise DataError(f"returns something that is no tensor ({kind})")
    return str(value["arg"]["as_tensor"]["name"])


def _structure(calls: list[Mapping[str, Any]], outputs: tuple[str, ...]) -> tuple[str, ...] | str:
    """What forward returns: the keys of a dict, or whether it is one tensor."""
    signature = next((one.get("signature") for one in calls if one["fqn"] == ""), None)
    spec = json.loads(signature["out_spec"])[1] if signature else {"type": None, "children_spec": []}
    kind, leaves = spec["type"], all(not one["children_spec"] for one in spec["children_spec"])
    if kind == "builtins.dict" and leaves:
        keys = tuple(map(str, json.loads(spec["context"])))
        if len(keys) == len(outputs) == len(set(keys)):
            return keys
    return "tensor" if kind is None and len(outputs) == 1 else "tuple"


# --- tensors ----------------------------------------------------------------------------------------


def _tensors(members: Mapping[str, bytes], kind: str, model: str, wanted: set[str]) -> dict[str, Tensor]:
    """Tensors of a kind by the module's names, those that the graph reads."""
    config = members.get(f"data/{kind}/{model}_{kind}_config.json")
    if config is None:
        return {}
    found = {}
    for name, meta in json.loads(config)["config"].items():
        if name not in wanted:
            continue
        if meta["use_pickle"] is not False or meta["tensor_meta"] is None:
            raise DataError(f"holds '{name}' as a pickle, which is not loaded: give it as a plain tensor")
        found[str(name)] = _tensor(str(name), meta["tensor_meta"], members[f"data/{kind}/{meta['path_name']}"])
    return found


def _tensor(name: str, meta: Mapping[str, Any], data: bytes) -> Tensor:
    dtype = DTYPES.get(meta["dtype"])
    if dtype is None:
        raise DataError(f"holds '{name}' in a dtype of number {int(meta['dtype'])}: stay with float32")
    sizes, strides = ([int(one["as_int"]) for one in meta[key]] for key in ("sizes", "strides"))
    offset = int(meta["storage_offset"]["as_int"])
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    whole = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
    if min([offset, *sizes, *strides], default=0) < 0 or (prod(sizes) > 0 and last >= len(whole)):
        raise DataError(f"holds {len(data)} bytes of '{name}', fewer than its shape {tuple(sizes)} needs")
    if prod(sizes) > len(whole):
        raise DataError(f"repeats '{name}' to the shape {tuple(sizes)}: save it contiguous")
    return whole.as_strided(sizes, strides, offset).clone()


# --- steps ------------------------------------------------------------------------------------------


def _step(node: Mapping[str, Any]) -> Step | None:
    """A node of the graph; None for an assertion, of which nothing follows."""
    target = str(node["target"])
    if "_assert" in target or "sym_constrain_range" in target:
        return None
    arguments = {str(one["name"]): _argument(one["arg"]) for one in node["inputs"]}
    results: list[str] = []
    several = False
    for one in node["outputs"]:
        ((kind, value),) = one.items()
        several = kind == "as_tensors"
        named = value if several else [value]
        if kind not in ("as_tensor", "as_tensors", "as_sym_int"):
            raise DataError(f"has a step '{target}' that gives no tensor but {kind.removeprefix('as_')}")
        results += [str(each["as_name" if kind == "as_sym_int" else "name"]) for each in named]
    return Step(target, arguments, tuple(results), several or len(node["outputs"]) > 1, _place(node["metadata"]))


PLAIN: Mapping[str, Callable[[Any], Any]] = {
    "as_none": lambda value: None,
    "as_device": lambda value: None,
    "as_tensor": lambda value: Reference(str(value["name"])),
    "as_float": float,  # infinity is a text in JSON
    "as_string": str,
    "as_bool": bool,
    **dict.fromkeys(("as_int", "as_scalar_type", "as_memory_format", "as_layout"), int),
}
LISTS = ("as_tensors", "as_ints", "as_bools", "as_floats", "as_sym_ints", "as_optional_tensors")


def _argument(argument: Mapping[str, Any]) -> Any:
    """A number, a text, a `Reference`, or a list of them."""
    ((kind, value),) = argument.items()
    if kind in LISTS:
        return [_entry(one) for one in value]
    if kind == "as_sym_int":
        return _entry(value)
    if kind not in PLAIN:
        raise DataError(f"has an argument of the kind '{kind.removeprefix('as_')}', which no network of layers has")
    return PLAIN[kind](value)


def _entry(value: Any) -> Any:
    """One of a list."""
    if not isinstance(value, dict):
        return value if isinstance(value, (bool, int)) else float(value)
    if "as_int" in value:
        return int(value["as_int"])
    if "as_none" in value:
        return None
    inner = value.get("as_tensor", value)
    return Reference(str(inner["as_name"] if "as_name" in inner else inner["name"]))


def _place(metadata: Mapping[str, Any]) -> str:
    """The user's own line behind a step: ``net.py, line 8: return self.fc(x)``; torch's own lines are left out."""
    lines = str(metadata.get("stack_trace", "")).splitlines()
    found = ""
    for at, line in enumerate(lines):
        parts = line.strip().split('"')
        if len(parts) == 3 and parts[0] == "File " and "/torch/" not in parts[1].replace("\\", "/"):
            number = parts[2].removeprefix(", line ").partition(",")[0]
            code = lines[at + 1].strip() if at + 1 < len(lines) else ""
            found = f"{Path(parts[1]).name}, line {number}: {code}"
    return found[:200]
