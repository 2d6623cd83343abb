"""`flowlab bench overhead` with a real server: its rows, its CSV, its ratios."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

from flowlab.engine.bench_others import TOOLS, command_of
from flowlab.engine.bench_overhead import AGAIN, FRESH, LOCAL, PREFECT


def test_the_costs_of_both_engines_stand_in_the_table_and_in_the_csv(tmp_path: Path) -> None:
    words = ["bench", "overhead", "--rounds", "1", "--csv", "tables"]
    done = subprocess.run(
        [sys.executable, "-m", "flowlab.cli", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with (tmp_path / "tables" / "overhead.csv").open() as file:
        rows = {(row["who"], row["what"]): row for row in csv.DictReader(file)}
    here = [tool.name for tool in TOOLS if command_of(tool.name)]
    assert {who for who, _ in rows} == {LOCAL, PREFECT, *here}
    assert not any(row["failed"] for row in rows.values()), rows
    for what in (FRESH, AGAIN):
        assert float(rows[LOCAL, what]["cpu_ratio"]) == 1.0
        assert float(rows[PREFECT, what]["cpu_s"]) > float(rows[LOCAL, what]["cpu_s"]) > 0
        assert rows[PREFECT, what]["bar"].startswith("2.5 s CPU: ")
    assert float(rows[LOCAL, AGAIN]["cpu_s"]) < float(rows[LOCAL, FRESH]["cpu_s"])
    assert f"{LOCAL}" in done.stdout and "cached run:" in done.stdout
    for tool in TOOLS:
        assert tool.name in done.stdout  # measured, or said to be absent
