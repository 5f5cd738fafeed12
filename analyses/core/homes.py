"""Where analyses live: the folders beside `core`, one file each, named alike."""

from __future__ import annotations

import sys
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
