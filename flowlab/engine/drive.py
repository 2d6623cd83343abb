"""In which order the nodes of merged plans are done: as soon as they can be, a bounded number at once.

It runs nothing itself: an engine begins a node and tells when it has ended, so every engine has the same order.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Collection, Mapping, Sequence

from flowlab.plan import Shared
from flowlab.store.records import Record

Ended = tuple[Record, bool] | BaseException
"""A node's record, and whether the store had it; or why there is none."""

Tell = Callable[[Callable[[], Ended]], None]
Begin = Callable[[Shared, Tell], None]
"""Start a node in the background; its second argument is called once, from any thread, when it has ended.

What it is given is asked for the outcome in the thread that drives.
"""


def drive(
    nodes: Sequence[Shared],
    jobs: int,
    begin: Begin,
    ended: Callable[[Shared, Ended | None], None],
    alive: Callable[[], Collection[int]],
    *,
    here: bool = True,
) -> None:
    """Do the nodes; returns when all have ended or cannot be done any more.

    A node can be done when what it reads is there, and when all that it waits for has ended well in at least one plan
    that still goes on. It cannot be done any more when none of its plans goes on. Of nodes that use torch, one at a
    time is begun here: two would wait for each other in one process, and take the places of others.

    Args:
        nodes: from `flowlab.plan.merged`.
        jobs: how many run at once, at most.
        begin: starts one.
        ended: called in this thread for each node, with None for one that cannot be done.
        alive: the numbers of the plans that go on: of those in which nothing has failed.
        here: whether they run in this process, and not in one each elsewhere.
    """
    waiting = {node.recipe: node for node in nodes}
    running: dict[str, Shared] = {}
    done: set[str] = set()
    told: queue.SimpleQueue[tuple[Shared, Callable[[], Ended]]] = queue.SimpleQueue()
    while waiting or running:
        _drop(waiting, alive(), ended)
        while len(running) < jobs and (node := _next(waiting, running if here else {}, done, alive())) is not None:
            running[node.recipe] = waiting.pop(node.recipe)
            begin(node, _teller(node, told))
        if not running:
            assert not waiting, "nodes wait for each other"
            return
        node, ask = told.get()
        outcome = ask()
        del running[node.recipe]
        if not isinstance(outcome, BaseException):
            done.add(node.recipe)
        ended(node, outcome)


def _drop(waiting: dict[str, Shared], alive: Collection[int], ended: Callable[[Shared, Ended | None], None]) -> None:
    """Take out what nobody needs any more."""
    for node in [one for one in waiting.values() if not any(number in alive for number in one.plans)]:
        del waiting[node.recipe]
        ended(node, None)


def _next(
    waiting: Mapping[str, Shared], running: Mapping[str, Shared], done: set[str], alive: Collection[int]
) -> Shared | None:
    """The first node that can be done now."""
    torch_is_taken = any(one.node.stage.torch for one in running.values())
    for node in waiting.values():
        if node.node.stage.torch and torch_is_taken:
            continue
        if done.issuperset(node.reads) and any(
            done.issuperset(node.after[number]) for number in node.plans if number in alive
        ):
            return node
    return None


def _teller(node: Shared, told: queue.SimpleQueue[tuple[Shared, Callable[[], Ended]]]) -> Tell:
    return lambda ask: told.put((node, ask))
