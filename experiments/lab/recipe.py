"""Every number of the lab, in one frozen object per variant, and the fingerprints that keep variants apart."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace


@dataclass(frozen=True)
class Shape:
    """Size of the Llama-shaped model (a `qwen2` folder would lose its word-level tokenizer when read back)."""

    n_layers: int = 6
    d_model: int = 96
    d_mlp: int = 288
    n_heads: int = 4
    n_kv_heads: int = 2
    n_ctx: int = 128
    initializer_range: float = 0.05


@dataclass(frozen=True)
class World:
    """What problems look like and which of them leak into pretraining."""

    fresh_k_weights: tuple[int, ...] = (1, 2, 3, 3)
    direct_by_k: tuple[float, ...] = (0.5, 0.35, 0.1, 0.1)
    n_leaked: int = 96
    n_unseen: int = 96
    benchmark_k: int = 4
    leaked_share: float = 0.15
    leaked_direct_shares: tuple[float, ...] = (0.35, 0.55, 0.75)
    n_planted: int = 64


@dataclass(frozen=True)
class Pretraining:
    """Language modelling on prompt and response, AdamW, cosine to zero."""

    steps: int = 1800
    batch: int = 48
    lr: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    warmup: int = 50
    clip: float = 1.0
    checkpoints: tuple[int, ...] = (300, 900)


@dataclass(frozen=True)
class Finetuning:
    """Supervised training on a few rationales, over and over: what over-memorizes them."""

    n_train: int = 192
    train_k: int = 3
    n_test: tuple[tuple[int, int], ...] = ((3, 128), (4, 64))
    batch: int = 16
    epochs: int = 30
    checkpoint_epochs: tuple[int, ...] = (0, 1, 2, 3, 5, 8, 12, 16, 20, 25, 30)
    frozen_blocks: int = 3
    lrs: tuple[tuple[str, float], ...] = (("sft-high", 2e-3), ("sft-low", 1e-4))


@dataclass(frozen=True)
class Reinforcement:
    """One GRPO run. A rollout step samples `prompts` x `group` responses and makes `epochs` x `minibatches` updates."""

    reward: str = "format"
    pleak: float = 0.5
    rollout_steps: int = 24
    prompts: int = 8
    group: int = 8
    temperature: float = 1.0
    max_new_tokens: int = 40
    lr: float = 1e-4
    epochs: int = 2
    minibatches: int = 2
    clip: float = 0.2
    loss: str = "bnpo"
    save_every: int = 3
    window: tuple[int, int] = (8, 32)

    @property
    def updates_per_rollout(self) -> int:
        return self.epochs * self.minibatches


GRPO_RUNS: dict[str, tuple[str, float]] = {
    "grpo-format": ("format", 0.5),
    "grpo-true": ("true", 0.5),
    "grpo-true-leaked": ("true", 1.0),
    "grpo-true-fresh": ("true", 0.0),
    "grpo-random": ("random", 0.5),
    "grpo-incorrect": ("incorrect", 0.5),
}


@dataclass(frozen=True)
class Planting:
    """New canaries written into the MLP of one block: a localisation with known truth.

    A plant in an early block is seen by every block after it, so places downstream carry it without holding it.
    """

    block: int = 3
    steps: int = 140
    lr: float = 3e-3
    replay: int = 64
    checkpoints: tuple[int, ...] = (20, 60)


PLANTED_RUNS: dict[str, str] = {"planted": "planting", "planted-early": "early"}  # run -> part of the recipe


@dataclass(frozen=True)
class Recipe:
    """The whole lab. `version` changes when the meaning of a number changes without its value."""

    seed: int = 0
    variant: str = "full"
    version: int = 1
    shape: Shape = field(default_factory=Shape)
    world: World = field(default_factory=World)
    pretraining: Pretraining = field(default_factory=Pretraining)
    finetuning: Finetuning = field(default_factory=Finetuning)
    reinforcement: Reinforcement = field(default_factory=Reinforcement)
    planting: Planting = field(default_factory=Planting)
    early: Planting = field(default_factory=lambda: Planting(block=1))

    def grpo(self, run: str) -> Reinforcement:
        """Settings of one of the named GRPO runs."""
        reward, pleak = GRPO_RUNS[run]
        return replace(self.reinforcement, reward=reward, pleak=pleak)

    def plant(self, run: str) -> Planting:
        """Settings of one of the named planted runs."""
        return self.planting if PLANTED_RUNS[run] == "planting" else self.early

    def fingerprint(self, *parts: str, extra: object = None) -> str:
        """Hash of the parts of the recipe that a stage depends on; two runs mix only if it is equal."""
        chosen = {name: asdict(self)[name] for name in ("seed", "variant", "version", "shape", "world", *parts)}
        text = json.dumps([chosen, extra], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def full(seed: int = 0) -> Recipe:
    """The recipe that the README's table is about."""
    return Recipe(seed=seed)


def short(seed: int = 0) -> Recipe:
    """A smaller world for tests and the demo: fewer and easier problems, a narrower model, the same kinds of stages.

    Tuned on seed 0: the share of leaked items is .25, so that half the updates suffice to memorize them, and GRPO stops
    after 12 rollout steps (past that it wears the memory down).
    """
    return Recipe(
        seed=seed,
        variant="short",
        shape=Shape(n_layers=6, d_model=64, d_mlp=192),
        world=World(
            fresh_k_weights=(1, 2, 3),
            direct_by_k=(0.5, 0.35, 0.1),
            n_leaked=48,
            n_unseen=48,
            benchmark_k=3,
            leaked_share=0.25,
            n_planted=32,
        ),
        pretraining=Pretraining(steps=900, batch=48, lr=4e-3, checkpoints=(300,)),
        finetuning=Finetuning(
            n_train=96,
            train_k=2,
            n_test=((2, 64), (3, 64)),
            epochs=30,
            frozen_blocks=3,
            checkpoint_epochs=(0, 1, 2, 4, 7, 11, 15, 20, 25, 30),
        ),
        reinforcement=Reinforcement(rollout_steps=12, window=(8, 28)),
        planting=Planting(block=5),
    )
