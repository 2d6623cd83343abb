"""Stage ``import``: a file from elsewhere becomes a graph, its own inputs windows to choose scales by and to test."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.contracts import StageJob, StageResult
from flowlab.stages.own.files import MOST_MODEL, read_bytes, read_windows
from flowlab.stages.own.network import STATES, OwnNetwork, finite, is_torch, network_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Windows = NDArray[np.float32]

CALIBRATION, VECTORS = 512, 256  # windows that scales are chosen by, and that are run
FEWEST, SEED = 48, 0  # windows below which none are kept apart; of the choice


@dataclass(frozen=True)
class Chosen:
    """``calibration``: windows that scales are chosen by (none for integers); ``tested``: those that are run."""

    calibration: Windows
    tested: Windows
    said: tuple[str, ...] = ()


def run(job: StageJob) -> StageResult:
    """Read network and windows, and run the file itself on those windows that are tested.

    Raises:
        ConfigError: for a module that cannot be had.
        DataError: for a network or windows that cannot be read, or do not fit each other.
        GraphError: naming the node that cannot be expressed.
    """
    from flowlab.compiler.text import print_graph

    model, inputs = job.input("own_model"), job.input("own_inputs")
    job.progress(f"reading {model.name}", 0.0)
    _forget(job.inputs.get("own_code", {}))
    data = read_bytes(model, MOST_MODEL, "an ONNX file, or one of torch's")
    network = network_of(model, data, inputs, job.options.module)
    windows = read_windows(inputs, network.graph)
    chosen = _chosen(inputs, network, windows)
    job.progress(f"{network.by} on {len(chosen.tested)} windows", 0.5)
    outputs = finite(model, network.outputs(chosen.tested))
    said = (*network.said, *chosen.said)
    shape = list(windows.shape[1:])
    spec = {"shape": shape, "window": [], "options": {}, "classes": []}
    story = {
        **_story(model, network),
        "shape": shape,
        "given": len(windows),
        "calibrated": len(chosen.calibration),
        "windows": len(chosen.tested),
        "apart": chosen.tested is not chosen.calibration,
        "warnings": list(said),
    }
    out = job.out
    files: dict[str, dict[str, Path]] = {
        "own_network": {"own_network.json": _json(out / "own_network.json", story)},
        "feature_spec": {"feature_spec.json": _json(out / "feature_spec.json", spec)},
        "own_graph": {"graph.txt": out / "graph.txt"},
        "own_onnx": {},
        "own_outputs": {"outputs.npz": out / "outputs.npz"},
        "features_train": {"features_train.arrow": _table(out / "features_train.arrow", chosen.calibration, "train")},
        "features_test": {"features_test.arrow": _table(out / "features_test.arrow", chosen.tested, "test")},
    }
    (out / "graph.txt").write_text(print_graph(network.graph), encoding="utf-8")
    _arrays(out / "outputs.npz", outputs)
    if network.model:
        (out / "model.onnx").write_bytes(network.model)
        files["own_onnx"] = {"model.onnx": out / "model.onnx"}
    return StageResult(files, {key: story[key] for key in ("by", "calibrated", "windows")}, said)


def _forget(code: Mapping[str, Path]) -> None:
    """The user's modules beside the current folder are imported anew: as their files are now, which are hashed."""
    for name, path in code.items():
        if path.absolute().is_relative_to(Path.cwd()) and not name.startswith("flowlab"):
            sys.modules.pop(name.removesuffix(".py"), None)


def _chosen(inputs: Path, network: OwnNetwork, windows: Windows) -> Chosen:
    from flowlab.stages.own.integers import meanings

    if network.integers:
        return Chosen(windows[:0], meanings(inputs, network.graph, windows[:VECTORS]))
    calibration, tested = _apart(windows)
    if tested is not windows:
        return Chosen(calibration, tested)
    few = (
        f"{inputs.name}: {len(windows)} windows are too few to keep some apart: what is said of the integers is said "
        "of the windows that chose their scales"
    )
    return Chosen(windows, windows, (few,))


def _apart(windows: Windows) -> tuple[Windows, Windows]:
    """A seeded sample that scales are chosen by, and others to test on; the same ones where there are too few."""
    import numpy as np

    if len(windows) < FEWEST:
        return windows, windows
    order = np.random.default_rng(SEED).permutation(len(windows))
    chosen = min(CALIBRATION, len(windows) * 2 // 3)
    return windows[np.sort(order[:chosen])], windows[np.sort(order[chosen : chosen + VECTORS])]


def _story(model: Path, network: OwnNetwork) -> dict[str, Any]:
    """What is known of the file."""
    from flowlab.stages.own.integers import is_exact

    form = "ONNX" if not is_torch(model) else "state dict" if model.suffix.lower() in STATES else "torch.export archive"
    return {
        "name": model.name,
        "form": form,
        "integers": network.integers,
        "exact": network.integers and is_exact(network.model),
        "by": network.by,
        "parameters": sum(int(value.size) for node in network.graph.nodes for value in node.constants.values()),
    }


def _json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def _arrays(path: Path, outputs: Mapping[str, Any]) -> None:
    """Outputs by name, each as it came, behind a prefix: no name of a network's is one of numpy's own."""
    import numpy as np

    np.savez(path, allow_pickle=False, **{f"output/{name}": np.asarray(array) for name, array in outputs.items()})


def _table(path: Path, windows: Windows, split: str) -> Path:
    """Windows as a file of features; nobody says of what class they are."""
    import numpy as np

    from flowlab.signal import features_file

    none = np.zeros(len(windows), np.int64)
    features_file.write(path, windows, none, none.astype(np.int32), none, {"classes": [], "split": split})
    return path
