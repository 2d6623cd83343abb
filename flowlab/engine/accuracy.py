"""`flowlab accuracy`: where a finished run's accuracy went, and the one change most likely to win it back.

All is computed from the run's files on its test split: the float network, the features, the integer graph, its ONNX
and the program's outputs. Nothing is trained.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.engine import table
from flowlab.engine.remedy import Loss, Remedy, remedy
from flowlab.errors import DataError, GraphError, StoreError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowlab.compiler.ir import Graph
    from flowlab.engine.which_run import StoredRun
    from flowlab.learn.problems import Problem
    from flowlab.quant.waterfall import LayerNoise, Waterfall
    from flowlab.store.records import Record

SPLIT = "test"
OUTPUT = "output"  # the output that decides, where a network has several
SAID = {
    "reported": "float network, as its training measured it",
    "float": "float network",
    "folded": "batch norms folded",
    "trained": "weights as they ship, real arithmetic",
    "input": "input quantized",
    "export": "exported (ONNX Runtime)",
    "program": "program",
}
TRAINED = (
    "training has moved {moved} of the weights beyond rounding, and the float weights under them are not kept: what "
    "training and rounding of the weights do is one step for all layers; behind it one result after the other is "
    "rounded"
)
ROUNDED = (
    "a layer is quantized while all behind it stays the float network: its weights first, then its result; the steps "
    "sum to the whole"
)


@dataclass(frozen=True)
class Step:
    """One step: what is as it ships from here on, the metric behind it, and what the step lost (negative: won)."""

    kind: str
    layer: str
    text: str
    value: float
    lost: float
    windows: int | None  # lost, where the metric counts windows


@dataclass(frozen=True)
class Accuracy:
    """What a run's float network reached, what ships, all between, and what to do.

    ``wrong`` and ``right`` count the windows that only the float network, and only the program, gets right; None
    where the metric counts none.
    """

    run: str
    dataset: str
    windows: int
    metric: str
    higher_is_better: bool
    quantization: Mapping[str, Any]
    moved: float | None
    steps: tuple[Step, ...]
    layers: tuple[LayerNoise, ...]
    wrong: int | None
    right: int | None
    change: Remedy
    notes: tuple[str, ...]

    @property
    def lost(self) -> float:
        """From the first step to the last; every step's ``windows`` sum to it exactly."""
        first, last = self.steps[0].value, self.steps[-1].value
        return first - last if self.higher_is_better else last - first

    def to_json(self) -> dict[str, Any]:
        """What `flowlab accuracy --json` prints; every key is always there, what is no number is null."""
        return {
            "run": self.run,
            "dataset": self.dataset,
            "split": SPLIT,
            "windows": self.windows,
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "quantization": dict(self.quantization),
            "weights_moved": self.moved,
            "float": self.steps[0].value,
            "shipped": self.steps[-1].value,
            "lost": self.lost,
            "windows_only_float_gets_right": self.wrong,
            "windows_only_program_gets_right": self.right,
            "steps": [dict(vars(step)) for step in self.steps],
            "layers": [{key: _plain(value) for key, value in vars(layer).items()} for layer in self.layers],
            "change": self.change.to_json(),
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """For people."""
        made = [f"run {self.run} of {self.dataset}: {self.metric} on the {SPLIT} split, {self.windows} windows", ""]
        rows = [
            (step.text, f"{step.value:.4f}", _signed(-step.lost), "" if step.windows is None else f"{-step.windows:+d}")
            for step in self.steps
        ]
        rows[0] = (rows[0][0], rows[0][1], "", "")
        rows.append(("together", "", _signed(-self.lost), _together(self.steps)))
        made += table.lines(("step", self.metric, "change", "windows"), rows)
        if self.wrong is not None:
            made += ["", f"{self.wrong} windows only the float network gets right, {self.right} only what ships"]
        if self.layers:
            made += ["", *table.lines(LAYERS, [_row(layer) for layer in self.layers])]
        made += ["", *self.change.lines(), *(f"note: {note}" for note in self.notes)]
        return made


LAYERS = ("layer", "bits", "SQNR", "own", "weights", "cut low", "cut high", "dead")


def _row(layer: LayerNoise) -> tuple[str, ...]:
    dead = f"{layer.dead} of {layer.channels}" if layer.dead else ""
    return (
        layer.layer,
        "" if layer.weight_bits is None else str(layer.weight_bits),
        _decibels(layer.sqnr_db),
        _decibels(layer.own_sqnr_db),
        "" if layer.weight_sqnr_db is None else _decibels(layer.weight_sqnr_db),
        _share(layer.saturated_low),
        _share(layer.saturated_high),
        dead + (f", {layer.dead_in_float} in float too" if layer.dead_in_float else ""),
    )


def _decibels(value: float) -> str:
    if math.isnan(value):
        return "no signal"
    return "exact" if math.isinf(value) else f"{value:.1f} dB"


def _share(value: float) -> str:
    return f"{100 * value:.2f} %" if value else ""


def _signed(value: float) -> str:
    return f"{value:+.4f}" if value else "0"


def _together(steps: Sequence[Step]) -> str:
    windows = [step.windows for step in steps]
    return "" if None in windows else f"{-sum(one for one in windows if one is not None):+d}"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- the run's files ----------------------------------------------------------------------------------


def accuracy(run: StoredRun) -> Accuracy:
    """Take the loss of a run apart.

    Args:
        run: a run in a store that came at least as far as ``quantize``.

    Raises:
        StoreError: where the run is incomplete, its files are gone, or are not what they should be.
        DataError: where its test split has no windows.
        GraphError: where one of its graphs cannot be run.
    """
    from flowlab.compiler.ir import is_float
    from flowlab.learn.problems import PROBLEMS
    from flowlab.signal import features_file

    run.record("train")  # without one there is no accuracy to lose
    record = run.record("quantize")
    options = _mapping(record, "options")
    problem = PROBLEMS.get(str(options.get("problem")))
    if problem is None:
        raise StoreError(
            f"run {run.name} is of problem '{options.get('problem')}'; known here: {', '.join(PROBLEMS)}. "
            "Another version of flowlab made it: run its config again"
        )
    graph = _graph(run)
    tested = features_file.read(_only(run, "extract", "features_test"))
    if len(tested.features) == 0:
        raise DataError(f"run {run.name}: its {SPLIT} split has no windows, so nothing can be measured")
    name = OUTPUT if OUTPUT in graph.outputs else next(iter(graph.outputs))
    measured = _Measured(run, problem, tested.labels)
    measured.reported()
    if is_float(graph):
        measured.add("float", "", SAID["float"], _interpreted(graph, tested.features, name))
        found = None
    else:
        found = _waterfall(run, graph, tested.features, name)
        for cut in found.cuts:
            measured.add(cut.kind, cut.layer, _said(cut.kind, cut.layer, graph), cut.outputs)
    measured.export(graph, tested.features, name)
    measured.program(graph, name)
    wrong, right = measured.changed()
    loss = Loss(
        method=str(_quantization(record).get("method")),
        quantizer=str(_mapping(record, "plugins").get("quantizer", {}).get("name")),
        options=options,
        training_windows=_training_windows(run),
        steps=tuple((step.kind, step.layer, step.lost) for step in measured.steps[1:]),
        saturated={one.layer: one.saturated_low + one.saturated_high for one in found.layers} if found else {},
        wrong=wrong,
        right=right,
        named=_named_quantizer(run),
    )
    return Accuracy(
        run=run.name,
        dataset=run.dataset,
        windows=len(tested.labels),
        metric=problem.metric,
        higher_is_better=problem.higher_is_better,
        quantization=_quantization(record),
        moved=found.moved if found else None,
        steps=tuple(measured.steps),
        layers=found.layers if found else (),
        wrong=wrong,
        right=right,
        change=remedy(loss),
        notes=(*_meaning(found), *measured.notes),
    )


def _meaning(found: Waterfall | None) -> tuple[str, ...]:
    """What the steps are, in one sentence."""
    if found is None:
        return ("nothing is quantized: the float network ships",)
    if not found.trained:
        return (ROUNDED,)
    if found.moved is None:
        return ("the float network has no layers of these names: what its weights lost cannot be told by layer",)
    return (TRAINED.format(moved=f"{100 * found.moved:.1f} %"),)


def _said(kind: str, layer: str, graph: Graph) -> str:
    if kind in SAID:
        return SAID[kind]
    node = graph.node(layer)
    if kind == "weights":
        return f"{layer}: weights in {node.attributes.get('weight_bits', 8)} bits"
    return f"{layer}: result rounded"


def _mapping(record: Record, key: str) -> Mapping[str, Any]:
    value = record.document.get(key)
    return value if isinstance(value, Mapping) else {}


def _quantization(record: Record) -> Mapping[str, Any]:
    value = record.metrics.get("quantization")
    return value if isinstance(value, Mapping) else {}


def _only(run: StoredRun, stage: str, role: str) -> Path:
    """The file of a role that has one. Raises `StoreError`."""
    files = run.record(stage).outputs.get(role, {})
    if len(files) != 1:
        raise StoreError(f"run {run.name}: {len(files)} files among its {role}, expected 1. Run its config again")
    return run.file(stage, role, next(iter(files)))


def _graph(run: StoredRun) -> Graph:
    from flowlab.compiler.text import parse_graph
    from flowlab.compiler.verify import verify

    path = _only(run, "quantize", "graph")
    try:
        graph = parse_graph(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise StoreError(f"run {run.name}: its graph is no text (byte {error.start}). Run its config again") from None
    verify(graph)
    return graph


def _waterfall(run: StoredRun, graph: Graph, features: NDArray[np.float32], output: str) -> Waterfall:
    from flowlab.compiler.importer import import_onnx
    from flowlab.compiler.ir import is_float
    from flowlab.quant.waterfall import waterfall

    floats = import_onnx(_only(run, "train", "float_onnx").read_bytes())
    if not is_float(floats) or output not in floats.outputs:
        raise StoreError(
            f"run {run.name}: its float network has the outputs {', '.join(floats.outputs)}, and what ships has "
            f"'{output}': the two do not belong together. Run its config again"
        )
    shapes = [one.type_of(one.outputs[output]).shape for one in (floats, graph)]
    if shapes[0] != shapes[1]:
        raise StoreError(
            f"run {run.name}: its float network makes {shapes[0]} and what ships {shapes[1]}: the two do not belong "
            "together. Run its config again"
        )
    return waterfall(floats, graph, features, output)


def _interpreted(graph: Graph, features: NDArray[np.float32], output: str) -> NDArray[Any]:
    from flowlab.compiler import interpreter

    found: NDArray[Any] = interpreter.outputs(graph, features)[output]
    return found.reshape(len(features), -1)


def _training_windows(run: StoredRun) -> int | None:
    """How many windows calibration can choose from, or None where the run does not say."""
    record = run.records.get("extract")
    windows = record.metrics.get("counts") if record else None
    count = windows.get("train") if isinstance(windows, Mapping) else None
    return count if isinstance(count, int) else None


def _named_quantizer(run: StoredRun) -> bool:
    """Whether the run's config names its quantizer, which then decides method and mode."""
    config = (run.store.runs.read(run.name) or {}).get("config")
    training = config.get("training") if isinstance(config, Mapping) else None
    return isinstance(training, Mapping) and training.get("quantizer") is not None


# --- the metric behind every step -----------------------------------------------------------------------


class _Measured:
    """Steps so far, each with the metric of its outputs."""

    def __init__(self, run: StoredRun, problem: Problem, labels: NDArray[np.int64]) -> None:
        self.run, self.problem, self.labels = run, problem, labels
        self.steps: list[Step] = []
        self.notes: list[str] = []
        self.kept: list[NDArray[Any]] = []  # outputs of the first and of the last step

    def reported(self) -> None:
        """What the run said of its float network, where it measured it: the waterfall begins there."""
        record = self.run.records.get("train")
        tested = record.metrics.get("test") if record else None
        value = tested.get(self.problem.metric) if isinstance(tested, Mapping) else None
        if isinstance(value, float) and math.isfinite(value):
            self._step("reported", "", SAID["reported"], value)
        else:
            self.notes.append("the run did not measure its float network on the test split (testing.enable: false)")

    def add(self, kind: str, layer: str, text: str, outputs: NDArray[Any]) -> None:
        """One more step; the float network is none of its own where it is what the run reported."""
        rows = outputs.reshape(len(outputs), -1)
        if len(rows) != len(self.labels):
            raise StoreError(
                f"run {self.run.name}: {len(rows)} outputs of step '{text}' for {len(self.labels)} test windows. "
                "Run its config again"
            )
        self.kept = [self.kept[0] if self.kept else rows, rows]
        value = self.problem.measure(rows, self.labels)[self.problem.metric]
        if kind == "float" and self.steps and self.steps[0].value == value:
            return
        self._step(kind, layer, text, value)

    def _step(self, kind: str, layer: str, text: str, value: float) -> None:
        before = self.steps[-1].value if self.steps else value
        lost = before - value if self.problem.higher_is_better else value - before
        windows = round(lost * len(self.labels)) if self.problem.metric == "accuracy" else None
        self.steps.append(Step(kind, layer, text, value, lost, windows))

    def export(self, graph: Graph, features: NDArray[np.float32], output: str) -> None:
        """The exported ONNX in ONNX Runtime, where it is installed."""
        from importlib.util import find_spec

        from flowlab.stages.validate import run_onnx

        if find_spec("onnxruntime") is None:
            self.notes.append("ONNX Runtime is not installed, so the exported file was not run")
            return
        model = _only(self.run, "quantize", "quantized_onnx").read_bytes()
        try:
            found = run_onnx(model, features, [output])[output]
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no common class
            raise GraphError(f"run {self.run.name}: ONNX Runtime refuses its ONNX: {str(error)[:200]}") from None
        self.add("export", "", SAID["export"], _real(graph, output, found))

    def program(self, graph: Graph, output: str) -> None:
        """What the program made of the same windows when the run simulated it."""
        record = self.run.records.get("simulate")
        if record is None:
            self.notes.append("the run has no simulated program: its stages end before")
            return
        path = _only(self.run, "simulate", "outputs")
        agreement = record.metrics.get("agreement")
        rows = agreement.get("executions", ()) if isinstance(agreement, Mapping) else ()
        names = [str(row["name"]) for row in rows if isinstance(row, Mapping) and "name" in row]
        text = f"{SAID['program']} ({names[0]})" if names else SAID["program"]
        self.add("program", "", text, _real(graph, output, _array(self.run, path, output)))

    def changed(self) -> tuple[int | None, int | None]:
        """Windows that only the first outputs get right, and only the last."""
        if self.problem.metric != "accuracy":
            return None, None
        first, last = (rows.argmax(axis=1) == self.labels for rows in self.kept)
        return int((first & ~last).sum()), int((last & ~first).sum())


def _real(graph: Graph, output: str, values: NDArray[Any]) -> NDArray[Any]:
    """An output's integers as real numbers; floats stay."""
    type_ = graph.type_of(graph.outputs[output])
    return values if type_.dtype == "float32" else (values.astype("float64") - type_.zero_point) * type_.scale


def _array(run: StoredRun, path: Path, name: str) -> NDArray[Any]:
    import numpy as np

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            values: NDArray[Any] = found[name]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(
            f"run {run.name}: its program's outputs cannot be read ({type(error).__name__}). Run its config again"
        ) from None
    if values.dtype.kind not in "iuf":
        raise StoreError(f"run {run.name}: its program's outputs are {values.dtype}. Run its config again")
    return values
