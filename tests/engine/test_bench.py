from __future__ import annotations

import sys

import pytest

from flowlab.engine.bench import Cost, Overhead, measure
from flowlab.errors import FlowlabError


def test_a_command_is_measured_beside_a_bare_interpreter() -> None:
    found = measure([sys.executable, "-c", "import time; time.sleep(0.3)"], repeat=1)
    assert found.run.wall_s > found.bare.wall_s > 0
    assert found.run.wall_s >= 0.3


def test_a_command_that_fails_is_said() -> None:
    with pytest.raises(FlowlabError, match=r"the run to measure failed: .*no such config"):
        measure([sys.executable, "-c", "import sys; sys.exit('no such config')"], repeat=1)


def test_the_lines_are_for_people() -> None:
    lines = Overhead(Cost(0.02, 0.01, 1000), Cost(0.1, 0.09, 12000)).lines()
    assert lines == [
        "bare interpreter: 0.020 s wall, 0.010 s CPU",
        "cached run:       0.100 s wall, 0.090 s CPU",
        "ratio:            5.00 wall",
        "instructions:     12,000 against 1,000, 12.00",
    ]
    assert "not counted" in Overhead(Cost(0.02, 0.01, None), Cost(0.1, 0.09, None)).lines()[-1]
