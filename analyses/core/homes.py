"""Where analyses live: the folders beside `core`, one file each, named alike."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent


@cache
def homes() -> dict[str, str]:
    """The module of every analysis by name, in order of names; files that begin with `_` are helpers.

    Raises:
        TypeError: two groups hold an analysis of one name.
    """
    found: dict[str, str] = {}
    for path in sorted(FOLDER.glob("[!_]*/[!_]*.py"), key=lambda p: p.stem):
        if path.parent.name == "core":
            continue
        module = f"analyses.{path.parent.name}.{path.stem}"
        if path.stem in found:
            raise TypeError(f"two analyses are called {path.stem!r}: {found[path.stem]} and {module}; names are unique")
        found[path.stem] = module
    return found


@dataclass(frozen=True)
class Outline:
    """What a list of analyses says of one: read from its source, since importing them all takes a second."""

    name: str
    group: str
    title: str
    inputs: tuple[str, ...]


def outline(name: str) -> Outline:
    """The analysis of this name by its file alone: the first line of the docstring, the positional parameters."""
    group = homes()[name].split(".")[-2]
    tree = ast.parse((FOLDER / group / f"{name}.py").read_bytes())
    (function,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    title = (ast.get_docstring(tree) or "").partition("\n")[0].strip()
    return Outline(name, group, title, tuple(a.arg for a in (*function.args.posonlyargs, *function.args.args)))


class _Group(ModuleType):
    """A group of analyses that shares its name with one of them: called, it is that analysis."""

    def __call__(self, *args: object, **kwargs: object) -> Any:
        package, _, name = self.__name__.rpartition(".")
        return sys.modules[package].__getattr__(name)(*args, **kwargs)


class _Package(ModuleType):
    """The package of the groups: an imported group would lie over the analysis of its name, so it stands for both."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and name in homes():
            value.__class__ = _Group
        super().__setattr__(name, value)


def callable_groups(package: str) -> None:
    """Make a group of `package` that shares its name with an analysis callable as that analysis."""
    sys.modules[package].__class__ = _Package
