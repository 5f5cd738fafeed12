"""Command line of the lab: `python -m experiments.lab --seed 0 [--short] [--only grpo-format]`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from experiments.lab import recipe as recipes
from experiments.lab.build import STAGES, build
from probe.errors import InputError


def main(
    seed: Annotated[int, typer.Option(help="Seed of the world, the models and the training.")] = 0,
    short: Annotated[bool, typer.Option("--short", help="A smaller world for tests and the demo.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Only these stages (repeatable): {', '.join(STAGES)}.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Parent of `seed-N`. Default runs/lab, or runs/lab-short.")] = None,
    threads: Annotated[int, typer.Option(help="Torch threads; 0 leaves the number to torch.")] = 0,
    truth: Annotated[bool, typer.Option("--truth", help="Then measure this seed's entry of truth.json.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON on standard output.")] = False,
) -> None:
    """Train the lab's models, or find those trained before: base, two SFT runs, six GRPO runs, two planted memories."""
    # The lab is offline by nature: nothing it loads has a name on a hub.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    recipe = recipes.short(seed) if short else recipes.full(seed)
    parent = out if out is not None else Path("runs") / ("lab-short" if short else "lab")
    folder = parent / f"seed-{seed}"
    if threads:
        import torch

        torch.set_num_threads(threads)
    done = build(recipe, folder, only or [])
    if truth:
        from experiments.lab.truth import measure_seed

        measure_seed(recipe, folder)
    stages = {stage: str(path) for stage, path in done.items()}
    if as_json:
        print(json.dumps({"folder": str(folder), "stages": stages}))
    else:
        for stage, path in stages.items():
            print(f"{stage:18s} {path}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
