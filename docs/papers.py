"""mkdocs hook: the systems of the source papers, what of each is measured here and by which command.

`papers/systems.toml` is the table, written by hand; its commands run in the repository's root, on the short lab
(`make demo`) or on the files in `papers/` (`paper_files.py` makes them). `python docs/papers.py` runs them and keeps
the number of each, and that of its null, in `papers/numbers.json`.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

PAGE = "reference/papers.md"
FOLDER = Path(__file__).parent / "papers"
TABLE, NUMBERS = FOLDER / "systems.toml", FOLDER / "numbers.json"
MARK = "<!-- made: papers -->"
ROWS = [f"{section}.{n}" for section, count in ((1, 5), (2, 31), (3, 21)) for n in range(1, count + 1)]
HEAD = ("row", "system", "measured here", "differs from the paper", "number", "null")


@dataclass(frozen=True)
class System:
    """One system of a source paper.

    Attributes:
        row: its number, section first.
        name: as the paper calls it.
        measures: what of it is measured here.
        differs: what is not as in the paper, or is left out.
        command: the command, in the repository's root.
        number: one cell of its summary: the quantity and the coordinates that pick it, `pass_at_k step=48 k=1`.
        null: the same for what it is read against; "" where the null is 0 by construction or there is none.
        null_command: the command of the null, where it is another one.
        arxiv: id of the paper; "" where none is known.
    """

    row: str
    name: str
    measures: str
    differs: str
    command: str
    number: str = ""
    null: str = ""
    null_command: str = ""
    arxiv: str = ""

    @property
    def asked(self) -> dict[str, tuple[str, str]]:
        """(command, cell) of the number and of the null, those that there are."""
        found = {"number": (self.command, self.number), "null": (self.null_command or self.command, self.null)}
        return {name: pair for name, pair in found.items() if pair[1]}


def systems() -> list[System]:
    """The table, in the order of its rows."""
    found = [System(**entry) for entry in tomllib.loads(TABLE.read_text(encoding="utf-8"))["system"]]
    return sorted(found, key=lambda s: ROWS.index(s.row))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The table in place of its mark."""
    return markdown.replace(MARK, shown()) if page.file.src_uri == PAGE else markdown


def shown() -> str:
    """The table, the commands below it, and the systems that are still missing."""
    there, kept = systems(), json.loads(NUMBERS.read_text(encoding="utf-8"))
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    for s in there:
        paper = f"{s.name} ([{s.arxiv}](https://arxiv.org/abs/{s.arxiv}))" if s.arxiv else s.name
        cells = (
            s.row,
            paper,
            _prose(s.measures),
            _prose(s.differs),
            *(_told(kept.get(s.row, {}).get(n)) for n in ("number", "null")),
        )
        lines.append(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in cells)} |")
    missing = [row for row in ROWS if row not in {s.row for s in there}]
    commands = [f"# {s.row} {s.name}\n$ {s.command}" for s in there]
    rest = f"\n\nNot in the table yet: rows {', '.join(missing)}." if missing else ""
    return "\n".join(lines) + rest + "\n\n## Commands\n\n```console\n" + "\n".join(commands) + "\n```"


def _prose(text: str) -> str:
    """Text of the table: outside backticks `*`, `_` and `<` are signs of formulas, not markup."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"[*_]", r"\\\g<0>", part.replace("<", "&lt;")) for part in parts[::2]]
    return "`".join(parts)


def _told(kept: dict[str, Any] | None) -> str:
    if kept is None:
        return "-"
    inside = "" if kept["ci_low"] is None else f" [{kept['ci_low']:.3g}, {kept['ci_high']:.3g}]"
    return f"`{kept['cell']}` {kept['value']:.3g}{inside}"


def words(command: str) -> list[str]:
    """The words of a command behind `probe`."""
    first, *rest = shlex.split(command)
    if first != "probe":
        raise ValueError(f"{command!r}: a command begins with `probe`")
    return rest


def measured(asked: Sequence[System]) -> dict[str, dict[str, dict[str, Any]]]:
    """Number and null of every system asked for, each command run once, results in a folder that goes away."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    summaries: dict[str, pd.DataFrame] = {}
    with tempfile.TemporaryDirectory() as results:
        for s in asked:
            for name, (command, cell) in s.asked.items():
                if command not in summaries:
                    summaries[command] = _summary(command, results)
                found.setdefault(s.row, {})[name] = {"command": command, **_cell(summaries[command], cell)}
    return found


def _summary(command: str, results: str) -> pd.DataFrame:
    from apps.command.cli import app

    out = StringIO()
    with redirect_stdout(out):
        app([*words(command), "--results", results, "--json"], standalone_mode=False)
    return pd.DataFrame(json.loads(out.getvalue().splitlines()[-1])["summary"])


def _cell(summary: pd.DataFrame, cell: str) -> dict[str, Any]:
    """The one row that a cell names.

    Raises:
        ValueError: no row, or several (what is there instead).
    """
    quantity, *at = shlex.split(cell)
    rows = summary[summary["quantity"] == quantity]
    for name, _, value in (part.partition("=") for part in at):
        rows = rows[[_text(v) == value for v in rows[name]]]
    if len(rows) != 1:
        raise ValueError(f"{cell!r} names {len(rows)} rows:\n{rows if len(rows) else summary}")
    numbers = rows[["value", "ci_low", "ci_high", "n"]].iloc[0]
    return {"cell": cell, **{str(k): None if pd.isna(v) else float(f"{v:.6g}") for k, v in numbers.items()}}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def main(arguments: list[str]) -> None:
    """Write the numbers, of all systems or of the rows named."""
    kept = json.loads(NUMBERS.read_text(encoding="utf-8")) if NUMBERS.exists() else {}
    there = systems()
    kept |= measured([s for s in there if not arguments or s.row in arguments])
    current = {s.row: kept[s.row] for s in there if s.row in kept}
    lines = (f"{json.dumps(row)}: {json.dumps(entry)}" for row, entry in current.items())
    NUMBERS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
