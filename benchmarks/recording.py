"""What recording rollouts costs a GRPO run of the lab's full setting: CPU time inside the recorder against the rest.

Timing whole runs with and without the recorder was tried first: on a shared machine pairs scatter by 10 % (7 pairs:
median 1.06, quartiles .96 and 1.14), which drowns an effect of 1 %. So the recorder's own steps are clocked inside the
run: scoring, noting an update, gathering a rollout step, writing it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

REPETITIONS = 5
ROLLOUT_STEPS = 4
OWN = ("_score", "_note_update", "_start", "_flush")


@contextmanager
def clocked() -> Generator[dict[str, float]]:
    """CPU seconds spent in training as a whole (`train`) and inside the recorder's own steps (`own`)."""
    from probe.training.recording import RolloutRecorder

    spent = {"own": 0.0, "train": 0.0}
    originals = {name: getattr(RolloutRecorder, name) for name in (*OWN, "train")}

    def timed(function: Callable[..., Any], key: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[key] += time.thread_time() - start

        return run

    for name, function in originals.items():
        setattr(RolloutRecorder, name, timed(function, "train" if name == "train" else "own"))
    try:
        yield spent
    finally:
        for name, function in originals.items():
            setattr(RolloutRecorder, name, function)


def one_run(base: Path) -> float:
    """Training with the recorder over training without what the recorder did."""
    from experiments.lab import recipe as recipes
    from experiments.lab import rl
    from experiments.lab.world import benchmark

    recipe = recipes.full(0)
    plan = replace(recipe.reinforcement, rollout_steps=ROLLOUT_STEPS, save_every=10_000, window=(0, -1))
    recipe = replace(recipe, reinforcement=plan)
    with tempfile.TemporaryDirectory() as folder, clocked() as spent:
        rl.reinforce(recipe, "grpo-format", benchmark(recipe.world, 0), base, Path(folder))
    return spent["train"] / (spent["train"] - spent["own"])


def measure() -> list[dict[str, Any]]:
    """One row: the ratio of CPU times on one thread."""
    import torch

    from experiments.lab import recipe as recipes
    from experiments.lab import tokenizer, training

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        # An untrained model never ends its answers: every response has the full 40 tokens, the most to record.
        training.new_model(recipes.full(0).shape, 0).save_pretrained(folder)
        tokenizer.build().save_pretrained(folder)
        one_run(Path(folder))
        ratios = np.array([one_run(Path(folder)) for _ in range(REPETITIONS)])
    torch.set_num_threads(threads)
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return [
        {
            "name": "GRPO with the recorder / without the recorder's steps (CPU time)",
            "ratio": round(float(middle), 4),
            "spread": f"{low:.4f}-{high:.4f}",
            "bound": "<= 1.02",
            "holds": bool(middle <= 1.02),
            "note": f"lab's full setting, 64 responses of 40 tokens, {ROLLOUT_STEPS} rollout steps of 4 updates",
        }
    ]
