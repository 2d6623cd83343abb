"""Every key of a config as one table, made from the sections themselves: it cannot fall behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from flowlab.config.sections import ALIASES, EXCEPTIONS, SECTIONS, checks, defaults
from flowlab.config.unread import NOT_BUILT, UNREAD, UNREAD_SECTIONS, WITHOUT_EFFECT

OWN = {
    "dataset.seed": "split and generator",
    "dataset.sha256": "what a download must be",
    "dataset.time_column": "which column is the time, where a file does not say it",
    "training.seed": "training and quantization",
    "training.threads": "other counts give other weights, so it is asked for, never found",
    "training.checkpoint_every_epochs": (
        "epochs from one checkpoint of a training to the next; a killed training goes on from the last one. It changes "
        "no result and repeats nothing"
    ),
    "training.quantizer": "a quantizer by name, with its options",
    "training.quantization_epochs": "epochs of quantization-aware training",
    "training.quantization_learning_rate": (
        "the highest rate of quantization-aware training; without it the recipe for the bits decides"
    ),
    "training.quantization_optimizer": "of quantization-aware training, with a rate of its own; else the recipe's",
    "training.quantization_distillation": (
        "the float network's share of the loss of quantization-aware training, 0 for none; else the recipe's"
    ),
    "training.quantization_edge_bitwidth": "weight bits of the first and the last layer, where they have their own",
    "training.ptq_finetune": "after PTQ the integers learn the float network's outputs on the calibration windows",
    "training.quantization_calibration_count": "windows of the training split that choose the scales",
    "training.surgery": (
        "what the accelerator lacks is replaced before float training (GELU, SiLU, Hardswish by ReLU, large kernels by "
        "stacks of small ones, squeeze-and-excite by nothing); 'auto' leaves models alone that come trained, 'force' "
        "does not"
    ),
    "training.auto_quantization_mean_bits": "budget of `auto_quantization`: bits of a weight, on average",
    "training.auto_quantization_weight_bytes": "budget of `auto_quantization`: bytes of all weights",
    "testing.max_accuracy_drop": "a gate: float minus simulated",
    "compilation.max_flash_bytes": "a gate",
    "compilation.max_ram_bytes": "a gate",
    "compilation.require_npu": "a gate: no layer on the CPU",
}
"""Keys that the upstream toolchain does not have, and what they are for."""

AS_UPSTREAM = "the same"


@dataclasses.dataclass(frozen=True)
class Row:
    """One key: where it stands, what it takes, its default, and what differs from the upstream toolchain."""

    section: str
    key: str
    takes: str
    default: str
    differs: str


def rows() -> Iterator[Row]:
    """Every key that a file may have: first those of each section in order, then those that nothing reads."""
    for section in SECTIONS:
        for key, check in checks(section).items():
            yield Row(section, key, check.expected, _default(section, key), _differs(section, key))
        for alias, key in ALIASES.get(section, {}).items():
            yield Row(section, alias, checks(section)[key].expected, "", f"another spelling of `{key}`")
        for key, why in UNREAD[section].items():
            yield Row(section, key, "anything", "", f"accepted with a warning, and not read: {why}")
    for section, why in UNREAD_SECTIONS.items():
        yield Row(section, "(all keys)", "anything", "", f"accepted with a warning, and not read: {why}")


def markdown() -> str:
    """The table of `rows` in Markdown."""
    lines = ["| section | key | takes | default | against the upstream toolchain |", "|---|---|---|---|---|"]
    for row in rows():
        cells = (row.section, f"`{row.key}`", row.takes, f"`{row.default}`" if row.default else "", row.differs)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(section: str, key: str) -> str:
    value = defaults(section)[key]
    if value is dataclasses.MISSING:
        return "must be given"
    return "" if value is None else str(list(value) if isinstance(value, tuple) else value)


def _differs(section: str, key: str) -> str:
    place = f"{section}.{key}"
    said = (
        ("flowlab's own", OWN.get(place)),
        ("another default", EXCEPTIONS.get(place)),
        ("not built yet", NOT_BUILT.get(section, {}).get(key)),
        ("changes nothing", WITHOUT_EFFECT.get(section, {}).get(key)),
    )
    return "; ".join(f"{what}: {why}" for what, why in said if why) or AS_UPSTREAM
