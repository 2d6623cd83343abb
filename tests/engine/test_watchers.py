"""What packages watch a run with: told on every engine, harmless whatever they do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import imagined

from flowlab.contracts import NoOptions, RunEnded, Stage, StageEnded, StageFailed, StageStarted
from flowlab.engine.run import run
from flowlab.engine.session import Asked, Silent
from flowlab.errors import GateError, StageError
from flowlab.plugins import WATCHING, Watcher

STAGES = ("ingest", "train", "report")


class Saying(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def said(self, text: str) -> None:
        self.texts.append(text)


def config(data: Path, **testing: Any) -> Any:
    made = imagined.config(data, 1)
    made.dataset_name = "imagined"
    made.given = {}
    made.training.model_name = "net"
    made.common = SimpleNamespace(target_device="board")
    made.testing = SimpleNamespace(enable=True, **testing)
    return made


def catalogue(*watchers: Watcher) -> Any:
    return SimpleNamespace(watchers=watchers, find=lambda kind, name: None)


def all_hooks(tell: Callable[[str, Any], None]) -> list[Watcher]:
    def of(hook: str) -> Callable[..., None]:
        return lambda event: tell(hook, event)

    return [Watcher(hook, "seer", of(hook), ("event",)) for hook in WATCHING]


@pytest.fixture
def seen() -> list[tuple[str, Any]]:
    return []


@pytest.fixture
def watch(seen: list[tuple[str, Any]]) -> list[Watcher]:
    return all_hooks(lambda hook, event: seen.append((hook, event)))


@pytest.fixture(autouse=True)
def three_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowlab.stages.STAGES", imagined.stages())


def hooks(seen: list[tuple[str, Any]]) -> list[str]:
    return [hook.removeprefix("flowlab_") for hook, _ in seen]


ALL = ["before_run", *["before_stage", "after_stage"] * 3, "after_run"]


def test_a_run_is_told_from_its_beginning_to_its_end_and_cached_stages_as_cached(
    tmp_path: Path, data: Path, seen: list[tuple[str, Any]], watch: list[Watcher]
) -> None:
    asked = Asked("local", artifacts=tmp_path / "artifacts")
    first = run(config(data), catalogue(*watch), asked)
    assert hooks(seen) == ALL
    started, ended = seen[0][1], seen[-1][1]
    assert (started.run, started.dataset, started.model, started.device) == (first.run, "imagined", "net", "board")
    assert started.stages == STAGES
    assert (ended.run, ended.state, ended.error) == (first.run, "Completed", "")
    assert ended.seconds > 0
    stages = [event for _, event in seen if isinstance(event, StageEnded)]
    assert [(one.stage, one.cached) for one in stages] == [(name, False) for name in STAGES]
    assert stages[1].metrics["accuracy"] == 0.1 + 0.2
    assert stages[0].warnings == ("imagined",)
    assert len(stages[0].fingerprint) == 64
    for engine in ("local", None):  # None: all is cached, and no engine starts
        seen.clear()
        run(config(data), catalogue(*watch), Asked(engine, artifacts=tmp_path / "artifacts"))
        assert hooks(seen) == ALL
        assert all(event.cached for _, event in seen if isinstance(event, StageEnded))


def fails(job: Any) -> Any:
    raise StageError("broken on purpose")


def test_a_stage_that_fails_is_told_with_its_error_and_so_is_the_run(
    tmp_path: Path, data: Path, seen: list[tuple[str, Any]], watch: list[Watcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imagined, "train", fails)
    with pytest.raises(StageError, match="on purpose"):
        run(config(data), catalogue(*watch), Asked("local", artifacts=tmp_path / "artifacts"))
    assert hooks(seen) == ["before_run", "before_stage", "after_stage", "before_stage", "stage_failed", "after_run"]
    failed, ended = seen[-2][1], seen[-1][1]
    assert (failed.stage, failed.error) == ("train", "broken on purpose")
    assert (ended.state, ended.error, ended.metrics) == ("Failed", "broken on purpose", {})


def test_a_missed_gate_is_told_once_with_its_sentence_and_the_metrics(
    tmp_path: Path, data: Path, seen: list[tuple[str, Any]], watch: list[Watcher]
) -> None:
    with pytest.raises(GateError) as raised:
        run(config(data, max_accuracy_drop=0.0), catalogue(*watch), Asked("local", artifacts=tmp_path / "artifacts"))
    ended = [event for _, event in seen if isinstance(event, RunEnded)]
    assert [(one.state, one.error) for one in ended] == [("Failed", str(raised.value))]
    assert "float" in ended[0].metrics


@pytest.mark.parametrize("error", [RuntimeError("no line"), SystemExit(3), AssertionError()])
def test_one_that_raises_is_reported_once_with_its_package_and_hurts_nobody(
    tmp_path: Path, data: Path, seen: list[tuple[str, Any]], watch: list[Watcher], error: BaseException
) -> None:
    def broken(event: Any) -> None:
        raise error

    saying = Saying()
    bad = [Watcher(hook, "flowlab-bad", broken, ("event",)) for hook in WATCHING]
    result = run(config(data), catalogue(*bad, *watch), Asked("local", artifacts=tmp_path / "artifacts"), saying)
    assert hooks(seen) == ALL
    told = [text for text in result.warnings if "flowlab-bad" in text]
    assert [text.split(" raises ")[0] for text in told] == [
        f"package flowlab-bad: {hook}"
        for hook in ("flowlab_before_run", "flowlab_before_stage", "flowlab_after_stage", "flowlab_after_run")
    ]
    assert type(error).__name__ in told[0]
    assert [text for text in saying.texts if "flowlab-bad" in text] == told


def test_watchers_get_copies_and_change_nothing(tmp_path: Path, data: Path, seen: list[tuple[str, Any]]) -> None:
    def spoil(hook: str, event: Any) -> None:
        if isinstance(event, (StageEnded, RunEnded)):
            assert isinstance(event.metrics, dict)
            event.metrics.clear()
            event.metrics["spoilt"] = True

    def look(hook: str, event: Any) -> None:
        seen.append((hook, event))

    asked = Asked("local", artifacts=tmp_path / "artifacts")
    result = run(config(data), catalogue(*all_hooks(spoil), *all_hooks(look)), asked)
    assert "spoilt" not in result.metrics
    assert not any("spoilt" in getattr(event, "metrics", {}) for _, event in seen)
    records = [path.read_text() for path in (tmp_path / "artifacts" / ".store" / "records").rglob("*.json")]
    assert len(records) == 3
    assert not any("spoilt" in text for text in records)


def test_what_is_told_is_frozen() -> None:
    for event in (StageStarted("r", "s"), StageFailed("r", "s", 1.0, "e")):
        with pytest.raises(AttributeError):
            event.stage = "other"  # type: ignore[misc]


def test_a_rewritten_role_has_the_rewriters_bytes_everywhere_behind_it(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked("local", artifacts=tmp_path / "artifacts")
    plain = run(config(data), catalogue(), asked)
    made = config(data)
    made.own = {"upper": SimpleNamespace(stage=rewriting("upper"), after=())}
    result = run(made, catalogue(), asked)
    assert [(one["name"], one["cached"]) for one in result.stages] == [
        ("ingest", True), ("train", True), ("upper", False), ("report", False)
    ]  # fmt: skip
    (file,) = result.artifacts["float_model"]
    before = Path(plain.artifacts["float_model"][0]["path"]).read_bytes()
    assert Path(file["path"]).read_bytes() == before + b"!"
    assert result.report is not None and plain.report is not None
    assert before + b"!" in result.report.read_bytes()
    assert before + b"!" not in plain.report.read_bytes()
    again = run(made, catalogue(), asked)
    assert all(one["cached"] for one in again.stages)


def test_a_rewriter_keeps_the_names_of_files(tmp_path: Path, data: Path) -> None:
    made = config(data)
    made.own = {"rename": SimpleNamespace(stage=rewriting("rename"), after=())}
    with pytest.raises(StageError, match=r"rewrote float_model as \['other'\], and it had \['best_model.pt'\]"):
        run(made, catalogue(), Asked("local", artifacts=tmp_path / "artifacts"))


def rewriting(name: str) -> Stage:
    return Stage(
        name,
        f"rewriters:{name}",
        rewrites=("float_model",),
        section=name,
        options=lambda config, catalogue: NoOptions(),
    )
