"""What of flowlab is public for plugins, as it was when it was last looked at: nothing of it changes by accident.

A change that is meant: ``python tests/test_public_surface.py`` writes the file anew. What plugins of today need then
still holds: a new method has a default body, a new field of a job or result a default, nothing is taken away without
a release in which both work.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PUBLIC = ("flowlab.contracts", "flowlab.hookspecs", "flowlab.errors", "flowlab.testing", "flowlab.compiler.ir")
FILE = Path(__file__).with_name("public_surface.txt")


def surface() -> str:
    """Every public name of the public modules with its signature, fields and defaults, one a line."""
    return "".join(f"{module}: {line}\n" for module in PUBLIC for line in of_module(module))


def of_module(module: str) -> Iterator[str]:
    path = Path(str(importlib.import_module(module).__file__))
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        yield from of_node(node, "")


def of_node(node: ast.stmt, place: str) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
        marks = "".join(f"@{ast.unparse(one)} " for one in node.decorator_list)
        returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
        yield f"{marks}{place}{node.name}({ast.unparse(node.args)}){returns}"
    elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        yield f"class {place}{node.name}({', '.join(map(ast.unparse, node.bases))})"
        for inner in node.body:
            yield from of_node(inner, f"{place}{node.name}.")
    elif isinstance(node, ast.AnnAssign) and not ast.unparse(node.target).startswith("_"):
        default = (
            f" = {ast.unparse(node.value)}" if node.value is not None and len(ast.unparse(node.value)) < 80 else ""
        )
        yield f"{place}{ast.unparse(node.target)}: {ast.unparse(node.annotation)}{default}"


def test_the_public_surface_is_as_it_was() -> None:
    said, found = set(FILE.read_text(encoding="utf-8").splitlines()), set(surface().splitlines())
    changes = [*(f"gone: {line}" for line in sorted(said - found)), *(f"new: {line}" for line in sorted(found - said))]
    assert changes == [], f"if it is meant, write: python {Path(__file__).name}"


@pytest.mark.parametrize(
    "line",
    [
        "flowlab.contracts: class Quantizer(Plugin)",
        "flowlab.contracts: StageJob.scratch: Path",
        "flowlab.contracts: @abstractmethod Target.lower(self, job: LowerJob) -> Program",
        "flowlab.hookspecs: @hookspec flowlab_after_stage(stage: StageEnded) -> None",
    ],
)
def test_the_file_says_classes_fields_methods_and_hooks(line: str) -> None:
    assert line in FILE.read_text(encoding="utf-8").splitlines()


def test_a_package_of_the_release_before_works_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from flowlab import testing
    from flowlab.plugins import HOOKS, Announced, load_announced

    monkeypatch.syspath_prepend(str(Path(__file__).parent / "third_party" / "before"))
    catalogue = load_announced([Announced("before", "flowlab_before.plugin", "flowlab-before")])
    assert catalogue.broken == {}
    kinds = {type(one.item).__mro__[1] for one in catalogue.brought if not one.is_preset}
    assert {*kinds, type(catalogue.preset("feature_extraction", "old"))} == {*HOOKS.values()} - {
        HOOKS["flowlab_stages"]
    }
    testing.check_dataset(catalogue.get("dataset", "old"))  # type: ignore[arg-type]
    testing.check_feature_extractor(catalogue.get("feature_extractor", "old"), (1, 64))  # type: ignore[arg-type]
    testing.check_model(catalogue.get("model", "old"), (1, 64, 1), 2)  # type: ignore[arg-type]
    (tmp_path / "a.old").write_bytes(b"abc")
    testing.check_reader(catalogue.get("reader", "old"), tmp_path / "a.old")  # type: ignore[arg-type]
    for kind in ("quantizer", "core", "target"):
        testing.check_plugin(catalogue.get(kind, "old"))


if __name__ == "__main__":
    FILE.write_text(surface(), encoding="utf-8")
    sys.exit(0)
