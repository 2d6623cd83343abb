"""`flowlab plugin check`: the conformance suite of `flowlab.testing` on all that an installed package brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from flowlab import contracts, testing
from flowlab.errors import OptionError, PluginError, plural, unknown_name
from flowlab.plugins import Announced, installed, load_announced

WINDOWS = ((1, 256), (2, 128), (1, 1024))  # (channel, length); the first that the extractor's options can cut
SHAPE, OUTPUTS = (1, 256, 1), 2  # of a network

OK, FAILED, NOT_CHECKED = "ok", "FAILED", "not checked"


@dataclass(frozen=True)
class Line:
    """What was found of one thing: `OK`, `FAILED` or `NOT_CHECKED`, and why."""

    verdict: str
    what: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.verdict:11}  {self.what}" + (f": {self.why}" if self.why else "")


class _Skip(Exception):  # noqa: N818 - no error: it says what only the author can check
    """Why this cannot be checked without its author."""


def check_plugin(package: str, say: Callable[[Line], None]) -> bool:
    """Check everything that a package brings; ``say`` gets a line for each, as it is done.

    Args:
        package: a distribution, the module that it announces, or that module's package.

    Returns:
        Whether nothing failed.

    Raises:
        PluginError: where no installed package of this name announces anything.
    """
    found = True
    for one in _announced(package):
        for line in _lines(one):
            say(line)
            found = found and line.verdict != FAILED
    return found


def verdict(lines: Sequence[Line]) -> str:
    """All lines in one sentence."""
    failed, skipped = (sum(line.verdict == kind for line in lines) for kind in (FAILED, NOT_CHECKED))
    said = f"{plural(len(lines), 'check', 'checks')}, {failed} failed"
    return said + (f", {skipped} for the author's own tests" if skipped else "")


def _announced(package: str) -> list[Announced]:
    every = installed("flowlab")
    found = [one for one in every if _spelt(package) in _names(one)]
    if not found:
        names = sorted({one.distribution for one in every})
        raise PluginError(
            f"{unknown_name('installed package', package, names)}. A package is installed with pip, and announces a "
            "module under [project.entry-points.flowlab] of its pyproject.toml"
        )
    return found


def _names(one: Announced) -> set[str]:
    """What a user may call it by."""
    return {_spelt(name) for name in (one.distribution, one.module, one.module.partition(".")[0])}


def _spelt(name: str) -> str:
    """As names of distributions are compared."""
    return name.replace("_", "-").lower()


def _lines(one: Announced) -> Iterator[Line]:
    catalogue = load_announced([one])
    for reason in catalogue.broken.values():
        yield Line(FAILED, one.module, reason)
    if not catalogue.brought and not catalogue.watchers and not catalogue.broken:
        yield Line(FAILED, one.module, "it brings nothing: is every hook marked with @hookimpl?")
    elif not catalogue.broken:
        yield _checked(f"{one.module} is light", lambda: testing.check_plugin_is_light(one.module))
    items = tuple(brought.item for brought in catalogue.brought)
    for item in items:
        kind = item.kind.replace("_", " ") + " preset" * isinstance(item, contracts.Preset)
        yield _checked(f"{kind} '{item.name}'", partial(_check, item, items))
    for watcher in catalogue.watchers:
        yield Line(NOT_CHECKED, f"watcher {watcher.hook}", "call it with an event in a test of your own")


def _checked(what: str, check: Callable[[], None]) -> Line:
    try:
        check()
    except _Skip as why:
        return Line(NOT_CHECKED, what, str(why))
    except AssertionError as wrong:
        return Line(FAILED, what, str(wrong) or "an assertion without words")
    except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything, and that is the finding
        return Line(FAILED, what, f"{type(error).__name__}: {error}".rstrip(": "))
    return Line(OK, what)


def _check(item: Any, package: Sequence[Any]) -> None:
    """``package``: all that it brings, where a device says which numbers a quantizer is for."""
    if isinstance(item, contracts.Preset):
        testing.check_preset(item)
        return
    if isinstance(item, contracts.Stage):
        testing.check_stage(item)
        raise _Skip("its declaration is sound; call its function with a StageJob in a test of your own")
    testing.check_plugin(item)
    options = _options(item)
    if isinstance(item, contracts.Quantizer):
        _quantizer(item, options, package)
    for contract, check in _CHECKS.items():
        if isinstance(item, contract):
            check(item, options)


def _options(item: contracts.Plugin) -> Any:
    try:
        return item.Options()
    except TypeError:
        raise _Skip("its options have no defaults; call its check with options in a test of your own") from None


def _quantizer(quantizer: contracts.Quantizer, options: Any, package: Sequence[Any]) -> None:
    if not quantizer.format:
        raise _Skip("it makes a float graph, which obeys no number format")
    targets = [one for one in package if isinstance(one, contracts.Target) and quantizer.format in one.formats]
    own = [one.formats[quantizer.format] for one in targets if quantizer.name in one.quantizers.values()]
    testing.check_quantizer(quantizer, own[0] if own else None, options)


def _extractor(extractor: contracts.FeatureExtractor, options: Any) -> None:
    for window in WINDOWS:
        try:
            extractor.shape(window, options)
        except OptionError as error:
            said = str(error)
            continue
        testing.check_feature_extractor(extractor, window, options)
        if extractor.emit_c(window, options) is not None:
            testing.check_feature_c(extractor, window, options)
        return
    raise _Skip(f"its default options cut none of the windows {WINDOWS}: {said}")


def _dataset(dataset: contracts.Dataset, options: Any) -> None:
    if not dataset.synthetic:
        raise _Skip("it may read files or a network; call check_dataset in a test of your own")
    testing.check_dataset(dataset, options=options)


def _reader(reader: contracts.Reader, options: Any) -> None:
    assert reader.suffixes, f"reader '{reader.name}' names no suffixes, so no file ever reaches it"
    raise _Skip("it needs a file; call check_reader in a test of your own")


def _model(model: contracts.Model, options: Any) -> None:
    testing.check_model(model, SHAPE, OUTPUTS, options)


def _target(target: contracts.Target, options: Any) -> None:
    testing.check_target(target)


_CHECKS: dict[type, Callable[[Any, Any], None]] = {
    contracts.FeatureExtractor: _extractor,
    contracts.Dataset: _dataset,
    contracts.Reader: _reader,
    contracts.Model: _model,
    contracts.Target: _target,
}
