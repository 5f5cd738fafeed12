"""What a result is filed under: a hash of its inputs, its options and the code that made it.

The code is what the analysis imports, read from the source: every import in a file counts, at its head, in a function
or for typing only (an annotation says whose object is handed in). A name that a package hands on, lazily or not, is
followed to the module it lives in. Files of a group and the modules at the root of a ground count one by one, so a
changed helper renews the keys of its users and no others; a package of a ground (`analyses.core.reading`,
`probe.backends`) counts as a whole. What runs, stores, costs, draws, shows progress and words options decides no number
and is left out.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
OURS = ("analyses", "probe", "apps", "experiments", "benchmarks")  # imports of others are not followed
GROUNDS = ("analyses.core", "probe")
LEFT_OUT = tuple(f"analyses.core.{name}" for name in ("running", "store", "cost", "figures", "progress", "vocabulary"))


def digest(value: object) -> str:
    """16 hex digits of a JSON-serialisable value.

    >>> digest({"a": 1}) == digest({"a": 1}), len(digest("text"))
    (True, 16)
    """
    return _hashed(json.dumps(value, sort_keys=True, default=str).encode())


@cache
def source_hash(file: Path) -> str:
    """16 hex digits of the code that decides the numbers of the analysis in `file`: that file and all it imports."""
    found = [f for module in sorted(reached(imported(file))) if (f := source_file(module)) and f != file]
    return _hashed(_text([file, *found]))


@cache
def whole_hash() -> str:
    """16 hex digits of all code of `analyses` and `probe`: what two processes share that work on one run."""
    return _hashed(_text(sorted(f for package in ("analyses", "probe") for f in (REPOSITORY / package).rglob("*.py"))))


def reached(modules: Iterable[str]) -> set[str]:
    """Modules whose code a number may depend on that was made with `modules`: those, and what they import in turn."""
    found, waiting = set[str](), list(modules)
    while waiting:
        module = waiting.pop()
        if module in found or is_below(module, LEFT_OUT):
            continue
        found.add(module)
        file = source_file(module)
        waiting += (_companions(module) | (imported(file) if file else frozenset())) - found
    return found


@cache
def imported(file: Path) -> frozenset[str]:
    """Modules of ours that a file names in imports, wherever in it, packages seen through to where a name lives.

    Raises:
        SyntaxError: the file is not Python.
    """
    return frozenset(home for package, name in _named(file) for home in homes(package, name))


def homes(module: str, name: str | None = None) -> set[str]:
    """Modules that `from module import name` takes its object from; without a name, all that the module may hand on."""
    file = source_file(module)
    if file is None or not is_below(module, OURS):
        return set()
    if name is not None and source_file(f"{module}.{name}") is not None:
        return {f"{module}.{name}"}
    if not _is_package(module):
        return {module}
    handed = {n: m for m, n in _named(file) if n is not None and m != module}
    if name is None or name == "*":
        return {module}.union(*(homes(m, n) for n, m in handed.items()))
    return homes(handed[name], name) if name in handed else {module}


@cache
def _named(file: Path) -> tuple[tuple[str, str | None], ...]:
    """(module, name) of every import of ours in a file; name None: the module as a whole."""
    return tuple((module, name) for _, module, name in named_in(ast.parse(file.read_bytes()), file))


def named_in(tree: ast.Module, file: Path) -> Iterator[tuple[ast.stmt | ast.expr, str, str | None]]:
    """(where, module, name) of each import of ours in a file's syntax tree; name None: the module as a whole.

    Of a module imported by itself (`import probe`) the names are those asked of it (`probe.Model`), as long as it is
    used in no other way.
    """
    nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in (a for a in node.names if is_below(a.name, OURS)):
                asked, bound = _asked(nodes), alias.asname or alias.name
                names = asked.get(bound, set()) if "." not in bound else {None}
                yield from ((node, alias.name, name) for name in ({None} if None in names else names))
        elif isinstance(node, ast.ImportFrom):
            module = ".".join([*_above(file, node.level), *([node.module] if node.module else [])])
            yield from ((node, module, alias.name) for alias in node.names if is_below(module, OURS))
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__") and node.args:
            target = node.args[0]
            if isinstance(target, ast.Constant) and is_below(str(target.value), OURS):
                yield node, str(target.value), None


def _asked(nodes: Iterable[ast.AST]) -> dict[str, set[str | None]]:
    """Attributes asked of every bare name of a file; with None among them where the name is used by itself too."""
    found: dict[str, set[str | None]] = {}
    of_attributes = {id(n.value): n.attr for n in nodes if isinstance(n, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.Name):
            found.setdefault(node.id, set()).add(of_attributes.get(id(node)))
    return found


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def _above(file: Path, level: int) -> tuple[str, ...]:
    """The package that an import of so many dots starts from; () for an absolute one."""
    return file.relative_to(REPOSITORY).parts[:-level] if level else ()


@cache
def _companions(module: str) -> frozenset[str]:
    """All modules of the package of a ground that `module` is in."""
    ground = next((g for g in GROUNDS if module.startswith(f"{g}.")), None)
    package = ground and ".".join(module.split(".")[: ground.count(".") + 2])
    return _inside(package) if package and _is_package(package) else frozenset()


@cache
def _inside(package: str) -> frozenset[str]:
    """A package and all modules in it."""
    found = (REPOSITORY / package.replace(".", "/")).rglob("*.py")
    names = (".".join(file.relative_to(REPOSITORY).with_suffix("").parts) for file in found)
    return frozenset(name.removesuffix(".__init__") for name in names)


def is_below(module: str, packages: Iterable[str]) -> bool:
    """True for the packages themselves and all in them."""
    return any(module == p or module.startswith(f"{p}.") for p in packages)


def _is_package(module: str) -> bool:
    return (REPOSITORY / module.replace(".", "/") / "__init__.py").is_file()


@cache
def source_file(module: str) -> Path | None:
    """Where a module of ours lies; None where there is none of this name."""
    place = REPOSITORY / module.replace(".", "/")
    found = [f for f in (place / "__init__.py", place.with_suffix(".py")) if f.is_file()]
    return found[0] if found else None


def _text(files: Iterable[Path]) -> bytes:
    return b"\0".join(part for f in files for part in (f.name.encode(), f.read_bytes()))


def _hashed(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]
