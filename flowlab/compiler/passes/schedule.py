"""The order of the steps, so that less lies in memory at one time."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph
    from flowlab.compiler.steps import Steps

MOST_STATES = 2000  # sets of finished steps that are looked at before the search takes what looks best at each step


@dataclass(frozen=True)
class Schedule:
    """Finish one branch before the next is begun, where the arena becomes smaller by that.

    The order with the fewest bytes alive at one time is searched, whatever the order given; the given one stays unless
    the arena really becomes smaller. A chain has one order only.

    Before::

        graph 1
        input %input: float32[2, 1, 1]
        %a: float32[16, 1, 1] = take(%input)
          index: int32[16] = 0*16
        %b: float32[16, 1, 1] = take(%input)
          index: int32[16] = 1*16
        %a.mean: float32[1, 1, 1] = take(%a)
          index: int32[1] = 3
        %b.mean: float32[1, 1, 1] = take(%b)
          index: int32[1] = 4
        %sum: float32[1, 1, 1] = add(%a.mean, %b.mean)
        output "output" = %sum

    After::

        graph 1
        input %input: float32[2, 1, 1]
        %a: float32[16, 1, 1] = take(%input)
          index: int32[16] = 0*16
        %a.mean: float32[1, 1, 1] = take(%a)
          index: int32[1] = 3
        %b: float32[16, 1, 1] = take(%input)
          index: int32[16] = 1*16
        %b.mean: float32[1, 1, 1] = take(%b)
          index: int32[1] = 4
        %sum: float32[1, 1, 1] = add(%a.mean, %b.mean)
        output "output" = %sum
    """

    name: str = "schedule"

    def apply(self, graph: Graph) -> Graph:
        """The same nodes; those of one step stand together where the order is another one."""
        from flowlab.compiler.steps import steps_of

        steps = steps_of(graph)
        order = _Search(graph, steps).order()
        works = tuple(steps.works[at] for at in order)
        if replace(steps, works=works).arena().size >= steps.arena().size:
            return graph
        return replace(graph, nodes=tuple(node for work in works for node in work.nodes))


class _Search:
    """Orders of steps, by the most bytes alive at one time. Steps are numbered by name, so the order given is nothing.

    A set of finished steps is an integer, one bit a step.
    """

    def __init__(self, graph: Graph, steps: Steps) -> None:
        self.order_given = sorted(range(len(steps.works)), key=lambda at: steps.works[at].name)
        works = [steps.works[at] for at in self.order_given]
        number = {node.name: at for at, work in enumerate(works) for node in work.nodes}
        self.before = [0] * len(works)
        for at, work in enumerate(works):
            for name in (name for node in work.nodes for name in node.inputs):
                if name in number and number[name] != at:
                    self.before[at] |= 1 << number[name]
        self.writes = [sum(steps.sizes[name] for name in work.step.writes) for work in works]
        self.all = (1 << len(works)) - 1
        readers = {name: 0 for work in works for name in work.step.writes}
        for at, work in enumerate(works):
            for name in work.step.reads:
                readers[name] |= 1 << at
        self.readers, self.sizes, self.keep = readers, steps.sizes, frozenset(steps.keep)
        self.reads = [tuple(dict.fromkeys(work.step.reads)) for work in works]
        self.dead = [all(not readers[name] and name not in self.keep for name in work.step.writes) for work in works]

    def order(self) -> list[int]:
        """The best order found, as places in the order given."""
        found = self._least() or self._greedy()
        return [self.order_given[at] for at in found]

    def _ready(self, done: int) -> list[int]:
        return [at for at, needs in enumerate(self.before) if not done >> at & 1 and needs & done == needs]

    def _after(self, done: int, live: int, at: int) -> int:
        """The bytes alive behind a step."""
        later = done | 1 << at
        freed = sum(
            self.sizes[name]
            for name in self.reads[at]
            if name not in self.keep and self.readers[name] & later == self.readers[name]
        )
        return live + (0 if self.dead[at] else self.writes[at]) - freed

    def _harmless(self, done: int, live: int, peak: int, ready: Sequence[int]) -> int | None:
        """A step that raises neither the peak nor what lives behind it: it may as well come now."""
        for at in ready:
            if live + self.writes[at] <= peak and self._after(done, live, at) <= live:
                return at
        return None

    def _least(self) -> list[int] | None:
        """An order of the lowest peak; None where there are too many."""
        came: dict[int, tuple[int, int]] = {}  # finished steps -> those before, and the last one
        best = {0: 0}
        queue = [(0, 0, 0, 0)]  # peak, steps to go, finished, bytes alive
        states = 0
        while queue:
            peak, _, done, live = heapq.heappop(queue)
            if peak > best[done]:
                continue
            if done == self.all:
                return self._path(came)
            states += 1
            if states > MOST_STATES:
                return None
            ready = self._ready(done)
            sure = self._harmless(done, live, peak, ready)
            for at in ready if sure is None else [sure]:
                higher, later = max(peak, live + self.writes[at]), done | 1 << at
                if higher < best.get(later, higher + 1):
                    best[later], came[later] = higher, (done, at)
                    heapq.heappush(queue, (higher, -later.bit_count(), later, self._after(done, live, at)))
        return None

    def _path(self, came: dict[int, tuple[int, int]]) -> list[int]:
        path, done = [], self.all
        while done:
            done, at = came[done]
            path.append(at)
        return path[::-1]

    def _greedy(self) -> list[int]:
        """At each step what raises the peak least, and then leaves least behind."""
        done, live, peak, path = 0, 0, 0, []
        while done != self.all:
            ready = self._ready(done)
            at = min(ready, key=lambda one: (max(peak, live + self.writes[one]), self._after(done, live, one), one))
            peak, live = max(peak, live + self.writes[at]), self._after(done, live, at)
            done |= 1 << at
            path.append(at)
        return path
