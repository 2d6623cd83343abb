"""`flowlab compare`: in what two runs differ, from the config to the layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowlab.engine.runs import PastRun, records_of
from flowlab.engine.status import Change, changes
from flowlab.store.objects import DamagedObject
from flowlab.store.records import Record
from flowlab.store.store import Store

LAYER = ("layer", "unit", "shape", "macs", "weight_bytes")  # what of a layer's row is compared
UNKNOWN = "one of the runs was made by a version that kept no config"


@dataclass(frozen=True)
class Comparison:
    """Differences between two runs, each a list of changed fields; ``stages`` are those whose fingerprints differ."""

    runs: tuple[str, str]
    config: tuple[Change, ...] | None
    metrics: tuple[Change, ...]
    sizes: tuple[Change, ...]
    layers: tuple[Change, ...]
    stages: Mapping[str, tuple[Change, ...]]

    def to_json(self) -> dict[str, Any]:
        """For programs; every key is always there, ``config`` is null where a run kept none."""
        return {
            "runs": list(self.runs),
            "config": None if self.config is None else [one.to_json() for one in self.config],
            "metrics": [one.to_json() for one in self.metrics],
            "sizes": [one.to_json() for one in self.sizes],
            "layers": [one.to_json() for one in self.layers],
            "stages": [
                {"name": name, "changes": [one.to_json() for one in found]} for name, found in self.stages.items()
            ],
        }

    def lines(self) -> list[str]:
        """For people."""
        said = [f"{self.runs[0]} -> {self.runs[1]}"]
        for title, found in (
            ("config", self.config),
            ("metrics", self.metrics),
            ("sizes", self.sizes),
            ("layers", self.layers),
        ):
            if found is None:
                said += [f"{title}: {UNKNOWN}"]
            else:
                said += [f"{title}: {'the same' if not found else ''}".rstrip(), *(f"  {one.full()}" for one in found)]
        said.append(f"stages: {'the same' if not self.stages else ''}".rstrip())
        for name, found in self.stages.items():
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            said.append(f"  {name:<10} {found[0].text() + more if found else 'only one of them has it'}")
        return said


def compare(first: PastRun, second: PastRun, stores: tuple[Store, Store]) -> Comparison:
    """What differs from the first run to the second; ``stores`` are where the two are."""
    records = (records_of(first.stages, stores[0]), records_of(second.stages, stores[1]))
    known = first.config is not None and second.config is not None
    return Comparison(
        runs=(first.run, second.run),
        config=changes(first.config, second.config) if known else None,
        metrics=changes(first.metrics, second.metrics),
        sizes=changes(first.sizes, second.sizes),
        layers=changes(*(_layers(found, store) for found, store in zip(records, stores, strict=True))),
        stages=_stages(first, second, records),
    )


def _stages(
    first: PastRun, second: PastRun, records: tuple[Mapping[str, Record], Mapping[str, Record]]
) -> dict[str, tuple[Change, ...]]:
    from flowlab.stages import STAGES

    order = [stage.name for stage in STAGES]
    names = {*first.stages, *second.stages}
    found: dict[str, tuple[Change, ...]] = {}
    for name in (*(one for one in order if one in names), *sorted(names - set(order))):
        if first.stages.get(name) != second.stages.get(name):
            old, new = records[0].get(name), records[1].get(name)
            found[name] = changes(old.document, new.document) if old and new else ()
    return found


def _layers(records: Mapping[str, Record], store: Store) -> dict[str, dict[str, Any]]:
    """Rows of the layer table by name; empty where the run has none."""
    for record in records.values():
        stored = record.outputs.get("placement", {}).get("placement.json")
        if stored is not None:
            try:
                rows = json.loads(store.objects.verified(stored.sha256).read_bytes()).get("layers", ())
            except (DamagedObject, OSError, ValueError):
                return {}
            return {str(row["name"]): {key: row.get(key) for key in LAYER} for row in rows}
    return {}
