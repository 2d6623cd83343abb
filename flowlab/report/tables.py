"""The rows of the report's tables: plain values, worded; the template only lays them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowlab.contracts import FLOAT
from flowlab.report import layer_table
from flowlab.report.facts import Document, ReportFacts
from flowlab.report.numbers import FLOAT_BYTES
from flowlab.report.widths import beside_weights, layer_bits

PARTS = {"arena": "arena: activations", "quantize": "quantized input"}  # of a memory, in words
FEW = (0.01, 0.001)  # false alarms that may be, for which thresholds are shown
SPLITS = ("train", "val", "test")
WORDS = {"train": "training", "val": "validation", "test": "test"}
SECTIONS = ("common", "dataset", "data_processing_feature_extraction", "training", "testing", "compilation")
MIXED_BITS = ("2", "4", "8")  # columns of the table of bits by layer
METHODS = {
    "amongst_files": "each whole recording drawn into one split",
    "within_files": "each recording cut into consecutive stretches",
    "annotations": "by the lists that came with the data",
    "dataset": "by the dataset itself",
}


@dataclass(frozen=True)
class Cell:
    """One cell of a confusion matrix: how many, which share of its row, whether it is right; ``level`` 0..5 shades."""

    count: int
    share: str
    right: bool
    level: int


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix: rows are what is true, columns what was said."""

    title: str
    classes: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    wrong: int
    total: int


def percent(value: Any, digits: int = 2) -> str:
    """A share as a percentage; a dash for None."""
    return "–" if value is None else f"{100 * float(value):.{digits}f} %"


def bytes_text(value: Any) -> str:
    """A size with its bytes, and kB where that helps; a dash for None."""
    if value is None:
        return "–"
    return f"{value:,} bytes" if value < 1000 else f"{value:,} bytes ({value / 1000:.1f} kB)"


def number(value: Any) -> str:
    """A whole number with thousands apart; a dash for None."""
    return "–" if value is None else f"{value:,}"


def quantized(facts: ReportFacts) -> bool:
    """Whether the run made integers; else it exported the float network."""
    return facts.quantization_config.get("method") != "none"


def accuracies(facts: ReportFacts) -> list[dict[str, Any]]:
    """Float, quantized and simulated on the test split: metric, windows that are wrong, distance to float."""
    forms = [
        ("float", "float32 network, in torch", facts.metrics_train),
        ("quantized", _what_quantized(facts), facts.metrics_quantize),
        ("simulated", _what_simulated(facts), facts.metrics_simulate),
    ]
    base = _test(facts.metrics_train)
    rows = []
    for name, what, document in forms:
        value = _test(document)
        matrix = (document or {}).get("confusion")
        total = sum(map(sum, matrix)) if matrix else None
        right = sum(row[i] for i, row in enumerate(matrix)) if matrix else None
        change = "" if value is None or base is None or name == "float" else f"{100 * (value - base):+.2f} points"
        rows.append(
            {
                "name": name,
                "what": what,
                "value": value,
                "wrong": None if total is None or right is None else total - right,
                "total": total,
                "change": change,
            }
        )
    return rows


def _what_quantized(facts: ReportFacts) -> str:
    return "its integers, before they become a program" if quantized(facts) else "nothing was quantized"


def _what_simulated(facts: ReportFacts) -> str:
    return "the program's bytes, on the simulator" if quantized(facts) else "the program's C, run here"


def confusions(facts: ReportFacts) -> list[Confusion]:
    """The float network's matrix and the integers'; the simulated one only where it differs."""
    classes = [str(name) for name in facts.feature_spec["classes"]]
    found = []
    quantized = facts.metrics_quantize.get("confusion")
    simulated = (facts.metrics_simulate or {}).get("confusion")
    same = " and simulated" if simulated is not None and simulated == quantized else ""
    for title, matrix in (
        ("Float", facts.metrics_train.get("confusion")),
        (f"Quantized{same}", quantized),
        ("Simulated", None if same else simulated),
    ):
        if matrix is not None:
            found.append(confusion(title, classes, matrix))
    return found


def confusion(title: str, classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> Confusion:
    """A matrix with shares of each row."""
    rows = []
    for i, counts in enumerate(matrix):
        total = sum(counts)
        cells = []
        for j, count in enumerate(counts):
            share = count / total if total else 0.0
            level = 0 if not count else min(5, 1 + int(share * 4.999))
            cells.append(Cell(count, percent(share, 1), i == j, level))
        rows.append((classes[i], cells))
    total = sum(map(sum, matrix))
    right = sum(row[i] for i, row in enumerate(matrix))
    return Confusion(title, classes, rows, total - right, total)


def split_rows(facts: ReportFacts) -> list[dict[str, Any]]:
    """For each split: recordings and windows by class, and how many."""
    classes = [str(name) for name in facts.feature_spec["classes"]]
    recordings: Mapping[str, Mapping[str, int]] = facts.splits.get("counts", {})
    windows: Mapping[str, int] = facts.feature_spec.get("counts", {})
    by_class: Mapping[str, Sequence[int]] = facts.feature_spec.get("counts_by_class", {})
    fractions = facts.splits.get("fractions") or {}
    if not isinstance(fractions, Mapping):
        fractions = dict(zip(SPLITS, fractions, strict=False))
    rows = []
    for split in SPLITS:
        found = recordings.get(split, {})
        cut = by_class.get(split, ())
        total = sum(cut)
        rows.append(
            {
                "split": WORDS[split],
                "by_class": [found.get(name, 0) for name in classes],
                "recordings": sum(found.values()),
                "windows": windows.get(split),
                "windows_by_class": [
                    (count, percent(count / total if total else None, 1)) for count in cut if len(cut) == len(classes)
                ],
                "fraction": percent(fractions.get(split), 0) if split in fractions else "as given",
            }
        )
    return rows


def class_rows(facts: ReportFacts, splits: Sequence[Document]) -> list[tuple[str, list[tuple[int, Any, str]]]]:
    """For each class, in each split: recordings, windows (None where nobody counted them) and their share."""
    rows = []
    for number, name in enumerate(facts.feature_spec["classes"]):
        cells = []
        for split in splits:
            windows, share = split["windows_by_class"][number] if split["windows_by_class"] else (None, "–")
            cells.append((split["by_class"][number], windows, share))
        rows.append((str(name), cells))
    return rows


def proof(facts: ReportFacts) -> tuple[list[tuple[str, Any]], list[str]]:
    """The proof's counts, each with its words, and the sentences about what was checked."""
    found = facts.splits.get("proof") or {}
    counts = [(str(key).replace("_", " "), value) for key, value in found.items() if isinstance(value, int)]
    return counts, [str(sentence) for sentence in found.get("checked", ())]


def agreement(facts: ReportFacts) -> dict[str, Any]:
    """Executions before and after the program, one table: the graph's own, then the program's."""
    parts = [part for part in (facts.placement.get("agreement"), facts.agreement) if part]
    return {
        "executions": [row for part in parts for row in part.get("executions", ())],
        "not_run": [row for part in parts for row in part.get("not_run", ())],
        "vectors": max((part.get("vectors", 0) for part in parts), default=0),
        "mismatches": max((part.get("mismatches", 0) for part in parts), default=0),
        "floats": any(part.get("comparison") == FLOAT for part in parts),
    }


def curve_rows(facts: ReportFacts) -> list[dict[str, Any]]:
    """For each class: the areas of both networks, and thresholds of the network that ships.

    Each threshold is (least lead, share of the class that is found, share of the others that is taken for it).
    """
    integers = {str(one["class"]): one for one in facts.integer_curves}
    rows = []
    for one in facts.metrics_train.get("roc") or ():
        name = str(one["class"])
        used = integers.get(name, one)
        rows.append(
            {
                "name": name,
                "float": one["auc"],
                "integers": integers[name]["auc"] if name in integers else None,
                "said": _point(used, lambda row, negatives: row[2] >= 0) or _never(used),
                "strict": [_point(used, lambda row, negatives, most=most: row[0] <= most * negatives) for most in FEW],
            }
        )
    return rows


def _point(curve: Document, fits: Callable[..., bool]) -> tuple[str, str, str] | None:
    """The last point of a curve that fits, as texts; None where none does, or nothing can be counted."""
    negatives, positives = curve["negatives"], curve["positives"]
    found = [row for row in curve["points"] if fits(row, negatives)]
    if not found or not negatives or not positives:
        return None
    false, true, least = found[-1]
    lead = f"{least:,}" if isinstance(least, int) else f"{least:.4g}"
    return lead, percent(true / positives), percent(false / negatives)


def _never(curve: Document) -> tuple[str, str, str] | None:
    """The point of a class that the network never says."""
    measured = curve["points"] and curve["negatives"] and curve["positives"]
    return ("–", percent(0), percent(0)) if measured else None


def ties(facts: ReportFacts) -> bool:
    """Whether a curve and the matrix count otherwise: equal outputs both count on the curve, the first in the matrix.

    Of the network whose thresholds are shown.
    """
    used = facts.metrics_quantize if facts.integer_curves else facts.metrics_train
    matrix = used.get("confusion") or ()
    curves = {str(one["class"]): one for one in facts.integer_curves or facts.metrics_train.get("roc") or ()}
    for number, name in enumerate(facts.feature_spec["classes"] if matrix else ()):
        said = [tuple(row[:2]) for row in (curves.get(str(name)) or {}).get("points", ()) if row[2] >= 0]
        right = matrix[number][number]
        if said and said[-1] != (sum(row[number] for row in matrix) - right, right):
            return True
    return False


def common_reason(layers: Sequence[Document]) -> str:
    """The reason that all layers have, where it is the same: then it is said once."""
    reasons = {str(row.get("reason") or "") for row in layers}
    return reasons.pop().rstrip(".") if len(reasons) == 1 and len(layers) > 1 else ""


def layer_rows(facts: ReportFacts) -> list[dict[str, Any]]:
    """The layer table of the placed graph, each row with what is known of its cost."""
    return layer_table.rows(facts.placement.get("layers", ()), facts.costs, (facts.memory or {}).get("arena"))


def size_rows(facts: ReportFacts) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """Two tables that must not be mixed up: bytes of weights, and bytes of files."""
    parameters = facts.metrics_train.get("parameters")
    floats = None if parameters is None else FLOAT_BYTES * parameters
    packed = (facts.memory or {}).get("packed_bytes") if quantized(facts) else None
    weights = [("float32", bytes_text(floats), f"{number(parameters)} parameters, 4 bytes each")]
    if parameters is None and facts.elsewhere is not None:
        weights = []  # integers: nobody knows what they were
    if packed is not None:
        ratio = f", {floats / packed:.1f} times smaller" if floats and packed else ""
        weights.append(("packed for the device", bytes_text(packed), f"as they lie in the program{ratio}"))
    files = [
        ("float ONNX", bytes_text(facts.file_bytes.get("float_onnx")), "the float network, for other tools"),
        ("quantized ONNX", bytes_text(facts.file_bytes.get("quantized_onnx")), "the integer network, for other tools"),
    ]
    if facts.elsewhere is not None:
        del files[0]
    if not quantized(facts):
        files[1] = ("exported ONNX", files[1][1], "the float network as the program computes it: batch norms folded")
    if facts.memory is not None and facts.memory.get("program_bytes") is not None:
        files.append(
            (
                "program",
                bytes_text(facts.memory["program_bytes"]),
                "what ships: packed weights, steps, checked test vectors, names, checksums",
            )
        )
    return weights, files


def core_rows(facts: ReportFacts) -> list[tuple[str, str, str]]:
    """What an emulated core counted: name, value, and what it is; none where none ran."""
    rows = []
    for found in ((facts.costs or {}).get("measured") or {}).values():
        least, most = found["instructions_least"], found["instructions"]
        spread = "the same for every window that was counted" if least == most else f"at least {least:,}"
        rows += [
            ("core", str(found["core"]), f"{found['compiler']}, kernels for {found['kernels']}"),
            ("instructions for one window", f"{most:,}", f"counted, not estimated; {spread}"),
            ("code", f"{found['text_bytes']:,}", "bytes, with the input step and what runs it here"),
            ("constants", f"{found['rodata_bytes']:,}", "bytes of weights, biases, multipliers and shifts"),
            ("network alone", f"{found['network_bytes']:,}", "bytes of both, without the input step"),
            (
                "static memory",
                f"{found['data_bytes'] + found['bss_bytes']:,}",
                "bytes of activations, input and outputs",
            ),
            ("stack", f"{found['stack_bytes']:,}", "bytes that were touched"),
        ]
    return rows


def memory_rows(facts: ReportFacts) -> list[dict[str, Any]]:
    """For each region of the device: what lies there, how much there is."""
    memory = facts.memory or {}
    available: Mapping[str, Any] = memory.get("available") or {}
    rows = []
    for region, parts in (memory.get("regions") or {}).items():
        needed = sum(parts.values())
        there = available.get(region)
        rows.append(
            {
                "region": str(region),
                "parts": _grouped(str(region), parts, facts),
                "each": [(str(name), size) for name, size in parts.items() if size],
                "needed": needed,
                "available": there,
                "left": there - needed if there is not None else None,
                "share": percent(needed / there, 1) if there else "–",
            }
        )
    return rows


def _grouped(region: str, parts: Mapping[str, int], facts: ReportFacts) -> list[tuple[str, int]]:
    """The weights and what lies beside them, or the parts themselves where they are few."""
    rest = beside_weights(facts)
    if region == "flash" and rest is not None:
        weights = sum(parts.values()) - rest
        beside = "biases, multipliers, shifts and the input step" if quantized(facts) else "biases and the input step"
        found = [("weights", weights), (beside, rest)]
    else:
        found = [(PARTS.get(str(name), str(name)), size) for name, size in parts.items()]
    return [(name, size) for name, size in found if size]


def overview(facts: ReportFacts) -> list[tuple[str, list[tuple[str, str]]]]:
    """What was asked for, by section: key and value in the config's own words, without empty ones."""
    found = facts.notes.get("overview") or {}
    order = {name: place for place, name in enumerate(SECTIONS)}
    sections = []
    for section in sorted(found, key=lambda name: (order.get(name, len(order)), name)):
        rows = [(str(key), plain(value)) for key, value in found[section].items() if value is not None]
        if rows:
            sections.append((str(section), rows))
    return sections


def asked(facts: ReportFacts, section: str, key: str) -> str:
    """One value of the overview as text, or an empty text."""
    values = (facts.notes.get("overview") or {}).get(section)
    value = values.get(key) if isinstance(values, Mapping) else None
    return "" if value is None else plain(value)


def widths(facts: ReportFacts) -> list[tuple[str, str]]:
    """Bits asked for and bits used, method, quantizer, calibration."""
    config = facts.quantization_config
    rows = []
    for what, name in (("weights", "weight"), ("activations", "activation")):
        used, wanted = config.get(f"{name}_bits"), config.get(f"requested_{name}_bits")
        if name == "weight" and (mixed := layer_bits(facts)):
            rows.append((what, f"{mixed['mean_bits']:.2f} bits on average, by layer: see below"))
        elif used is not None:
            rows.append((what, f"{used} bits" + (f" (asked for: {wanted})" if wanted not in (None, used) else "")))
    for key, what in (("quantizer", "quantizer"), ("method", "method"), ("number_format", "number format")):
        if config.get(key) is not None:
            rows.append((what, str(config[key])))
    if config.get("calibration_count") is not None:
        whose = "the training split" if facts.elsewhere is None else "its own inputs"
        rows.append(("calibration", f"{number(config['calibration_count'])} windows of {whose}"))
    return rows


def mixed_rows(facts: ReportFacts) -> list[tuple[str, ...]]:
    """Layer, weights, bits, and what 2, 4 and 8 bits cost the outputs; none where one width serves all layers."""
    rows = (layer_bits(facts) or {}).get("layers", ())
    return [
        (
            str(row["layer"]),
            number(row["weights"]),
            str(row["bits"]),
            *(f"{cost:.5f}" if (cost := row["sensitivity"].get(bits)) is not None else "" for bits in MIXED_BITS),
        )
        for row in rows
    ]


def feature_rows(facts: ReportFacts) -> list[tuple[str, str]]:
    """How a window becomes a feature."""
    spec = facts.feature_spec
    rows = [
        ("window", " × ".join(str(one) for one in spec.get("window", ())) + " (channel × sample)"),
        ("feature", " × ".join(str(one) for one in spec["shape"]) + " (channel × height × width)"),
    ]
    if spec.get("columns"):
        rows.append(("columns", ", ".join(str(name) for name in spec["columns"])))
    rows.append(("extractor", str(spec.get("extractor", ""))))
    return rows


def plain(value: Any) -> str:
    """A config value as a person writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(one) for one in value) or "none"
    return str(value)


def _test(document: Document | None) -> float | None:
    test = (document or {}).get("test") or {}
    value = test.get("accuracy")
    return None if value is None else float(value)
