"""Files, ``--set`` and mappings to a checked `Config`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from flowlab.config.checks import check, check_task
from flowlab.config.layer import Layer, from_file, from_mapping, from_sets, laid_over, own_laid_over
from flowlab.config.own_sections import installed, read_sections
from flowlab.config.place import Entry
from flowlab.config.problems import Problems
from flowlab.config.sections import (
    SECTIONS,
    Common,
    Compilation,
    Dataset,
    FeatureExtraction,
    Testing,
    Training,
    defaults,
)
from flowlab.config.settings import BUILT_IN, Config
from flowlab.config.tiers import FEATURES, held_by, resolve
from flowlab.config.unread import WITHOUT_EFFECT
from flowlab.errors import ConfigError

STRIDES = "SimpleWindow"  # the only transform that reads stride_size
TOLERANCE = "autoquant_tolerance_classification"  # of the only task that is built


def load(paths: Sequence[Path], sets: Sequence[str], catalogue: Any) -> Config:
    """Read files, laid over each other in their order, and then each ``section.key=value`` of ``sets``.

    Args:
        paths: YAML files; a later one wins. Relative paths inside count from the file's folder.
        sets: as on the command line; values are YAML, relative paths count from the working directory.
        catalogue: what the installed packages bring (`flowlab.plugins.Catalogue`).

    Raises:
        ConfigError: naming file, section, key, line, what was found and what to do; a line for each problem.
        NotBuiltYet: for a task, a model or a preset that this version does not have; a task alone, before all else.
    """
    if not paths:
        raise ConfigError("no config file given. Write: flowlab run my.yaml")
    problems = Problems()
    layers = []
    for path in paths:
        with problems.collected():
            layers.append(from_file(Path(path), installed(catalogue)))
    problems.check()  # of a file that cannot be read nothing else can be said
    return load_layers([*layers, from_sets(sets, Path.cwd(), installed(catalogue))], catalogue)


def load_mapping(
    mapping: Mapping[str, Any], catalogue: Any, *, sets: Sequence[str] = (), source: str = "config"
) -> Config:
    """The same for a mapping of sections; relative paths count from the working directory. Raises like `load`."""
    known, here = installed(catalogue), Path.cwd()
    return load_layers([from_mapping(mapping, source, here, known), from_sets(sets, here, known)], catalogue)


def load_layers(layers: Sequence[Layer], catalogue: Any) -> Config:
    """The config of layers, a later one over an earlier one. Raises like `load`."""
    problems = Problems()
    for layer in layers:
        problems.extend(layer.problems)
    given = laid_over(layers)
    task = given["common"].get("task_type")
    if task is not None:
        check_task(task.value, task.place.at("common.task_type"))
    resolved = resolve(given, catalogue, problems)
    sections = resolved.sections
    own_given = own_laid_over(layers)
    own = read_sections(own_given, catalogue, problems)
    config = Config(
        common=cast(Common, sections["common"]),
        dataset=cast(Dataset, sections["dataset"]),
        data_processing_feature_extraction=cast(FeatureExtraction, sections[FEATURES]),
        training=cast(Training, sections["training"]),
        testing=cast(Testing, sections["testing"]),
        compilation=cast(Compilation, sections["compilation"]),
        warnings=tuple(dict.fromkeys(warning for layer in layers for warning in layer.warnings)),
        given={
            **{name: _values(given[name]) for name in SECTIONS if given[name]},
            **{name: _values(entries) for name, entries in own_given.items()},
        },
        tiers={**resolved.tiers, **_places(own_given)},
        plugin_options=resolved.plugin_options,
        presets=resolved.presets,
        own=own,
    )
    check(config, catalogue, problems)
    return config.with_warnings(
        *_without_effect(config),
        *_stride(config, catalogue),
        *_activation_bits(config, catalogue),
        *_mixed(config),
        *_preset(config, catalogue),
    )


def _values(entries: Mapping[str, Entry]) -> dict[str, Any]:
    return {key: entry.value for key, entry in entries.items()}


def _places(given: Mapping[str, Mapping[str, Entry]]) -> dict[str, str]:
    """Where each value stands, by "section.key"."""
    return {f"{section}.{key}": entry.place.at() for section, keys in given.items() for key, entry in keys.items()}


def _preset(config: Config, catalogue: Any) -> list[str]:
    """A compile preset that other devices have, or this one for other tasks, leaves the device's default."""
    name = config.compilation.preset_name
    if name is None or "compile" in config.presets:
        return []
    when = held_by(config.common.task_type, config.common.target_device)
    known = [one for one in catalogue.preset_names("compile") if catalogue.preset("compile", one, **when) is not None]
    return [
        f"compilation.preset_name: '{name}' is not made for task {when['task_type']} on {when['target_device']}: the "
        f"device's default is used. It has {', '.join(known) or 'no presets for this task'}"
    ]


def _without_effect(config: Config) -> list[str]:
    sentences = []
    for section, keys in WITHOUT_EFFECT.items():
        values = config.section(section)
        for key, reason in keys.items():
            asked = key in config.given.get(section, {})
            if asked and getattr(values, key) != defaults(section)[key]:
                sentences.append(f"{section}.{key} changes nothing: {reason}")
    return sentences


def _stride(config: Config, catalogue: Any) -> list[str]:
    """Its unit is a fraction of frame_size, and only one transform reads it: both are easily taken otherwise."""
    section = config.data_processing_feature_extraction
    frame, stride = section.frame_size, section.stride_size
    given = "stride_size" in config.given.get(FEATURES, {})
    where = f"{FEATURES}.stride_size"
    hop = int(frame * stride)
    if STRIDES not in section.data_proc_transforms:
        ignored = given and stride != defaults(FEATURES)["stride_size"] and not _own_stride(config, catalogue)
        return [f"{where} changes nothing: only {STRIDES} in data_proc_transforms reads it"] if ignored else []
    if config.tier(FEATURES, "stride_size") == BUILT_IN and hop:
        return [f"{where} is not given: {STRIDES} starts a frame every {stride:g} of frame_size, here {hop} samples"]
    if not given:
        return []
    if stride and not hop:
        return [f"{where} is a fraction of frame_size: {stride:g} of {frame} samples is less than one, and counts as 1"]
    if stride > 1:
        cure = f". For a hop of {stride:g} samples write {_fraction(int(stride), frame)}" if stride.is_integer() else ""
        left = f"{stride:g} leaves {hop - frame} samples out between two frames"
        return [f"{where} is a fraction of frame_size: {left}{cure}"]
    return []


def _mixed(config: Config) -> list[str]:
    """What the choice of bits by layer takes the place of, and what is given for it and not read."""
    training, given = config.training, config.given.get("training", {})
    budgets = [key for key in ("auto_quantization_mean_bits", "auto_quantization_weight_bytes") if key in given]
    tolerances = [key for key in given if key.startswith("autoquant_tolerance_")]
    if not training.auto_quantization:
        return [f"training.{key} changes nothing without 'auto_quantization: true'" for key in (*budgets, *tolerances)]
    said = []
    if training.quantization != 0 and "quantization_weight_bitwidth" in given:
        said.append(
            f"weight bits {training.quantization_weight_bitwidth} -> chosen for each layer: 'auto_quantization' is on"
        )
    if budgets:
        said += [f"training.{key} changes nothing beside '{budgets[0]}', which is the budget" for key in tolerances]
        return said
    others = [key for key in tolerances if key != TOLERANCE]
    return [
        *said,
        *(f"training.{key} is of another task, and changes nothing: '{TOLERANCE}' is read" for key in others),
    ]


def _own_stride(config: Config, catalogue: Any) -> bool:
    """Whether the extractor that the config names has an option of this name."""
    name = config.data_processing_feature_extraction.feature_extraction_name
    extractor = catalogue.find("feature_extractor", name) if name else None
    return extractor is not None and "stride_size" in {one.name for one in fields(extractor.Options)}


def _fraction(hop: int, frame: int) -> str:
    """The shortest decimal that gives this hop; rounded down, also by the product itself, it gives one sample less."""
    digits = 0
    while True:
        least = -(-hop * 10**digits // frame)
        for number in (least, least + 1):
            if int(frame * (number / 10**digits)) == hop:
                return f"{number / 10**digits:.{digits}f}"
        digits += 1


def _activation_bits(config: Config, catalogue: Any) -> list[str]:
    asked, got = config.training.quantization_activation_bitwidth, config.effective_activation_bits(catalogue)
    if asked == got:
        return []
    unit = getattr(catalogue.get("target", config.common.target_device), "unit_name", "NPU")
    return [
        f"activation bits {asked} -> {got}: the {unit} stores bytes; {asked} would save nothing and cost accuracy; "
        f"the generic quantizer, 'quantization: 1', has real {asked}-bit activations"
    ]
