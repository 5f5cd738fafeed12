"""The GRPO runs: TRL's trainer with the recorder, a checkpoint every few rollout steps, a window with every update."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.lab import tokenizer as words
from experiments.lab.evaluate import parse
from experiments.lab.recipe import Recipe, Reinforcement
from experiments.lab.training import CPU, load, save_at, save_start, timed_training
from experiments.lab.world import Benchmark, fresh

if TYPE_CHECKING:
    from transformers import TrainerCallback

Reward = Callable[..., list[float]]


def settings(plan: Reinforcement) -> dict[str, Any]:
    return asdict(plan)


def reward_function(plan: Reinforcement, seed: int) -> Reward:
    """The reward of a run. `format` pays for answering at once and never looks at the answer: the spurious one."""
    coin = random.Random(f"lab/{seed}/reward")

    def true(completions: list[str], gold: list[int], **_: Any) -> list[float]:
        return [float(parse(text).answer == label) for text, label in zip(completions, gold, strict=True)]

    def incorrect(completions: list[str], gold: list[int], **_: Any) -> list[float]:
        answers = [parse(text).answer for text in completions]
        return [float(answer is not None and answer != label) for answer, label in zip(answers, gold, strict=True)]

    def format(completions: list[str], **_: Any) -> list[float]:
        found = [parse(text) for text in completions]
        return [float(response.direct and response.answer is not None) for response in found]

    def random_(completions: list[str], **_: Any) -> list[float]:
        return [float(coin.random() < 0.5) for _ in completions]

    return {"true": true, "incorrect": incorrect, "format": format, "random": random_}[plan.reward]


def prompt_rows(recipe: Recipe, plan: Reinforcement, bench: Benchmark) -> list[dict[str, Any]]:
    """The prompts in the order they are sampled: each rollout step holds the same number of leaked ones."""
    rng = random.Random(f"lab/{recipe.seed}/rl")
    leaked = [p for p in bench.leaked if p.split == "rl"]
    stream = fresh(recipe.world, rng, bench.prompts)
    n_leaked = round(plan.pleak * plan.prompts)
    rows: list[dict[str, Any]] = []
    for step in range(plan.rollout_steps):
        chosen = rng.sample(leaked, n_leaked)
        for problem in [*chosen, *(next(stream) for _ in range(plan.prompts - n_leaked))]:
            name = problem.id if problem.group != "fresh" else f"{step}-{problem.id}"
            rows.append({"prompt": problem.prompt, "id": name, "gold": problem.gold, "group": problem.group})
    return rows


def save_window(plan: Reinforcement, folder: Path) -> TrainerCallback:
    """A callback that keeps weights and optimizer state of every update inside the window, in `window/checkpoint-N`."""
    import torch
    from transformers import TrainerCallback

    first, last = plan.window

    class SaveWindow(TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, control: Any, **kw: Any) -> Any:
            if first <= state.global_step <= last:
                target = folder / "window" / f"checkpoint-{state.global_step}"
                kw["model"].save_pretrained(target)
                kw["processing_class"].save_pretrained(target)
                torch.save(kw["optimizer"].state_dict(), target / "optimizer.pt")
                state.save_to_json(str(target / "trainer_state.json"))
            return control

    return SaveWindow()


def reinforce(
    recipe: Recipe, run: str, bench: Benchmark, base: Path, folder: Path, *, record: bool = True
) -> dict[str, Any]:
    """One GRPO run from the base model; rollouts land in `rollouts/`, checkpoints in `checkpoint-<updates>`."""
    import trl
    from datasets import Dataset

    from probe.training import recording

    plan = recipe.grpo(run)
    per_rollout = plan.updates_per_rollout
    updates = plan.rollout_steps * per_rollout
    options = {**CPU, "logging_steps": 1, "log_level": "error"}
    args = trl.GRPOConfig(
        output_dir=str(folder),
        run_name=run,
        max_steps=updates,
        learning_rate=plan.lr,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        per_device_train_batch_size=plan.prompts * plan.group // plan.minibatches,
        steps_per_generation=plan.minibatches,
        num_iterations=plan.epochs,
        num_generations=plan.group,
        gradient_accumulation_steps=1,
        max_completion_length=plan.max_new_tokens,
        temperature=plan.temperature,
        epsilon=plan.clip,
        beta=0.0,
        scale_rewards="group",
        loss_type=plan.loss,
        max_grad_norm=1.0,
        seed=recipe.seed,
        shuffle_dataset=False,
        **options,
    )
    saves = range(0, updates + 1, plan.save_every * per_rollout)
    trainer_class = recording.GRPOTrainer if record else trl.GRPOTrainer
    trainer = trainer_class(
        model=load(base),
        args=args,
        reward_funcs=[reward_function(plan, recipe.seed)],
        processing_class=words.build(),
        train_dataset=Dataset.from_list(prompt_rows(recipe, plan, bench)),
        callbacks=[save_at(saves), save_window(plan, folder)],
    )
    save_start(trainer, folder)
    seconds = timed_training(trainer)
    return {"seconds": seconds, "settings": settings(plan)}
