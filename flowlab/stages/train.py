"""Stage ``train``: from features to a float network, its ONNX, and what it reaches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from flowlab.contracts import DECIDES_NOTHING, Model, Plugin, Stage, StageJob, StageResult
from flowlab.errors import NotBuiltYet, OptionError
from flowlab.stages.network import build, surgery

MOST_SHOWN = 8  # replacements in one sentence


@dataclass(frozen=True)
class TrainOptions:
    """What of the config decides a float training.

    ``test``: measure on the test split at the end; ``surgery``: replace what the accelerator lacks before;
    ``checkpoint_every``: epochs from one checkpoint to the next, which decides nothing.
    """

    problem: str
    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str
    weight_decay: float
    lr_scheduler: str
    seed: int
    threads: int
    test: bool
    surgery: bool = False
    checkpoint_every: int = field(default=1, metadata=DECIDES_NOTHING)


def options(config: Any, catalogue: Any) -> TrainOptions:
    """Copy them; `NotBuiltYet` for a device other than the CPU."""
    training = config.training
    if training.training_device != "cpu":
        raise NotBuiltYet(
            f"training.training_device: '{training.training_device}' is not built yet. Leave the key out: 'cpu'"
        )
    return TrainOptions(
        problem=chosen_problem(catalogue.get("model", training.model_name)),
        epochs=training.training_epochs,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        optimizer=training.optimizer,
        weight_decay=training.weight_decay,
        lr_scheduler=training.lr_scheduler,
        seed=training.seed,
        threads=training.threads,
        test=config.testing.enable,
        surgery=surgery(config, catalogue),
        checkpoint_every=training.checkpoint_every_epochs,
    )


def chosen_problem(model: Any) -> str:
    """The problem that a model solves here; `NotBuiltYet` where no training for it exists."""
    from flowlab.learn.problems import PROBLEMS

    for problem in model.problems:
        if problem in PROBLEMS:
            return str(problem)
    raise NotBuiltYet(
        f"training.model_name: '{model.name}' is for {', '.join(model.problems)}, and only "
        f"{', '.join(PROBLEMS)} is built yet"
    )


def plugins(config: Any, catalogue: Any) -> Mapping[str, tuple[Plugin, Any]]:
    """The model that the config names."""
    model = catalogue.get("model", config.training.model_name)
    return {"model": (model, catalogue.options(model, config.options_for("training", "model_name")))}


STAGE = Stage(
    name="train",
    run="flowlab.stages.train:run",
    needs=("features_train", "features_val", "features_test", "feature_spec"),
    makes=("float_model", "float_onnx", "metrics_train"),
    options=options,
    plugins=plugins,
    code=(
        "flowlab.stages.train",
        "flowlab.stages.network",
        "flowlab.stages.choice",
        "flowlab.learn",
        "flowlab.quant.lite",
        "flowlab.quant.surgery",
        "flowlab.quant.squeeze_excite",
        "flowlab.signal.features_file",
        "flowlab.compiler.ir",
        "flowlab.compiler.exact_float",
        "flowlab.compiler.export_onnx",
    ),
    libraries=("torch", "numpy", "pyarrow", "onnx"),
    after=("inspect",),
    torch=True,
)


def run(job: StageJob) -> StageResult:
    """Train, keep the best epoch, export it, and measure it.

    Raises:
        StageError: where a split is empty or not finite, or the loss is no number.
        GraphError: where the network has an operation that the graph cannot express (before any training).
    """
    from flowlab.compiler.export_onnx import export_onnx
    from flowlab.learn.checkpoint import dump
    from flowlab.learn.determinism import seeded
    from flowlab.learn.layers import count_parameters
    from flowlab.learn.loop import FitData, FitSettings, fit
    from flowlab.learn.problems import PROBLEMS
    from flowlab.learn.trace import float_graph, trace_module
    from flowlab.signal import features_file

    asked: TrainOptions = job.options
    spec = json.loads(job.input("feature_spec").read_text())
    channels, height, width = spec["shape"]
    shape, classes = (channels, height, width), tuple(spec["classes"])
    problem = PROBLEMS[asked.problem]
    with seeded(asked.seed, asked.threads):
        module, replaced = build(job, shape, problem.outputs(classes))
        left_out = trace_module(module, shape).warnings
    train = features_file.read(job.input("features_train"))
    _refuse_few(asked, len(train.labels))
    val = features_file.read(job.input("features_val"))
    before = _before_surgery(job, shape, val) if replaced else {}
    history = fit(
        module,
        FitData(train.features, train.labels, val.features, val.labels),
        FitSettings(
            problem=asked.problem,
            epochs=asked.epochs,
            batch_size=asked.batch_size,
            learning_rate=asked.learning_rate,
            optimizer=asked.optimizer,
            weight_decay=asked.weight_decay,
            lr_scheduler=asked.lr_scheduler,
            seed=asked.seed,
            threads=asked.threads,
        ),
        checkpoint=job.scratch / "float.checkpoint",
        checkpoint_every=asked.checkpoint_every,
        progress=job.progress,
    )
    after = {problem.metric: history["best_value"]}
    warnings = [*_operated(job, replaced, before, after), *left_out, *history["warnings"]]
    metrics: dict[str, Any] = {
        "history": history["epochs"],
        "best_epoch": history["best_epoch"],
        "val": after,
        **_test(job, module, classes),
        "classes": list(classes),
        "parameters": count_parameters(module),
        "seed": asked.seed,
        "surgery": {"replaced": list(replaced), "before": before or None},
        "warnings": warnings,
    }
    files = {
        "best_model.pt": dump(module.state_dict()),
        "best_model_float.onnx": export_onnx(float_graph(module, shape), {"classes": json.dumps(classes)}),
        "metrics_train.json": (json.dumps(metrics, indent=1, sort_keys=True) + "\n").encode(),
    }
    for name, content in files.items():
        (job.out / name).write_bytes(content)
    small = {name: metrics[name] for name in ("val", "test", "best_epoch", "parameters")}
    roles = dict(zip(STAGE.makes, files, strict=True))
    return StageResult(
        files={role: {name: job.out / name} for role, name in roles.items()},
        metrics=small,
        warnings=tuple(warnings),
    )


def _before_surgery(job: StageJob, shape: tuple[int, int, int], val: Any) -> dict[str, float]:
    """What a model that comes trained reaches on the validation split as it comes; nothing of an untrained one."""
    from flowlab.learn.determinism import seeded
    from flowlab.learn.loop import predict
    from flowlab.learn.problems import PROBLEMS

    model = cast(Model, job.plugins["model"])
    if not model.trained:
        return {}
    problem = PROBLEMS[job.options.problem]
    with seeded(job.options.seed, job.options.threads):
        spec = json.loads(job.input("feature_spec").read_text())
        module = model.build(shape, problem.outputs(tuple(spec["classes"])), job.plugin_options["model"])
        return {problem.metric: problem.measure(predict(module, val.features), val.labels)[problem.metric]}


def _operated(
    job: StageJob, replaced: tuple[str, ...], before: Mapping[str, float], after: Mapping[str, float]
) -> list[str]:
    """A sentence that says what is no longer as the model built it."""
    if not replaced:
        return []
    shown = "; ".join(replaced[:MOST_SHOWN]) + (
        f"; and {len(replaced) - MOST_SHOWN} more" * (len(replaced) > MOST_SHOWN)
    )
    reached = [
        f" Validation {name}: {value:.4f} as the model came, {after[name]:.4f} now." for name, value in before.items()
    ]
    return [f"surgery replaced what the accelerator lacks: {shown}. training.surgery: off keeps it.{''.join(reached)}"]


def _refuse_few(asked: TrainOptions, windows: int) -> None:
    """A batch that is never full trains with one step an epoch, which nobody means."""
    if asked.epochs and windows < asked.batch_size:
        raise OptionError(
            f"training.batch_size: {asked.batch_size}, but there are only {windows} training windows. Set it to "
            f"{windows} or less, or get more windows: more recordings, or a smaller stride_size"
        )


def _test(job: StageJob, module: Any, classes: tuple[str, ...]) -> dict[str, Any]:
    """Metrics, confusion and curves on the test split, or nulls."""
    from flowlab.learn.determinism import seeded
    from flowlab.learn.loop import predict
    from flowlab.learn.problems import PROBLEMS, confusion
    from flowlab.learn.roc import curves
    from flowlab.signal import features_file

    nothing: dict[str, Any] = {"test": None, "confusion": None, "roc": []}
    if not job.options.test:
        return nothing
    table = features_file.read(job.input("features_test"))
    if len(table.features) == 0:
        return nothing
    with seeded(job.options.seed, job.options.threads):
        outputs = predict(module, table.features)
    measured = PROBLEMS[job.options.problem].measure(outputs, table.labels)
    return {
        "test": measured,
        "confusion": confusion(outputs, table.labels, len(classes)),
        "roc": curves(outputs, table.labels, classes),
    }
