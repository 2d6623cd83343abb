"""Conformance checks that a plugin's author runs: call one in a test of your own.

Each check raises AssertionError with a sentence that names the plugin and what is wrong::

    from flowlab.testing import check_model

    def test_my_model():
        check_model(MyModel(), shape=(1, 256, 1), outputs=3)

`check_package` loads an announced module as flowlab does and fails on everything that flowlab would report;
`check_plugin_is_light` does so in a fresh interpreter and names what is imported too early. `check_quantizer` and
`check_target` run what they check: random networks inside the number format, held against the graph's meaning to the
bit.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from importlib import import_module, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.contracts import (
    Core,
    Dataset,
    FeatureExtractor,
    Model,
    NumberFormat,
    Plugin,
    Preset,
    Quantizer,
    Reader,
    Recording,
    Stage,
    Target,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowlab.compiler.ir import Graph
    from flowlab.conformance.programs import Checked

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
PRESET_KINDS = ("feature_extraction", "compile", "example", "bench")
SECTIONS = ("common", "dataset", "data_processing_feature_extraction", "training", "testing", "compilation")
KINDS = (Reader, Dataset, FeatureExtractor, Model, Quantizer, Core, Target)


def check_package(module: str) -> tuple[Plugin | Preset | Stage, ...]:
    """Load a module as if it were announced; check everything that it brings, and return it.

    Raises:
        AssertionError: for what flowlab would report as broken, and for what `check_plugin` finds.
    """
    from flowlab.plugins import Announced, load_announced

    catalogue = load_announced([Announced(module, module, module.partition(".")[0])])
    assert not catalogue.broken, "; ".join(f"{name}: {reason}" for name, reason in catalogue.broken.items())
    items = tuple(one.item for one in catalogue.brought)
    assert items or catalogue.watchers, f"{module} brings nothing: is every hook marked with @hookimpl?"
    for item in items:
        if isinstance(item, Preset):
            check_preset(item)
        elif isinstance(item, Stage):
            check_stage(item)
        else:
            check_plugin(item)
    return items


def check_stage(stage: Stage) -> None:
    """Check a stage's declaration: its function, code and libraries are there."""
    who = f"stage '{stage.name}'"
    module, _, function = stage.run.partition(":")
    assert callable(getattr(import_module(module), function, None)), f"{who}: {module} has no function {function}"
    for name in stage.code:
        assert util.find_spec(name) is not None, f"{who}: code '{name}' is not importable, so it cannot be hashed"
    for name in stage.libraries:
        _check_installed(name, who)


def check_plugin(plugin: Plugin) -> None:
    """Check what every plugin has: a kind, a name, options that are JSON, code and libraries that are there."""
    who = f"{type(plugin).__name__} '{getattr(plugin, 'name', '?')}'"
    assert isinstance(plugin, KINDS), f"{who} derives from none of {', '.join(kind.__name__ for kind in KINDS)}"
    assert NAME.fullmatch(plugin.name), f"{who}: a name is letters, digits and _ . + -, or users cannot write it"
    _check_options(plugin, who)
    for name in plugin.code:
        assert util.find_spec(name) is not None, f"{who}: code '{name}' is not importable, so it cannot be hashed"
    for name in plugin.libraries:
        _check_installed(name, who)


def check_reader(reader: Reader, path: Path, options: Any = None) -> Recording:
    """Read one file of yours; check the recording, and that reading again gives the same bytes."""
    check_plugin(reader)
    chosen = _options(reader, options)
    suffixes = reader.suffixes
    assert suffixes, f"reader '{reader.name}' names no suffixes, so no file ever reaches it"
    assert all(suffix.startswith(".") for suffix in suffixes), f"reader '{reader.name}': suffixes begin with a dot"
    first, second = (reader.read(path, path.name, chosen) for _ in range(2))
    check_recording(first, f"reader '{reader.name}'")
    assert first.samples.tobytes() == second.samples.tobytes(), f"reader '{reader.name}' reads one file in two ways"
    return first


def check_dataset(dataset: Dataset, seed: int = 42, options: Any = None, most: int = 8) -> list[Recording]:
    """Make the first recordings; check them, that ids are unique, and that the seed decides every byte."""
    from itertools import islice

    check_plugin(dataset)
    who = f"dataset '{dataset.name}'"
    chosen = _options(dataset, options)
    first, second, other = (list(islice(dataset.recordings(number, chosen), most)) for number in (seed, seed, seed + 1))
    assert first, f"{who} yields no recording"
    for recording in first:
        check_recording(recording, who)
    ids = [recording.id for recording in first]
    assert len(set(ids)) == len(ids), f"{who} gives an id to two recordings"
    assert _bytes(first) == _bytes(second), f"{who}: seed {seed} gives other bytes the second time"
    assert _bytes(first) != _bytes(other), f"{who}: the seed changes nothing"
    return first


def check_recording(recording: Recording, who: str = "reader") -> None:
    """Check one recording: float32, (time, column), finite, with a label and a name for each column."""
    import numpy as np

    samples = recording.samples
    place = f"{who}, recording '{recording.id}'"
    assert recording.id and recording.label, f"{place}: id and label are not empty"
    assert samples.dtype == np.float32, f"{place}: samples are {samples.dtype}, not float32"
    assert samples.ndim == 2, f"{place}: samples have the shape {samples.shape}, not (time, column)"
    assert samples.shape[1] == len(recording.columns), (
        f"{place}: {samples.shape[1]} columns of samples, but {len(recording.columns)} names"
    )
    assert np.isfinite(samples).all(), f"{place}: samples hold NaN or infinity; mend or refuse them"
    assert recording.split in (None, "train", "val", "test"), f"{place}: split '{recording.split}' is none"


def check_feature_extractor(
    extractor: FeatureExtractor, window: tuple[int, int], options: Any = None, count: int = 5
) -> NDArray[np.float32]:
    """Extract random windows of shape ``window`` = (channel, length).

    Checks that `shape` says what `extract` does, that a batch does not decide (windows one by one give the same
    bytes), that what was extracted before does not, that the input stays as it is, that the result is finite, and that
    a window which is too short is refused with an error of ours or has a shape.
    """
    import numpy as np

    check_plugin(extractor)
    who = f"feature extractor '{extractor.name}'"
    chosen = _options(extractor, options)
    windows = np.random.default_rng(0).standard_normal((count, *window)).astype(np.float32)
    before = windows.copy()
    features = extractor.extract(windows, chosen)
    assert np.array_equal(windows, before), f"{who} changes the windows that it was given"
    assert features.dtype == np.float32, f"{who} gives {features.dtype}, not float32"
    said = (count, *extractor.shape(window, chosen))
    assert features.shape == said, f"{who}: shape() says {said[1:]}, extract() gives {features.shape[1:]}"
    assert np.isfinite(features).all(), f"{who} gives NaN or infinity for ordinary windows"
    extractor.extract(windows[::-1] * 2 + 1, chosen)
    again = extractor.extract(windows, chosen)
    assert again.tobytes() == features.tobytes(), f"{who} keeps something: windows in between change a feature"
    alone = np.concatenate([extractor.extract(windows[one : one + 1], chosen) for one in range(count)])
    assert np.allclose(features, alone, rtol=1e-5, atol=1e-5), f"{who}: other windows of the batch change a feature"
    for short in ((window[0], 1), (window[0], 2), (window[0], 3), (1, 1)):
        _check_short(extractor, short, chosen, who)
    return features


check_extractor = check_feature_extractor  # as the guide's pages call it


def _check_short(extractor: FeatureExtractor, window: tuple[int, int], options: Any, who: str) -> None:
    """`shape` of a window that may be too short: a shape that `extract` makes too, or an error of ours."""
    import numpy as np

    from flowlab.errors import FlowlabError

    try:
        said = extractor.shape(window, options)
    except FlowlabError:
        return
    except Exception as error:  # noqa: BLE001 - what a plugin raises is what is being looked for
        raise AssertionError(
            f"{who}: shape() raises {type(error).__name__}: {error} for a window of {window}; errors are OptionError"
        ) from None
    assert min(said) > 0, f"{who}: shape() of a window of {window} is {said}; raise OptionError where there is none"
    found = extractor.extract(np.zeros((2, *window), np.float32), options).shape[1:]
    assert found == said, f"{who}: shape() says {said} for a window of {window}, extract() gives {found}"


def check_feature_c(
    extractor: FeatureExtractor, window: tuple[int, int], options: Any = None, *, count: int = 20, within: float = 1e-4
) -> None:
    """Compile the extractor's C on this machine and compare it with `extract` on random windows.

    Differences are taken against the largest absolute feature, and ``within`` is what they may be at most: the C
    computes in float32, numpy where it likes in float64.
    """
    import numpy as np

    from flowlab.cpu.feature_c import features_by_c
    from flowlab.errors import StageError

    who = f"feature extractor '{extractor.name}'"
    chosen = _options(extractor, options)
    source = extractor.emit_c(window, chosen)
    assert source is not None, f"{who} has no C"
    windows = np.random.default_rng(1).standard_normal((count, *window)).astype(np.float32)
    windows[0], windows[1] = 0.0, 1.0  # silence, and a constant
    wanted = extractor.extract(windows, chosen)
    try:
        found = features_by_c(source, windows, extractor.shape(window, chosen))
    except StageError as error:
        raise AssertionError(f"{who}: {error}") from None
    off = float(np.abs(found - wanted).max() / max(float(np.abs(wanted).max()), 1e-30))
    assert off <= within, f"{who}: its C is off by {off:.2g} of the largest feature, more than {within:g}"


def check_model(model: Model, shape: tuple[int, int, int], outputs: int, options: Any = None) -> None:
    """Build the network; check its output's shape, that the seed decides its weights, and that torch.fx traces it."""
    import torch

    check_plugin(model)
    who = f"model '{model.name}'"
    chosen = _options(model, options)
    module = _seeded(model, shape, outputs, chosen)
    again = _seeded(model, shape, outputs, chosen).state_dict()
    state = module.state_dict()
    assert all(torch.equal(state[name], again[name]) for name in state), f"{who}: weights do not follow torch's seed"
    module.eval()
    with torch.no_grad():
        output = module(torch.zeros(3, *shape))
    assert output.shape == (3, outputs), f"{who} gives {tuple(output.shape)}, not (batch, {outputs})"
    check_graph(module, shape, who)
    if model.lite:
        from flowlab.quant.lite import lite_for

        replaced = [str(one) for one in lite_for(module, shape).replaced]
        assert not replaced, f"{who} says that it is lite, and surgery finds {'; '.join(replaced)}"


def check_graph(module: Any, shape: tuple[int, int, int], who: str = "model") -> None:
    """Trace a torch module into flowlab's float graph: what cannot be expressed there cannot be compiled."""
    from flowlab.compiler.verify import verify
    from flowlab.errors import GraphError
    from flowlab.learn.trace import float_graph

    try:
        verify(float_graph(module, shape))
    except GraphError as error:
        raise AssertionError(f"{who} has no float graph: {error}") from None


def check_preset(preset: Preset) -> None:
    """Check a preset's kind, name and values (plain JSON)."""
    import json

    who = f"preset '{preset.name}'"
    assert preset.kind in PRESET_KINDS, f"{who}: kind '{preset.kind}' is none of {', '.join(PRESET_KINDS)}"
    assert preset.name, "a preset has an empty name"
    assert json.loads(json.dumps(preset.values)) is not None, f"{who}: values are plain JSON"
    if preset.kind == "example":
        unknown = sorted(set(preset.values) - set(SECTIONS))
        assert not unknown, f"{who}: an example's keys are sections; {', '.join(unknown)} is none"
    for key, values in preset.when.items():
        assert isinstance(values, tuple), f"{who}: when['{key}'] is a tuple of texts"


def check_quantizer(
    quantizer: Quantizer, format: NumberFormat | None = None, options: Any = None, *, widths: Sequence[int] = ()
) -> dict[int, Graph]:
    """Quantize a small network to the widths of weights of a number format; the graphs by width.

    Checks that the graph obeys the format, that the same job gives the same graph whatever the global random state,
    that model and calibration windows stay as they are, that the torch module is one more execution of the graph, that
    8 bits stay near the float network, and that errors are of ours. It takes a few seconds.

    Args:
        quantizer: yours.
        format: what it is asked for; `flowlab.compiler.number_format.GENERIC` without one.
        options: of its own; its defaults without them.
        widths: of weights; all of the format without them.
    """
    from flowlab.compiler.number_format import GENERIC
    from flowlab.conformance.quantizing import Asked, check_quantizing

    check_plugin(quantizer)
    return check_quantizing(Asked(quantizer, format or GENERIC, _options(quantizer, options)), widths)


def check_target(
    target: Target, networks: int = 9, executions: Sequence[str] | None = None, *, core: Core | None = None
) -> Checked:
    """Check a target's data, then programs of random networks inside each of its number formats.

    Single layers of every kind that its rules speak of, whose sums meet ties of both signs and saturation at both ends,
    and small chains. What the rules take lowers; what they refuse has a sentence and a cure; every execution gives the
    interpreter's integers, fed at once or in parts; errors are of ours. It takes some seconds for each execution.

    Args:
        target: yours.
        networks: how many are lowered and run in each format; 0 for the data alone. With 9 every kind comes once.
        executions: names of those that run; all that are not missing here without them.
        core: the core that the target names; found among the installed plugins without one.

    Returns:
        What it was checked with.
    """
    from flowlab.conformance.programs import Checked, Subject, check_programs

    _check_target_data(target)
    if not networks:
        return Checked()
    return check_programs(Subject(target, core or _core(target), _options(target, None)), networks, executions)


def _core(target: Target) -> Core:
    """The installed core of this name, or an empty one."""
    from flowlab.plugins import load

    found = load().find("core", target.core)
    if isinstance(found, Core):
        return found
    nothing = Core()
    nothing.name = target.core
    return nothing


def check_plugin_is_light(module: str) -> None:
    """Load an announced module in a fresh interpreter and ask what it brings: nothing heavy is imported on the way.

    Raises:
        AssertionError: naming library, file and line.
    """
    from flowlab.conformance.light import heavy_imports

    found = heavy_imports(module)
    assert not found, f"plugin module '{module}' imports {'; '.join(found)}: import it in the method that needs it"


def _check_target_data(target: Target) -> None:
    """Formats, quantizers by method, memory in bytes, rules with a sentence each."""
    check_plugin(target)
    who = f"target '{target.name}'"
    for name, found in target.formats.items():
        check_number_format(found, f"{who}, format '{name}'")
    unknown = sorted(set(target.quantizers) - {"QAT", "PTQ"})
    assert not unknown, f"{who}: quantizers are named by method, QAT and PTQ; found {', '.join(unknown)}"
    assert target.core, f"{who} names no core"
    for region, size in target.memory.items():
        assert isinstance(size, int) and size > 0, f"{who}: memory['{region}'] is a positive number of bytes"
    for rule in target.rules():
        assert rule.sentence, f"{who}: a rule's docstring is its error message, and one of them is empty"
    for step in target.passes():
        assert type(step).__doc__, f"{who}: the pass {type(step).__name__} has no docstring with Before and After"
    names = [execution.name for execution in target.executions()]
    assert len(set(names)) == len(names), f"{who}: two executions have one name"
    for execution in target.executions():
        reason = execution.missing()
        assert reason is None or reason, f"{who}: execution '{execution.name}' is missing without a reason"


def check_number_format(found: NumberFormat, who: str = "format") -> None:
    """Check that a number format can be computed with: widths, shift range, rounding."""
    assert found.by_weight_bits, f"{who} has no width of weights"
    for bits, requantize in found.by_weight_bits.items():
        low, high = requantize.shift
        assert 1 < bits <= 16, f"{who}: weights of {bits} bits"
        assert low <= high, f"{who}: shift range {requantize.shift} is empty"
        assert requantize.multiplier_bits >= 0 and requantize.bias_bits > 0, f"{who}: widths are not negative"
    assert found.accumulator_bits <= 64, f"{who}: accumulators of {found.accumulator_bits} bits cannot be checked here"


def _check_options(plugin: Plugin, who: str) -> None:
    from flowlab.canonical import plain

    options = plugin.Options
    assert dataclasses.is_dataclass(options), f"{who}: Options is a frozen dataclass"
    parameters = getattr(options, "__dataclass_params__", None)
    assert parameters is not None and parameters.frozen, f"{who}: Options is a frozen dataclass"
    required = [
        one.name
        for one in dataclasses.fields(options)
        if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
    ]
    if not required:
        try:
            plain(options(), "options")
        except TypeError as error:
            raise AssertionError(f"{who}: {error}; options are JSON values, they are in the fingerprint") from None
    import_module(type(plugin).__module__)


def _check_installed(distribution: str, who: str) -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(distribution)
    except PackageNotFoundError:
        raise AssertionError(f"{who}: library '{distribution}' is no installed distribution") from None


def _options(plugin: Plugin, options: Any) -> Any:
    return plugin.Options() if options is None else options


def _bytes(recordings: Sequence[Recording]) -> list[tuple[str, str, bytes]]:
    return [(one.id, one.label, one.samples.tobytes()) for one in recordings]


def _seeded(model: Model, shape: tuple[int, int, int], outputs: int, options: Any) -> Any:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return model.build(shape, outputs, options)
