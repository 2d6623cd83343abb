"""The costs of one window in words. Three numbers that are never mixed: counted, of a model, and estimated. Light."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]
KEYS = ("model", "estimate")  # of costs.json: what the target knows without running anything


def foreseen(costs: Document) -> dict[str, Any]:
    """What ``--json`` says of them: every key is there, None where the target knows nothing."""
    return {key: costs.get(key) for key in KEYS}


def rows(costs: Document) -> list[tuple[str, str, str]]:
    """Name, value, and what it is, for each that there is."""
    found = []
    for one in (costs.get("measured") or {}).values():
        what = f"counted: every layer in C, run on an emulated {one['core']}, which takes more cycles than instructions"
        found.append(("instructions", f"{one['instructions']:,}", what))
    if model := costs.get("model"):
        what = "counted from the layers, for an open model of the accelerator; its cycles are not the device's"
        found.append((f"cycles, {model['name']}", f"{model['cycles']:,}", what))
    if estimate := costs.get("estimate"):
        found.append(("cycles, estimate", value(estimate), _basis(estimate)))
    return found


def line(costs: Document) -> str:
    """One line for the terminal; empty where the target knows nothing."""
    parts = []
    if model := costs.get("model"):
        parts.append(f"{model['name']} {model['cycles']:,} cycles")
    if estimate := costs.get("estimate"):
        number = "no estimate" if estimate["cycles"] is None else f"estimate {value(estimate)} cycles"
        parts.append(f"{number} of {estimate['what']}" + (f": {estimate['reason']}" if estimate["reason"] else ""))
        parts += [f"outside of the published figures: {text}" for text in estimate["outside"][:1]]
    return "; ".join(parts)


def value(estimate: Document) -> str:
    """The number with its band, or a dash."""
    return "–" if estimate["cycles"] is None else f"{estimate['cycles']:,} ± {percent(estimate['band'])}"


def percent(share: float) -> str:
    """A share without decimals."""
    return f"{100 * share:.0f} %"


def _basis(estimate: Document) -> str:
    if estimate["cycles"] is None:
        return f"{estimate['what']}: {estimate['reason']}"
    most, mean = percent(estimate["band"]), percent(estimate["mean_error"])
    text = (
        f"{estimate['what']}, fitted to {estimate['figures']} figures that the vendor published. Predicted from the "
        f"others, each is off by {most} at most and by {mean} on average"
    )
    return f"{text}. Outside of them: {'; '.join(estimate['outside'])}" if estimate["outside"] else text
