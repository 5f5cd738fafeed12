"""A lab small enough for tests: two blocks, a few updates, the same code."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.lab import recipe as recipes
from experiments.lab.recipe import Finetuning, Planting, Pretraining, Recipe, Reinforcement, Shape, World

pytest.importorskip("trl", reason="the lab trains with TRL: pip install -e '.[train]'")


TINY = Recipe(
    seed=3,
    variant="tiny",
    shape=Shape(n_layers=2, d_model=32, d_mlp=64, n_heads=2, n_kv_heads=1),
    world=World(fresh_k_weights=(1, 1), direct_by_k=(0.5, 0.5), n_leaked=16, n_unseen=8, benchmark_k=2, n_planted=8),
    pretraining=Pretraining(steps=30, batch=16, checkpoints=(10,), warmup=5),
    finetuning=Finetuning(
        n_train=16, train_k=2, n_test=((2, 8),), batch=8, epochs=2, checkpoint_epochs=(0, 2), frozen_blocks=1
    ),
    reinforcement=Reinforcement(rollout_steps=3, prompts=4, group=4, max_new_tokens=12, lr=1e-3, window=(2, 5)),
    planting=Planting(block=1, steps=6, replay=8, checkpoints=(3,)),
)


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    return TINY


@pytest.fixture(scope="session")
def tiny_lab(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run of every kind of stage."""
    import torch

    from experiments.lab.build import build

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("lab") / "seed-3"
    build(tiny_recipe, folder, ["sft-high", "grpo-format", "planted"])
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="session")
def full_recipe() -> Recipe:
    return recipes.full(0)
