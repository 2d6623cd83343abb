"""What is installed, by kind, with where each comes from: `flowlab targets | models | features | quantizers`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from flowlab.contracts import Model, Plugin, Preset, Quantizer, Target
from flowlab.engine import table
from flowlab.plugins import Brought, Catalogue

KB = 1024
LONGEST = 72  # characters of a cell; --json has all
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Listing:
    """Rows of one kind, all with the same keys; ``name`` is what stands in a config."""

    kind: str
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {self.kind: [dict(row) for row in self.rows]}

    def lines(self) -> list[str]:
        """For people."""
        if not self.rows:
            return [f"{self.kind}: none is installed. `flowlab plugins` says what is, and what of it is broken"]
        header = list(self.rows[0])
        return table.lines(
            [one.replace("_", " ") for one in header], [[_cell(row[one]) for one in header] for row in self.rows]
        )


def targets(catalogue: Catalogue) -> Listing:
    """Devices: accelerator, core, memory, and what `quantization: 2` means there."""
    return Listing("targets", tuple(_target(catalogue, one) for one in catalogue.of_kind("target")))


def models(catalogue: Catalogue) -> Listing:
    """Networks: the problems that they solve, and the training keys that they set."""
    return Listing("models", tuple(_model(catalogue, one) for one in catalogue.of_kind("model")))


def quantizers(catalogue: Catalogue) -> Listing:
    """Quantizers: whether they train, the number format that they ask for, and their options."""
    return Listing("quantizers", tuple(_quantizer(catalogue, one) for one in catalogue.of_kind("quantizer")))


def features(catalogue: Catalogue) -> Listing:
    """What `feature_extraction_name` takes: extractors, and presets of their options."""
    extractors = [_common(catalogue, one, kind="extractor") for one in catalogue.of_kind("feature_extractor")]
    names = catalogue.preset_names("feature_extraction")
    presets = [
        {
            "name": one.full_name if one.full_name in names else one.item.name,
            "kind": "preset",
            "from": _origin(one),
            "options": ", ".join(one.item.values),
            "summary": one.item.summary,
        }
        for one in catalogue.presets("feature_extraction")
        if isinstance(one.item, Preset)
    ]
    return Listing("features", (*extractors, *presets))


LISTINGS: Mapping[str, Callable[[Catalogue], Listing]] = {
    "targets": targets,
    "models": models,
    "features": features,
    "quantizers": quantizers,
}
"""What each command lists."""


def _common(catalogue: Catalogue, one: Brought, **facts: Any) -> dict[str, Any]:
    plugin = cast(Plugin, one.item)
    options = ", ".join(item.name for item in dataclasses.fields(plugin.Options))
    return {
        "name": catalogue.shown_name(plugin.kind, one),
        **facts,
        "from": _origin(one),
        "options": options,
        "summary": plugin.summary,
    }


def _origin(one: Brought) -> str:
    """The distribution, and the package in it where that has another name."""
    module = (type(one.item).__module__ if isinstance(one.item, Plugin) else "").partition(".")[0]
    return (
        f"{one.distribution} ({module})"
        if module and module != one.distribution.replace("-", "_")
        else one.distribution
    )


def _target(catalogue: Catalogue, one: Brought) -> dict[str, Any]:
    target = cast(Target, one.item)
    memory = {f"{region}_bytes": target.memory.get(region) for region in ("flash", "ram")}
    own = dict(sorted(target.quantizers.items()))
    unit = target.unit_name if target.rules() else "none"
    return _common(catalogue, one, accelerator=unit, core=target.core, **memory, quantizers=own)


def _model(catalogue: Catalogue, one: Brought) -> dict[str, Any]:
    model = cast(Model, one.item)
    return _common(catalogue, one, problems=list(model.problems), sets=dict(model.defaults))


def _quantizer(catalogue: Catalogue, one: Brought) -> dict[str, Any]:
    quantizer = cast(Quantizer, one.item)
    asks = quantizer.format or "none: floats"
    method = ("QAT" if quantizer.trains else "PTQ") if quantizer.format else ""
    return _common(catalogue, one, method=method, format=asks)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value // KB} kB" if value % KB == 0 else f"{value} B"
    text = ", ".join(value) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
