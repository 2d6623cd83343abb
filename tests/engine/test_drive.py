"""The order in which merged nodes are done: told by a plan of names alone, nothing runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from flowlab.engine.drive import Ended, Tell, drive
from flowlab.plan import Shared
from flowlab.store.records import Record


def shared(
    name: str, plans: tuple[int, ...], reads: tuple[str, ...] = (), *, after: Any = None, torch: bool = False
) -> Shared:
    node = SimpleNamespace(recipe=name, name=name.split()[0], stage=SimpleNamespace(torch=torch))
    return Shared(cast(Any, node), plans, reads, after or dict.fromkeys(plans, ()))


class Engine:
    """Begins nodes and ends them when it is told to, or at once."""

    def __init__(self, cells: int, fails: tuple[str, ...] = ()) -> None:
        self.order: list[str] = []
        self.outcomes: dict[str, str] = {}
        self.most = self.most_torch = 0
        self._running: list[tuple[Shared, Tell]] = []
        self._fails = fails
        self._alive = set(range(cells))

    def begin(self, node: Shared, tell: Tell) -> None:
        self.order.append(node.recipe)
        self._running.append((node, tell))
        self.most = max(self.most, len(self._running))
        self.most_torch = max(self.most_torch, sum(one.node.stage.torch for one, _ in self._running))
        failed = node.recipe in self._fails
        outcome: Ended = ValueError(node.recipe) if failed else (cast(Record, None), False)
        tell(lambda: outcome)

    def ended(self, node: Shared, outcome: Ended | None) -> None:
        self._running = [(one, tell) for one, tell in self._running if one is not node]
        failed = isinstance(outcome, BaseException)
        self.outcomes[node.recipe] = "dropped" if outcome is None else "failed" if failed else "done"
        if failed:
            self._alive -= set(node.plans)

    def drive(self, *nodes: Shared, jobs: int = 4) -> None:
        drive(nodes, jobs, self.begin, self.ended, lambda: self._alive)


def two_cells() -> tuple[Shared, ...]:
    """Both train the same behind a gate of their own."""
    return (
        shared("data", (0, 1)),
        shared("gate 1", (0,), ("data",)),
        shared("gate 2", (1,), ("data",)),
        shared("train", (0, 1), ("data",), after={0: ("gate 1",), 1: ("gate 2",)}, torch=True),
        shared("build 1", (0,), ("train",)),
        shared("build 2", (1,), ("train",)),
    )


def test_a_node_starts_when_what_it_reads_is_there() -> None:
    engine = Engine(2)
    engine.drive(*two_cells())
    assert set(engine.outcomes.values()) == {"done"}
    assert engine.order.index("data") == 0
    assert engine.order.index("train") < engine.order.index("build 1")


def test_a_shared_node_runs_when_one_of_its_cells_passed_its_gate() -> None:
    engine = Engine(2, fails=("gate 1",))
    engine.drive(*two_cells())
    assert engine.outcomes == {
        "data": "done",
        "gate 1": "failed",
        "gate 2": "done",
        "train": "done",
        "build 1": "dropped",
        "build 2": "done",
    }


def test_a_node_that_no_cell_needs_any_more_does_not_run() -> None:
    engine = Engine(2, fails=("gate 1", "gate 2"))
    engine.drive(*two_cells())
    assert engine.outcomes["train"] == engine.outcomes["build 2"] == "dropped"
    assert engine.order == ["data", "gate 1", "gate 2"]


def test_what_fails_for_all_ends_all() -> None:
    engine = Engine(2, fails=("data",))
    engine.drive(*two_cells())
    assert engine.order == ["data"]
    assert list(engine.outcomes.values()).count("dropped") == 5


@pytest.mark.parametrize("jobs", [1, 3])
def test_no_more_run_at_once_than_were_asked_for(jobs: int) -> None:
    engine = Engine(8)
    engine.drive(*(shared(f"build {number}", (number,)) for number in range(8)), jobs=jobs)
    assert engine.most == jobs
    assert len(engine.outcomes) == 8


def test_one_node_with_torch_runs_at_a_time_and_takes_no_place_of_others() -> None:
    engine = Engine(8)
    nodes = [shared(f"train {number}", (number,), torch=True) for number in range(4)]
    engine.drive(*nodes, *(shared(f"build {number}", (number,)) for number in range(4, 8)), jobs=3)
    assert engine.most_torch == 1
    assert engine.most == 3
    assert len(engine.outcomes) == 8
