"""Measure the layout of a checkout from its own source: `python -m tests.layout [CHECKOUT]`.

A room is a folder of modules; a module directly in model/ or service/ is a room by itself. Only source is read, nothing
is imported, so that any checkout can be measured, of this layout or an earlier one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

PACKAGES = {"model": ".", "service": ".", "freshet": "client"}  # and where each lies
ROOMED = ("model", "service")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
CLASSES = (ast.ClassDef,)
LONG_FUNCTION, LONG_CLASS = 60, 250  # lines
Arrow = tuple[str, str]


class Size(NamedTuple):
    """Lines of one function or class, its signature and docstring included."""

    lines: int
    name: str  # module:qualified.name


def modules(checkout: Path) -> dict[str, ast.Module]:
    """Every module by its dotted name, a package by its folder's; without generated stubs."""
    found = {}
    for package, base in PACKAGES.items():
        for path in sorted((checkout / base / package).rglob("*.py")):
            parts = path.relative_to(checkout / base).with_suffix("").parts
            if "_pb2" not in path.name:
                name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def is_package(name: str, found: dict[str, ast.Module]) -> bool:
    return any(other.startswith(f"{name}.") for other in found)


def room(name: str, found: dict[str, ast.Module]) -> str:
    """The room that a module belongs to."""
    package = name if is_package(name, found) else name.rpartition(".")[0]
    return name if package in ROOMED else package


def imports(tree: ast.Module, package: str = "") -> Iterator[str]:
    """Dotted names of all imports at any depth; `from a import b` gives a and a.b. package: for relative imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def rooms(found: dict[str, ast.Module]) -> set[str]:
    """Rooms that hold a module."""
    return {room(name, found) for name in found if name.startswith(ROOMED) and not is_package(name, found)}


def arrows(found: dict[str, ast.Module]) -> set[Arrow]:
    """Pairs of rooms (from, to) with at least one import between them."""
    known = rooms(found)
    pairs = {
        (room(name, found), room(target, found))
        for name, tree in found.items()
        for target in imports(tree)
        if target in found
    }
    return {(here, there) for here, there in pairs if here != there and here in known and there in known}


def knots(pairs: set[Arrow]) -> list[set[str]]:
    """Groups of rooms that import each other, directly or by way of others."""
    reach: dict[str, set[str]] = {}
    for start in {here for here, _ in pairs}:
        todo, reach[start] = [start], set()
        while todo:
            here = todo.pop()
            new = {there for one, there in pairs if one == here} - reach[start]
            reach[start] |= new
            todo += new
    tied = {name: frozenset(n for n in reach[name] if name in reach.get(n, ())) for name in reach}
    return [set(knot) for knot in sorted(set(tied.values()), key=sorted) if len(knot) > 1]


def upward(pairs: set[Arrow]) -> int:
    """The fewest arrows that go up in any order of the rooms. Only knots force any; those here are small."""
    total = 0
    for knot in knots(pairs):
        inside = [pair for pair in pairs if knot.issuperset(pair)]
        total += min(
            sum(order.index(here) < order.index(there) for here, there in inside) for order in permutations(knot)
        )
    return total


def floors(names: set[str], pairs: set[Arrow]) -> int:
    """Rooms on the longest way down, a knot counted as one."""
    one_of = {name: min(knot) for knot in knots(pairs) for name in knot}
    down = {(one_of.get(here, here), one_of.get(there, there)) for here, there in pairs}

    @cache
    def height(name: str) -> int:
        return 1 + max((height(there) for here, there in down if here == name != there), default=0)

    return max(height(one_of.get(name, name)) for name in names)


def sizes(found: dict[str, ast.Module], kinds: tuple[type[ast.AST], ...]) -> list[Size]:
    """Functions or classes, largest first."""

    def inside(parent: ast.AST, name: str, separator: str) -> Iterator[Size]:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                own = f"{name}{separator}{node.name}"
                if isinstance(node, kinds) and node.end_lineno:
                    yield Size(node.end_lineno - node.lineno + 1, own)
                yield from inside(node, own, ".")
            else:
                yield from inside(node, name, separator)

    return sorted((size for name, tree in found.items() for size in inside(tree, name, ":")), reverse=True)


def main(checkout: Path) -> None:
    found = modules(checkout)
    names, pairs, measured = rooms(found), arrows(found), sizes(found, FUNCTIONS)
    lines = [size.lines for size in measured][::-1]
    each = ", ".join(f"{package} {sum(name.startswith(package) for name in names)}" for package in ROOMED)
    print(f"rooms {len(names)} ({each})  floors {floors(names, pairs)}  arrows {len(pairs)}  upward {upward(pairs)}")
    print(f"mutual imports: {'; '.join(', '.join(sorted(knot)) for knot in knots(pairs)) or 'none'}")
    print(f"functions {len(lines)}  p50 {lines[len(lines) // 2]}  p90 {lines[len(lines) * 9 // 10]}  max {lines[-1]}")
    for size in measured:
        if size.lines > LONG_FUNCTION:
            print(f"  {size.lines:4} {size.name}")
    print("largest classes")
    for size in sizes(found, CLASSES)[:12]:
        print(f"  {size.lines:4} {size.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1])
