"""Command line: `python -m experiments.over_memorization --seeds 0,1,2`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from analyses import Store
from experiments.over_memorization import lab
from experiments.over_memorization.report import FOLDER, write_readme


def main(
    seeds: Annotated[str, typer.Option(help="Comma-separated seeds.")] = "0,1,2",
    runs: Annotated[Path, typer.Option(help="Folder with seed-N of the lab.")] = Path("runs/lab"),
    results: Annotated[Path, typer.Option(help="Store of results.")] = Path("results"),
) -> None:
    """Analyse the lab's fine-tuning runs and write results.json and the README's tables."""
    path = FOLDER / "results.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    for seed in seeds.split(","):
        folder = runs / f"seed-{seed}"
        if not all((folder / name).is_dir() for name in lab.RUNS):
            typer.echo(f"seed {seed}: no fine-tuning runs in {folder}, left out", err=True)
            continue
        found[seed] = lab.of_seed(folder, int(seed), Store.at(results))
        path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    write_readme(found)
    typer.echo(json.dumps({seed: {name: of[name]["verdict"] for name in lab.RUNS} for seed, of in found.items()}))


if __name__ == "__main__":
    typer.run(main)
