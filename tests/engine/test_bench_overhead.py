"""The bench of flowlab's own costs: nine real declarations without work, and other tools' pipelines."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from flowlab.engine import bench_others, bench_overhead, bench_stages
from flowlab.engine.bench_others import TASKS, Tool, command_of, is_whole, lay_out, version_of
from flowlab.engine.bench_overhead import AGAIN, FRESH, LOCAL, PREFECT, Row
from flowlab.errors import ConfigError, FlowlabError
from flowlab.stages import STAGES


def test_the_stages_are_the_real_ones_but_for_their_work() -> None:
    for made, real in zip(bench_stages.stages(), STAGES, strict=True):
        assert (made.name, made.needs, made.makes, made.options, made.plugins, made.libraries, made.tools) == (
            real.name, real.needs, real.makes, real.options, real.plugins, real.libraries, real.tools,
        )  # fmt: skip
        assert set(made.code) == {real.run.partition(":")[0], *real.code}
        module, _, function = made.run.partition(":")
        assert module == bench_stages.__name__ and callable(getattr(bench_stages, function))
    with pytest.raises(AttributeError):
        getattr(bench_stages, "no_such_stage")  # noqa: B009


def test_nine_stages_are_made_and_then_found(tmp_path: Path) -> None:
    """On the local engine; the server's is a system test."""
    found = bench_overhead._flowlab(tmp_path, "http://127.0.0.1:9/api", {LOCAL: "local"})
    assert set(found) == {(LOCAL, FRESH), (LOCAL, AGAIN)} and all(cpu > 0 for _, cpu in found.values())


def script(place: Path, text: str) -> str:
    place.write_text(f"#!/bin/sh\n{text}\n")
    place.chmod(place.stat().st_mode | stat.S_IXUSR)
    return str(place)


CHAIN = f"for n in $(seq 1 {TASKS}); do (cat $((n-1)).txt; echo task $n) > $n.txt; done"


def test_a_tool_is_measured_only_if_it_makes_what_all_make(tmp_path: Path) -> None:
    tool = Tool("imagined", {"rules": "of VERSION"}, ("all",), ("all",), ("begin",))
    good = script(tmp_path / "good", f'if [ "$1" = begin ]; then touch begun; else test -e begun && {CHAIN}; fi')
    found = bench_overhead._other(tool, good, "1.5", tmp_path / "a")
    assert set(found) == {("imagined", FRESH), ("imagined", AGAIN)}
    assert (tmp_path / "a" / "rules").read_text() == "of 1.5" and is_whole(tmp_path / "a")
    with pytest.raises(FlowlabError, match="did not make what all others make"):
        bench_overhead._other(tool, script(tmp_path / "idle", "exit 0"), "1", tmp_path / "b")
    with pytest.raises(FlowlabError, match=r"broken failed \(3\): no such rule"):
        bench_overhead._other(tool, script(tmp_path / "broken", "echo no such rule; exit 3"), "1", tmp_path / "c")


def test_versions_are_read_in_whatever_words_they_come(tmp_path: Path) -> None:
    for text, version in (
        ("[12/01/26] INFO using 3.11.2\nkedro, version 1.7.0\nmore 2.0 words", "1.7.0"),
        ("0.37.0\nlib @ /x/y.py", "0.37.0"),
        ("none", "unknown"),
    ):
        assert version_of(script(tmp_path / "tool", f"printf '{text}'")) == version


def test_a_tool_that_is_nowhere_has_no_command(tmp_path: Path) -> None:
    assert command_of("no-such-tool", lambda name: None) is None
    assert command_of("no-such-tool", lambda name: f"/opt/{name}") == "/opt/no-such-tool"


@pytest.mark.parametrize("tool", bench_others.TOOLS, ids=lambda tool: tool.name)
def test_every_tools_files_name_nine_tasks(tool: Tool, tmp_path: Path) -> None:
    lay_out(tool, "1.0", tmp_path)
    text = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "VERSION" not in text and "9.txt" in text.replace('f"{number}.txt"', "9.txt")


def test_ratios_are_of_the_same_round_and_bars_are_said() -> None:
    own = [(1.0, 0.5), (2.0, 0.5)]
    row = bench_overhead._row("doit", "1", AGAIN, [(2.0, 0.25), (4.0, 0.25)], own)
    assert (row.wall_ratio, row.cpu_ratio, row.bar) == (2.0, 0.5, "")
    assert bench_overhead._row(LOCAL, "", AGAIN, own, own).bar == "0.3 s wall: missed"
    assert bench_overhead._row(PREFECT, "", FRESH, own, own).bar == "2.5 s CPU: met"
    assert Row("doit", "1", FRESH, 1.0, 2.0, 3.0, 4.0).cells() == (
        "doit 1",
        FRESH,
        "1.00 s",
        "2.00 s",
        "3.00",
        "4.00",
        "",
    )


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--csv"):
        bench_overhead.measure(bench_overhead.Asked(csv=tmp_path / "file"), lambda text: None)


def test_the_machines_load_is_said_where_others_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 0.0, 0.0))
    assert bench_overhead._busy()[0].startswith("others work on this machine (load 99.0 on ")
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert bench_overhead._busy() == []
