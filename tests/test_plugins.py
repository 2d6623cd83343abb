from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from flowlab.contracts import (
    Core,
    Dataset,
    FeatureExtractor,
    Model,
    NoOptions,
    Plugin,
    Preset,
    Quantizer,
    Reader,
    Stage,
    StageStarted,
    Target,
)
from flowlab.errors import NotBuiltYet, PluginError
from flowlab.hookspecs import hookimpl
from flowlab.plugins import HOOKS, KINDS, WATCHING, Announced, Brought, Catalogue, load, load_announced

THIRD_PARTY = Path(__file__).parent / "third_party"

Bring = Callable[..., Announced]


class Box(Core):
    def __init__(self, name: str) -> None:
        self.name = name


@pytest.fixture
def bring(monkeypatch: pytest.MonkeyPatch) -> Bring:
    """Announce a module made of hook implementations: ``bring("dist", flowlab_cores=lambda: [...])``."""

    def announce(distribution: str, **hooks: Callable[..., Any]) -> Announced:
        name = f"{distribution.replace('-', '_')}_module"
        module = types.ModuleType(name)
        for hook, function in hooks.items():
            setattr(module, hook, hookimpl(function))
        monkeypatch.setitem(sys.modules, name, module)
        return Announced(distribution, name, distribution)

    return announce


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Announced]]:
    for name in ("gearbox", "broken", "rival"):
        monkeypatch.syspath_prepend(str(THIRD_PARTY / name))
    yield {
        name: Announced(name, f"flowlab_{name}.plugin", f"flowlab-{name}") for name in ("gearbox", "broken", "rival")
    }
    for module in [
        name
        for name in sys.modules
        if name.partition(".")[0] in {f"flowlab_{n}" for n in ("gearbox", "broken", "rival")}
    ]:
        del sys.modules[module]


class _Reader(Reader):
    name = "one"

    def read(self, path: Path, shown: str, options: Any) -> Any: ...


class _Dataset(Dataset):
    name = "one"

    def recordings(self, seed: int, options: Any) -> Any: ...


class _Extractor(FeatureExtractor):
    name = "one"

    def shape(self, window: tuple[int, int], options: Any) -> Any: ...

    def extract(self, windows: Any, options: Any) -> Any: ...


class _Model(Model):
    name = "one"

    def build(self, shape: tuple[int, int, int], outputs: int, options: Any) -> Any: ...


class _Quantizer(Quantizer):
    name = "one"

    def quantize(self, job: Any, options: Any) -> Any: ...


class _Target(Target):
    name = "one"

    def lower(self, job: Any) -> Any: ...


@pytest.mark.parametrize(
    ("hook", "item"),
    [
        ("flowlab_readers", _Reader()),
        ("flowlab_datasets", _Dataset()),
        ("flowlab_feature_extractors", _Extractor()),
        ("flowlab_models", _Model()),
        ("flowlab_quantizers", _Quantizer()),
        ("flowlab_cores", Box("one")),
        ("flowlab_targets", _Target()),
    ],
)
def test_what_a_hook_brings_is_found_under_its_kind(bring: Bring, hook: str, item: Plugin) -> None:
    catalogue = load_announced([bring("someone", **{hook: lambda: [item]})])
    assert catalogue.broken == {}
    assert catalogue.get(item.kind, "one") is item
    assert sum(len(catalogue.names(kind)) for kind in KINDS) == 1


def test_presets_are_found_by_their_kind_and_name(bring: Bring) -> None:
    preset = Preset("compile", "one", {"x": 1})
    catalogue = load_announced([bring("someone", flowlab_presets=lambda: [preset])])
    assert catalogue.preset("compile", "one") is preset


def test_every_kind_can_be_asked_for() -> None:
    assert set(KINDS) == {"reader", "dataset", "feature_extractor", "model", "quantizer", "core", "target"}


def test_a_package_that_raises_on_import_is_reported_and_hurts_nobody(strangers: Mapping[str, Announced]) -> None:
    catalogue = load_announced([strangers["broken"], strangers["gearbox"]])
    assert catalogue.names("model") == ("gear_net",)
    assert list(catalogue.broken) == ["flowlab-broken"]
    assert "the licence server does not answer" in catalogue.broken["flowlab-broken"]


def test_a_hook_that_raises_takes_only_itself_away(strangers: Mapping[str, Announced]) -> None:
    catalogue = load_announced([strangers["rival"]])
    assert catalogue.names("core") == ("rival-m0",)
    assert catalogue.names("dataset") == ()
    assert catalogue.broken == {"flowlab-rival": "flowlab_datasets raises OSError: no recordings on this machine"}


def test_a_package_that_exits_on_import_is_reported(bring: Bring) -> None:
    def leave() -> list[Core]:
        raise SystemExit(3)

    catalogue = load_announced(
        [bring("leaver", flowlab_cores=leave), bring("stayer", flowlab_cores=lambda: [Box("a")])]
    )
    assert catalogue.names("core") == ("a",)
    assert "SystemExit" in catalogue.broken["leaver"]


def test_bundled_names_stay_bare_and_a_strangers_equal_name_has_its_distribution(bring: Bring) -> None:
    own, other = Box("m0"), Box("m0")
    catalogue = load_announced(
        [bring("flowlab", flowlab_cores=lambda: [own]), bring("other", flowlab_cores=lambda: [other])]
    )
    assert catalogue.get("core", "m0") is own
    assert catalogue.get("core", "other:m0") is other
    assert catalogue.names("core") == ("m0", "other:m0")
    assert catalogue.origin("core", "m0") == "flowlab"
    assert catalogue.origin("core", "other:m0") == "other"


def test_an_equal_name_of_two_strangers_is_an_error_when_it_is_asked_for(bring: Bring) -> None:
    announced = [bring(name, flowlab_cores=lambda: [Box("m9")]) for name in ("first", "second")]
    catalogue = load_announced(announced)
    assert catalogue.names("core") == ("first:m9", "second:m9")
    with pytest.raises(PluginError, match=r"two packages bring a core named 'm9': first and second.*'first:m9'"):
        catalogue.get("core", "m9")
    assert catalogue.get("core", "second:m9").name == "m9"


def test_a_strangers_only_name_needs_no_distribution(strangers: Mapping[str, Announced]) -> None:
    catalogue = load_announced([strangers["gearbox"]])
    assert catalogue.get("dataset", "gearbox") is catalogue.get("dataset", "flowlab-gearbox:gearbox")


def test_an_unknown_name_gets_a_suggestion_and_the_broken_packages(strangers: Mapping[str, Announced]) -> None:
    catalogue = load_announced(list(strangers.values())[:2])
    with pytest.raises(PluginError) as raised:
        catalogue.get("model", "gear_nett")
    text = str(raised.value)
    assert "no model named 'gear_nett'. Did you mean 'gear_net'? Known: gear_net" in text
    assert "flowlab-broken: cannot be loaded" in text


def test_what_is_not_built_is_only_there_to_say_so_and_yields_to_one_that_is() -> None:
    known, built = _Model(), _Model()
    known.not_built = "it adds two branches"
    catalogue = Catalogue((Brought(known, "flowlab"),))
    assert (catalogue.names("model"), catalogue.find("model", known.name)) == ((), None)
    with pytest.raises(NotBuiltYet, match=f"model '{known.name}' is not built yet: it adds two branches"):
        catalogue.get("model", known.name)
    catalogue = Catalogue((Brought(known, "flowlab"), Brought(built, "stranger")))
    assert catalogue.get("model", built.name) is built
    assert catalogue.names("model") == (built.name,)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(PluginError, match=r"no kind of plugin named 'modle'. Did you mean 'model'"):
        Catalogue().get("modle", "x")


def test_find_gives_none_for_a_name_that_nobody_brings() -> None:
    assert Catalogue().find("core", "x") is None


def test_a_missing_abstract_method_is_named(bring: Bring) -> None:
    class Silent(Reader):
        name = "silent"

    catalogue = load_announced([bring("half", flowlab_readers=lambda: [Silent()])])
    assert "abstract method" in catalogue.broken["half"]
    assert "read" in catalogue.broken["half"]


def test_an_object_of_a_strange_class_is_refused_with_what_it_lacks(bring: Bring) -> None:
    class Duck:
        name = "duck"

    catalogue = load_announced([bring("pond", flowlab_models=lambda: [Duck()])])
    assert catalogue.broken == {"pond": "flowlab_models: Duck is not a Model of flowlab.contracts, and has no build"}


def test_a_class_instead_of_an_instance_is_refused(bring: Bring) -> None:
    catalogue = load_announced([bring("classy", flowlab_cores=lambda: [Box])])
    assert "brings the class Box; return an instance, Box()" in catalogue.broken["classy"]


@pytest.mark.parametrize("name", ["", "a:b", None, 3])
def test_a_plugin_without_a_usable_name_is_refused(bring: Bring, name: Any) -> None:
    catalogue = load_announced([bring("anon", flowlab_cores=lambda: [Box(name), Box("sound")])])
    assert "no usable name" in catalogue.broken["anon"]
    assert catalogue.names("core") == ("sound",)


def test_options_must_be_a_frozen_dataclass(bring: Bring) -> None:
    class Loose(Core):
        name = "loose"
        Options = dict

    catalogue = load_announced([bring("lax", flowlab_cores=lambda: [Loose()])])
    assert "not a frozen dataclass" in catalogue.broken["lax"]


def test_a_hook_with_arguments_is_reported(bring: Bring) -> None:
    def flowlab_cores(register: Any) -> Sequence[Core]:
        return [register]

    catalogue = load_announced([bring("older", flowlab_cores=flowlab_cores)])
    assert "register" in catalogue.broken["older"]


def test_a_misspelt_hook_is_reported_and_the_others_are_called(bring: Bring) -> None:
    announced = bring("typo", flowlab_core=lambda: [Box("x")], flowlab_cores=lambda: [Box("y")])
    catalogue = load_announced([announced])
    assert "there is no hook 'flowlab_core'. Did you mean 'flowlab_cores'?" in catalogue.broken["typo"]
    assert catalogue.names("core") == ("y",)


def test_an_unmarked_hook_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("unmarked_module")
    module.flowlab_cores = lambda: [Box("x")]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "unmarked_module", module)
    catalogue = load_announced([Announced("u", "unmarked_module", "unmarked")])
    assert catalogue.broken == {"unmarked": "flowlab_cores is not marked with @hookimpl and is not called"}


def test_the_same_name_twice_in_one_package_is_reported(bring: Bring) -> None:
    catalogue = load_announced([bring("twice", flowlab_cores=lambda: [Box("a"), Box("a")])])
    assert catalogue.broken == {"twice": "brings a second core named 'a'"}
    assert catalogue.get("core", "a").name == "a"


def test_a_name_is_looked_up_within_its_kind(bring: Bring) -> None:
    class Net(Model):
        name = "a"

        def build(self, shape: tuple[int, int, int], outputs: int, options: Any) -> Any: ...

    catalogue = load_announced([bring("d", flowlab_cores=lambda: [Box("a")], flowlab_models=lambda: [Net()])])
    assert isinstance(catalogue.get("model", "a"), Net)
    assert isinstance(catalogue.get("core", "a"), Box)


class Csv(Reader):
    def __init__(self, name: str, *suffixes: str) -> None:
        self.name = name
        self.suffixes = suffixes

    def read(self, path: Path, shown: str, options: Any) -> Any: ...


def test_a_reader_is_found_by_suffix_and_the_bundled_one_goes_first() -> None:
    own, other = Csv("csv", ".csv"), Csv("their_csv", ".csv", ".tsv")
    catalogue = Catalogue((Brought(own, "flowlab"), Brought(other, "other")))
    assert catalogue.reader_for(".CSV") is own
    assert catalogue.reader_for(".tsv") is other
    assert catalogue.reader_for(".wav") is None


def presets(*items: tuple[Preset, str]) -> Catalogue:
    return Catalogue(tuple(Brought(item, distribution) for item, distribution in items))


def test_the_most_restricted_preset_that_holds_wins() -> None:
    wide = Preset("compile", "small", {"a": 1})
    narrow = Preset("compile", "small", {"a": 2}, when={"target_device": ("X1", "X2")})
    catalogue = presets((wide, "flowlab"), (narrow, "flowlab"))
    assert catalogue.preset("compile", "small", target_device="X2") is narrow
    assert catalogue.preset("compile", "small", target_device="Y") is wide
    assert catalogue.preset("compile", "small") is wide
    assert catalogue.preset("feature_extraction", "small") is None
    assert catalogue.preset_names("compile") == ("small",)


def test_a_preset_restricted_to_other_values_does_not_hold() -> None:
    catalogue = presets((Preset("compile", "small", {}, when={"target_device": ("X1",)}), "flowlab"))
    assert catalogue.preset("compile", "small", target_device="Y") is None


def test_presets_of_two_strangers_are_told_apart_by_distribution() -> None:
    one, two = Preset("example", "demo", {"a": 1}), Preset("example", "demo", {"a": 2})
    catalogue = presets((one, "a"), (two, "b"))
    assert catalogue.preset_names("example") == ("a:demo", "b:demo")
    assert catalogue.preset("example", "b:demo") is two
    with pytest.raises(PluginError, match="two packages bring a example preset named 'demo'"):
        catalogue.preset("example", "demo")


def test_every_bundled_plugin_package_loads_without_a_complaint() -> None:
    assert load().broken == {}


def test_a_group_that_nobody_announces_gives_an_empty_catalogue_and_a_clear_error() -> None:
    catalogue = load("flowlab_of_nobody")
    with pytest.raises(PluginError, match=r"no target named 'x'\. Known: none"):
        catalogue.get("target", "x")


def test_every_hook_has_its_contract() -> None:
    from flowlab import hookspecs

    hooks = {name for name in vars(hookspecs) if name.startswith("flowlab_")}
    assert hooks == {*HOOKS, *WATCHING}
    assert all(issubclass(contract, Plugin) or contract in (Preset, Stage) for contract in HOOKS.values())


@dataclass(frozen=True)
class Amount:
    amount: float = 0.3


PRUNE = Stage("prune", "somewhere:run", rewrites=("float_model",), section="pruning", Options=Amount)


def test_a_stage_is_found_by_its_section(bring: Bring) -> None:
    catalogue = load_announced([bring("someone", flowlab_stages=lambda: [PRUNE])])
    assert catalogue.broken == {}
    assert catalogue.stage_of("pruning") is catalogue.stage_of("someone:pruning") is PRUNE
    assert catalogue.sections() == ("pruning",)
    with pytest.raises(PluginError, match=r"no section named 'prunning'. Did you mean 'pruning'"):
        catalogue.stage_of("prunning")


@dataclass(frozen=True)
class After:
    after: str = ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"section": ""}, "it has no section"),
        ({"section": "training"}, "'training' is a section or a key of flowlab's own"),
        ({"section": "batch_size"}, "'batch_size' is a section or a key of flowlab's own"),
        ({"name": "a/b"}, "its name is not of letters"),
        ({"Options": dict}, "its Options are not a frozen dataclass"),
        ({"Options": After}, "a field 'after'"),
        ({"run": "somewhere"}, "run is 'somewhere', expected 'package.module:function'"),
        ({"rewrites": ("float_modle",)}, "there is no role float_modle"),
        ({"rewrites": ()}, "it makes and rewrites nothing"),
    ],
)
def test_a_stage_that_can_be_in_no_plan_is_refused_with_the_reason(
    bring: Bring, change: Mapping[str, Any], reason: str
) -> None:
    catalogue = load_announced([bring("someone", flowlab_stages=lambda: [replace(PRUNE, **change)])])
    assert reason in catalogue.broken["someone"]
    assert catalogue.stages() == ()


def test_a_stage_without_options_of_its_own_has_none() -> None:
    assert Stage("a", "b:c", section="d").Options is NoOptions


def test_watchers_are_found_and_take_what_they_name_or_nothing(bring: Bring) -> None:
    seen: list[Any] = []
    announced = [
        bring("one", flowlab_before_stage=lambda stage: seen.append(stage)),
        bring("two", flowlab_before_stage=lambda: seen.append("told")),
    ]
    catalogue = load_announced(announced)
    assert catalogue.broken == {}
    event = StageStarted("run", "train")
    for one in catalogue.watchers:
        one.tell(event)
    assert seen == [event, "told"]
    assert [(one.hook, one.distribution) for one in catalogue.watchers] == [
        ("flowlab_before_stage", "one"),
        ("flowlab_before_stage", "two"),
    ]


def test_a_watcher_that_asks_for_what_there_is_not_is_reported(bring: Bring) -> None:
    catalogue = load_announced([bring("one", flowlab_after_run=lambda result: None)])
    assert "result" in catalogue.broken["one"]
    assert catalogue.watchers == ()
