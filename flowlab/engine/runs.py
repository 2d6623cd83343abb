"""What the store knows of past runs: `flowlab runs`, and what `flowlab compare` starts from.

A run that an older version wrote has no metrics in its ``run.json``: they are taken from its records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowlab.store.records import Record
from flowlab.store.runs import state_of
from flowlab.store.store import Store

METRICS = {"float": ("train", "test"), "quantized": ("quantize", "quantized"), "simulated": ("simulate", "simulated")}
"""Which stage's record has which metrics, under which name."""

TABLE = ("run", "when (UTC)", "state", "dataset", "model", "device", "float", "simulated", "program")


@dataclass(frozen=True)
class PastRun:
    """One run as its ``run.json`` and its records tell it; what neither says is None or empty."""

    run: str
    state: str
    dataset: str
    model: str | None
    device: str | None
    engine: str | None
    started: str | None
    finished: str | None
    metrics: Mapping[str, Any]
    sizes: Mapping[str, Any]
    gates: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any] | None
    stages: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """For programs; the config is left to `flowlab compare`."""
        return {name: value for name, value in vars(self).items() if name not in ("config", "stages")}

    def row(self) -> tuple[str, ...]:
        """For people, under `TABLE`."""
        program = self.sizes.get("program_bytes")
        return (
            self.run,
            _utc(self.started or ""),
            self.state,
            self.dataset,
            self.model or "",
            self.device or "",
            _first(self.metrics.get("float")),
            _first(self.metrics.get("simulated")),
            f"{program:,} bytes" if isinstance(program, int) else "",
        )


def past_runs(store: Store, dataset: str | None = None) -> tuple[PastRun, ...]:
    """The runs of a dataset, or of all, newest first."""
    return tuple(past_run(value, store) for value in store.runs.newest_first(dataset))


def past_run(value: Mapping[str, Any], store: Store) -> PastRun:
    """One run from the content of its ``run.json``."""
    stages = {str(name): one for name, one in _mapping(value.get("stages")).items() if isinstance(one, str)}
    metrics, sizes = _mapping(value.get("metrics")), _mapping(value.get("sizes"))
    model = _text(value.get("model"))
    if not metrics:
        records = records_of(stages, store)
        metrics = {
            name: record.metrics.get(key) if (record := records.get(stage)) else None
            for name, (stage, key) in METRICS.items()
        }
        model = model or _model(records.get("train"))
        compiled = records.get("compile")
        sizes = {name: compiled.metrics.get(name) for name in ("packed_bytes", "program_bytes")} if compiled else {}
    config, gates = value.get("config"), value.get("gates")
    return PastRun(
        run=str(value.get("run", "")),
        state=state_of(value),
        dataset=str(value.get("dataset", "")),
        model=model,
        device=_text(value.get("device")),
        engine=_text(value.get("engine")),
        started=_text(value.get("started")) or _time(str(value.get("run", ""))),
        finished=_text(value.get("finished")),
        metrics=metrics,
        sizes=sizes,
        gates=[one for one in gates if isinstance(one, Mapping)] if isinstance(gates, list) else [],
        config=config if isinstance(config, Mapping) else None,
        stages=stages,
    )


def records_of(stages: Mapping[str, str], store: Store) -> dict[str, Record]:
    """The records of a run's stages that are still in the store."""
    found = {stage: store.records.read(stage, fingerprint) for stage, fingerprint in stages.items()}
    return {stage: record for stage, record in found.items() if record is not None}


def _utc(started: str) -> str:
    """The moment in UTC, as the run's name has it; what is no moment with a zone as it stands."""
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(started)
    except ValueError:
        return started
    return started if moment.tzinfo is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _first(metrics: Any) -> str:
    """The first metric, which is the problem's own."""
    value = next(iter(metrics.values()), None) if isinstance(metrics, Mapping) else None
    return f"{value:.4f}" if isinstance(value, float) else ""


def _model(record: Record | None) -> str | None:
    plugin = _mapping(_mapping(record.document.get("plugins")).get("model")) if record else {}
    return _text(plugin.get("name"))


def _time(run: str) -> str | None:
    """A run's name begins with its time: ``20260131T120000Z-3f2a``."""
    stamp = run.partition("Z-")[0]
    if len(stamp) != 15 or not stamp.replace("T", "").isdigit():
        return None
    day, time = stamp.split("T") if stamp.count("T") == 1 else ("", "")
    return f"{day[:4]}-{day[4:6]}-{day[6:]}T{time[:2]}:{time[2:4]}:{time[4:]}+00:00" if len(day) == 8 else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
