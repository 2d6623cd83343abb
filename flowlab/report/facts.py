"""What a report is made of: the small files of the stages, parsed, and nothing else (no time, no run, no host)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """One raw window of the test split: its class, its channels (a few hundred values each at most), its feature.

    ``step`` says that one of so many samples is drawn. A feature is one line for each channel and column, over the
    height; at most a few lines, each a few hundred values.
    """

    label: str
    channels: Sequence[Sequence[float]]
    step: int = 1
    feature: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class ReportFacts:
    """The JSON of each role by the role's name; a stage that did not run leaves None.

    ``file_bytes`` are sizes of files by role. ``unit_name`` is what the device's accelerator is called;
    ``packs_below_8`` says that the compile preset asks the device's compiler to pack weights of fewer than 8 bits.
    ``integer_curves`` are those of `flowlab.learn.roc` from the integers that were computed on the test split;
    ``trained_quantizer`` are the settings that choose quantization-aware training here, empty where there is none;
    ``larger_model`` is the next of the model's family, empty where none is known. ``elsewhere`` is what is known of a
    network that was trained elsewhere, and how its integers stand to its file: then there is no training, and no split.
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
    integer_curves: Sequence[Document] = ()
    trained_quantizer: Sequence[str] = ()
    larger_model: str = ""
    elsewhere: Document | None = None
