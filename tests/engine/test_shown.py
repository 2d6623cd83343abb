"""What a dashboard shows of a run: keys that Prefect takes, text that nothing takes apart, progress now and then."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowlab.engine.result import RunResult
from flowlab.engine.shown import key_of, shown_of, summary_text


def result(tmp_path: Path, **files: Any) -> RunResult:
    artifacts = {}
    for role, value in files.items():
        path = tmp_path / f"{role}.json"
        path.write_text(json.dumps(value))
        artifacts[role] = ({"name": path.name, "path": str(path), "sha256": "0"},)
    return RunResult(
        run="20261125T000000Z-0000",
        engine="prefect",
        stages=({"name": "train", "cached": True, "seconds": 0.1},),
        metrics={"float": {"accuracy": 2 / 3}, "quantized": None, "simulated": {"accuracy": 0.5}},
        quantization={},
        agreement={"vectors": 3, "mismatches": 0, "executions": ["a"], "not_run": []},
        sizes={"float_bytes": 4},
        artifacts=artifacts,
        warnings=("a | b\n<script>",),
        report=tmp_path / "a b" / "report.html",
        folder=tmp_path,
        about={"dataset": "My_Data 2.0", "model": "m", "device": "d"},
    )


@pytest.mark.parametrize("dataset", ["My_Data 2.0", "ÄÖ", "a", "-x-", "dc_arc_fault"])
def test_a_key_is_small_letters_digits_and_dashes(dataset: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", key_of(dataset, "training loss"))


def test_metrics_are_a_table_and_the_report_a_link_with_its_path(tmp_path: Path) -> None:
    shown = {one.key: one for one in shown_of(result(tmp_path))}
    assert list(shown) == ["my-data-2-0-metrics", "my-data-2-0-summary", "my-data-2-0-report"]
    assert shown["my-data-2-0-metrics"].value == [
        {"network": "float", "accuracy": 0.666667},
        {"network": "simulated", "accuracy": 0.5},
    ]
    address, text = shown["my-data-2-0-report"].value
    assert address.startswith("file:///")
    assert "a%20b" in address
    assert text == str(tmp_path / "a b" / "report.html")


def test_curves_and_the_confusion_matrix_are_pictures_that_stand_alone(tmp_path: Path) -> None:
    history = [{"epoch": 1, "train_loss": 1.0, "val_loss": 0.9, "train_accuracy": 0.5, "val_accuracy": 0.6}]
    train = {"best_epoch": 1, "classes": ["a", "b"], "history": history}
    made = result(tmp_path, metrics_train=train, metrics_simulate={"confusion": [[3, 0], [1, 2]]})
    shown = {one.key: one.value for one in shown_of(made)}
    assert shown["my-data-2-0-training"].count("](data:image/svg+xml;base64,") == 2
    assert "## Loss by epoch" in shown["my-data-2-0-training"]
    assert "simulated program" in shown["my-data-2-0-confusion"]


def test_no_text_takes_the_summary_apart(tmp_path: Path) -> None:
    text = summary_text(result(tmp_path))
    assert "a \\| b &lt;script>" in text
    assert "<script" not in text


def test_progress_is_sent_at_most_every_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    from flowlab.engine import publish

    sent: list[float] = []
    monkeypatch.setattr(publish, "_is_gone", lambda: False)
    fake = SimpleNamespace(
        create_progress_artifact=lambda percent, **more: sent.append(percent) or "id",
        update_progress_artifact=lambda artifact, progress: sent.append(progress),
    )
    monkeypatch.setattr(publish, "artifacts", fake)
    clock = iter([i * 0.5 for i in range(1, 100)])
    progress = publish.ProgressArtifact("k", "w", clock=lambda: next(clock))
    for i in range(20):
        progress("epoch", i / 20)
    assert len(sent) <= 8
    progress.close()
    assert sent[-1] == 100.0


def test_a_dashboard_that_fails_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from flowlab.engine import publish

    asked: list[int] = []

    def refuse(*words: Any, **more: Any) -> None:
        asked.append(1)
        raise RuntimeError("no")

    monkeypatch.setattr(publish, "_is_gone", lambda: False)
    monkeypatch.setattr(publish, "artifacts", SimpleNamespace(create_progress_artifact=refuse))
    clock = iter(range(0, 1000, 10))
    progress = publish.ProgressArtifact("k", "w", clock=lambda: float(next(clock)))
    for i in range(5):
        progress("epoch", i / 5)
    progress.close()
    assert len(asked) == 1


def test_what_cannot_be_drawn_leaves_a_complete_run_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowlab.engine import flows

    said: list[str] = []

    def keep(text: str, *values: Any) -> None:
        said.append(text % values)

    monkeypatch.setattr(flows, "get_run_logger", lambda: SimpleNamespace(warning=keep, info=keep))
    flows._show(result(tmp_path, metrics_train={"history": [3]}))
    assert said[0].startswith("its tables and pictures were not drawn: ")
    assert any(line.startswith("simulated: ") for line in said)
