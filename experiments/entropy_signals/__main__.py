"""Command line: `python -m experiments.entropy_signals --seeds 0,1,2`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from analyses import Store
from experiments.entropy_signals import lab
from experiments.entropy_signals.report import FOLDER, write_readme

RESULTS = FOLDER / "results.json"


def main(
    seeds: Annotated[str, typer.Option(help="Comma-separated seeds.")] = "0,1,2",
    runs: Annotated[Path, typer.Option(help="Folder with seed-N of the lab.")] = Path("runs/lab"),
    results: Annotated[Path, typer.Option(help="Store of results.")] = Path("results"),
    keep: Annotated[bool, typer.Option(help="Keep what results.json already has and compute the rest.")] = False,
) -> None:
    """Hold every signal against the measured change per update and write results.json and the README's tables."""
    for seed in seeds.split(","):
        for name in lab.RUNS:
            folder = runs / f"seed-{seed}" / name
            if keep and name in known().get(seed, {}):
                continue
            if not (folder / "window").is_dir():
                typer.echo(f"seed {seed}: no {name} with a window in {folder.parent}, left out", err=True)
                continue
            numbers = lab.of_run(folder, Store.at(results))
            found = known()  # read again: seeds may run side by side
            found.setdefault(seed, {})[name] = numbers
            RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
            typer.echo(f"seed {seed}, {name}: done", err=True)
    write_readme(known())


def known() -> dict[str, Any]:
    """What results.json holds."""
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


if __name__ == "__main__":
    typer.run(main)
