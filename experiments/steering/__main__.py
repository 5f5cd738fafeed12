"""Command line: `python -m experiments.steering --seeds 0,1,2`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from analyses import Store
from experiments.steering import lab
from experiments.steering.report import FOLDER, write_readme


def main(
    seeds: Annotated[str, typer.Option(help="Comma-separated seeds.")] = "0,1,2",
    runs: Annotated[Path, typer.Option(help="Folder with seed-N of the lab.")] = Path("runs/lab"),
    results: Annotated[Path, typer.Option(help="Store of results.")] = Path("results"),
) -> None:
    """Steer the lab's planted and natural memories and write results.json and the README's tables."""
    path = FOLDER / "results.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    for seed in seeds.split(","):
        folder = runs / f"seed-{seed}"
        if not (folder / "planted").is_dir():
            typer.echo(f"seed {seed}: no planted memory at {folder}, left out", err=True)
            continue
        measured = lab.of_seed(folder, Store.at(results))
        found[seed] = {**measured, "held": lab.held(measured)}
        path.write_text(json.dumps(found, indent=1) + "\n")
        write_readme(found)
        typer.echo(json.dumps({seed: found[seed]["held"]}))


if __name__ == "__main__":
    typer.run(main)
