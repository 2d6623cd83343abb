"""What is claimed of programs is what `flowlab bench compile` counts."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system
FLOWLAB = Path(sys.executable).with_name("flowlab")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FLOWLAB, "bench", "compile", *arguments], capture_output=True, text=True, check=False, timeout=400
    )


def test_every_bar_is_met_and_every_core_counted(tmp_path: Path) -> None:
    done = bench("--quick", "--csv", str(tmp_path / "tables"))
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "tables" / "compile.csv").read_text().splitlines()))
    assert {row["core"] for row in rows} == {"Cortex-M0+", "Cortex-M4F", "Cortex-M33", "Cortex-R5F"}
    assert {row["network"] for row in rows} == {"CLS_4k_NPU"}
    with_bars = [row for row in rows if row["verdict"] != "–" and row["compiler"].startswith("ziglang")]
    assert len(with_bars) == 4 and {row["verdict"] for row in with_bars} == {"met"}
    found = re.search(r"CLS_4k_NPU PTQ 8/8: the simulator has ([0-9.]+) .*\(bar: ([0-9.]+)\)", done.stdout)
    assert found is not None, done.stdout
    ratio, least = map(float, found.groups())
    assert least == 0.3 and ratio >= least, found.group()  # of ONNX Runtime's speed, the median of rounds
    for row in rows:
        assert f"{int(row['instructions']):,}" in done.stdout


def test_a_network_that_it_has_not_is_an_error() -> None:
    done = bench("--model", "CLS_4k_NPO")
    assert done.returncode == 2 and "Did you mean 'CLS_4k_NPU'?" in done.stderr
