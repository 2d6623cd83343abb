"""Gates: limits that a finished run must keep. They look at records, cached ones too, and are in no fingerprint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowlab.errors import ConfigError, did_you_mean, unknown_name
from flowlab.store.records import Record

DROP, FLASH, RAM, NPU, REQUIRE = "max_accuracy_drop", "max_flash_bytes", "max_ram_bytes", "require_npu", "require"
SMALLER = {
    "flash": "Try a smaller model, or narrower weights (training.quantization_weight_bitwidth)",
    "ram": "Try a smaller model, or fewer features",
}
NAMED = 5  # layers that a message names


@dataclass(frozen=True)
class Gate:
    """One limit and what the run has. ``value`` is None where nothing measured it, and then the gate is missed.

    ``missed`` is the sentence for people: the number, the limit and what to do; empty where the gate is passed.
    """

    name: str
    limit: Any
    value: Any
    missed: str = ""

    @property
    def passed(self) -> bool:
        """Whether the limit is kept."""
        return not self.missed

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {"name": self.name, "limit": self.limit, "value": self.value, "passed": self.passed}


def gates_of(
    config: Any, records: Mapping[str, Record], agreement: Mapping[str, Any], required: Sequence[str] = ()
) -> tuple[Gate, ...]:
    """Every gate that the config or the command line sets, in order.

    Args:
        config: whose sections ``testing`` and ``compilation`` hold limits.
        records: of the run's stages, by stage.
        agreement: what `flowlab.engine.result.agreement_of` says of them.
        required: executions of ``--require``.
    """
    metrics = {stage: record.metrics for stage, record in records.items()}
    testing, compilation = getattr(config, "testing", None), getattr(config, "compilation", None)
    tools = metrics.get("compile", {}).get("tools", {})
    found = [_required_tool(name, tools[name]) if name in tools else _required(name, agreement) for name in required]
    if (limit := getattr(testing, DROP, None)) is not None:
        found.append(_drop(limit, metrics.get("train", {}).get("test"), metrics.get("simulate", {}).get("simulated")))
    for name, region in ((FLASH, "flash"), (RAM, "ram")):
        if (limit := getattr(compilation, name, None)) is not None:
            found.append(_memory(name, region, limit, metrics.get("compile", {}).get("needed", {})))
    if getattr(compilation, NPU, False):
        found.append(_npu(metrics.get("validate", {})))
    return tuple(found)


def executions_of(targets: Iterable[Any]) -> tuple[str, ...]:
    """The names that ``--require`` takes for these devices: what every run compares, their executions and tools."""
    from flowlab.stages.validate import EXECUTIONS

    own = [name for target in targets for name in (*(one.name for one in target.executions()), *target.tools())]
    return tuple(dict.fromkeys((*EXECUTIONS, *own)))


def check_required(names: Sequence[str], config: Any, catalogue: Any) -> None:
    """Refuse a name that no execution of the device has, before a run of minutes finds that it did not run.

    Raises:
        ConfigError: with the names that there are.
    """
    target = catalogue.find("target", config.common.target_device) if names else None
    known = executions_of([target]) if target is not None else names
    for name in names:
        if name not in known:
            raise ConfigError(f"--require: {unknown_name('execution', name, known)}")


def _required(name: str, agreement: Mapping[str, Any]) -> Gate:
    ran = agreement["executions"]
    if name in ran:
        return Gate(REQUIRE, name, "ran")
    reasons = {one["name"]: one["reason"] for one in agreement["not_run"]}
    hint = "" if name in reasons else did_you_mean(name, [*ran, *reasons])
    reason = reasons.get(name, "nothing in this run has that name").rstrip(".")
    text = f"--require {name} did not run here: {reason}.{hint} Ran: {', '.join(ran) or 'none'}"
    return Gate(REQUIRE, name, None, text)


def _required_tool(name: str, reason: str) -> Gate:
    """An outside tool of the device; ``reason`` is empty where it ran."""
    return Gate(REQUIRE, name, None if reason else "ran", f"--require {name}: {reason}" if reason else "")


def _drop(limit: float, float_test: Mapping[str, Any] | None, simulated: Mapping[str, Any] | None) -> Gate:
    """The first metric that both have, float minus simulated; one that rises is a negative drop."""
    name = next((one for one in float_test or {} if one in (simulated or {})), None)
    if name is None or float_test is None or simulated is None:
        return Gate(
            DROP, limit, None, f"testing.{DROP}: nothing measured float and simulated network; the limit is {limit:g}"
        )
    before, after = float(float_test[name]), float(simulated[name])
    drop = round(before - after, 12)  # 0.99 - 0.98 is no more than 0.01
    if drop <= limit:
        return Gate(DROP, limit, drop)
    text = (
        f"testing.{DROP}: {name} falls by {drop:.4g} (float {before:.4f}, simulated {after:.4f}), and the limit is "
        f"{limit:g}. Try more training.quantization_epochs, quantization_method QAT, or wider weights"
    )
    return Gate(DROP, limit, drop, text)


def _memory(name: str, region: str, limit: int, needed: Mapping[str, Any]) -> Gate:
    value = needed.get(region)
    if value is None:
        known = ", ".join(sorted(needed)) or "none"
        return Gate(
            name, limit, None, f"compilation.{name}: nobody says what the program needs of {region}. Known: {known}"
        )
    if value <= limit:
        return Gate(name, limit, value)
    text = f"compilation.{name}: the program needs {value:,} bytes of {region}, and the limit is {limit:,}. "
    return Gate(name, limit, value, text + SMALLER[region])


def _npu(validate: Mapping[str, Any]) -> Gate:
    layers = validate.get("cpu_layers")
    if layers is None:
        return Gate(NPU, True, None, f"compilation.{NPU}: no record says where the layers run")
    if not layers:
        return Gate(NPU, True, True)
    more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
    text = (
        f"compilation.{NPU}: layers on the CPU: {len(layers)} ({', '.join(layers[:NAMED])}{more}), and the limit is 0. "
        "The warnings and the report's layer table name the broken rule and a cure for each"
    )
    return Gate(NPU, True, False, text)
