"""Where analyses live: the folders beside `core`, one file each, named alike."""

from __future__ import annotations

from functools import cache
from pathlib import Path

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
