"""The checked config: frozen sections, and what follows from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowlab.config.address import file_name, is_address
from flowlab.config.own_sections import OwnSection
from flowlab.config.sections import (
    SECTIONS,
    Common,
    Compilation,
    Dataset,
    FeatureExtraction,
    Section,
    Testing,
    Training,
    defaults,
)
from flowlab.config.unread import NOT_BUILT
from flowlab.errors import ConfigError, FlowlabError, NotBuiltYet, OptionError, did_you_mean

MIN_QUANTIZATION_EPOCHS = 10
BUILT_IN = "built-in"  # the weakest tier
SHORT_FORMS: Mapping[int, Mapping[str, str]] = {
    0: {"QAT": "none", "PTQ": "none"},
    1: {"QAT": "generic_qat", "PTQ": "generic_ptq"},
}
"""What ``quantization: 0`` and ``1`` are short for, by method; ``2`` is what the target brings."""


@dataclass(frozen=True)
class Config:
    """What a run is asked to do; paths are absolute.

    ``warnings`` are sentences for people, without file names. ``given`` is what the user wrote, merged, by section
    and key (plain JSON values): loading it again as a mapping gives an equal config.
    ``plugin_options`` are the options beside a plugin's name, by "section.key". ``presets`` are names by kind.
    ``own`` are the sections of packages, each with its stage, by the name that the config has for it.
    """

    common: Common
    dataset: Dataset
    data_processing_feature_extraction: FeatureExtraction
    training: Training
    testing: Testing
    compilation: Compilation
    warnings: tuple[str, ...] = ()
    given: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tiers: Mapping[str, str] = field(default_factory=dict)
    plugin_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    presets: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, OwnSection] = field(default_factory=dict)

    def section(self, name: str) -> Section:
        """A section by its name in the file."""
        found: Section = getattr(self, name)
        return found

    def tier(self, section: str, key: str) -> str:
        """Where a value comes from: ``built-in``, ``model <name>``, ``arc.yaml, line 7``, ``--set ...``."""
        return self.tiers.get(f"{section}.{key}", BUILT_IN)

    def where(self, section: str, key: str) -> str:
        """How a message about a key begins: ``arc.yaml, training.batch_size, line 7``.

        A key that nobody gave stands in no file; named is the one that it would be written into.
        """
        source, comma, line = self.tier(section, key).rpartition(", line ")
        name = f"{section}.{key}"
        if comma:
            return f"{source}, {name}, line {line}"
        if line != BUILT_IN:
            return f"{line}, {name}"
        file, comma, _ = self.tier("common", "task_type").rpartition(", line ")
        return f"{file}, {name} (not given)" if comma else name

    def as_mapping(self) -> dict[str, dict[str, Any]]:
        """Every section with every value, as plain JSON values."""
        return {name: _json(dataclasses.asdict(self.section(name))) for name in SECTIONS}

    def options_for(self, section: str, key: str) -> Mapping[str, Any]:
        """The options that stand beside a plugin's name (``{name: ..., option: ...}``), else an empty mapping."""
        return self.plugin_options.get(f"{section}.{key}", {})

    @property
    def dataset_name(self) -> str:
        """The folder name of the dataset: as given, else the name of the data's file, folder or address."""
        from pathlib import Path

        path = self.dataset.input_data_path or "dataset"
        return self.dataset.dataset_name or Path(file_name(path) if is_address(path) else path).stem

    @property
    def quantization_epochs(self) -> int:
        """Epochs of quantization-aware training: as asked for, else a fifth of the float epochs, at least 10."""
        asked = self.training.quantization_epochs
        return asked if asked is not None else max(MIN_QUANTIZATION_EPOCHS, self.training.training_epochs // 5)

    @property
    def output_int(self) -> bool:
        """Whether the network ends in integers (facts 1.8): classifications do when they are quantized."""
        asked = self.training.output_int
        return asked if asked is not None else self.training.quantization != 0

    @property
    def skip_normalize(self) -> bool:
        """Whether the device's entry point leaves the input step to the feature library (facts 1.8)."""
        return self.training.quantization != 0

    def effective_activation_bits(self, catalogue: Any) -> int:
        """The activation width that the quantizer's format has on this target: the one asked for, or its widest.

        It is the one asked for where nothing is quantized, or where the target has no such format.
        """
        asked = self.training.quantization_activation_bitwidth
        quantizer = catalogue.find("quantizer", self._chosen(catalogue))
        formats: Mapping[str, Any] = catalogue.get("target", self.common.target_device).formats
        if quantizer is None or quantizer.format not in formats:
            return asked
        known: tuple[int, ...] = formats[quantizer.format].activation_bits
        return asked if asked in known else max(known)

    def _chosen(self, catalogue: Any) -> str:
        """The quantizer's name without a check; empty where the target brings none."""
        if self.training.quantizer is not None:
            return self.training.quantizer
        method = self.training.quantization_method
        own: Mapping[str, str] = catalogue.get("target", self.common.target_device).quantizers
        return SHORT_FORMS.get(self.training.quantization, own).get(method, "")

    def check_built(self) -> None:
        """Raise `NotBuiltYet` for the first key that asks for what this version does not have."""
        for section, keys in NOT_BUILT.items():
            for key, what in keys.items():
                if getattr(self.section(section), key) != defaults(section)[key]:
                    raise NotBuiltYet(f"{self.where(section, key)}: {what} is not built yet. Leave the key out")

    def quantizer_name(self, catalogue: Any) -> str:
        """The quantizer that the run uses: ``training.quantizer``, else what ``quantization`` is short for.

        Raises:
            NotBuiltYet: for what this version does not have.
            ConfigError: where the target has none for this method, no package brings it, or the named one contradicts
                the method.
        """
        self.check_built()
        method = self.training.quantization_method
        if self.training.quantizer is not None:
            return self._named_quantizer(self.training.quantizer, method, catalogue)
        mode, device = self.training.quantization, self.common.target_device
        name = self._chosen(catalogue)
        if not name:
            own = catalogue.get("target", device).quantizers
            known = f"it has one for {', '.join(sorted(own))}" if own else "it has no accelerator"
            raise ConfigError(
                f"{self.where('training', 'quantization')}: '{device}' has no quantizer of its own for {method}: "
                f"{known}. Write 'quantization: 1': integers for any CPU"
            )
        try:
            catalogue.get("quantizer", name)
        except FlowlabError as error:
            raise ConfigError(f"{self.where('training', 'quantization')}: {mode} needs '{name}': {error}") from None
        return name

    def _named_quantizer(self, name: str, method: str, catalogue: Any) -> str:
        try:
            quantizer = catalogue.get("quantizer", name)
        except FlowlabError as error:
            raise ConfigError(f"{self.where('training', 'quantizer')}: {error}") from None
        trains = "QAT" if quantizer.trains else "PTQ"
        asked = self.tier("training", "quantization_method") != "built-in"
        if asked and quantizer.format and trains != method:
            raise ConfigError(
                f"{self.where('training', 'quantization_method')}: found {method}, but the quantizer '{name}' is "
                f"{trains}. Leave one of the two out"
            )
        return name

    def with_warnings(self, *sentences: str) -> Config:
        """The same config with more warnings."""
        return dataclasses.replace(self, warnings=tuple(dict.fromkeys((*self.warnings, *sentences))))


def extractor_options(config: Config, extractor: Any) -> dict[str, Any]:
    """The section's keys that an extractor reads: the fields of its ``Options``, and the options beside its name.

    Raises:
        OptionError: for an option that the extractor does not have.
    """
    names = [one.name for one in dataclasses.fields(extractor.Options)]
    section = config.data_processing_feature_extraction
    values = {name: getattr(section, name) for name in names if name in defaults("data_processing_feature_extraction")}
    extra = config.options_for("data_processing_feature_extraction", "feature_extraction_name")
    for key in extra:
        if key not in names:
            where = config.where("data_processing_feature_extraction", "feature_extraction_name")
            raise OptionError(
                f"{where}: feature extractor '{extractor.name}': no option '{key}'.{did_you_mean(key, names)} "
                f"Known: {', '.join(names)}"
            )
    return {**values, **extra}


def _json(value: Any) -> Any:
    """Tuples as lists, all the way down."""
    if isinstance(value, Mapping):
        return {key: _json(one) for key, one in value.items()}
    return [_json(one) for one in value] if isinstance(value, (list, tuple)) else value
