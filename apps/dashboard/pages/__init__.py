"""Pages of the dashboard: one file, one page, found by listing this folder; a file's name is its page's title."""

import pkgutil

FIRST = (
    "run",
    "read",
    "circuit",
    "pictures",
    "token",
    "compare",
    "steer",
    "results",
)  # pages not named here follow, by alphabet


def titles() -> dict[str, str]:
    """Title of each page -> name of its file, in the order of the sidebar; the first one opens where none is asked."""
    found = sorted(m.name for m in pkgutil.iter_modules(__path__))
    ordered = [n for n in FIRST if n in found] + [n for n in found if n not in FIRST]
    return {name.replace("_", " ").capitalize(): name for name in ordered}
