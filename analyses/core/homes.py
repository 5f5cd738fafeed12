"""Where analyses live: the folders beside `core`, one file each, named alike."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
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
    tree, function = _parsed(name)
    title = (ast.get_docstring(tree) or "").partition("\n")[0].strip()
    return Outline(
        name,
        homes()[name].split(".")[-2],
        title,
        tuple(a.arg for a in (*function.args.posonlyargs, *function.args.args)),
    )


@cache
def defaults(name: str) -> dict[str, Any]:
    """Default of every option by its file alone; of one that is a named constant, as its module has it."""
    found = dict[str, Any]()
    _, function = _parsed(name)
    for option, value in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        if isinstance(value, ast.Name):
            found[option.arg] = getattr(import_module(homes()[name]), value.id)
        elif value is not None:
            found[option.arg] = ast.literal_eval(value)
    return found


def _parsed(name: str) -> tuple[ast.Module, ast.FunctionDef]:
    _, group, stem = homes()[name].split(".")
    tree = ast.parse((FOLDER / group / f"{stem}.py").read_bytes())
    (function,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    return tree, function


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
