"""What `flowlab explain` prints: the network in every state, from the float graph to the program's places.

The states are made again from what a run left in the store, by the passes that the run used; nothing is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flowlab.contracts import Target
from flowlab.engine.execute import gather, lookup
from flowlab.engine.local import Prepared
from flowlab.engine.status import statuses
from flowlab.errors import StoreError
from flowlab.store.records import Record

NEEDED = ("train", "quantize")  # stages whose results the states are made of


@dataclass(frozen=True)
class State:
    """One state: its name, what made it, and its text form; a graph's has no numbers unless they are asked for."""

    name: str
    made_by: str
    text: str

    def to_json(self) -> dict[str, str]:
        """For programs."""
        return {"name": self.name, "made_by": self.made_by, "text": self.text}


@dataclass(frozen=True)
class States:
    """All of them, in order."""

    states: tuple[State, ...]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {"states": [one.to_json() for one in self.states]}

    def lines(self) -> Iterator[str]:
        """For people; a state that changes nothing is said in one line."""
        before = ""
        for at, one in enumerate(self.states, 1):
            yield f"--- {at}. {one.name}: {one.made_by}"
            yield from ["(nothing changes)"] if one.text == before else one.text.rstrip().splitlines()
            yield ""
            before = one.text


def graph_states(config: Any, catalogue: Any, prepared: Prepared, *, constants: bool = False) -> States:
    """Every state of the network of a config that has run.

    Args:
        config: the config.
        catalogue: what the installed packages bring.
        prepared: its plan and store.
        constants: whether weights and other numbers stand in the texts.

    Raises:
        StoreError: where training or quantization is not in the store.
    """
    records = _records(prepared)
    for stage in NEEDED:
        if stage not in records:
            raise StoreError(
                f"stage '{stage}' of this config is not in the store{_why(prepared, config)}; nothing is trained to "
                "explain it. Run it first: flowlab run with the same files and --set"
            )
    return States(tuple(_states(config, catalogue, prepared, records, constants)))


def _records(prepared: Prepared) -> dict[str, Record]:
    """The cached stages, as far as their inputs are known."""
    records: dict[str, Record] = {}
    for node in prepared.plan:
        makers = [maker.name for role in node.needs if (maker := prepared.plan.maker(role, node))]
        if any(name not in records for name in makers) or (prepared.waiting and "source" in node.needs):
            continue
        record = lookup(node, gather(node, records, prepared.sources), prepared.store)
        if record is not None:
            records[node.name] = record
    return records


def _why(prepared: Prepared, config: Any) -> str:
    """What differs from the last run, in brackets; empty where there was none."""
    first = next((one for one in statuses(prepared, str(config.dataset_name)) if one.state == "will run"), None)
    return f" ({first.stage}: {first.reason})" if first is not None and first.reason else ""


def _file(prepared: Prepared, record: Record, role: str) -> bytes:
    (stored,) = record.outputs[role].values()
    return prepared.store.objects.verified(stored.sha256).read_bytes()


def _states(
    config: Any, catalogue: Any, prepared: Prepared, records: Mapping[str, Record], constants: bool
) -> Iterator[State]:
    from flowlab.compiler.importer import import_onnx
    from flowlab.compiler.ir import is_float
    from flowlab.compiler.pipeline import apply_passes, place_for, program_passes, tidy_passes
    from flowlab.compiler.text import parse_graph, print_graph
    from flowlab.stages.choice import accelerator_off

    found: list[State] = []

    def state(name: str, made_by: str, graph: Any) -> State:
        return State(name, made_by, print_graph(graph, constants))

    def watch(name: str, graph: Any) -> None:
        if name in passes:
            found.append(state(f"pass {name}", _first_line(passes[name]), graph))
        else:
            found.append(state("placed", f"the rules of {target.name}{f'; {off}' if off else ''}", graph))

    def watched() -> Iterator[State]:
        yield from found
        found.clear()

    target = catalogue.get("target", config.common.target_device)
    assert isinstance(target, Target)
    passes = {one.name: one for one in (*tidy_passes(), *target.passes(), *program_passes())}
    off = accelerator_off(config, catalogue)
    graph = import_onnx(_file(prepared, records["train"], "float_onnx"))
    yield state("float", "the trained network, as its ONNX says it", graph)
    apply_passes(graph, tidy_passes(), watch)
    yield from watched()
    quantizer = config.quantizer_name(catalogue)
    graph = parse_graph(_file(prepared, records["quantize"], "graph").decode("utf-8"))
    yield state("quantized", f"quantizer {quantizer}", graph)
    placed = place_for(target, graph, off, watch).graph
    yield from watched()
    apply_passes(placed, program_passes(), watch)
    yield from watched()
    if not is_float(placed):
        yield State("program", "what is one layer, and where in the arena it reads and writes", _program(placed))


def _first_line(each: Any) -> str:
    return (type(each).__doc__ or "").strip().splitlines()[0]


def _program(placed: Any) -> str:
    """The program's layers in their order, each with the places of what it reads and writes."""
    from flowlab.compiler.lower import lower
    from flowlab.compiler.program import OUTSIDE
    from flowlab.engine import table

    container = lower(placed, "0" * 64)

    def where(at: int) -> str:
        tensor = container.tensors[at]
        if tensor.offset == OUTSIDE:
            return f"{tensor.name} (the caller's)"
        return f"{tensor.name} [{tensor.offset}..{tensor.offset + tensor.size})"

    rows = [
        (str(at), layer.kind, layer.unit, ", ".join(where(one) for one in layer.inputs), where(layer.output))
        for at, layer in enumerate(container.layers)
    ]
    arena = f"arena of {container.arena:,} bytes"
    return "\n".join([*table.lines(("step", "layer", "unit", "reads", "writes"), rows), arena])
