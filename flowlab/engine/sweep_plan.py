"""The plan of a sweep: the plans of its cells, merged, so that equal work is one node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowlab.config.sweep import Cell, Sweep
from flowlab.engine import table
from flowlab.engine.execute import gather, lookup
from flowlab.engine.facts import DiskFacts
from flowlab.engine.local import Known, Prepared, prepare_one
from flowlab.engine.source import Fetch
from flowlab.errors import ConfigError, FlowlabError, plural
from flowlab.plan import Shared, merged
from flowlab.store.records import Record
from flowlab.store.store import Store

SHOWN = 5  # cells that a message names


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep does.

    ``cells`` are by their place; ``nodes`` know them by that number. ``names`` are the nodes' by recipe: the stage and
    a number, ``quantize 3``, and nothing behind it where the stage is done once.
    """

    sweep: Sweep
    cells: tuple[Prepared, ...]
    nodes: tuple[Shared, ...]
    names: Mapping[str, str]
    store: Store

    def cell(self, number: int) -> Cell:
        """The place of the matrix that a node calls by this number."""
        return self.sweep.cells[number]

    def about(self, node: Shared) -> str:
        """What tells a node from others of its stage: the values of the axes on which it depends."""
        found = []
        for axis in self.sweep.axes:
            labels = {self.cell(number).labels[axis.name] for number in node.plans}
            if len(labels) == 1 and len(axis.choices) > 1:
                found.append(f"{axis.short} {labels.pop()}")
        return ", ".join(found)

    def cached(self) -> dict[str, Record]:
        """The records of the nodes that need not run, by recipe."""
        found: dict[str, Record] = {}
        for shared in self.nodes:
            if not all(recipe in found for recipe in shared.reads):
                continue
            records = {recipe: found[recipe] for recipe in shared.reads}
            record = lookup(shared.node, gather(shared.node, records, self.cells[shared.plans[0]].sources), self.store)
            if record is not None:
                found[shared.recipe] = record
        return found

    def to_json(self, cached: Mapping[str, Record]) -> dict[str, Any]:
        """For programs: the cells, and every node with the cells that it serves."""
        return {
            "sweep": self.sweep.name,
            "cells": [{"cell": one.number, **one.labels} for one in self.sweep.cells],
            "nodes": [
                {
                    "name": self.names[node.recipe],
                    "stage": node.node.name,
                    "state": "cached" if node.recipe in cached else "will run",
                    "cells": [self.cell(number).number for number in node.plans],
                }
                for node in self.nodes
            ],
        }

    def lines(self, cached: Mapping[str, Record]) -> list[str]:
        """For people: a line a stage, then those nodes that will run."""
        cells = plural(len(self.cells), "cell", "cells")
        rows = []
        for stage, nodes in self.by_stage().items():
            there = sum(node.recipe in cached for node in nodes)
            rows.append((stage, str(len(nodes)), str(there), str(len(nodes) - there)))
        total = sum(len(one.plan) for one in self.cells)
        lines = [f"{self.sweep.name}: {cells}, {len(self.nodes):,} nodes instead of {total:,}"]
        lines += table.lines(("stage", "nodes", "cached", "to run"), rows)
        to_run = [
            (self.names[node.recipe], plural(len(node.plans), "cell", "cells"), self.about(node))
            for node in self.nodes
            if node.recipe not in cached
        ]
        return [*lines, "", *table.lines(("will run", "for", "with"), to_run)] if to_run else lines

    def by_stage(self) -> dict[str, list[Shared]]:
        """The nodes of each stage, in order."""
        found: dict[str, list[Shared]] = {}
        for node in self.nodes:
            found.setdefault(node.node.name, []).append(node)
        return found


def plan_sweep(sweep: Sweep, catalogue: Any, store: Store, fetch: Fetch | None = None) -> SweepPlan:
    """Make the plan of every cell, and merge them. Reads files; writes only what was learnt about files.

    Args:
        sweep: as it was read.
        catalogue: what is installed.
        store: where results are.
        fetch: downloads data that the store does not have; None downloads nothing.

    Raises:
        ConfigError: where cells cannot be run, with the reason and the cells; nothing has run then.
    """
    from flowlab.stages import STAGES

    known = Known(DiskFacts(store))
    cells: list[Prepared] = []
    wrong: dict[str, list[Cell]] = {}
    errors: list[FlowlabError] = []
    for cell in sweep.cells:
        try:
            cells.append(prepare_one(STAGES, sweep.config(cell, catalogue), catalogue, store, known=known, fetch=fetch))
        except FlowlabError as error:
            wrong.setdefault(str(error), []).append(cell)
            errors.append(error)
    _refuse(sweep, wrong, errors)
    known.facts.save()
    store.stats.save()
    nodes = merged([one.plan for one in cells])
    return SweepPlan(sweep, tuple(cells), nodes, _names(nodes), store)


def _refuse(sweep: Sweep, wrong: Mapping[str, Sequence[Cell]], errors: Sequence[FlowlabError]) -> None:
    """Say what is wrong with the config itself as for a run; what only some cells have with their names."""
    if not errors:
        return
    if len(wrong) == 1 and len(errors) == len(sweep.cells):
        raise errors[0]
    lines = []
    for text, cells in wrong.items():
        more = f" and {len(cells) - SHOWN} more" if len(cells) > SHOWN else ""
        lines.append(f"{text}\n  in {plural(len(cells), 'cell', 'cells')}: {'; '.join(map(str, cells[:SHOWN]))}{more}")
    raise ConfigError("\n".join([*lines, f"Nothing has run. Leave these cells of '{sweep.name}' out with 'exclude:'"]))


def _names(nodes: Sequence[Shared]) -> dict[str, str]:
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node.node.name] = counts.get(node.node.name, 0) + 1
    seen: dict[str, int] = {}
    names = {}
    for node in nodes:
        stage = node.node.name
        seen[stage] = seen.get(stage, 0) + 1
        names[node.recipe] = f"{stage} {seen[stage]}" if counts[stage] > 1 else stage
    return names
