"""Stage ``inspect``, the cheap gate: the untrained model against quantizer and device, before an hour of training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

from flowlab.contracts import Model, NumberFormat, Plugin, Quantizer, Stage, StageJob, StageResult, Target
from flowlab.errors import GraphError, QuantizationError
from flowlab.stages.choice import FLOAT_BITS, NO_FORMAT, accelerator_off, chosen_format
from flowlab.stages.network import build, surgery
from flowlab.stages.train import chosen_problem

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph
    from flowlab.compiler.place import Placement


@dataclass(frozen=True)
class InspectOptions:
    """What of the config decides what can work. ``format`` is the target's number format, by value.

    Bits are 32 where nothing is quantized.
    """

    problem: str
    weight_bits: int
    activation_bits: int
    format: NumberFormat
    accelerator_off: str = ""
    surgery: bool = False


def options(config: Any, catalogue: Any) -> InspectOptions:
    """Copy them."""
    form = chosen_format(config, catalogue)
    return InspectOptions(
        problem=chosen_problem(catalogue.get("model", config.training.model_name)),
        weight_bits=FLOAT_BITS if form == NO_FORMAT else config.training.quantization_weight_bitwidth,
        activation_bits=FLOAT_BITS if form == NO_FORMAT else config.effective_activation_bits(catalogue),
        format=form,
        accelerator_off=accelerator_off(config, catalogue),
        surgery=surgery(config, catalogue),
    )


def plugins(config: Any, catalogue: Any) -> Mapping[str, tuple[Plugin, Any]]:
    """The model, the quantizer and the device that the config names."""
    model = catalogue.get("model", config.training.model_name)
    quantizer = catalogue.get("quantizer", config.quantizer_name(catalogue))
    target = catalogue.get("target", config.common.target_device)
    return {
        "model": (model, catalogue.options(model, config.options_for("training", "model_name"))),
        "quantizer": (quantizer, catalogue.options(quantizer, config.options_for("training", "quantizer"))),
        "target": (target, catalogue.options(target, config.options_for("common", "target_device"))),
    }


STAGE = Stage(
    name="inspect",
    run="flowlab.stages.inspect:run",
    needs=("feature_spec",),
    makes=("gate",),
    options=options,
    plugins=plugins,
    code=(
        "flowlab.stages.inspect",
        "flowlab.stages.choice",
        "flowlab.stages.network",
        "flowlab.stages.train",
        "flowlab.compiler",
        "flowlab.learn",
        "flowlab.quant.lite",
        "flowlab.quant.surgery",
        "flowlab.quant.squeeze_excite",
    ),
    libraries=("torch", "numpy"),
    torch=True,
)


def run(job: StageJob) -> StageResult:
    """Build the model, ask the quantizer, pad and place, and write the layer table.

    Raises:
        GraphError: naming what of the network the graph cannot express, or what keeps a device from running it whole
            that runs nothing else.
        QuantizationError: with every problem that the quantizer finds.
    """
    from flowlab.compiler.pipeline import apply_passes, place_for, tidy_passes
    from flowlab.compiler.unbuilt import unbuilt

    asked: InspectOptions = job.options
    model = cast(Model, job.plugins["model"])
    quantizer = cast(Quantizer, job.plugins["quantizer"])
    target = cast(Target, job.plugins["target"])
    graph = _untrained(job)
    problems = (*quantizer.check(graph, asked.format, job.plugin_options["quantizer"]), *unbuilt(graph))
    if problems:
        raise QuantizationError(
            f"{model.name} cannot be quantized by {quantizer.name} for {target.name}, and nothing was trained:\n"
            + "\n".join(f"  * {problem}" for problem in problems)
        )
    off = asked.accelerator_off
    placement = place_for(target, apply_passes(graph, tidy_passes()), off)
    refuse_parts(model.name, target, placement, off)
    warnings = () if off else placement.sentences()  # what the config itself asks for is no surprise
    gate = {
        "layers": [asdict(row) for row in placement.rows],
        "problems": list(problems),
        "npu_share": placement.npu_share,
        "unit": target.unit_name,
        "warnings": list(warnings),
    }
    path = job.out / "gate.json"
    path.write_text(json.dumps(gate, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return StageResult(
        files={"gate": {"gate.json": path}},
        metrics={"npu_share": placement.npu_share, "layers": len(placement.rows)},
        warnings=warnings,
    )


def refuse_parts(model: str, target: Target, placement: Placement, off: str) -> None:
    """Refuse what a device cannot run whose accelerator runs whole networks alone.

    Raises:
        GraphError: with every layer that the accelerator does not take, its reason and its cure.
    """
    if not target.whole_networks or all(row.unit != "cpu" for row in placement.rows):
        return
    reasons = (off,) if off else placement.sentences()
    raise GraphError(
        f"{model} cannot run on {target.name}, whose {target.unit_name} runs all of a network, and nothing was "
        "trained:\n" + "\n".join(f"  * {reason}" for reason in reasons)
    )


def _untrained(job: StageJob) -> Graph:
    """The float graph of the model as it is built, with the width of weights that is asked for."""
    from flowlab.compiler.rewrite import replace_nodes
    from flowlab.learn.determinism import seeded
    from flowlab.learn.problems import PROBLEMS
    from flowlab.learn.trace import float_graph

    spec = json.loads(job.input("feature_spec").read_text(encoding="utf-8"))
    channels, height, width = spec["shape"]
    outputs = PROBLEMS[job.options.problem].outputs(tuple(spec["classes"]))
    with seeded(0, 1):
        module, _ = build(job, (channels, height, width), outputs)
        graph = float_graph(module, (channels, height, width))
    bits: int = job.options.weight_bits
    return replace_nodes(
        graph, lambda node: node.with_attributes(weight_bits=bits) if node.op in ("conv", "linear") else node
    )
