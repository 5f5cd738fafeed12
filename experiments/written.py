"""What a study found, as files beside one another: tables as CSV, figures as HTML, claims as text and JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import typer

from analyses import Result
from analyses.core import claim as claimed
from analyses.core.claim import Claim
from probe import InputError


def write(found: Mapping[str, Result], out: Path) -> list[Path]:
    """Files of every result in the folder `out`, by the names of the results; paths in the order written.

    Figures share one copy of Plotly in the folder. `claims.md` has a line a claim, warnings below it.
    """
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, result in found.items():
        written.append(out / f"{name}.csv")
        result.summary().to_csv(written[-1], index=False)
        for title, figure in result.figures().items():
            written.append(out / f"{name}-{title}.html")
            figure.write_html(written[-1], include_plotlyjs="directory")
    said = {name: [claimed.row(c) for c in result.claims] for name, result in found.items()}
    (out / "claims.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    (out / "claims.md").write_text("\n".join(_lines(found)) + "\n", encoding="utf-8")
    return [*written, out / "claims.json", out / "claims.md"]


def command(name: str, run: Callable[[], object]) -> None:
    """What a script does as a command: exit code 2 with one line for bad input, as `probe` has it."""
    try:
        run()
    except InputError as error:
        typer.echo(f"{name}: {error}", err=True)
        sys.exit(2)


def _lines(found: Mapping[str, Result]) -> list[str]:
    lines: list[str] = []
    for name, result in found.items():
        lines.append(f"## {name}\n")
        lines += [f"- {_said(c)}" for c in result.claims] or [f"- {result.verdict or 'makes no claim'}"]
        lines += [f"- (warning) {w}" for w in result.warnings]
        lines.append("")
    return lines


def _said(claim: Claim) -> str:
    """The sentence, behind the name of its group where it does not say it itself."""
    told, group = claimed.sentence(claim), claim.group
    named = group is None or re.search(rf"(?<!\w){re.escape(group)}(?!\w)", told)
    return told if named else f"{group}: {told}"
