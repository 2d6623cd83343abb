"""What a report is made of: the small files of the stages, parsed, and nothing else (no time, no run, no host)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """One raw window of the test split: its class and its channels, each a few hundred values at most."""

    label: str
    channels: Sequence[Sequence[float]]


@dataclass(frozen=True)
class ReportFacts:
    """The JSON of each role by the role's name; a stage that did not run leaves None.

    ``file_bytes`` are sizes of files by role. ``unit_name`` is what the device's accelerator is called;
    ``packs_below_8`` says that the compile preset packs weights of fewer than 8 bits.
    """

    feature_spec: Document
    splits: Document
    gate: Document
    metrics_train: Document
    metrics_quantize: Document
    quantization_config: Document
    placement: Document
    notes: Document
    memory: Document | None = None
    agreement: Document | None = None
    costs: Document | None = None
    metrics_simulate: Document | None = None
    examples: Sequence[Example] = ()
    file_bytes: Mapping[str, int] = field(default_factory=dict)
    unit_name: str = "NPU"
    packs_below_8: bool = False
