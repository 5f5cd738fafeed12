"""The stages of the lab in order, and what each one rests on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.lab import training
from experiments.lab.prompt_files import with_exposures, write_prompts
from experiments.lab.recipe import GRPO_RUNS, PLANTED_RUNS, Recipe
from experiments.lab.stages import MARKER, run_stage
from experiments.lab.world import Benchmark, benchmark
from probe.errors import InputError

SHORT_STAGES = ("base", "sft-high", "sft-low", "grpo-format", *PLANTED_RUNS)
STAGES = ("base", "sft-high", "sft-low", *GRPO_RUNS, *PLANTED_RUNS)


def chosen_stages(recipe: Recipe, only: list[str]) -> list[str]:
    """Stages to build, in order; everything rests on `base`, so it is always there."""
    unknown = sorted(set(only) - set(STAGES))
    if unknown:
        raise InputError(f"no stage called {', '.join(unknown)}; the lab has {', '.join(STAGES)}")
    wanted = set(only) or set(SHORT_STAGES if recipe.variant == "short" else STAGES)
    return [stage for stage in STAGES if stage in wanted | {"base"}]


def build(recipe: Recipe, folder: Path, only: list[str]) -> dict[str, Path]:
    """Build or find the wanted stages under `folder`; returns stage name -> folder."""
    stages = chosen_stages(recipe, only)
    folder.mkdir(parents=True, exist_ok=True)
    bench = benchmark(recipe.world, recipe.seed)
    done = {"base": build_base(recipe, bench, folder)}
    bench = with_exposures(bench, facts(done["base"])["exposures"])
    write_prompts(recipe, bench, folder)
    start = done["base"] / f"checkpoint-{recipe.pretraining.steps}"
    for stage in stages[1:]:
        done[stage] = build_stage(recipe, bench, start, folder, stage)
    return done


def facts(folder: Path) -> dict[str, Any]:
    """What a finished stage says about itself."""
    return json.loads((folder / MARKER).read_text())


def build_base(recipe: Recipe, bench: Benchmark, folder: Path) -> Path:
    print_stage("base")
    return run_stage(
        folder / "base", recipe.fingerprint("pretraining"), lambda scratch: training.pretrain(recipe, bench, scratch)
    )


def build_stage(recipe: Recipe, bench: Benchmark, start: Path, folder: Path, stage: str) -> Path:
    """One stage that rests on the base model."""
    print_stage(stage)
    if stage.startswith("sft-"):
        lr = dict(recipe.finetuning.lrs)[stage]
        fingerprint = recipe.fingerprint("pretraining", "finetuning", extra=lr)
        return run_stage(folder / stage, fingerprint, lambda s: training.finetune(recipe, bench, start, lr, s))
    if stage in GRPO_RUNS:
        from experiments.lab import rl

        plan = recipe.grpo(stage)
        fingerprint = recipe.fingerprint("pretraining", extra=rl.settings(plan))
        return run_stage(folder / stage, fingerprint, lambda s: rl.reinforce(recipe, stage, bench, start, s))
    from experiments.lab import planting

    fingerprint = recipe.fingerprint("pretraining", PLANTED_RUNS[stage])
    return run_stage(folder / stage, fingerprint, lambda s: planting.plant(recipe, stage, bench, start, s))


def print_stage(stage: str) -> None:
    import sys

    print(f"[lab] {stage}", file=sys.stderr, flush=True)
