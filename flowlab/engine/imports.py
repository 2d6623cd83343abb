"""What a Python source imports, read from its syntax tree."""

from __future__ import annotations

import ast
import threading

_PARSER = threading.Lock()  # CPython 3.11 counts the depth of a tree for all threads together, and fails


def imports_of(source: str, package: str) -> list[str]:
    """Every dotted name that an import statement of the source may load, at any depth, sorted.

    ``from a import b`` gives ``a`` and ``a.b``, for b may be a module. Blocks under ``TYPE_CHECKING`` do not run.

    Args:
        source: Python source.
        package: the package that relative imports count from.
    """
    names: set[str] = set()
    with _PARSER:
        waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)
    return sorted(names)


def _base(node: ast.ImportFrom, package: str) -> str:
    """The absolute module of ``from <module> import``."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    above = ".".join(parts[: len(parts) - node.level + 1])
    return f"{above}.{node.module}" if node.module else above


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"
