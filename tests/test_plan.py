from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowlab.contracts import DECIDES_NOTHING, NoOptions, Plugin, Stage
from flowlab.errors import ConfigError, StageError
from flowlab.plan import Plan, merged, plan

SOURCES = {"source": "0" * 64, "notes": "1" * 64}


class Imagined(Plugin):
    """A plugin with no code of its own."""

    kind = "model"
    name = "imagined"
    libraries = ("torch",)


@dataclass(frozen=True)
class Options:
    epochs: int


class SaidFacts:
    """Facts that a test says."""

    def __init__(self, code: str = "a", torch: str = "2.13.0") -> None:
        self.said = code
        self.torch = torch

    def code(self, names: Iterable[str]) -> Mapping[str, str]:
        return dict.fromkeys(names, self.said)

    def version(self, distribution: str) -> str:
        return self.torch if distribution == "torch" else "1"


def no_options(config: Any, catalogue: Any) -> NoOptions:
    return NoOptions()


def stage(name: str, needs: tuple[str, ...], makes: tuple[str, ...], **more: Any) -> Stage:
    return Stage(name, f"imagined.{name}:run", needs, makes, more.pop("options", no_options), **more)


STAGES = (
    stage("ingest", ("source",), ("recordings", "splits")),
    stage("extract", ("recordings",), ("features_train", "feature_spec")),
    stage("inspect", ("feature_spec",), ("gate",)),
    stage(
        "train",
        ("features_train",),
        ("float_model",),
        after=("inspect",),
        torch=True,
        options=lambda config, catalogue: Options(config.training.training_epochs),
        plugins=lambda config, catalogue: {"model": (Imagined(), NoOptions())},
        tools=lambda config, catalogue: {"cc": config.cc},
    ),
    stage("compile", ("float_model",), ("program",)),
    stage("simulate", ("program",), ("agreement",)),
    stage("report", ("splits", "notes"), ("report",), optional=("agreement", "gate")),
)


def config(epochs: int = 30, threads: int = 1, cc: str = "absent", **enable: bool) -> SimpleNamespace:
    sections = {name: SimpleNamespace(enable=enable.get(name, True)) for name in ("dataset", "testing", "compilation")}
    training = SimpleNamespace(training_epochs=epochs, threads=threads, enable=enable.get("training", True))
    return SimpleNamespace(**sections, training=training, cc=cc)


def planned(
    stages: Iterable[Stage] = STAGES, facts: SaidFacts | None = None, sources: Mapping[str, str] = SOURCES, **asked: Any
) -> Plan:
    return plan(tuple(stages), config(**asked), None, sources=sources, facts=facts or SaidFacts())


def recipes(made: Plan) -> dict[str, str]:
    return {node.name: node.recipe for node in made}


def changed(one: Plan, two: Plan) -> set[str]:
    old, new = recipes(one), recipes(two)
    return {name for name in old if old[name] != new.get(name)}


@pytest.mark.parametrize("turn", range(12))
def test_every_stage_comes_after_those_that_make_what_it_reads(turn: int) -> None:
    order = next(itertools.islice(itertools.permutations(STAGES), turn * 401, None))
    made = planned(order)
    names = [node.name for node in made]
    for node in made:
        assert all(names.index(other.name) < names.index(node.name) for other in made.waits_for(node))
    assert recipes(made) == recipes(planned())


def test_stages_keep_their_order_where_nothing_moves_them() -> None:
    assert [node.name for node in planned()] == [stage.name for stage in STAGES]


def test_after_orders_without_being_in_the_recipe() -> None:
    free = [replace(one, after=()) for one in STAGES]
    made = planned()
    assert [node.name for node in made.waits_for(made.node("train"))] == ["extract", "inspect"]
    assert [node.name for node in planned(free).waits_for(planned(free).node("train"))] == ["extract"]
    assert recipes(planned(free)) == recipes(made)


def test_a_changed_option_changes_its_stage_and_what_follows() -> None:
    assert changed(planned(), planned(epochs=20)) == {"train", "compile", "simulate", "report"}


def test_a_changed_source_changes_all_that_come_from_it() -> None:
    other = {**SOURCES, "source": "2" * 64}
    assert changed(planned(), planned(sources=other)) == {one.name for one in STAGES}
    assert changed(planned(), planned(sources={**SOURCES, "notes": "2" * 64})) == {"report"}


def test_threads_count_where_torch_works() -> None:
    assert changed(planned(), planned(threads=2)) == {"train", "compile", "simulate", "report"}
    assert planned(threads=2).node("train").asked["threads"] == 2
    assert "threads" not in planned().node("extract").asked


def test_versions_of_libraries_and_tools_and_code_count() -> None:
    follows = {"train", "compile", "simulate", "report"}
    assert changed(planned(), planned(facts=SaidFacts(torch="2.13.1"))) == follows
    assert changed(planned(), planned(cc="14.2")) == follows
    assert changed(planned(), planned(facts=SaidFacts(code="b"))) == {one.name for one in STAGES}


def test_the_document_holds_all_that_decides() -> None:
    node = planned(cc="14.2").node("train")
    assert node.document({"features_train": "f" * 64}) == {
        "schema": 1,
        "stage": "train",
        "options": {"epochs": 30},
        "plugins": {
            "model": {
                "name": "imagined",
                "options": {},
                "values": {},
                "code": {__name__: "a"},
                "libraries": {"torch": "2.13.0"},
            }
        },
        "code": {"imagined.train": "a"},
        "libraries": {},
        "tools": {"cc": "14.2"},
        "threads": 1,
        "inputs": {"features_train": "f" * 64},
    }


def test_an_option_that_decides_nothing_reaches_the_stage_and_no_document() -> None:
    @dataclass(frozen=True)
    class Kept(Options):
        checkpoint_every: int = field(default=1, metadata=DECIDES_NOTHING)

    def asked(every: int, epochs: int = 30) -> Plan:
        return planned([replace(one, options=lambda c, _: Kept(epochs, every)) for one in STAGES])

    assert asked(5).node("train").options.checkpoint_every == 5
    assert asked(5).node("train").asked["options"] == {"epochs": 30}
    assert recipes(asked(5)) == recipes(asked(1))
    assert changed(asked(5), asked(5, epochs=3)) == {one.name for one in STAGES}


def test_a_plugin_that_is_a_row_of_a_table_counts_by_its_values() -> None:
    def asked(**values: Any) -> Plan:
        plugin = Imagined()
        vars(plugin).update({"summary": "for people", "table": asked, "_memory": 1, **values})
        choose = {"model": (plugin, NoOptions())}
        return planned([replace(STAGES[0], plugins=lambda config, catalogue: choose)])

    assert asked(flags=("-O3",)).node("ingest").asked["plugins"]["model"]["values"] == {"flags": ["-O3"]}
    assert changed(asked(flags=("-O3",)), asked(flags=("-O2",))) == {"ingest"}
    assert changed(asked(summary="one"), asked(summary="two")) == set()


def test_the_fingerprint_follows_the_content_of_the_inputs_alone() -> None:
    old, new = planned().node("compile"), planned(epochs=20).node("compile")
    assert old.recipe != new.recipe
    assert old.fingerprint({"float_model": "f" * 64}) == new.fingerprint({"float_model": "f" * 64})
    assert old.fingerprint({"float_model": "f" * 64}) != old.fingerprint({"float_model": "e" * 64})


def test_without_testing_nothing_is_simulated() -> None:
    made = planned(testing=False)
    assert "simulate" not in recipes(made)
    assert made.node("report").needs == ("splits", "notes", "gate")


def test_without_compilation_nothing_is_compiled_or_simulated() -> None:
    assert {one.name for one in STAGES} - set(recipes(planned(compilation=False))) == {"compile", "simulate"}


@pytest.mark.parametrize(("section", "instead"), [("training", "remove the line"), ("dataset", "input_data_path")])
def test_what_cannot_be_left_out_says_what_to_do_instead(section: str, instead: str) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.enable: False .*{instead}"):
        planned(**{section: False})


def test_a_role_that_no_stage_makes_is_named() -> None:
    with pytest.raises(StageError, match="stage inspect needs feature_spec, which no stage of this plan makes"):
        planned(one for one in STAGES if one.name != "extract")


def test_a_role_that_two_stages_make_is_named() -> None:
    with pytest.raises(StageError, match=r"'gate' is made by again and by inspect"):
        planned((*STAGES, stage("again", ("recordings",), ("gate",))))


def test_an_unknown_role_is_named() -> None:
    with pytest.raises(StageError, match=r"stage own: role 'thing' is not in the table"):
        planned((*STAGES, stage("own", ("recordings",), ("thing",))))


def test_stages_that_wait_for_each_other_are_named() -> None:
    with pytest.raises(StageError, match="wait for each other: one, two"):
        planned((stage("one", ("gate",), ("costs",)), stage("two", ("costs",), ("gate",))))


def test_an_option_that_is_no_json_value_is_named() -> None:
    broken = stage("own", (), ("gate",), options=lambda config, catalogue: SimpleNamespace())
    with pytest.raises(StageError, match="stage own: options: SimpleNamespace is no JSON value"):
        planned((broken,))
    path = stage("own", (), ("gate",), options=lambda config, catalogue: {"where": Path("x")})
    with pytest.raises(StageError, match=r"options\.where: PosixPath"):
        planned((path,))


def test_merged_plans_have_equal_work_once() -> None:
    nodes = merged([planned(epochs=30), planned(epochs=30), planned(epochs=5)])
    found = {name: [node.plans for node in nodes if node.node.name == name] for name in ("extract", "train", "report")}
    assert found["extract"] == [(0, 1, 2)]
    assert found["train"] == [(0, 1), (2,)]
    assert found["report"] == [(0, 1), (2,)]


def test_a_merged_node_knows_what_it_reads_and_what_it_waits_for_in_each_plan() -> None:
    plans = [planned(epochs=30), planned(epochs=5)]
    nodes = {(node.node.name, node.plans): node for node in merged(plans)}
    train = nodes["train", (1,)]
    assert train.reads == (plans[1].node("extract").recipe,)
    assert train.after == {1: (plans[1].node("inspect").recipe,)}
    assert nodes["compile", (1,)].reads == (train.recipe,)
    names = [node.node.name for node in merged(plans)]
    assert names == sorted(names, key=[one.name for one in plans[0]].index)


def test_nodes_of_another_plan_are_used_again_and_change_no_recipe() -> None:
    known: dict[Any, Any] = {}
    for epochs in (30, 5, 30):
        again = plan(STAGES, config(epochs), None, sources=SOURCES, facts=SaidFacts(), known=known)
        assert recipes(again) == recipes(planned(epochs=epochs))
    assert len(known) < 3 * len(STAGES)


def test_makers_are_found_by_role() -> None:
    made = planned()
    maker = made.maker("float_model")
    assert maker is not None and maker.name == "train"
    assert made.maker("source") is None
    with pytest.raises(KeyError):
        made.node("ingst")


@dataclass(frozen=True)
class Account:
    """Options with secrets in them."""

    api_token: str = "abc"
    credentials: Mapping[str, str] = field(default_factory=lambda: {"user": "me"})
    where: str = "https://host/a?version=2"


def of_account(account: Account) -> Plan:
    one = stage(
        "ingest", ("source",), ("recordings",), plugins=lambda config, catalogue: {"model": (Imagined(), account)}
    )
    return plan([one], config(), None, sources=SOURCES, facts=SaidFacts())


def test_no_secret_of_an_option_is_in_a_document_and_none_decides() -> None:
    node = of_account(Account()).node("ingest")
    kept = node.document({"source": "0"})["plugins"]["model"]["options"]
    assert kept == {"api_token": "***", "credentials": {"user": "***"}, "where": "https://host/a?version=2"}
    assert of_account(Account(api_token="other")).node("ingest").recipe == node.recipe
    assert of_account(Account(api_token="${TOKEN}")).node("ingest").asked["plugins"]["model"]["options"][
        "api_token"
    ] == ("${TOKEN}")
    assert of_account(Account(where="https://host/a?version=3")).node("ingest").recipe != node.recipe


def test_a_secret_in_an_address_of_an_option_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"options of model 'imagined': .* address of where.*\$\{NAME\}") as caught:
        of_account(Account(where="https://me:pw@host/a"))
    assert "pw" not in str(caught.value)
    assert of_account(Account(where="https://me:${PW}@host/a"))


def rewriter(name: str, *roles: str, after: tuple[str, ...] = (), said: tuple[str, ...] = ()) -> SimpleNamespace:
    """A section of a package as the config has it; ``said`` is what the config says."""
    made = stage(name, (), (), rewrites=roles or ("float_model",), section=f"{name}s", after=(*after, *said))
    return SimpleNamespace(stage=made, after=said)


def rewritten(*own: SimpleNamespace) -> Plan:
    asked = config()
    asked.own = {one.stage.section: one for one in own}
    asked.where = lambda section, key: f"a.yaml, {section}.{key}"
    return plan(STAGES, asked, None, sources=SOURCES, facts=SaidFacts())


def test_a_rewriter_runs_between_the_maker_of_a_role_and_all_that_read_it() -> None:
    made = rewritten(rewriter("prune"))
    names = [node.name for node in made]
    assert names.index("train") < names.index("prune") < names.index("compile")
    assert made.node("prune").versions == {"float_model": "train"}
    assert made.node("compile").versions == {"float_model": "prune"}
    assert [one.name for one in made.waits_for(made.node("compile"))] == ["prune"]
    assert [one.name for one in made.waits_for(made.node("prune"))] == ["train"]
    assert made.maker("float_model") is made.node("prune")
    assert made.maker("float_model", made.node("prune")) is made.node("train")


def test_a_rewriter_changes_the_recipes_behind_it_and_no_other() -> None:
    assert changed(planned(), rewritten(rewriter("prune"))) == {"compile", "simulate", "report"}
    assert recipes(rewritten()) == recipes(planned())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (rewriter("prune"), rewriter("distil", after=("prune",))),
        (rewriter("prune"), rewriter("distil", said=("prune",))),
    ],
    ids=["the package says so", "the config says so"],
)
def test_two_rewriters_of_a_role_are_chained_in_the_order_that_is_said(
    first: SimpleNamespace, second: SimpleNamespace
) -> None:
    for own in ((first, second), (second, first)):
        made = rewritten(*own)
        assert made.node("distil").versions == {"float_model": "prune"}
        assert made.node("compile").versions == {"float_model": "distil"}
    other = rewritten(rewriter("prune", said=("distil",)), rewriter("distil"))
    assert other.node("compile").versions == {"float_model": "prune"}
    assert recipes(other)["compile"] != recipes(made)["compile"]


def test_two_rewriters_of_a_role_in_no_order_are_refused_with_what_to_write() -> None:
    with pytest.raises(
        ConfigError, match=r"prune and distil both rewrite 'float_model'.*'after: prune' under 'distils:'"
    ):
        rewritten(rewriter("prune"), rewriter("distil"))
    rewritten(rewriter("prune"), rewriter("scale", "features_train"))  # of two roles: no order is needed


def test_three_rewriters_need_an_order_of_each_two() -> None:
    chain = (rewriter("a"), rewriter("b", said=("a",)), rewriter("c", said=("b",)))
    assert rewritten(*chain).node("compile").versions == {"float_model": "c"}
    with pytest.raises(ConfigError, match="both rewrite"):
        rewritten(rewriter("a"), rewriter("b", said=("a",)), rewriter("c", said=("a",)))


def test_what_a_rewriter_waits_for_must_be_in_the_plan() -> None:
    with pytest.raises(ConfigError, match=r"a\.yaml, prunes\.after: no stage named 'trai'\. Did you mean 'train'"):
        rewritten(rewriter("prune", said=("trai",)))
    with pytest.raises(StageError, match="stage prune rewrites costs, which no stage of this plan makes"):
        rewritten(rewriter("prune", "costs"))
    with pytest.raises(StageError, match="wait for each other"):
        rewritten(rewriter("prune", said=("compile",)))
    with pytest.raises(StageError, match="two stages of this plan are named 'train'"):
        rewritten(rewriter("train"))
