"""What quantization costs in accuracy and in time, on the sets and networks that a preset of kind ``bench`` names.

Accuracy is that of the exported file in ONNX Runtime on the test windows, beside float, and beside float trained on for
as many epochs. Times are CPU seconds on one thread, in rounds in which everything takes its turn, as ratios whose
medians are printed; a training epoch is divided by one of the user's module in plain eager float32.

The preset's values: ``config`` (sections of a config), ``sets`` (dataset, its seed, frame, models), ``rows`` (label,
training keys, points that may be lost by set), ``peers`` (the module of other quantizers), and ``quick_rows``,
``quick_epochs``, ``speed_rows``, ``file_rows``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from flowlab.contracts import Dataset, Model, Preset, Quantized, Quantizer, StageJob
from flowlab.engine.bench_onnx import exported, outputs_of, packed_bytes, speeds
from flowlab.engine.bench_tables import Drop, File, Found, Ratio, writable, write
from flowlab.engine.bench_watch import EnoughError, Watch
from flowlab.errors import ConfigError, DataError, FlowlabError, PluginError, unknown_name

if TYPE_CHECKING:
    from flowlab.plugins import Catalogue

ROUNDS = 7
SEEDS, MOST_SEEDS = 3, 10
BATCHES = (64, 256)  # of a training epoch
FED = (1, 64)  # windows that a file is fed at once
HELD_OUT = 10  # one training window of so many chooses the best epoch
QUICK_ROUNDS = 3
THREE = "three plain eager float epochs"  # the most that fine-tuning behind PTQ may take
SECOND = "one second"  # what an export is compared with

TABLES = ("accuracy", "speed", "files")
KINDS = ("table", "dataset", "model", "row")  # of what may be chosen by name

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """``quick``: one seed, one network a set, fewer rows and epochs. ``csv``: the folder of the tables, or None.

    ``only``: by `KINDS` of things, the names of those that are measured; a kind that is not in it is measured whole.
    """

    quick: bool = False
    csv: Path | None = None
    seeds: int = SEEDS
    only: Mapping[str, Collection[str]] = field(default_factory=dict)

    def wants(self, kind: str, name: str) -> bool:
        """Whether the thing of this kind is measured."""
        return not self.only.get(kind) or name in self.only[kind]


def quantization(asked: Asked, catalogue: Catalogue, say: Say) -> list[str]:
    """Measure; ``say`` gets a line whenever something is done. Returns the tables as lines.

    Raises:
        ConfigError: for a number of seeds that makes no sense, a name that the preset has not, or a folder that
            cannot be written.
        PluginError: where no installed package brings the preset.
    """
    if not 1 <= asked.seeds <= MOST_SEEDS:
        raise ConfigError(f"--seeds {asked.seeds}: give 1 to {MOST_SEEDS}")
    if asked.csv is not None:
        writable(asked.csv)
    preset = bench_preset(catalogue)
    _check_names(asked, preset.values)
    plan = Plan(preset.values, asked, catalogue, say)
    with tempfile.TemporaryDirectory() as scratch:
        found = Found()
        for one in plan.sets():
            found = found.joined(_one_set(plan, one, Path(scratch)))
    if asked.csv is not None:
        write(asked.csv, found)
    return found.lines(plan.seeds)


# --- what is measured -----------------------------------------------------------------------------


def bench_preset(catalogue: Catalogue) -> Preset:
    """The first that is brought: bundled ones come first."""
    for one in catalogue.presets("bench"):
        assert isinstance(one.item, Preset)
        return one.item
    raise PluginError("no installed package brings a preset of kind 'bench', which says what to measure")


def _check_names(asked: Asked, values: Mapping[str, Any]) -> None:
    known = {
        "table": list(TABLES),
        "dataset": [one["dataset"] for one in values["sets"]],
        "model": [model for one in values["sets"] for model in one["models"]],
        "row": [row["label"] for row in values["rows"]],
    }
    for kind in KINDS:
        for name in asked.only.get(kind, ()):
            if name not in known[kind]:
                raise ConfigError(f"--{kind}: {unknown_name(kind, name, set(known[kind]))}")


@dataclass(frozen=True)
class Plan:
    """What was asked for, of what the preset has."""

    values: Mapping[str, Any]
    asked: Asked
    catalogue: Catalogue
    say: Say

    @property
    def seeds(self) -> range:
        """Of the float networks."""
        return range(1 if self.asked.quick else self.asked.seeds)

    @property
    def rounds(self) -> int:
        """How often everything takes its turn."""
        return QUICK_ROUNDS if self.asked.quick else ROUNDS

    def rows(self, only: str = "") -> list[Mapping[str, Any]]:
        """The rows of accuracy, or those that the list of this name has; rows that are named are not left out."""
        names = self.values[only] if only else (self.values["quick_rows"] if self._shortened else None)
        rows = [row for row in self.values["rows"] if names is None or row["label"] in names]
        return [row for row in rows if self.asked.wants("row", row["label"])]

    @property
    def _shortened(self) -> bool:
        return self.asked.quick and not self.asked.only.get("row")

    def sets(self) -> list[Mapping[str, Any]]:
        """The sets, first of all the one that is timed."""
        return [one for one in self.values["sets"] if self.asked.wants("dataset", one["dataset"])]

    def models(self, one: Mapping[str, Any]) -> list[str]:
        """The networks of a set."""
        named = [model for model in one["models"] if self.asked.wants("model", model)]
        return named[:1] if self.asked.quick else named


@dataclass(frozen=True)
class _Set:
    """A set as arrays: features float32 (window, channel, length, 1), targets int64."""

    values: Mapping[str, Any]
    classes: tuple[str, ...]
    train: tuple[Any, Any]
    test: tuple[Any, Any]

    @property
    def name(self) -> str:
        return str(self.values["dataset"])


def _one_set(plan: Plan, values: Mapping[str, Any], scratch: Path) -> Found:
    found = Found()
    try:
        data = arrays(plan.catalogue, values)
    except DataError as error:
        plan.say(f"{values['dataset']}: not run: {error}")
        return Found(notes=(f"not run: {values['dataset']}: {error}",))
    wants = partial(plan.asked.wants, "table")
    for model in plan.models(values):
        for seed in plan.seeds if wants("accuracy") else plan.seeds[:1]:
            bench = Bench(plan, data, model, seed, scratch)
            if wants("accuracy"):
                found = found.joined(Found(drops=tuple(bench.drops())))
            if seed != plan.seeds[0]:
                continue
            if wants("accuracy"):
                found = found.joined(bench.peers())
            if wants("speed") and values is plan.sets()[0]:
                found = found.joined(Found(ratios=tuple(bench.ratios())))
            if wants("files"):
                found = found.joined(Found(files=tuple(bench.files())))
    return found


def arrays(catalogue: Catalogue, values: Mapping[str, Any]) -> _Set:
    """A set of the preset as arrays."""
    import numpy as np

    dataset = catalogue.get("dataset", values["dataset"])
    assert isinstance(dataset, Dataset)
    recordings = list(dataset.recordings(values["seed"], catalogue.options(dataset, {})))
    classes = tuple(sorted({one.label for one in recordings}))

    def split(name: str) -> tuple[Any, Any]:
        ones = [one for one in recordings if one.split == name]
        features = np.stack([one.samples.T[:, :, None] for one in ones])
        return features, np.array([classes.index(one.label) for one in ones], np.int64)

    return _Set(values, classes, split("train"), split("test"))


class Bench:
    """One network on one set, trained once in float."""

    def __init__(
        self, plan: Plan, data: _Set, model: str, seed: int, scratch: Path, *, epochs: int | None = None
    ) -> None:
        from flowlab.learn.determinism import seeded
        from flowlab.learn.plain import Recipe, train_plain

        self.plan, self.data, self.model, self.seed, self.scratch = plan, data, model, seed, scratch
        plugin = plan.catalogue.get("model", model)
        assert isinstance(plugin, Model)
        options = plan.catalogue.options(plugin, {})
        shape = data.train[0].shape[1:]
        with seeded(seed, 1):
            self.module = plugin.build(shape, len(data.classes), options)
        recipe = Recipe(seed=seed, turned=True)
        train_plain(self.module, *data.train, recipe if epochs is None else replace(recipe, epochs=epochs))
        self.float_accuracy = _accuracy(_predicted(self.module, data.test[0]), data.test[1])
        plan.say(f"{data.name} {model} seed {seed}: float {self.float_accuracy:.2f} %")

    def config(self, row: Mapping[str, Any], **more: Any) -> Any:
        """The config of a row, as a user writes it."""
        from flowlab.config import load_mapping

        sections = {name: dict(keys) for name, keys in self.plan.values["config"].items()}
        sections.setdefault("dataset", {})["dataset_name"] = self.data.name
        sections["data_processing_feature_extraction"]["frame_size"] = self.data.values["frame"]
        keys = {"model_name": self.model, "seed": self.seed, **row["training"], **more}
        if self.plan.asked.quick:
            keys["quantization_epochs"] = self.plan.values["quick_epochs"]
        sections["training"].update(keys)
        return load_mapping(sections, self.plan.catalogue, source="bench quantization")

    def quantized(
        self, row: Mapping[str, Any], data: Any, watch: Watch | None = None, **more: Any
    ) -> tuple[Quantized, float]:
        """What the quantizer of a row makes of the float network, by way of the stage; and its CPU seconds."""
        from flowlab.learn.determinism import seeded
        from flowlab.stages import quantize

        config = self.config(row, **more)
        plugins = quantize.plugins(config, self.plan.catalogue)
        options = quantize.options(config, self.plan.catalogue)
        watch = watch or Watch()
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            job = StageJob(
                inputs={},
                options=options,
                plugins={**{kind: one for kind, (one, _) in plugins.items()}, "quantizer": watch.over(plugins)},
                plugin_options={kind: given for kind, (_, given) in plugins.items()},
                out=Path(folder),
                scratch=Path(folder),
                progress=watch.progress,
            )
            with seeded(self.seed, 1):
                return quantize.quantize(job, self.module, data)[0], watch.seconds

    def drops(self) -> Iterator[Drop]:
        """Every row's accuracy, and the control's."""
        from flowlab.compiler.export_onnx import export_onnx

        epochs = set()
        for row in self.plan.rows():
            bar = row["bars"].get(self.data.name)
            try:
                quantized, seconds = self.quantized(row, fit_data(self.data))
            except FlowlabError as error:
                yield self._drop(row["label"], None, bar, 0.0, f"refused: {error}")
                continue
            outputs = outputs_of(export_onnx(quantized.graph, {}), self.data.test[0])
            epochs.add(len(quantized.history.get("epochs", ())))
            yield self._drop(row["label"], _accuracy(outputs, self.data.test[1]), bar, seconds)
        yield self._control(max(epochs, default=0))

    def _control(self, epochs: int) -> Drop:
        """Float trained on for as many epochs as the longest quantization, at a tenth of the rate."""
        from copy import deepcopy

        from flowlab.learn.plain import Recipe, train_plain

        module = deepcopy(self.module)
        recipe = Recipe(epochs=epochs, learning_rate=Recipe.learning_rate / 10, seed=self.seed, turned=True)
        seconds = sum(train_plain(module, *self.data.train, recipe))
        reached = _accuracy(_predicted(module, self.data.test[0]), self.data.test[1])
        return self._drop(f"control: float, {epochs} epochs more", reached, None, seconds)

    def _drop(self, row: str, accuracy: float | None, bar: float | None, seconds: float, note: str = "") -> Drop:
        drop = None if accuracy is None else self.float_accuracy - accuracy
        said = note or f"{accuracy:.2f} %"
        self.plan.say(f"{self.data.name} {self.model} seed {self.seed}: {row} {said} ({seconds:.1f} s)")
        return Drop(self.data.name, self.model, row, self.seed, self.float_accuracy, accuracy, drop, bar, seconds, note)

    def peers(self) -> Found:
        """Other quantizers that are installed, on the same float network; and those that are not."""
        drops, notes, job = [], [], self._peer_job()
        for peer in self._peers().PEERS:
            if missing := peer.missing():
                notes.append(f"not run: {peer.name} ({missing})")
                continue
            if peer.trains and self.plan.asked.quick:
                continue
            start = time.process_time()
            try:
                outputs = peer.outputs(job, self.data.test[0])
            except Exception as error:  # noqa: BLE001 - another project's code: whatever it raises is its result
                notes.append(f"failed: {peer.name} on {self.data.name}, {self.model}: {_first_line(error)}")
                continue
            seconds = time.process_time() - start
            drops.append(self._drop(peer.name, _accuracy(outputs, self.data.test[1]), None, seconds))
        return Found(drops=tuple(drops), notes=tuple(notes))

    def _peers(self) -> Any:
        """The module of other projects' quantizers that the preset names."""
        return import_module(self.plan.values["peers"])

    def _peer_job(self) -> Any:
        epochs = int(self.config({"training": {}}).quantization_epochs)
        return self._peers().PeerJob(self.module, self.float_onnx(), fit_data(self.data), epochs, self.seed)

    def _peers_that_train(self) -> list[Any]:
        """Of those that are installed one each, the first that is trained: all its widths take the same time."""
        known = self._peers().PEERS
        chosen = {peer.needs: peer for peer in reversed(known) if peer.trains and not peer.missing()}
        return list(chosen.values())[::-1]

    def _peer_modules(self, peers: Sequence[Any]) -> dict[str, Any]:
        """By row what is trained for an epoch, made once; what cannot be made is said."""
        made = {}
        for peer in peers:
            with self._peers().quiet():
                try:
                    made[f"{peer.name} epoch"] = peer.prepared(self._peer_job())
                except Exception as error:  # noqa: BLE001 - another project's code
                    self.plan.say(f"not timed: {peer.name}: {_first_line(error)}")
        return made

    def _peer_epoch(self, module: Any, batch: int) -> float:
        from copy import deepcopy

        from flowlab.learn.loop import FitData

        watch, data = Watch(first_epoch=True), FitData(*_timing_data(self.data))
        with self._peers().quiet():
            watch.run(
                deepcopy(module),
                lambda one: self._peers().trained(
                    one, data, epochs=1, seed=self.seed, batch=batch, progress=watch.progress
                ),
            )
        return watch.epoch_s

    def ratios(self) -> Iterator[Ratio]:
        """Epochs of training, calibration and export against the user's module in plain eager float32."""
        from flowlab.quant.calibration_pass import calibration_pass

        plain, float_loop, label = "plain eager float epoch", "float epoch of flowlab's loop", "float evaluation pass"
        rows = self.plan.rows("speed_rows")
        trained = [row for row in rows if row["training"]["quantization_method"] == "QAT"]
        after = [row for row in rows if row["training"]["quantization_method"] == "PTQ"]
        others = self._peer_modules(self._peers_that_train())
        for batch in BATCHES:
            rounds = []
            for _ in range(self.plan.rounds):
                taken = {plain: self._plain_epoch(batch), float_loop: self._loop_epoch(batch)}
                taken |= {f"{row['label']} epoch": self._epoch(row, batch) for row in trained}
                taken |= {what: self._peer_epoch(module, batch) for what, module in others.items()}
                rounds.append(taken)
            yield from self._over(rounds, plain, batch)
        self.plan.say(f"{self.data.name} {self.model}: training timed")
        rounds, graph = [], None
        for _ in range(self.plan.rounds):
            taken = {label: timed(lambda: _predicted(self.module, self.data.train[0], BATCHES[0]))}
            taken["calibration pass of the wrapper"] = timed(
                calibration_pass(self.module, self.data.train[0], BATCHES[0])
            )
            for row in after:
                quantized, taken[f"{row['label']}, all of it"] = self.quantized(row, fit_data(self.data))
                graph = quantized.graph
            rounds.append(taken)
        yield from self._over(rounds, label, BATCHES[0])
        three = [{THREE: 3 * self._plain_epoch(BATCHES[0]), **_without(taken, label)} for taken in rounds]
        yield from self._over(three, THREE, BATCHES[0])
        if graph is not None:
            taken_s = [timed(partial(exported, graph)) for _ in range(self.plan.rounds)]
            rounds = [{SECOND: 1.0, "export of the ONNX": seconds} for seconds in taken_s]
            yield from self._over(rounds, SECOND, 1)

    def _over(self, rounds: Sequence[Mapping[str, float]], unit: str, batch: int) -> Iterator[Ratio]:
        below = median(taken[unit] for taken in rounds)
        for what in rounds[0]:
            if what != unit:
                ratios = [taken[what] / taken[unit] for taken in rounds]
                yield Ratio(
                    self.data.name, self.model, what, unit, batch, median(ratios), min(ratios), max(ratios), below
                )

    def _plain_epoch(self, batch: int) -> float:
        from copy import deepcopy

        from flowlab.learn.plain import Recipe, train_plain

        recipe = Recipe(epochs=1, batch_size=batch, learning_rate=Recipe.learning_rate / 10, seed=self.seed)
        return train_plain(deepcopy(self.module), *_timing_data(self.data)[:2], recipe)[0]

    def _loop_epoch(self, batch: int) -> float:
        from copy import deepcopy

        from flowlab.learn.loop import FitData, FitSettings, fit

        watch = Watch(first_epoch=True)
        settings = FitSettings(1, batch, 0.01, warmup_epochs=0, weight_decay=1e-3, seed=self.seed)
        data = FitData(*_timing_data(self.data))
        watch.run(deepcopy(self.module), lambda module: fit(module, data, settings, progress=watch.progress))
        return watch.epoch_s

    def _epoch(self, row: Mapping[str, Any], batch: int) -> float:
        from flowlab.learn.loop import FitData

        watch = Watch(first_epoch=True)
        try:
            self.quantized(row, FitData(*_timing_data(self.data)), watch, batch_size=batch)
        except EnoughError:
            return watch.epoch_s
        raise FlowlabError(f"{row['label']}: the quantizer trained no epoch, so there is none to time")

    def float_onnx(self) -> bytes:
        """The float network as flowlab ships it."""
        from flowlab.compiler.export_onnx import export_onnx

        row = {"training": {"quantization": 0}}
        quantized, _ = self.quantized(row, fit_data(self.data))
        return export_onnx(quantized.graph, {})

    def format_of(self, row: Mapping[str, Any]) -> str:
        """Which of a target's formats the row's quantizer asks for."""
        from flowlab.stages import quantize

        plugin = quantize.plugins(self.config(row), self.plan.catalogue)["quantizer"][0]
        return plugin.format if isinstance(plugin, Quantizer) else ""

    def files(self) -> Iterator[File]:
        """Bytes and speed of the files of some rows."""
        from flowlab.compiler.export_onnx import export_onnx
        from flowlab.compiler.export_qdq import export_qdq

        made = [("float", self.float_onnx(), 0)]
        for row in self.plan.rows("file_rows"):
            graph = self.quantized(row, fit_data(self.data))[0].graph
            made.append((f"{row['label']}: best_model.onnx", export_onnx(graph, {}), packed_bytes(graph)))
            if self.format_of(row) == "cpu":
                made.append((f"{row['label']}: best_model_int8.onnx", export_qdq(graph), packed_bytes(graph)))
        ratios = {fed: speeds([model for _, model, _ in made], self.data.test[0], fed, self.plan.rounds) for fed in FED}
        for at, (what, model, packed) in enumerate(made):
            yield File(self.data.name, self.model, what, len(model), packed, *(ratios[fed][at] for fed in FED))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# --- arrays and files -----------------------------------------------------------------------------


def fit_data(data: _Set) -> Any:
    """Training windows in two parts: what is trained on, and what chooses the best epoch."""
    import numpy as np

    from flowlab.learn.loop import FitData

    features, targets = data.train
    order = np.random.default_rng(123).permutation(len(targets))
    held, kept = np.split(order, [len(order) // HELD_OUT])
    return FitData(features[kept], targets[kept], features[held], targets[held])


def _timing_data(data: _Set) -> tuple[Any, Any, Any, Any]:
    """All windows to train on; next to nothing to validate on, which plain training does not do."""
    features, targets = data.train
    return features, targets, features[:8], targets[:8]


def _predicted(module: Any, features: Any, batch: int = 1024) -> Any:
    from flowlab.learn.loop import predict

    return predict(module, features, batch)


def _accuracy(outputs: Any, targets: Any) -> float:
    return float((outputs.argmax(axis=1) == targets).mean() * 100)


def timed(work: Callable[[], Any]) -> float:
    """CPU seconds of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def _without(taken: Mapping[str, float], name: str) -> dict[str, float]:
    return {what: seconds for what, seconds in taken.items() if what != name}
