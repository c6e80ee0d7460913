"""No module imports, directly or by others, a module that imports it; also not for its types alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grimp

if TYPE_CHECKING:
    from collections.abc import Iterator


def circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """Groups of modules that import each other: what is left when all that imports nothing else is taken away."""
    left = {module: set(imported) for module, imported in graph.items()}
    while free := {module for module, imported in left.items() if not imported & left.keys()}:
        for module in free:
            del left[module]
    used = set().union(*left.values()) if left else set()
    if rest := sorted(left.keys() & used):
        yield rest


def test_no_modules_import_each_other() -> None:
    graph = grimp.build_graph("shardgate", "shardgate_gateway", "shardgate_runtime")
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 300
    assert list(circles(imports)) == []


def test_a_circle_is_found() -> None:
    assert list(circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()})) == [["b", "c"]]
    assert list(circles({"a": {"b"}, "b": set()})) == []
