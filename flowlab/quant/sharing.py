"""Which values of a network share a scale, and how scales hang together where their ratios are powers of two.

A *group* is one scale: a pool and its source, both sources of an addition, all parts of a concatenation. Where sums are
requantized by a shift alone, groups of one *family* are powers of two apart, times a constant: the sum of an addition
is its sources' scale shifted, a global average that of its source over the area, a product the product of both.
What a family cannot satisfy (a value added to its own average over 3 places) gets a table of the identity in between;
so does a small value that is added to a large one and read elsewhere too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import log2

from flowlab.quant.activation import NEVER_NEGATIVE
from flowlab.quant.steps import (
    AddStep,
    AverageStep,
    ConcatStep,
    InputStep,
    LayerStep,
    MultiplyStep,
    Step,
    Steps,
    SumStep,
    TableStep,
    TiedStep,
    sources_of,
    value_of,
)

ONE = "*"  # the family of plain powers of two
SAME = 1e-9  # of two exponents
LOST = 8  # times as coarse as it needs, a scale costs 3 of 8 bits


@dataclass
class _Union:
    """Sets of names, each with an exponent over its set's root, which matters without its whole part."""

    root: dict[str, str] = field(default_factory=dict)
    exponent: dict[str, float] = field(default_factory=dict)

    def find(self, name: str) -> tuple[str, float]:
        """Root, and exponent over it."""
        total = 0.0
        while (above := self.root.get(name, name)) != name:
            total, name = total + self.exponent[name], above
        return name, total

    def join(self, left: str, right: str, exponent: float = 0.0) -> bool:
        """Let ``left`` be ``2^exponent`` times ``right``; False where the two are tied otherwise already."""
        (root, first), (other, second) = self.find(left), self.find(right)
        difference = second + exponent - first
        if root == other:
            return abs(difference - round(difference)) < SAME
        if root == ONE:
            root, other, difference = other, root, -difference
        self.root[root], self.exponent[root] = other, difference
        return True


@dataclass(frozen=True)
class Sharing:
    """Groups and families of a network's values.

    ``group``: value -> its group; ``family``: group -> (family, exponent of its scale over the family's);
    ``unsigned``: values whose integers have no sign; ``wide``: those that keep the output's bits.
    """

    group: dict[str, str]
    family: dict[str, tuple[str, float]]
    unsigned: frozenset[str]
    wide: frozenset[str]

    def members(self, group: str) -> list[str]:
        """The values of a group, in order."""
        return [value for value, own in self.group.items() if own == group]


def sharing(steps: Steps, *, free: bool = False) -> Sharing:
    """How the values of a network hang together; ``free``: where sums have a multiplier and a shift."""
    scales, types = _Union(), _Union()
    for step in steps.steps:
        for union, left, right in _ties(step):
            (scales if union == "scale" else types).join(left, right)
    group = {value_of(step): scales.find(value_of(step))[0] for step in steps.steps}
    families, _ = _families(steps, group, free=free)
    type_of = {value: types.find(value)[0] for value in group}
    never = _never_negative(steps)
    signed = {type_of[value] for value in group if value not in never}
    wide = {type_of[value] for value in steps.outputs.values()}
    return Sharing(
        group,
        {each: families.find(each) for each in set(group.values())},
        frozenset(value for value in group if type_of[value] not in signed),
        frozenset(value for value in group if type_of[value] in wide),
    )


def _ties(step: Step) -> Iterator[tuple[str, str, str]]:
    name = value_of(step)
    if isinstance(step, TiedStep | ConcatStep):
        for source in sources_of(step):
            yield "scale", name, source
            yield "type", name, source
    elif isinstance(step, AddStep):
        yield "scale", step.sources[1], step.sources[0]


def _families(steps: Steps, group: dict[str, str], *, free: bool) -> tuple[_Union, list[SumStep]]:
    """How groups hang together by shifts, and the steps that cannot.

    Additions always do: in units of their sources, no whole number but of a shift is half a step of the result.
    """
    families, torn = _Union(), []
    for step in steps.steps:
        if not isinstance(step, SumStep) or (free and not isinstance(step, AddStep)):
            continue
        made, (read, *more) = group[value_of(step)], [group[source] for source in sources_of(step)]
        exponent = 0.0
        if isinstance(step, AverageStep):
            exponent = -log2(step.area)
        elif isinstance(step, MultiplyStep):
            factor = more[0]
            if families.find(read)[0] == ONE and families.find(factor)[0] != ONE:
                read, factor = factor, read
            families.join(factor, ONE)
            root, exponent = families.find(factor)
            assert root == ONE
        if not families.join(made, read, exponent):
            torn.append(step)
    return families, torn


def _never_negative(steps: Steps) -> frozenset[str]:
    found: set[str] = set()
    for step in steps.steps:
        if isinstance(step, LayerStep):
            never = step.clip[0] == 0
        elif isinstance(step, SumStep):
            never = step.clip[0] == 0 or found.issuperset(sources_of(step))
        elif isinstance(step, TableStep):
            never = step.function in NEVER_NEGATIVE or (step.function == "identity" and step.source in found)
        else:
            never = not isinstance(step, InputStep) and found.issuperset(sources_of(step))
        if never:
            found.add(value_of(step))
    return frozenset(found)


def rescaled(steps: Steps) -> Steps:
    """The same steps, with a table of the identity behind each sum whose scale cannot be its group's."""
    while True:
        _, torn = _families(steps, sharing(steps).group, free=False)
        if not torn:
            return steps
        steps = _with_table(steps, torn[0], list(steps.steps))


def apart(steps: Steps, size: Mapping[str, float]) -> Steps:
    """The same steps, with a table of the identity where a value would lose bits that others than its partner read.

    Args:
        size: of every value: the least scale that clips nothing. One that shares a scale `LOST` times as coarse with
            what it is added to or stands beside is handed to these by a table, and keeps a scale of its own.
    """
    while (found := _crowded(steps, size)) is not None:
        step, source = found
        steps = _with_table(steps, steps.maker(source), [step])
        size = {**size, steps.steps[_place(steps, source) + 1].name: size[source]}
    return steps


def _crowded(steps: Steps, size: Mapping[str, float]) -> tuple[Step, str] | None:
    """A sum or concatenation, and the source of it that should have a scale of its own."""
    shared = sharing(steps)
    tied = _Union()
    for step in steps.steps:
        if isinstance(step, TiedStep):
            tied.join(value_of(step), step.source)
    read: dict[str, set[str]] = {}
    for step in steps.steps:
        for source in sources_of(step):
            if not isinstance(step, TiedStep):
                read.setdefault(tied.find(source)[0], set()).add(step.name)
    for value in steps.outputs.values():
        read.setdefault(tied.find(value)[0], set()).add("")
    for step in steps.steps:
        if isinstance(step, AddStep | ConcatStep):
            for source in step.sources:
                most = max(size[each] for each in shared.members(shared.group[source]))
                own = max(size[each] for each in shared.group if tied.find(each)[0] == tied.find(source)[0])
                others = read[tied.find(source)[0]] - {step.name}
                if 0 < own * LOST <= most and others and not _is_table(steps.maker(source)):
                    return step, source
    return None


def _is_table(step: Step) -> bool:
    return isinstance(step, TableStep) and step.function == "identity"


def _place(steps: Steps, value: str) -> int:
    return next(place for place, step in enumerate(steps.steps) if value_of(step) == value)


def _with_table(steps: Steps, maker: Step, readers: list[Step]) -> Steps:
    """A table of the identity behind a step, for these readers; for all of them, it is the output too."""
    value = value_of(maker)
    taken = {step.name for step in steps.steps}
    name = f"{maker.name}.rescale"
    while name in taken:
        name += "_"
    table = TableStep(name, value, "identity", {}, maker.shape)
    done: list[Step] = []
    for step in steps.steps:
        done.append(_reading(step, value, table.name) if step in readers and step is not maker else step)
        if step is maker:
            done.append(table)
    outputs = dict(steps.outputs)
    if len(readers) == len(steps.steps):
        outputs = {key: table.name if each == value else each for key, each in outputs.items()}
    return replace(steps, steps=tuple(done), outputs=outputs)


def _reading(step: Step, old: str, new: str) -> Step:
    if isinstance(step, ConcatStep | AddStep | MultiplyStep):
        first, second = (new if source == old else source for source in step.sources)
        return replace(step, sources=(first, second))
    return replace(step, source=new) if step.source == old else step
