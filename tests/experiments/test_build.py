"""The folders that a run leaves: ordinary checkpoints, prompt files the toolkit reads, stages with known content."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from experiments.lab import evaluate, training
from experiments.lab import recipe as recipes
from experiments.lab.build import facts
from experiments.lab.recipe import Recipe
from experiments.lab.world import benchmark
from probe.prompts import Prompts


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def changed(run: Path, last: int) -> set[str]:
    first, final = weights(run / "checkpoint-0"), weights(run / f"checkpoint-{last}")
    return {name for name in first if not torch.equal(first[name], final[name])}


def test_checkpoints_are_ordinary_folders(tiny_lab: Path):
    folders = sorted(tiny_lab.glob("*/checkpoint-*"))
    assert len(folders) == 2 + 2 + 2 + 3
    for folder in folders:
        assert {"config.json", "model.safetensors", "tokenizer.json", "trainer_state.json"} <= {
            p.name for p in folder.iterdir()
        }
        step = int(folder.name.split("-")[1])
        assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == step


def test_every_run_starts_from_the_base(tiny_lab: Path):
    base = weights(tiny_lab / "base" / "checkpoint-30")
    for run in ("sft-high", "grpo-format", "planted"):
        start = weights(tiny_lab / run / "checkpoint-0")
        assert all(torch.equal(base[name], start[name]) for name in base)


def test_only_what_should_train_trains(tiny_lab: Path):
    assert changed(tiny_lab / "planted", 6) == {
        f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")
    }
    moved = changed(tiny_lab / "sft-high", 4)
    assert moved
    assert all(name.startswith("model.layers.1.") or name == "model.norm.weight" for name in moved)


def test_the_window_keeps_optimizer_state_of_every_update(tiny_lab: Path):
    window = tiny_lab / "grpo-format" / "window"
    assert sorted(p.name for p in window.iterdir()) == [f"checkpoint-{n}" for n in (2, 3, 4, 5)]
    state = torch.load(window / "checkpoint-4" / "optimizer.pt", weights_only=True)
    assert {float(s["step"]) for s in state["state"].values()} == {4.0}


def test_prompt_files_read_as_prompts(tiny_lab: Path, tiny_recipe: Recipe):
    prompts = Prompts.read(tiny_lab / "prompts.jsonl")
    world = tiny_recipe.world
    assert len(prompts.items) == 2 * (world.n_leaked + world.n_unseen + world.n_planted)
    assert set(prompts.groups) == {"leaked_true", "leaked_canary", "unseen", "planted"}
    for item in prompts.items:
        assert item.answer.split()[-1] == str(item.meta["gold" if item.answer_kind == "gold_final" else "computed"])
    seen = [item.meta["n_exposures"] for item in prompts.items if item.group.startswith("leaked")]
    assert min(seen) > 0
    assert all(i.meta["n_exposures"] == 0 for i in prompts.items if not i.group.startswith("leaked"))
    assert {i.answer_kind for i in Prompts.read(tiny_lab / "sft_test.jsonl").items} == {"gold_rationale"}


def test_exposures_are_those_of_the_stream(tiny_lab: Path, tiny_recipe: Recipe):
    counts = facts(tiny_lab / "base")["exposures"]
    examples = tiny_recipe.pretraining.steps * tiny_recipe.pretraining.batch
    assert sum(counts.values()) / examples == pytest.approx(tiny_recipe.world.leaked_share, abs=0.06)


def test_the_command_refuses_another_recipe_with_exit_code_2(tiny_lab: Path, tmp_path: Path):
    (tmp_path / "seed-3").symlink_to(tiny_lab)
    command = [sys.executable, "-m", "experiments.lab", "--seed", "3", "--only", "base", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "another recipe" in done.stderr
    assert done.stdout == ""


# The short run that the demo makes.


def perplexity(folder: Path, recipe: Recipe) -> float:
    _, test = training.sft_problems(recipe, benchmark(recipe.world, recipe.seed))
    parts = evaluate.nll_parts(training.load(folder).eval(), test, [p.rationale for p in test])
    return float(np.exp((parts.mode + parts.body).sum() / (parts.n_body + 1).sum()))


@pytest.mark.lab
def test_short_run_over_memorizes_at_the_high_rate_only(lab: Path):
    recipe = recipes.short(0)
    last = max(recipe.finetuning.checkpoint_epochs) * facts(lab / "sft-high")["updates_per_epoch"]
    start = perplexity(lab / "sft-high" / "checkpoint-0", recipe)
    assert perplexity(lab / "sft-high" / f"checkpoint-{last}", recipe) > 1.1 * start
    assert perplexity(lab / "sft-low" / f"checkpoint-{last}", recipe) == pytest.approx(start, rel=0.05)


@pytest.mark.lab
def test_short_run_shows_the_paradox(lab: Path):
    recipe = recipes.short(0)
    if not (lab / "grpo-format").exists():
        pytest.skip("the short run was made without grpo-format")
    items = list(benchmark(recipe.world, 0).leaked)
    last = recipe.reinforcement.rollout_steps * recipe.reinforcement.updates_per_rollout
    before, after = (
        evaluate.nll_parts(
            training.load(lab / "grpo-format" / f"checkpoint-{n}").eval(), items, [p.direct for p in items]
        )
        for n in (0, last)
    )
    answer = (after.mode + after.number) - (before.mode + before.number)
    prompt = after.prompt - before.prompt
    for change, sign in ((answer, -1), (prompt, 1)):
        error = change.std(ddof=1) / np.sqrt(len(change))
        assert sign * change.mean() > 2 * error
