"""The table of roles: what passes between stages, under which name, and where people find a copy of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Role:
    """One named set of files between stages.

    ``tree`` is the folder inside the run folder that gets copies for people (``""`` is the run folder itself,
    None means no copy). File names are kept.
    """

    name: str
    media: str
    meaning: str
    tree: str | None = None


_TABLE = (
    Role("source", "*/*", "what the reader reads; made by no stage, empty for a dataset that makes itself"),
    Role("recordings", "application/vnd.apache.arrow.file", "one row a recording: id, class, split, samples"),
    Role("splits", "application/json", "which recording is in which split, and the proof that none is in two"),
    Role("features_train", "application/vnd.apache.arrow.file", "features of the training split"),
    Role("features_val", "application/vnd.apache.arrow.file", "features of the validation split"),
    Role("features_test", "application/vnd.apache.arrow.file", "features of the test split"),
    Role("windows", "application/vnd.apache.arrow.file", "raw windows behind the first test features"),
    Role("feature_spec", "application/json", "shape, classes and provenance of the features"),
    Role("gate", "application/json", "layer table of the untrained model, and its problems"),
    Role("float_model", "application/vnd.pytorch", "state dict of the best epoch", "training/base"),
    Role("float_onnx", "application/onnx", "the float model", "training/base"),
    Role("metrics_train", "application/json", "training curve, accuracy and confusion of the float model"),
    Role("graph", "text/plain", "the integer graph, or the float graph where nothing is quantized, in text form"),
    Role("quantized_onnx", "application/onnx", "that graph as ONNX", "training/quantization"),
    Role("int8_onnx", "application/onnx", "the same in QDQ form, for speed on CPUs; near it", "training/quantization"),
    Role("quantization_config", "application/yaml", "from which the ONNX is built again", "training/quantization"),
    Role("quantized_weights", "application/vnd.pytorch", "constants of the graph", "training/quantization"),
    Role("torch_outputs", "application/vnd.numpy.npz", "outputs of the converted torch module on the test windows"),
    Role("metrics_quantize", "application/json", "accuracy and confusion of the integer graph"),
    Role("placed_graph", "text/plain", "the graph after the target's passes, each layer on its unit"),
    Role("placement", "application/json", "layer table with unit, reason and cure"),
    Role("golden", "application/vnd.numpy.npz", "a few vectors that every execution must reproduce"),
    Role(
        "interpreter_outputs",
        "application/vnd.numpy.npz",
        "the interpreter's outputs and traces; of floats a reference",
    ),
    Role("program", "application/octet-stream", "the files that ship", "compilation"),
    Role("memory", "application/json", "bytes by region, and whether the program fits"),
    Role("outputs", "application/vnd.numpy.npz", "outputs of the program on the test windows"),
    Role("agreement", "application/json", "vectors, mismatches, executions, and what did not run"),
    Role(
        "costs",
        "application/json",
        "multiplications by unit; what was counted, what a model of the accelerator takes, what is estimated",
    ),
    Role("metrics_simulate", "application/json", "accuracy and confusion of the simulated program"),
    Role("own_model", "*/*", "a network that was trained elsewhere; made by no stage"),
    Role("own_inputs", "*/*", "some of its own inputs; made by no stage"),
    Role("own_code", "text/x-python", "the sources of the module that a state dict belongs to; made by no stage"),
    Role("own_network", "application/json", "what a file from elsewhere holds, and what was changed in reading it"),
    Role("own_graph", "text/plain", "that network as a graph, in text form"),
    Role("own_onnx", "application/onnx", "the ONNX file as it was run; none of a file of another kind"),
    Role("own_outputs", "application/vnd.numpy.npz", "what the file itself gives on the windows that are tested"),
    Role("own_standing", "application/json", "how the integers stand to what the file itself gives"),
    Role("notes", "application/json", "the config's warnings and overview; made by no stage"),
    Role("report", "text/html", "the page for people", ""),
    Role("layers", "text/csv", "the layer table with what each layer costs, for spreadsheets", ""),
)

ROLES: dict[str, Role] = {role.name: role for role in _TABLE}


def role_digest(sha256_by_name: Mapping[str, str]) -> str:
    """The digest of a role: the sha256 of its sorted list of (name, sha256).

    Each pair is one line, ``<sha256>  <length of the name in bytes> <name>``, so no name can imitate two.
    """
    lines = (f"{sha}  {len(name.encode())} {name}\n" for name, sha in sorted(sha256_by_name.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
