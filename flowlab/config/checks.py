"""What must hold between keys: checked once, when the config is loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowlab.config.address import VARIABLE, is_address, problem
from flowlab.config.problems import Problems
from flowlab.config.sections import PLUGINS
from flowlab.config.settings import Config, extractor_options
from flowlab.config.unread import WITHOUT_EFFECT
from flowlab.errors import ConfigError, NotBuiltYet, OptionError, did_you_mean

CLASSIFICATION = "timeseries_classification"
TASKS: dict[str, str] = {
    "generic_timeseries_classification": CLASSIFICATION,
    "arc_fault": CLASSIFICATION,
    "motor_fault": CLASSIFICATION,
    "ecg_classification": CLASSIFICATION,
    "blower_imbalance": CLASSIFICATION,
    "pir_detection": CLASSIFICATION,
}
"""Task types that this version runs, and their category."""

LATER_TASKS = (
    "generic_timeseries_regression",
    "generic_timeseries_anomalydetection",
    "generic_timeseries_forecasting",
    "image_classification",
    "audio_classification",
    "radar_classification",
)

FOLDER_NAME = re.compile(r"[\w][\w .+-]{0,99}")
SHA256 = re.compile(r"[0-9a-fA-F]{64}")
FRACTION_TOLERANCE = 1e-6
READ = ("dataset", "input_data_path")  # a path that decides nothing by itself: its bytes do

LINKS = {"latest": "the last run's", "promoted": "the promoted run's"}  # in artifacts/, beside the runs' folders


def check(config: Config, catalogue: Any, problems: Problems) -> None:
    """Raise `ConfigError` for what cannot be run, each naming key, place and what to do.

    Args:
        config: what was loaded.
        catalogue: what is installed.
        problems: what is wrong already; where a section is, nothing that builds on it is looked at.
    """
    checks: tuple[tuple[Callable[[], None], tuple[str, ...]], ...] = (
        (lambda: _task(config), ("common",)),
        (lambda: _enabled(config), ("dataset", "training")),
        (lambda: _variables(config, problems), ()),
        (lambda: _split(config), ("dataset",)),
        (lambda: _dataset(config, catalogue), ("dataset",)),
        (lambda: _problem(config, catalogue), ("common", "training")),
        (lambda: _options(config, catalogue, problems), ()),
        (lambda: _budget(config), ("training",)),
        (lambda: _gates(config, catalogue), ("common", "training", "testing", "compilation")),
    )
    for one, sections in checks:
        if problems.spare(*sections):
            with problems.collected():
                one()
    problems.check()


def check_task(task: Any, where: str) -> None:
    """Raise `NotBuiltYet` for a task that is to come: nothing else of its config matters."""
    if task in LATER_TASKS:
        raise NotBuiltYet(f"{where}: task '{task}' is not built yet. Use one of {_known()}")


def _fail(config: Config, section: str, key: str, text: str) -> ConfigError:
    return ConfigError(f"{config.where(section, key)}: {text}")


def _task(config: Config) -> None:
    task = config.common.task_type
    if task in TASKS:
        return
    part_of_one = any(task.lower() in one for one in TASKS)
    suggestion = did_you_mean(task, TASKS if part_of_one else (*TASKS, *LATER_TASKS))
    raise _fail(config, "common", "task_type", f"no task '{task}'.{suggestion} Known: {_known()}")


def _known() -> str:
    return ", ".join(TASKS)


def _enabled(config: Config) -> None:
    if not config.dataset.enable:
        raise _fail(
            config,
            "dataset",
            "enable",
            "a run without data is not possible. Leave the key out: what was ingested before is taken from the store, "
            "at no cost",
        )
    if not config.training.enable:
        raise _fail(
            config,
            "training",
            "enable",
            "a run without a model is not possible. Leave the key out: what was trained before is taken from the "
            "store, at no cost; 'training_epochs: 0' exports an untrained model",
        )


def _budget(config: Config) -> None:
    """Mixed precision has one budget."""
    training = config.training
    if training.auto_quantization_mean_bits is not None and training.auto_quantization_weight_bytes is not None:
        raise _fail(
            config,
            "training",
            "auto_quantization_weight_bytes",
            "found together with 'auto_quantization_mean_bits'. Leave one of the two out",
        )


def _variables(config: Config, problems: Problems) -> None:
    """Refuse ``${NAME}`` where it would be taken as it stands: what decides results is in fingerprints by its value."""
    for section, values in config.given.items():
        for key, value in values.items():
            if (section, key) == READ or key in PLUGINS.get(section, {}) or key in WITHOUT_EFFECT.get(section, {}):
                continue
            texts = value if isinstance(value, (list, tuple)) else [value]
            found = next((one for text in texts if isinstance(text, str) for one in VARIABLE.findall(text)), None)
            if found and problems.spare(section):
                name = f"{section}.{key}"
                text = f"'${{{found}}}' is read from the environment in {'.'.join(READ)} and in options of plugins only"
                problems.add(_fail(config, section, key, f'{text}. Write --set {name}="${found}" in its place'))


def _split(config: Config) -> None:
    total = math.fsum(config.dataset.split_factor)
    if abs(total - 1) > FRACTION_TOLERANCE:
        found = ", ".join(f"{one:g}" for one in config.dataset.split_factor)
        raise _fail(config, "dataset", "split_factor", f"found {found}, which add up to {total:g}, expected 1")
    if len(set(config.dataset.split_names)) != 3:
        raise _fail(config, "dataset", "split_names", f"found {config.dataset.split_names}, expected three names")


def _dataset(config: Config, catalogue: Any) -> None:
    name, path = config.dataset.dataset_name, config.dataset.input_data_path
    if name is not None and not FOLDER_NAME.fullmatch(name):
        raise _fail(
            config,
            "dataset",
            "dataset_name",
            f"found {name!r}, expected letters, digits and '_ . + -': it names a folder",
        )
    if name in LINKS:
        raise _fail(
            config, "dataset", "dataset_name", f"found '{name}', expected another name: {LINKS[name]} link has it"
        )
    for key in ("data_dir", "annotation_dir", "annotation_prefix"):
        _inside(config, key)
    sha256 = config.dataset.sha256
    if sha256 is not None and not SHA256.fullmatch(sha256):
        raise _fail(config, "dataset", "sha256", f"found {sha256[:80]!r}, expected the 64 digits of a sha256")
    if path is not None:
        _path(config, path)
    elif name is None:
        raise ConfigError(
            "dataset: nothing says where the data are. Give a folder or a .zip in 'input_data_path', or the name of a "
            f"dataset in 'dataset_name'. Known: {_listed(catalogue)}"
        )
    elif catalogue.find("dataset", name) is None:
        suggestion = did_you_mean(name, catalogue.names("dataset"))
        raise _fail(
            config,
            "dataset",
            "dataset_name",
            f"no dataset named '{name}', and no path to its data in 'input_data_path'.{suggestion} "
            f"Known: {_listed(catalogue)}{catalogue.broken_text()}",
        )


def _inside(config: Config, key: str) -> None:
    """A folder or prefix of the data's own: nothing outside the dataset is read by it."""
    value = getattr(config.dataset, key)
    if value and (value.startswith("/") or ".." in value.split("/") or "\0" in value):
        raise _fail(config, "dataset", key, f"found {value[:80]!r}, expected a name inside the dataset's folder")


def _path(config: Config, path: str) -> None:
    where = config.where("dataset", "input_data_path")
    if is_address(path):
        if reason := problem(path):
            raise ConfigError(f"{where}: {reason}")
        return
    if VARIABLE.search(path):  # known where the run starts
        return
    found = Path(path)
    try:
        there = found.exists()
    except (OSError, ValueError):
        there = False
    if not there:
        raise ConfigError(f"{where}: no file or folder '{path[:400]}'")
    if not found.is_dir() and found.suffix.lower() != ".zip":
        raise ConfigError(f"{where}: '{path}' is neither a folder nor a .zip file")


def _listed(catalogue: Any) -> str:
    return ", ".join(catalogue.names("dataset")) or "none"


def _problem(config: Config, catalogue: Any) -> None:
    model = catalogue.get("model", config.training.model_name)
    problems = getattr(model, "problems", ("classification",))
    if "classification" not in problems:
        raise _fail(
            config,
            "training",
            "model_name",
            f"model '{config.training.model_name}' is for {', '.join(problems)}, and "
            f"'{config.common.task_type}' is a classification",
        )


def _options(config: Config, catalogue: Any, problems: Problems) -> None:
    """The options beside a plugin's name are the plugin's own."""
    for place in config.plugin_options:
        section, key = place.split(".")
        name = getattr(config.section(section), key)
        plugin = catalogue.find(PLUGINS[section][key], name) if problems.spare(section) else None
        if plugin is not None:
            with problems.collected():
                _read(config, catalogue, plugin, (section, key))
        elif PLUGINS[section][key] == "dataset" and problems.spare(section):
            problems.add(f"{config.where(section, key)}: no package brings a dataset '{name}', so it has no options")


def _read(config: Config, catalogue: Any, plugin: Any, place: tuple[str, str]) -> None:
    options = config.options_for(*place)
    if plugin.kind == "feature_extractor":  # the section's keys are options too
        options = {key: value for key, value in extractor_options(config, plugin).items() if value is not None}
    try:
        catalogue.options(plugin, options)
    except OptionError as error:
        raise ConfigError(f"{config.where(*place)}: {error}") from None


def _gates(config: Config, catalogue: Any) -> None:
    """Gates that no run of this config could pass, or that nothing would measure: said now, not after a training."""
    testing, compilation = config.testing, config.compilation
    if testing.max_accuracy_drop is not None and not (testing.enable and compilation.enable):
        off = "testing.enable" if not testing.enable else "compilation.enable"
        raise _fail(config, "testing", "max_accuracy_drop", f"nothing is simulated with '{off}: False'. Leave one out")
    for key in ("max_flash_bytes", "max_ram_bytes"):
        if getattr(compilation, key) is not None and not compilation.enable:
            raise _fail(
                config, "compilation", key, "no program is made with 'compilation.enable: False'. Leave one out"
            )
    if compilation.require_npu:
        _accelerator(config, catalogue)


def _accelerator(config: Config, catalogue: Any) -> None:
    """Refuse what puts every layer on the CPU."""
    target = catalogue.get("target", config.common.target_device)
    settings = {key: value for key, value in vars(config.compilation).items() if value is not None}
    if not target.rules():
        why = f"'{target.name}' has no accelerator: every layer runs on the CPU. Choose another target_device"
    elif (mode := config.training.quantization) != 2:
        named = config.training.quantizer
        found = f"the quantizer '{named}' (quantization: {mode})" if named else f"'quantization: {mode}'"
        why = f"{found} puts every layer on the CPU. Write 'quantization: 2'"
    elif off := target.accelerator_off(settings):
        why = f"{off.rstrip('.')}. Choose another compile preset"
    else:
        return
    raise _fail(config, "compilation", "require_npu", why)
