"""What is installed, by kind, with where each comes from: `flowlab targets | models | features | quantizers`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from flowlab.contracts import FeatureExtractor, Model, Plugin, Preset, Quantizer, Stage, Target
from flowlab.engine import table
from flowlab.plugins import KINDS, OWN, WATCHES, Brought, Catalogue

KB = 1024
MHZ = 1_000_000
WIDTH = 100  # columns of a line; --json has all
LEAST = 16  # columns in which a last cell that is cut still says something
SHAPE, OUTPUTS = (1, 256, 1), 2  # for which a network's parameters and MACs are said
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Listing:
    """Rows of one kind; ``name`` is what stands in a config.

    People see the keys in ``shown``, and ``note`` above them.
    """

    kind: str
    rows: tuple[Row, ...]
    shown: tuple[str, ...] = ("name", "summary")
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {self.kind: [dict(row) for row in self.rows]}

    def lines(self) -> list[str]:
        """For people: under each origin its rows."""
        if not self.rows:
            return [f"{self.kind}: none is installed. `flowlab plugins` says what is, and what of it is broken"]
        header = [one.removesuffix("_bytes").removesuffix("_hz").replace("_", " ") for one in self.shown]
        cells = [[_cell(one, row.get(one)) for one in self.shown] for row in self.rows]
        first, *lines = table.lines(header, _fitted(header, cells))
        said = [self.note] if self.note else []
        said.append(first)
        for row, line, before in zip(self.rows, lines, (None, *self.rows), strict=False):
            if before is None or before["from"] != row["from"]:
                said.append(f"from {row['from']}:")
            said.append(line)
        return said


def targets(catalogue: Catalogue) -> Listing:
    """Devices: accelerator, core, clock, memory, and what `quantization: 2` means there."""
    shown = ("name", "accelerator", "core", "clock_hz", "flash_bytes", "ram_bytes", "quantizers", "summary")
    return Listing("targets", tuple(_target(catalogue, one) for one in catalogue.of_kind("target")), shown)


@dataclass(frozen=True)
class CompilePresets:
    """One device's row, and the compile presets for it: what each changes, and its keys by task."""

    row: Row
    presets: tuple[Preset, ...]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        presets = [
            {
                "name": one.name,
                "summary": one.summary,
                "task_type": list(one.when.get("task_type", ())),
                "values": dict(one.values),
            }
            for one in self.presets
        ]
        return {"target": dict(self.row), "presets": presets}

    def lines(self) -> list[str]:
        """For people: under each preset the target string that the device's compiler gets, by task."""
        said = [f"{self.row['name']}: {self.row['summary']}"]
        if not self.presets:
            return [*said, "no compile presets"]
        summaries = {one.name: one.summary for one in self.presets}
        for name, summary in summaries.items():
            said += ["", f"{name}: {summary}"]
            for one in self.presets:
                if one.name == name:
                    tasks = ", ".join(one.when.get("task_type", ())) or "every task"
                    said += [f"  {tasks}:", f"    {one.values.get('target', '')}".rstrip()]
        return said


def compile_presets(catalogue: Catalogue, name: str) -> CompilePresets:
    """The device of this name with its compile presets.

    Raises:
        ConfigError: where nobody brings it.
    """
    target = cast(Target, catalogue.get("target", name))
    row = next(_target(catalogue, one) for one in catalogue.of_kind("target") if one.item is target)
    found = [cast(Preset, one.item) for one in catalogue.presets("compile")]
    return CompilePresets(
        row, tuple(one for one in found if target.name in one.when.get("target_device", (target.name,)))
    )


def models(catalogue: Catalogue) -> Listing:
    """Networks: their size, the problems that they solve, and the training keys that they set."""
    shown = ("name", "parameters", "macs", "problems", "summary")
    note = f"Parameters and multiplications (MACs) for {SHAPE[0]} channel, {SHAPE[1]} features and {OUTPUTS} classes:"
    return Listing("models", tuple(_model(catalogue, one) for one in catalogue.of_kind("model")), shown, note)


def quantizers(catalogue: Catalogue) -> Listing:
    """Quantizers: whether they train, the number format that they ask for, and their options."""
    shown = ("name", "method", "format", "options", "summary")
    return Listing("quantizers", tuple(_quantizer(catalogue, one) for one in catalogue.of_kind("quantizer")), shown)


def features(catalogue: Catalogue) -> Listing:
    """What `feature_extraction_name` takes: extractors, and presets of their options with what comes out."""
    extractors = [_common(catalogue, one, kind="extractor") for one in catalogue.of_kind("feature_extractor")]
    names = catalogue.preset_names("feature_extraction")
    presets = [
        {
            "name": one.full_name if one.full_name in names else one.item.name,
            "kind": "preset",
            "from": _origin(one),
            **_sizes(catalogue, one.item.values),
            "options": ", ".join(one.item.values),
            "summary": one.item.summary,
        }
        for one in catalogue.presets("feature_extraction")
        if isinstance(one.item, Preset)
    ]
    shown = ("name", "window", "frames", "features", "summary")
    return Listing("features", (*extractors, *presets), shown)


LISTINGS: Mapping[str, Callable[[Catalogue], Listing]] = {
    "targets": targets,
    "models": models,
    "features": features,
    "quantizers": quantizers,
}
"""What each command lists."""


def packages(catalogue: Catalogue) -> list[str]:
    """Every package with its version, how it is, how long its import took, and how much it brings."""
    rows = []
    for one in catalogue.packages:
        name = one.distribution if one.distribution != OWN else f"{one.distribution} ({one.package})"
        brings = ", ".join(_counted(kind, names) for kind, names in one.brings.items())
        shown = "" if one.status == "off" else f"{one.seconds * 1000:.1f} ms"
        rows.append([name, one.version, one.status, shown, brings])
    return table.lines(["package", "version", "status", "loaded in", "brings"], rows) if rows else []


def _counted(kind: str, names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    if kind == WATCHES:
        return f"{len(names)} watchers"
    return f"{len(names)} {kind.replace('_', ' ')}{'' if kind in (*KINDS, Stage.kind) else ' preset'}s"


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
    clock = target.clock_hz or None
    return _common(catalogue, one, accelerator=unit, core=target.core, clock_hz=clock, **memory, quantizers=own)


def _model(catalogue: Catalogue, one: Brought) -> dict[str, Any]:
    model = cast(Model, one.item)
    parameters, macs = _work(model)
    facts = {"parameters": parameters, "macs": macs, "problems": list(model.problems), "sets": dict(model.defaults)}
    return _common(catalogue, one, **facts)


def _work(model: Model) -> tuple[int | None, int | None]:
    """Parameters and MACs of the network as it is built; None where it cannot be for this input, or here."""
    from flowlab.compiler.place import place

    try:
        from flowlab.learn.trace import float_graph

        module = model.build(SHAPE, OUTPUTS, model.Options())
        parameters = sum(one.numel() for one in module.parameters())
        return parameters, sum(place(float_graph(module.eval(), SHAPE), ()).macs.values())
    except Exception:  # noqa: BLE001 - a stranger's network may raise anything, which must not hide the others
        return None, None


def _sizes(catalogue: Catalogue, values: Mapping[str, Any]) -> dict[str, Any]:
    """Samples of a window, frames in it, and the features of its channels; empty where they follow from more keys."""
    from flowlab.errors import FlowlabError
    from flowlab.stages.extract import DEFAULT_EXTRACTOR

    extractor = cast(FeatureExtractor | None, catalogue.find("feature_extractor", DEFAULT_EXTRACTOR))
    frame, frames, variables = (values.get(key, 1) for key in ("frame_size", "num_frame_concat", "variables"))
    if extractor is None or not isinstance(variables, int):
        return {}
    own = {one.name for one in dataclasses.fields(extractor.Options)}
    try:
        options = catalogue.options(extractor, {key: value for key, value in values.items() if key in own})
        shape = extractor.shape((variables, frame * frames), options)
    except (FlowlabError, TypeError):
        return {}
    return {"window": frame * frames, "frames": frames, "features": list(shape[:2])}


def _quantizer(catalogue: Catalogue, one: Brought) -> dict[str, Any]:
    quantizer = cast(Quantizer, one.item)
    asks = quantizer.format or "none: floats"
    method = ("QAT" if quantizer.trains else "PTQ") if quantizer.format else ""
    return _common(catalogue, one, method=method, format=asks)


def _cell(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    if isinstance(value, int) and key.endswith("_bytes"):
        return f"{value // KB} kB" if value % KB == 0 else f"{value} B"
    if isinstance(value, int) and key.endswith("_hz"):
        return f"{value / MHZ:g} MHz"
    if isinstance(value, (list, tuple)):
        return (" x " if key == "features" else ", ").join(str(one) for one in value)
    return f"{value:,}" if isinstance(value, int) else str(value or ("none" if key == "options" else ""))


def _fitted(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The rows with their last cell cut to the line's width, or without it where it would say nothing."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    filled = [width for at, width in enumerate(widths[:-1]) if any(row[at] for row in rows)]
    room = WIDTH - sum(filled) - 2 * len(filled)
    return [[*row[:-1], _cut(row[-1], room) if room >= LEAST else ""] for row in rows]


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 3]}..."
