"""Values from the weakest tier to the strongest, and the check of their types.

built-in < the model's < the dataset's < the feature preset's < the compile preset's < files < ``--set``
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowlab.config.place import Entry, Place
from flowlab.config.problems import Problems
from flowlab.config.redaction import redacted
from flowlab.config.sections import PLUGINS, SECTIONS, Section, checks, keys
from flowlab.errors import ConfigError, FlowlabError, NotBuiltYet, PluginError, did_you_mean, unknown_name

FEATURES = "data_processing_feature_extraction"
Tree = Mapping[str, Mapping[str, Entry]]

REQUIRED = (("common", "task_type"), ("common", "target_device"), ("training", "model_name"))


@dataclass(frozen=True)
class Resolved:
    """The sections with every tier applied.

    ``tiers`` says by "section.key" where a value comes from; ``plugin_options`` are the options that stand beside a
    plugin's name, by the "section.key" that chose it.
    """

    sections: Mapping[str, Section]
    tiers: Mapping[str, str]
    plugin_options: Mapping[str, Mapping[str, Any]]
    presets: Mapping[str, str] = field(default_factory=dict)  # kind -> name of the preset that was applied


def resolve(given: Tree, catalogue: Any, problems: Problems) -> Resolved:
    """Apply every tier to what the user gave.

    What cannot be used is added to ``problems``, each value by its place, and its key has its default.

    Raises:
        ConfigError: with all of ``problems``, where a key is missing without which there is no config.
    """
    given, plugin_options = _split_choices(given, problems)
    _require(given, problems)
    merged: dict[str, dict[str, Entry]] = {section: {} for section in SECTIONS}
    presets: dict[str, str] = {}
    with problems.collected("training"):
        _model_tier(merged, given, catalogue)
    with problems.collected("dataset"):
        _dataset_tier(merged, given, catalogue)
    with problems.collected(FEATURES):
        _feature_tier(merged, given, catalogue, presets)
    with problems.collected("common", "compilation"):
        _compile_tier(merged, given, catalogue, presets)
    for section, entries in given.items():
        merged[section].update(entries)
    with problems.collected("training"):
        _quantizer_tier(merged, given, catalogue, problems)
    sections = _validated(merged, problems)
    tiers = {
        f"{section}.{key}": entry.place.at() for section, entries in merged.items() for key, entry in entries.items()
    }
    return Resolved(sections, tiers, plugin_options, presets)


def name_in(given: Tree, section: str, key: str) -> str | None:
    """The name that the user gave under a key, or None."""
    entry = given[section].get(key)
    return entry.value if entry is not None and isinstance(entry.value, str) else None


def _split_choices(given: Tree, problems: Problems) -> tuple[Tree, Mapping[str, Mapping[str, Any]]]:
    """Take ``{name: ..., option: ...}`` apart into the name, which stays, and the options."""
    split = {section: dict(entries) for section, entries in given.items()}
    options: dict[str, Mapping[str, Any]] = {}
    for section, chosen in PLUGINS.items():
        for key in chosen:
            entry = split[section].get(key)
            if entry is None or not isinstance(entry.value, Mapping):
                continue
            values = dict(entry.value)
            name = values.pop("name", None)
            if not isinstance(name, str):
                place = entry.place.at(f"{section}.{key}")
                found = ", ".join(map(str, entry.value))[:80] or "no option"  # a value may be a secret
                problems.add(f"{place}: found {found}, and no 'name' that is a text", section)
                del split[section][key]
                continue
            split[section][key] = Entry(name, entry.place, entry.base)
            options[f"{section}.{key}"] = values
    return split, options


def _require(given: Tree, problems: Problems) -> None:
    missing = [(section, key) for section, key in REQUIRED if key not in given[section]]
    if missing:
        problems.check()  # a misspelt key is not missing as well
        what = ", ".join(f"{section}.{key}" for section, key in missing)
        verb = "is" if len(missing) == 1 else "are"
        raise ConfigError(
            f"{what} {verb} missing. Write {'it' if len(missing) == 1 else 'them'}, or, if this file is a part of a "
            f"config, lay it over a whole one: flowlab run whole.yaml part.yaml"
        )


def _model_tier(merged: dict[str, dict[str, Entry]], given: Tree, catalogue: Any) -> None:
    """What the model sets; the device's own quantizer becomes the generic one where the device has none."""
    name = name_in(given, "training", "model_name")
    if name is None:
        return
    model = _plugin(given, catalogue, "model", name, ("training", "model_name"))
    values = getattr(model, "defaults", {})
    _apply(merged, "training", values, f"model {name}")
    target = catalogue.find("target", name_in(given, "common", "target_device") or "")
    if values.get("quantization") == OWN and target is not None and not target.quantizers:
        tier = f"model {name}, for a device without an accelerator"
        _apply(merged, "training", {"quantization": GENERIC}, tier)


def _dataset_tier(merged: dict[str, dict[str, Entry]], given: Tree, catalogue: Any) -> None:
    name = name_in(given, "dataset", "dataset_name")
    dataset = catalogue.find("dataset", name) if name is not None else None
    if dataset is not None:
        _apply(merged, FEATURES, getattr(dataset, "defaults", {}), f"dataset {name}")


def _feature_tier(merged: dict[str, dict[str, Entry]], given: Tree, catalogue: Any, presets: dict[str, str]) -> None:
    name = name_in(given, FEATURES, "feature_extraction_name")
    if name is None:
        return
    preset = _preset(given, catalogue, "feature_extraction", name, (FEATURES, "feature_extraction_name"))
    if preset is not None:
        presets["feature_extraction"] = name
        _apply(merged, FEATURES, preset.values, f"feature preset {name}")
    elif catalogue.find("feature_extractor", name) is None:
        known = [*catalogue.preset_names("feature_extraction"), *catalogue.names("feature_extractor")]
        text = unknown_name("feature preset or extractor", name, known)
        raise _at(given, (FEATURES, "feature_extraction_name"), text)


def _compile_tier(merged: dict[str, dict[str, Entry]], given: Tree, catalogue: Any, presets: dict[str, str]) -> None:
    device = name_in(given, "common", "target_device")
    if device is not None:
        _plugin(given, catalogue, "target", device, ("common", "target_device"))
    name = name_in(given, "compilation", "preset_name")
    if name is None:
        return
    preset = _preset(given, catalogue, "compile", name, ("compilation", "preset_name"), elsewhere=True)
    if preset is None and name in catalogue.preset_names("compile"):
        return  # one of other devices: what the device has without any, which the config's warnings say
    if preset is None:
        text = unknown_name("compile preset", name, catalogue.preset_names("compile"))
        raise _at(given, ("compilation", "preset_name"), text)
    presets["compile"] = name
    settings = {key: value for key, value in preset.values.items() if key in keys("compilation")}
    _apply(merged, "compilation", settings, f"compile preset {name}")


OWN, GENERIC = 2, 1  # of `quantization`: the target's own quantizer, and the one for any CPU
MODES = {"": 0, "cpu": GENERIC, "npu": OWN}  # `quantization` of a quantizer, by the number format that it asks for


def _quantizer_tier(merged: dict[str, dict[str, Entry]], given: Tree, catalogue: Any, problems: Problems) -> None:
    """A quantizer that is named decides ``quantization`` and ``quantization_method``; a file may say the same."""
    name = name_in(given, "training", "quantizer")
    if name is None:
        return
    quantizer = _plugin(given, catalogue, "quantizer", name, ("training", "quantizer"))
    tier = Place(f"quantizer {name}")
    mode = MODES.get(quantizer.format, OWN)
    with problems.collected("training"):
        _follows(merged, given, "quantization", Entry(mode, tier, Path()), f"'{name}' is a 'quantization: {mode}'")
    if quantizer.format:
        method = "QAT" if quantizer.trains else "PTQ"
        with problems.collected("training"):
            _follows(merged, given, "quantization_method", Entry(method, tier, Path()), f"'{name}' is {method}")


def _follows(merged: dict[str, dict[str, Entry]], given: Tree, key: str, follows: Entry, what: str) -> None:
    entry = given["training"].get(key)
    if entry is None:
        merged["training"][key] = follows
        return
    try:
        asked = checks("training")[key].convert(entry.value)
    except (ValueError, OverflowError):
        return  # said with the other types
    if asked != follows.value:
        text = f"found {asked}, but the quantizer {what}. Leave one of the two out, or set it to {follows.value}"
        raise _at(given, ("training", key), text)


def held_by(task_type: str, target_device: str) -> dict[str, str]:
    """What presets are restricted by."""
    return {"task_type": task_type, "target_device": target_device}


def _preset(
    given: Tree, catalogue: Any, kind: str, name: str, place: tuple[str, str], *, elsewhere: bool = False
) -> Any:
    """The preset, None where nobody brings one; raises where it exists and does not hold here, unless it may."""
    when = held_by(name_in(given, "common", "task_type") or "", name_in(given, "common", "target_device") or "")
    try:
        preset = catalogue.preset(kind, name, **when)
    except FlowlabError as error:
        raise _again(given, place, error) from None
    if preset is None and name in catalogue.preset_names(kind) and not elsewhere:
        here = f"task {when['task_type']} on {when['target_device']}"
        raise _at(given, place, f"preset '{name}' is not made for {here}")
    return preset


def _plugin(given: Tree, catalogue: Any, kind: str, name: str, place: tuple[str, str]) -> Any:
    try:
        return catalogue.get(kind, name)
    except FlowlabError as error:
        raise _again(given, place, error) from None


def _again(given: Tree, place_of: tuple[str, str], error: FlowlabError) -> FlowlabError:
    """The same error with its place; what is not built yet stays that."""
    placed = _at(given, place_of, str(error))
    return NotBuiltYet(str(placed)) if isinstance(error, NotBuiltYet) else placed


def _at(given: Tree, place_of: tuple[str, str], text: str) -> ConfigError:
    section, key = place_of
    entry = given[section].get(key)
    place = entry.place.at(f"{section}.{key}") if entry is not None else f"{section}.{key}"
    return ConfigError(f"{place}: {text}")


def _apply(merged: dict[str, dict[str, Entry]], section: str, values: Mapping[str, Any], tier: str) -> None:
    for key, value in values.items():
        if key not in keys(section):
            raise PluginError(f"{tier} sets '{key}', which is no key of '{section}'.{did_you_mean(key, keys(section))}")
        if value is not None:
            merged[section][key] = Entry(value, Place(tier), Path())


def _validated(merged: Tree, problems: Problems) -> Mapping[str, Section]:
    found: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for name in SECTIONS:
        for key, entry in merged[name].items():
            try:
                found[name][key] = checks(name)[key].convert(entry.value)
            except (ValueError, OverflowError):
                problems.add(_wrong(name, key, entry), name)
    if any(key not in found[section] for section, key in REQUIRED):
        problems.check()
    return {name: section(**found[name]) for name, section in SECTIONS.items()}


def _wrong(section: str, key: str, entry: Entry) -> str:
    """One sentence for a value of a wrong type: place, what was found, what is expected."""
    check = checks(section)[key]
    suggestion = did_you_mean(entry.value, check.choices) if isinstance(entry.value, str) else ""
    found = _short(redacted(entry.value, key))
    return f"{entry.place.at(f'{section}.{key}')}: found {found}, expected {check.expected}.{suggestion}"


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
