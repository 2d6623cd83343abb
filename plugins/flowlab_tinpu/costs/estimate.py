"""Cycles on the device itself, estimated from the figures that TI published; and where these say nothing, no number.

``published.csv`` has a row for each figure with its release and source in TI's repository tinyml-tensorlab (file,
table, commit), the network that it belongs to, and that network's counts (`flowlab_tinpu.costs.features`), which the
suite computes again from the network's layers. Inputs are those that the file states with the figure, or else those of
the example's config at that time. Left out: arc-fault and motor-fault networks, whose layers are not public; LSTMs,
AD_Linear and AD_17k, whose layers are of other kinds, or run on a unit that nobody states; the 84 latencies of the
device table (18 figures, scaled by assumed clocks, changed between releases); and the round illustrations of guides.

A target of the table is a core with its NPU (``c28_hard``) or without (``c28_soft``): what TI's compiler made of the
network took so many cycles of that core. The release of README_old.md is that of the graphs it shows; all others say
theirs. Rows of use ``check`` are of another release than those of use ``fit``: no fit sees them.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from flowlab.contracts import Estimate
from flowlab_tinpu.costs.features import FEATURES, features

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph
    from flowlab_tinpu.device_table import Row

TABLE = Path(__file__).with_name("published.csv")
NPU_FEATURES = ("outputs", "weights", "unaligned_outputs")
CPU_FEATURES = ("macs",)
# Fixed before the fits that are made here, and not chosen by their errors.
USED = {"c28_hard": NPU_FEATURES, "m0_hard": NPU_FEATURES, "c28_soft": ("outputs", "macs")}
CORES = {"c28": "c28", "c29": "c29", "cortex-m0plus": "m0", "cortex-m33": "m33"}  # of targets, by the core's name
NO_DATA = "no public data"
MOST_ERROR = 0.25  # on average, of figures predicted without themselves: where they are further apart, no number
WEIGHT_BITS = 8  # of all figures
DIGITS = 3  # of an estimate: more would look like a measurement
WORDS = {
    "outputs": "outputs of layers",
    "weights": "weights",
    "unaligned_outputs": "outputs of layers whose input channels are no multiple of 4",
    "macs": "multiply-accumulates",
}
UNSEEN = ("add", "multiply", "table", "activation")  # operations that no published figure has


@dataclass(frozen=True)
class Figure:
    """One published figure: cycles of a network on a target."""

    target: str
    network: str
    shape: tuple[int, int]  # channels, length
    outputs_of_head: int
    cycles: int
    use: str  # "fit" or "check"
    release: str
    source: tuple[str, str, str]  # file, table, commit
    counts: dict[str, int]


@dataclass(frozen=True)
class Calibration:
    """A fit to a target's figures: cycles for each count, and the error of each figure, predicted without itself."""

    used: tuple[str, ...]
    coefficients: tuple[float, ...]
    errors: tuple[float, ...]
    reach: dict[str, tuple[int, int]]  # of each count that is used, over the figures

    @property
    def mean_error(self) -> float:
        """Of the figures, each predicted without itself."""
        return sum(map(abs, self.errors)) / len(self.errors)

    @property
    def band(self) -> float:
        """The largest of those errors: what an estimate is stated to be off by, either way."""
        return max(map(abs, self.errors))

    def cycles(self, counts: dict[str, int]) -> float:
        """What the fit says of a network."""
        return sum(each * counts[name] for each, name in zip(self.coefficients, self.used, strict=True))

    def outside(self, counts: dict[str, int]) -> tuple[str, ...]:
        """Where a network lies outside of the figures, a text each."""
        texts = []
        for name, (low, high) in self.reach.items():
            if not low <= counts[name] <= high:
                texts.append(f"{counts[name]:,} {WORDS[name]}, where the figures have {low:,} to {high:,}")
        return tuple(texts)


@cache
def published() -> tuple[Figure, ...]:
    """The table."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(_figure(row) for row in csv.DictReader(file))


def _figure(row: dict[str, str]) -> Figure:
    return Figure(
        row["target"], row["network"], (int(row["channels"]), int(row["length"])), int(row["outputs_of_head"]),
        int(row["cycles"]), row["use"], row["release"], (row["file"], row["place"], row["commit"]),
        {name: int(row[name]) for name in FEATURES},
    )  # fmt: skip


@cache
def calibration(target: str) -> Calibration | None:
    """The fit of a target, or None where the table has no figures of it."""
    import numpy as np

    from flowlab_tinpu.costs.fit import fit, leave_one_out

    figures = [one for one in published() if one.target == target and one.use == "fit"]
    if not figures:
        return None
    used = USED.get(target, CPU_FEATURES)
    counts = np.array([[one.counts[name] for name in used] for one in figures], np.float64)
    cycles = np.array([one.cycles for one in figures], np.float64)
    reach = {name: (min(values), max(values)) for name, values in zip(used, counts.T.astype(int).tolist(), strict=True)}
    return Calibration(used, tuple(fit(counts, cycles).tolist()), tuple(leave_one_out(counts, cycles).tolist()), reach)


def estimate(row: Row, graph: Graph) -> Estimate:
    """The estimate for a placed graph, or why there is none."""
    on_npu = {node.attributes.get("unit") == "npu" for node in graph.nodes if node.op in ("conv", "linear")}
    what = f"TI's code on the {row.name}'s {_unit(row, on_npu)}"
    core = CORES.get(row.mcpu, row.mcpu)
    found = calibration(f"{core}_{'hard' if True in on_npu else 'soft'}")
    lacking = _lacking(found, graph, parted=len(on_npu) > 1)
    if lacking or found is None:
        return Estimate(what, reason=f"{NO_DATA}{lacking}")
    counts = features(graph)
    return Estimate(
        what=what,
        cycles=int(float(f"{found.cycles(counts):.{DIGITS}g}")),
        band=round(found.band, 3),
        mean_error=round(found.mean_error, 3),
        figures=len(found.errors),
        outside=(*found.outside(counts), *_unseen(graph)),
    )


def _lacking(found: Calibration | None, graph: Graph, *, parted: bool) -> str:
    """What the published figures say nothing of, as the end of a sentence; empty where they do."""
    from flowlab.compiler.ir import is_float

    if is_float(graph):
        return " of float networks"
    narrow = [str(bits) for bits in _widths(graph) if bits != WEIGHT_BITS]
    kinds = (
        (
            any("part_of" in node.attributes for node in graph.nodes),
            "networks whose layers are split: no published figure has one, and TI's compiler gets it unsplit",
        ),
        (_foreign(graph), "the file's own arithmetic: no published figure has zero points or other roundings"),
        (parted, "networks of which a part runs on the CPU"),
        (bool(narrow), f"weights of {' and '.join(narrow)} bits"),
    )
    for there, what in kinds:
        if there:
            return f" of {what}"
    if found is not None and found.mean_error > MOST_ERROR:
        return f" that agree: of {len(found.errors)} figures, one is {found.band:.0%} away from what the others say"
    return ""


def _unit(row: Row, on_npu: set[bool]) -> str:
    """Where the layers run; the figures of a core are those of its plain instructions."""
    core = f"{row.core} without its custom datapath" if "custom datapath" in row.note else row.core
    parts = [name for name, there in (("NPU", True), (core, False)) if there in on_npu]
    return " and ".join(parts) or core


def _foreign(graph: Graph) -> bool:
    """Whether its integers are of another tool, whose arithmetic is that of no number format here."""
    from flowlab.compiler.number_format import GENERIC
    from flowlab_tinpu.number_format import NPU

    return graph.metadata.get("number_format", NPU.name) not in (NPU.name, GENERIC.name)


def _widths(graph: Graph) -> list[int]:
    """Bits of weights, narrow ones first; an average loads none."""
    from flowlab.compiler.infer import integer
    from flowlab_tinpu.costs.features import is_average

    layers = [node for node in graph.nodes if "weight" in node.constants and not is_average(node)]
    return sorted({integer(node, "weight_bits", 8) for node in layers})


def _unseen(graph: Graph) -> tuple[str, ...]:
    """Kinds of layers that no figure has."""
    from flowlab.compiler.channels import is_depthwise
    from flowlab_tinpu.costs.features import is_average

    deep = any(node.op == "conv" and is_depthwise(node) and not is_average(node) for node in graph.nodes)
    names = ["depthwise convolutions"] if deep else []
    names += [f"'{op}'" for op in UNSEEN if any(node.op == op for node in graph.nodes)]
    return tuple(f"{name}, which no figure has" for name in names)
