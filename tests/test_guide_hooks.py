"""Every hook has a page of the guide: its exact signature, all that its contract has, and an example that works."""

from __future__ import annotations

import ast
import dataclasses
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
    RunStarted,
    Stage,
    StageEnded,
    StageJob,
    StageStarted,
    Target,
)
from flowlab.errors import DataError
from flowlab.plugins import HOOKS, WATCHING, Announced, load_announced

GUIDE = Path(flowlab.__file__).parent / "guide"
HOOK_NAMES = sorted(name for name in vars(hookspecs) if name.startswith("flowlab_"))
BRINGING = sorted(HOOKS)
EXAMPLE = re.compile(r"^```python file=(\w+)\.py\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LONGEST = 25  # lines of an example


def place(hook: str) -> str:
    """The file of a hook's page; the watching hooks share one."""
    return f"hook-{'watchers' if hook in WATCHING else hook.removeprefix('flowlab_').replace('_', '-')}.md"


def page(hook: str) -> str:
    return (GUIDE / place(hook)).read_text(encoding="utf-8")


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
    for name, kind in contract.__annotations__.items():
        if name not in inherited and not str(kind).startswith("ClassVar"):
            yield name
    for name, value in vars(contract).items():
        if inspect.isfunction(value) and value.__name__ == name and not name.startswith("_"):
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
    (block,) = re.findall(r"^```python\n(.*?)^```$", page(hook), re.MULTILINE | re.DOTALL)
    assert f"def {signature(getattr(hookspecs, hook))}\n" in block
    lines = [line for line in (GUIDE / "plugins.md").read_text().splitlines() if f"]({place(hook)})" in line]
    assert any(f"`{hook}`" in line for line in lines)


def test_the_hooks_of_the_tables_are_those_of_the_source() -> None:
    assert sorted((*HOOKS, *WATCHING)) == HOOK_NAMES


@pytest.mark.parametrize("hook", BRINGING)
def test_the_page_says_all_that_the_contract_has(hook: str) -> None:
    text = page(hook)
    assert [one for one in members(HOOKS[hook]) if f"| `{one}` |" not in text] == []


@pytest.mark.parametrize("hook", sorted(WATCHING))
def test_the_page_says_all_that_a_watcher_sees(hook: str) -> None:
    (row,) = [line for line in page(hook).splitlines() if line.startswith(f"| `{hook}` |")]
    assert [one.name for one in dataclasses.fields(WATCHING[hook]) if f"`{one.name}`" not in row] == []


@pytest.mark.parametrize(("example", "hook"), [(hook, hook) for hook in BRINGING], indirect=["example"])
def test_the_example_is_a_sound_plugin_of_its_hook(example: str, hook: str) -> None:
    (item,) = testing.check_package(example)
    testing.check_plugin_is_light(example)
    assert isinstance(item, HOOKS[hook])
    check(item)


@pytest.mark.parametrize("example", ["flowlab_stages"], indirect=True)
def test_the_stages_example_does_what_it_says(example: str, tmp_path: Path) -> None:
    import torch

    module = import_module(example)
    source, out = tmp_path / "best_model.pt", tmp_path / "out"
    out.mkdir()
    torch.save({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, source)
    job = StageJob({"float_model": {source.name: source}}, module.Shrinking(0.5), {}, {}, out, tmp_path, print)
    made = torch.load(module.run(job).files["float_model"]["best_model.pt"], weights_only=True)
    assert made["weight"].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert made["bias"].tolist() == [1, 1]


EVENTS = {
    "flowlab_before_run": RunStarted("one", "demo", "small", "board", ("ingest", "train")),
    "flowlab_before_stage": StageStarted("one", "ingest"),
    "flowlab_after_stage": StageEnded("one", "ingest", False, 1.25, "ab12"),
    "flowlab_after_run": RunEnded("one", "demo", "Completed", 2.5),
}


@pytest.mark.parametrize("example", ["flowlab_before_run"], indirect=True)
def test_the_watchers_example_says_what_it_sees(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    testing.check_package(example)
    catalogue = load_announced([Announced(example, example, example)])
    told = {watcher.hook: watcher for watcher in catalogue.watchers}
    for hook, event in EVENTS.items():
        told[hook].tell(event)
    assert capsys.readouterr().err == "one: ingest, train\ningest ...\ningest in 1.2 s\none: Completed {}\n"


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
