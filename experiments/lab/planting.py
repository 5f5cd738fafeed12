"""The planted memory: new canaries written into the MLP of one block, everything else frozen. Its place is known."""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.lab import tokenizer as words
from experiments.lab.recipe import Planting, Recipe
from experiments.lab.training import CPU, collate, encode, load, save_at, save_start, timed_training
from experiments.lab.world import Benchmark, pretraining_stream

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def keep_only_mlp(model: PreTrainedModel, block: int) -> None:
    """Let gradients change the MLP of this block and nothing else."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(f"model.layers.{block}.mlp."))


def training_rows(recipe: Recipe, plan: Planting, bench: Benchmark) -> list[dict[str, list[int]]]:
    """Every planted item in every step, answered at once, and beside it fresh pretraining examples as a replay."""
    planted = [(problem.prompt, problem.direct) for problem in bench.planted]
    # Another stream than pretraining's own: the replay keeps the distribution, not the very examples.
    stream = pretraining_stream(recipe.world, bench, recipe.seed + 10_000, plan.steps * plan.replay)
    replay = [(problem.prompt, text) for problem, text in stream]
    rng = random.Random(f"lab/{recipe.seed}/planting")
    pairs: list[tuple[str, str]] = []
    for step in range(plan.steps):
        pairs += rng.sample(planted, len(planted)) + replay[step * plan.replay : (step + 1) * plan.replay]
    return encode(pairs, response_only=True)


def plant(recipe: Recipe, run: str, bench: Benchmark, base: Path, folder: Path) -> dict[str, Any]:
    """Train the planted items into one MLP; checkpoints show the memory appearing."""
    from transformers import Trainer, TrainingArguments

    plan = recipe.plant(run)
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=plan.steps,
        per_device_train_batch_size=len(bench.planted) + plan.replay,
        learning_rate=plan.lr,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=recipe.seed,
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        **CPU,
    )
    model = load(base)
    keep_only_mlp(model, plan.block)
    trainer = Trainer(
        model,
        args,
        data_collator=collate,
        train_dataset=training_rows(recipe, plan, bench),  # type: ignore[arg-type]
        processing_class=words.build(),
        callbacks=[save_at([*plan.checkpoints, plan.steps])],
    )
    save_start(trainer, folder)
    return {"seconds": timed_training(trainer), "settings": asdict(plan)}
