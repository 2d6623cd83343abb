"""Stage ``quantize``: from the float network to integers, their ONNX, and what they reach."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from flowlab.contracts import DECIDES_NOTHING, NumberFormat, Plugin, Quantizer, Stage, StageJob, StageResult
from flowlab.errors import OptionError
from flowlab.stages.choice import FLOAT_BITS, NO_FORMAT, chosen_format
from flowlab.stages.network import build, surgery
from flowlab.stages.train import chosen_problem


@dataclass(frozen=True)
class QuantizeOptions:
    """What of the config decides a quantization. ``format`` is the target's number format, by value.

    ``activation_bits`` is what is done, ``requested_activation_bits`` what was asked for; where nothing is quantized,
    bits are 32 and nothing is calibrated, whatever was asked for. ``test``: measure on the test split at the end.
    ``learning_rate``, ``optimizer`` and ``distillation`` (the float network's share of the loss): None is what the
    recipe for the bits says (`flowlab.quant.recipe`). ``finetune``: a quantizer that does not train may go on from the
    calibration windows. ``edge_bits``: of the first and the last layer's weights, where they have their own.
    ``mixed``: weight bits are chosen for each layer, within the one of the three budgets behind it that is not None.
    ``checkpoint_every``: epochs from one checkpoint to the next, which decides nothing.
    """

    problem: str
    format: NumberFormat
    weight_bits: int
    activation_bits: int
    requested_activation_bits: int
    calibration_count: int
    epochs: int
    batch_size: int
    learning_rate: float | None
    optimizer: str | None
    distillation: float | None
    finetune: bool
    seed: int
    threads: int
    output_int: bool
    test: bool
    surgery: bool = False
    edge_bits: int | None = None
    mixed: bool = False
    mean_bits: float | None = None
    weight_bytes: int | None = None
    tolerance: float | None = None
    checkpoint_every: int = field(default=1, metadata=DECIDES_NOTHING)


def options(config: Any, catalogue: Any) -> QuantizeOptions:
    """Copy them; nothing of a training where nothing is trained, so that it decides nothing."""
    training = config.training
    quantizer = catalogue.get("quantizer", config.quantizer_name(catalogue))
    form = chosen_format(config, catalogue)
    floats = form == NO_FORMAT
    if floats and training.output_int:
        raise OptionError(
            f"{config.where('training', 'output_int')}: true asks for integers, and the quantizer "
            f"'{quantizer.name}' makes none. "
            "Leave the key out"
        )
    return QuantizeOptions(
        problem=chosen_problem(catalogue.get("model", training.model_name)),
        format=form,
        weight_bits=FLOAT_BITS if floats else training.quantization_weight_bitwidth,
        activation_bits=FLOAT_BITS if floats else config.effective_activation_bits(catalogue),
        requested_activation_bits=FLOAT_BITS if floats else training.quantization_activation_bitwidth,
        calibration_count=0 if floats else training.quantization_calibration_count,
        epochs=config.quantization_epochs if quantizer.trains else 0,
        batch_size=training.batch_size if quantizer.trains else 0,
        learning_rate=training.quantization_learning_rate if quantizer.trains else None,
        optimizer=_optimizer(training, config) if quantizer.trains else None,
        distillation=training.quantization_distillation if quantizer.trains else None,
        finetune=training.ptq_finetune
        and not quantizer.trains
        and not floats
        and _few_bits(training, config, catalogue),
        seed=training.seed,
        threads=training.threads,
        output_int=config.output_int and not floats,
        test=config.testing.enable,
        surgery=surgery(config, catalogue),
        checkpoint_every=training.checkpoint_every_epochs,
        edge_bits=None if floats else _edge_bits(training, quantizer, config),
        **({} if floats else _budget(training, quantizer, config)),
    )


def _few_bits(training: Any, config: Any, catalogue: Any) -> bool:
    """Whether any layer may get fewer bits than scales alone are enough for."""
    from flowlab.quant.recipe import tuning_of

    if training.auto_quantization:
        return True
    asked = {training.quantization_weight_bitwidth, training.quantization_edge_bitwidth or FLOAT_BITS}
    return tuning_of(asked, config.effective_activation_bits(catalogue)) is not None


def _edge_bits(training: Any, quantizer: Any, config: Any) -> int | None:
    """Of the first and the last layer; `OptionError` beside bits that are chosen, or for one width for all layers."""
    bits: int | None = training.quantization_edge_bitwidth
    where = config.where("training", "quantization_edge_bitwidth")
    if bits is None:
        return None
    if training.auto_quantization:
        raise OptionError(f"{where}: auto_quantization chooses the bits of every layer. Leave one of the two out")
    if not quantizer.mixed:
        raise OptionError(f"{where}: the quantizer '{quantizer.name}' has one width for all layers. Leave the key out")
    return bits


def _optimizer(training: Any, config: Any) -> str | None:
    """Of quantization-aware training, where it is not the recipe's; its rate would not fit another one."""
    name: str | None = training.quantization_optimizer
    if name is not None and training.quantization_learning_rate is None:
        raise OptionError(
            f"{config.where('training', 'quantization_optimizer')}: '{name}' needs a rate of its own. Set "
            "training.quantization_learning_rate too; a tenth of training.learning_rate is a start"
        )
    return name


def _budget(training: Any, quantizer: Any, config: Any) -> dict[str, Any]:
    """Of mixed precision, where it is asked for; `OptionError` for a quantizer that has one width for all layers."""
    if not training.auto_quantization:
        return {}
    if not quantizer.mixed:
        raise OptionError(
            f"{config.where('training', 'auto_quantization')}: the quantizer '{quantizer.name}' has one width for all "
            "layers. Leave the key out"
        )
    mean, size = training.auto_quantization_mean_bits, training.auto_quantization_weight_bytes
    tolerance = training.autoquant_tolerance_classification if mean is None and size is None else None
    return {"mixed": True, "mean_bits": mean, "weight_bytes": size, "tolerance": tolerance}


def trained_method(asked: QuantizeOptions, *, trains: bool) -> str:
    """``QAT`` or ``PTQ``, as the config writes it; ``none`` where nothing is quantized."""
    if asked.format == NO_FORMAT:
        return "none"
    return "QAT" if trains else "PTQ"


def plugins(config: Any, catalogue: Any) -> Mapping[str, tuple[Plugin, Any]]:
    """The model and the quantizer that the config names."""
    model = catalogue.get("model", config.training.model_name)
    quantizer = catalogue.get("quantizer", config.quantizer_name(catalogue))
    given = config.options_for("training", "quantizer")
    return {
        "model": (model, catalogue.options(model, config.options_for("training", "model_name"))),
        "quantizer": (quantizer, catalogue.options(quantizer, given)),
    }


STAGE = Stage(
    name="quantize",
    run="flowlab.stages.quantize:run",
    needs=("float_model", "features_train", "features_val", "features_test", "feature_spec"),
    makes=(
        "graph",
        "quantized_onnx",
        "int8_onnx",
        "quantization_config",
        "quantized_weights",
        "torch_outputs",
        "metrics_quantize",
    ),
    options=options,
    plugins=plugins,
    code=(
        "flowlab.stages.quantize",
        "flowlab.stages.choice",
        "flowlab.stages.network",
        "flowlab.stages.train",
        "flowlab.learn",
        "flowlab.quant",
        "flowlab.signal.features_file",
        "flowlab.signal.arrow_file",
        "flowlab.compiler.ir",
        "flowlab.compiler.ops",
        "flowlab.compiler.infer",
        "flowlab.compiler.intervals",
        "flowlab.compiler.text",
        "flowlab.compiler.verify",
        "flowlab.compiler.exact_float",
        "flowlab.compiler.export_onnx",
        "flowlab.compiler.export_qdq",
        "flowlab.compiler.run_qdq",
    ),
    libraries=("torch", "numpy", "pyarrow", "onnx", "onnxruntime"),
    torch=True,
)


def run(job: StageJob) -> StageResult:
    """Quantize, export, and measure the integers on validation and test split.

    Raises:
        QuantizationError: naming layer, value and limit where the network does not fit the number format.
        StageError: where a split is empty or not finite, or the loss is no number.
    """
    from flowlab.compiler.export_onnx import export_onnx
    from flowlab.compiler.text import print_graph
    from flowlab.learn.determinism import seeded
    from flowlab.learn.loop import FitData
    from flowlab.quant.quantization_config import print_config
    from flowlab.quant.rebuild import weights_bytes
    from flowlab.signal import features_file

    asked: QuantizeOptions = job.options
    spec = json.loads(job.input("feature_spec").read_text())
    train = features_file.read(job.input("features_train"))
    val = features_file.read(job.input("features_val"))
    test = features_file.read(job.input("features_test"))
    data = FitData(train.features, train.labels, val.features, val.labels)
    with seeded(asked.seed, asked.threads):
        model = _float_model(job, spec)
        quantized, mixed = quantize(job, model, data)
        metrics, outputs, warnings = _measure(job, model, quantized, data, test=test, classes=len(spec["classes"]))
    graph = quantized.graph
    onnx_metadata = {"classes": json.dumps(spec["classes"])}
    account = _account(job, len(train.features), onnx_metadata, mixed)
    int8, differences, said = _int8(job, graph, onnx_metadata, test.features, outputs)
    warnings = (*warnings, *said, *([mixed.sentence()] if mixed else []))
    metrics |= {
        "quantization": account.summary(),
        "int8": differences,
        "mixed": mixed.to_json() if mixed else None,
        "warnings": list(warnings),
    }
    files = {
        "graph": ("graph.txt", print_graph(graph).encode()),
        "quantized_onnx": ("best_model.onnx", export_onnx(graph, onnx_metadata)),
        "quantization_config": ("quantization_config.yaml", print_config(account, graph).encode()),
        "quantized_weights": ("best_model.pt", weights_bytes(graph)),
        "torch_outputs": ("torch_outputs.npz", _npz(outputs)),
        "metrics_quantize": ("metrics_quantize.json", (json.dumps(metrics, indent=1, sort_keys=True) + "\n").encode()),
    }
    if int8:
        files["int8_onnx"] = ("best_model_int8.onnx", int8)
    for role, (name, content) in files.items():
        (job.out / role).mkdir()
        (job.out / role / name).write_bytes(content)
    return StageResult(
        files={"int8_onnx": {}, **{role: {name: job.out / role / name} for role, (name, _) in files.items()}},
        metrics={
            "quantized": metrics["test"],
            **{key: metrics[key] for key in ("val", "best_epoch", "recipe", "quantization", "int8", "mixed")},
        },
        warnings=warnings,
    )


def _float_model(job: StageJob, spec: Mapping[str, Any]) -> Any:
    """The trained float network, in eval mode."""
    from flowlab.learn.problems import PROBLEMS
    from flowlab.learn.state_dict import load_state

    channels, height, width = spec["shape"]
    outputs = PROBLEMS[job.options.problem].outputs(tuple(spec["classes"]))
    module, _ = build(job, (channels, height, width), outputs)
    return load_state(module, job.input("float_model"))


def quantize(job: StageJob, model: Any, data: Any) -> tuple[Any, Any]:
    """What the quantizer makes of a float network, and the table of bits by layer where they differ, else None."""
    asked, mixed = _job(job, model, data)
    return _quantizer(job).quantize(asked, job.plugin_options["quantizer"]), mixed


def _quantizer(job: StageJob) -> Quantizer:
    quantizer = job.plugins["quantizer"]
    if not isinstance(quantizer, Quantizer):
        raise OptionError(f"'{quantizer.name}' is a {quantizer.kind}, and training.quantizer names a quantizer")
    return quantizer


def _job(job: StageJob, model: Any, data: Any) -> tuple[Any, Any]:
    """What the quantizer is asked for, and the table of bits by layer where they differ."""
    from copy import deepcopy
    from dataclasses import replace

    from flowlab.contracts import QuantizeJob
    from flowlab.learn.loop import fit
    from flowlab.learn.trace import float_graph
    from flowlab.quant.fold import fold
    from flowlab.quant.mixed import with_edges
    from flowlab.quant.recipe import recipe_of, widths
    from flowlab.quant.reservoir import reservoir
    from flowlab.quant.teacher import Teacher

    asked: QuantizeOptions = job.options

    def trained(module: Any) -> Any:
        checkpoint, bits = job.scratch / "quantized.checkpoint", widths(made)  # as they are chosen below
        settings = _fit_settings(asked, bits)
        said = recipe_of(bits).sentence(
            settings.epochs, settings.optimizer, settings.learning_rate, settings.distillation
        )
        job.progress(f"quantization-aware training: {said}", 0.0)
        found = fit(
            module,
            data,
            settings,
            checkpoint=checkpoint,
            checkpoint_every=asked.checkpoint_every,
            progress=job.progress,
            teacher=Teacher(made.graph),
        )
        return {**found, "recipe": said}

    chosen = reservoir(len(data.train_features), asked.calibration_count, asked.seed)
    shape = data.train_features.shape[1:]
    made = QuantizeJob(
        model=deepcopy(model),
        graph=float_graph(model, (shape[0], shape[1], shape[2])),
        format=asked.format,
        weight_bits=asked.weight_bits,
        activation_bits=asked.activation_bits,
        calibration=data.train_features[chosen],
        fit=trained,
        output_int=asked.output_int,
        scratch=job.scratch,
        seed=asked.seed,
        progress=job.progress,
        finetune=asked.finetune,
    )
    made, found = _mixed(made, asked) if asked.mixed else (made, None)
    if asked.edge_bits is not None:
        found = with_edges(fold(made.graph), asked.weight_bits, asked.edge_bits)
        made = replace(made, weight_bits=min(found.bits_of.values()), bits_of=found.bits_of)
    return made, found


def _fit_settings(asked: QuantizeOptions, widths: Collection[int]) -> Any:
    """The recipe for the widths of the weights, with what the config says otherwise."""
    from flowlab.learn.loop import FitSettings
    from flowlab.learn.schedule import Cycle
    from flowlab.quant.recipe import recipe_of

    recipe = recipe_of(widths)
    return FitSettings(
        problem=asked.problem,
        epochs=asked.epochs,
        batch_size=asked.batch_size,
        learning_rate=recipe.learning_rate if asked.learning_rate is None else asked.learning_rate,
        optimizer=recipe.optimizer if asked.optimizer is None else asked.optimizer,
        weight_decay=recipe.weight_decay,
        lr_scheduler=recipe.lr_scheduler,
        warmup_epochs=0,
        seed=asked.seed,
        threads=asked.threads,
        distillation=recipe.distillation if asked.distillation is None else asked.distillation,
        temperature=recipe.temperature,
        cycle=Cycle(recipe.folded(asked.epochs), recipe.then) if asked.epochs else Cycle(),
    )


def _mixed(job: Any, asked: QuantizeOptions) -> tuple[Any, Any]:
    """The same job with bits for each layer, and the table of them."""
    from dataclasses import replace

    from flowlab.quant.fold import fold
    from flowlab.quant.mixed import Budget, choose_bits

    budget = Budget(asked.mean_bits, asked.weight_bytes, asked.tolerance)
    found = choose_bits(
        fold(job.graph),
        job.calibration,
        job.format,
        budget,
        activation_bits=job.activation_bits,
        tuned=job.finetune or asked.epochs > 0,
        seed=job.seed,
    )
    return replace(job, weight_bits=min(found.bits_of.values()), bits_of=found.bits_of), found


def _measure(
    job: StageJob, model: Any, quantized: Any, data: Any, *, test: Any, classes: int
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """Metrics of the integers, their outputs on the test split, and warnings.

    A float graph has no integers: its outputs are kept, and what it reaches is the float network's own.
    """
    import numpy as np

    from flowlab.learn.loop import predict
    from flowlab.learn.problems import PROBLEMS, confusion

    problem = PROBLEMS[job.options.problem]
    history = quantized.history
    ((output, value),) = quantized.graph.outputs.items()
    runner = quantized.module
    val = predict(runner, data.val_features)
    tested = len(test.features) > 0
    shape = (0, *quantized.graph.type_of(value).shape)
    result = predict(runner, test.features) if tested else np.zeros(shape, np.int64)
    measured = problem.measure(val, data.val_targets)
    warnings = [*quantized.warnings, *history.get("warnings", ())]
    before = problem.measure(predict(model, data.val_features), data.val_targets)[problem.metric]
    chance = problem.chance(data.val_targets)
    if not problem.at_least_as_good(measured[problem.metric], chance) and problem.at_least_as_good(before, chance):
        warnings.append(
            f"THE QUANTIZED NETWORK IS AT CHANCE LEVEL: validation {problem.metric} {measured[problem.metric]:.4f}, "
            f"float {before:.4f}, chance {chance:.4f}. Look at the calibration windows, or lower the learning rate"
        )
    show = tested and job.options.test and job.options.format != NO_FORMAT
    metrics = {
        "val": measured,
        "test": problem.measure(result, test.labels) if show else None,
        "confusion": confusion(result, test.labels, classes) if show else None,
        "history": list(history.get("epochs", ())),
        "best_epoch": history.get("best_epoch", 0),
        "recipe": history.get("recipe"),
        "warnings": list(dict.fromkeys(warnings)),
    }
    integers = job.options.output_int
    return metrics, {output: result.astype(np.int32) if integers else result}, tuple(metrics["warnings"])


def _int8(
    job: StageJob, graph: Any, onnx_metadata: Mapping[str, str], features: Any, outputs: Mapping[str, Any]
) -> tuple[bytes, dict[str, int] | None, tuple[str, ...]]:
    """For CPUs the QDQ form too: its bytes, where it differs from the exact form on the test windows, and a warning.

    No law covers it; an output that is more than one step away is said.
    """
    quantizer = job.plugins["quantizer"]
    if not isinstance(quantizer, Quantizer) or quantizer.format != "cpu":
        return b"", None, ()
    from flowlab.compiler.export_qdq import export_qdq
    from flowlab.compiler.run_qdq import differences

    ((output, value),) = graph.outputs.items()
    model = export_qdq(graph, onnx_metadata)
    step = 1.0 if job.options.output_int else graph.node(value).attributes["scale"]
    found = differences(model, features, outputs[output], step)
    warning = (
        f"best_model_int8.onnx differs from the exact form by up to {found.max_steps} steps of the output, in "
        f"{found.different} of {found.vectors} test windows"
    )
    return model, found.to_json(), (warning,) if found.max_steps > 1 else ()


def _account(job: StageJob, windows: int, onnx_metadata: Mapping[str, str], mixed: Any = None) -> Any:
    from flowlab.quant.quantization_config import Account

    asked: QuantizeOptions = job.options
    quantizer = job.plugins["quantizer"]
    trains = isinstance(quantizer, Quantizer) and quantizer.trains
    return Account(
        quantizer=quantizer.name,
        method=trained_method(asked, trains=trains),
        number_format=asked.format.name,
        requested_weight_bits=asked.weight_bits,
        requested_activation_bits=asked.requested_activation_bits,
        weight_bits=max(mixed.bits_of.values()) if mixed else asked.weight_bits,
        activation_bits=asked.activation_bits,
        calibration_count=min(asked.calibration_count, windows),
        calibration_seed=asked.seed,
        seed=asked.seed,
        epochs=asked.epochs,
        output_int=asked.output_int,
        onnx_metadata=onnx_metadata,
    )


def _npz(arrays: Mapping[str, Any]) -> bytes:
    """Arrays by name in one file; numpy writes no times into it."""
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
