"""How a view, or the result behind it, is made again: Python to paste, the command that computed it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from analyses.core.store import Store
from apps.reading import Entry


def python_code(store: Store, entry: Entry, where: Mapping[str, Any], figure: str | None) -> str:
    """Python that shows the same view; runs as pasted where the package is installed."""
    chosen = ", ".join(f"{k}={v!r}" for k, v in where.items())
    lines = [
        "from analyses import Store",
        "",
        f"store = Store.at({str(store.root.resolve())!r})",
        f"result = store.get({entry.analysis!r}, {entry.key!r})" + (f".where({chosen})" if chosen else ""),
        "print(result.summary())",
    ]
    if figure:
        lines += [f"figure = result.figures()[{figure!r}]", f"figure.write_html({entry.analysis + '.html'!r})"]
    return "\n".join(lines)


def command(entry: Entry) -> str | None:
    """The command that computes the result again; None where an input was not a file."""
    from analyses.core.analysis import get, names

    if entry.analysis not in names():
        return None
    inputs = dict(entry.record.get("inputs", {}))
    words = ["probe", "sweep" if entry.is_sweep else "run", entry.analysis]
    if entry.is_sweep:
        words += ["--checkpoints", entry.run]
    for given in get(entry.analysis).inputs:
        described = inputs.get(given.name)
        if described is None:
            continue
        value = described.get("path") or described.get("source") or described.get("key")
        if not value or value == "in memory":
            return None
        words += [f"--{given.name.replace('_', '-')}", str(value)]
    for name, value in entry.options.items():
        words += _flag(name, value)
    return " ".join(shlex.quote(w) for w in words)


def _flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
