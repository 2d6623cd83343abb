"""Every hook has a page of the guide: its exact signature, all that its contract has, and an example that works."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import flowlab
from flowlab import hookspecs, testing
from flowlab.contracts import (
    Core,
    Dataset,
    FeatureExtractor,
    Model,
    Plugin,
    Preset,
    Quantizer,
    Reader,
    RunEnded,
    Stage,
    StageEnded,
    Target,
)
from flowlab.errors import DataError
from flowlab.plugins import HOOKS, WATCHING, Announced, load_announced

GUIDE = Path(flowlab.__file__).parent / "guide"
HOOK_NAMES = sorted(name for name in vars(hookspecs) if name.startswith("flowlab_"))
EXAMPLE = re.compile(r"^```python file=(\w+)\.py\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LONGEST = 25  # lines of an example


def name_of(hook: str) -> str:
    """Of the page: those that watch share one."""
    return "watchers" if hook in WATCHING else hook.removeprefix("flowlab_").replace("_", "-")


def page(hook: str) -> str:
    return (GUIDE / f"hook-{name_of(hook)}.md").read_text(encoding="utf-8")


def signature(function: Any) -> str:
    """As its source has it, on one line, without ``self`` and the word ``def``."""
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(found, ast.FunctionDef)
    found.args.args = [one for one in found.args.args if one.arg != "self"]
    found.body, found.decorator_list = [ast.Pass()], []
    return ast.unparse(found).splitlines()[0].removeprefix("def ").removesuffix(":")


def members(contract: type) -> Iterator[str]:
    """What a page must say in backticks: every field and the signature of every method that the contract adds."""
    inherited = set(vars(Plugin)) | set(Plugin.__annotations__) if issubclass(contract, Plugin) else set()
    for name, hint in contract.__annotations__.items():
        if name not in inherited and not str(hint).startswith("ClassVar"):
            yield name
    for name, value in vars(contract).items():
        if inspect.isfunction(value) and not name.startswith("_") and name not in contract.__annotations__:
            yield signature(value).replace("|", "\\|")


@pytest.fixture
def example(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page's example as a module that can be imported; its name."""
    ((name, text),) = EXAMPLE.findall(page(request.param))
    assert len(text.splitlines()) <= LONGEST
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def check(item: Any) -> None:
    """The conformance check of its kind."""
    if isinstance(item, Preset):
        testing.check_preset(item)
    elif isinstance(item, FeatureExtractor):
        testing.check_feature_extractor(item, (2, 256))
    elif isinstance(item, Dataset):
        testing.check_dataset(item)
    elif isinstance(item, Model):
        testing.check_model(item, (1, 64, 1), 2)
    elif isinstance(item, Target):
        testing.check_target(item)
    elif isinstance(item, Quantizer):
        testing.check_quantizer(item)
    elif isinstance(item, Stage):
        testing.check_stage(item)
    elif isinstance(item, Core | Reader):
        testing.check_plugin(item)
    else:
        raise AssertionError(f"{item} is of no kind that this test knows")


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_the_page_has_the_hooks_exact_signature_and_a_line_in_the_index(hook: str) -> None:
    assert f"```python\ndef {signature(getattr(hookspecs, hook))}\n```" in page(hook)
    assert f"| [`{hook}`](hook-{name_of(hook)}.md) |" in (GUIDE / "plugins.md").read_text()


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_the_page_says_all_that_the_contract_has(hook: str) -> None:
    text = page(hook)
    assert [one for one in members({**HOOKS, **WATCHING}[hook]) if f"| `{one}` |" not in text] == []


@pytest.mark.parametrize(("example", "hook"), [(hook, hook) for hook in sorted(HOOKS)], indirect=["example"])
def test_the_example_is_a_sound_plugin_of_its_hook(example: str, hook: str) -> None:
    (item,) = testing.check_package(example)
    testing.check_plugin_is_light(example)
    assert isinstance(item, HOOKS[hook])
    check(item)


@pytest.mark.parametrize("example", ["flowlab_after_stage"], indirect=True)
def test_the_watchers_example_watches(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue = load_announced([Announced(example, example, example)])
    assert (catalogue.broken, len(catalogue.watchers)) == ({}, 2)
    events = {
        "flowlab_after_stage": StageEnded("one", "train", True, 1.0, "ab"),
        "flowlab_after_run": RunEnded("one", "demo", "Completed", 2.0),
    }
    for one in sorted(catalogue.watchers, key=lambda one: list(events).index(one.hook)):
        one.tell(events[one.hook])
    assert capsys.readouterr().err == "one: train cached\none: Completed\n"


@pytest.mark.parametrize("example", ["flowlab_readers"], indirect=True)
def test_the_readers_example_reads_and_refuses(example: str, tmp_path: Path) -> None:
    module = import_module(example)
    sound, odd = tmp_path / "a.pcm", tmp_path / "odd.pcm"
    sound.write_bytes(bytes([0, 1, 255, 255]))
    odd.write_bytes(b"abc")
    assert testing.check_reader(module.Pcm(), sound).samples.ravel().tolist() == [1, -1]
    with pytest.raises(DataError, match=r"odd\.pcm: 3 bytes are no samples"):
        module.Pcm().read(odd, "odd.pcm", None)


def test_the_members_that_a_page_must_say_are_those_of_the_source() -> None:
    assert list(members(Reader)) == ["suffixes", "read(path: Readable, shown: str, options: Any) -> Recording"]
    assert next(iter(members(Core))) == "triple"
