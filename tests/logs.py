"""Small rollout logs, complete in the schema: random ones, and ones a model really sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def rows(
    *,
    steps: Sequence[int] = (0, 4),
    items: int = 3,
    group: int = 4,
    vocab: int = 80,
    seed: int = 0,
    logged: bool = True,
) -> list[dict[str, Any]]:
    """Responses of `items` prompts, `group` each, at every step; ids are random, advantages centred per group."""
    rng = np.random.default_rng(seed)
    made: list[dict[str, Any]] = []
    for step in steps:
        for number in range(items):
            prompt = rng.integers(3, vocab, 4 + number).astype(np.int32)
            rewards = rng.integers(0, 2, group).astype(float)
            rewards[:2] = 0.0, 1.0  # never a group of equal rewards
            for sample in range(group):
                n = int(rng.integers(2, 7))
                mask = np.ones(n, bool)
                mask[1] = sample % 3 != 2  # one token of a tool's output
                logp = np.log(rng.uniform(0.1, 0.9, n)).astype(np.float32)
                row = {
                    "run_id": "toy",
                    "policy_version": f"checkpoint-{step}",
                    "step": step,
                    "prompt_id": f"q{number}",
                    "group_uid": f"{step}-{number}",
                    "group": "leaked" if number % 2 else "unseen",
                    "prompt_token_ids": prompt,
                    "response_token_ids": rng.integers(3, vocab, n).astype(np.int32),
                    "response_mask": mask,
                    "finish_reason": "stop",
                    "reward": rewards[sample],
                    "advantage": np.float32((rewards[sample] - rewards.mean()) / rewards.std()),
                    "adv_std_normalised": True,
                    "adv_eps": np.float32(1e-4),
                    "temperature": np.float32(1.0),
                    "top_p": np.float32(1.0),
                    "top_k": 0,
                    "old_logp": logp,
                    "micro_batch_id": np.int32(sample % 2),
                    "clip_low": np.float32(0.2),
                    "clip_high": np.float32(0.2),
                }
                if logged:
                    row |= {"logp_temperature": np.float32(1.0), "H": rng.uniform(0.1, 2, n).astype(np.float32)}
                made.append(row)
    return made


def full(**how: Any) -> list[dict[str, Any]]:
    """`rows` with all that a recorder writes beside it, texts with answers, and segments (call, tool, answer)."""
    rng = np.random.default_rng(how.get("seed", 0) + 1)
    made = rows(**how)
    for number, row in enumerate(made):
        n = len(row["response_token_ids"])
        entropy, old = row["H"].astype(float), row["old_logp"].astype(float)
        squares = np.exp(-entropy) * rng.uniform(0.6, 1, n)
        row |= {
            "sum_p2": squares.astype(np.float32), "B": (squares * rng.uniform(0, 0.3, n)).astype(np.float32),
            "sampling_logp": (old + rng.normal(0, 0.05, n)).astype(np.float32),
            "new_logp": (old + rng.normal(0, 0.02, n)).astype(np.float32),
            "response_text": f"so it is {number % 3}" if number % 5 else "no idea",
            "segment_starts": [0, 1] if row["response_mask"].all() or n < 3 else [0, 1, 2],
        }  # fmt: skip
        whole = len(row["segment_starts"]) == 2
        row["segment_type"] = ["turn", "answer"] if whole else ["call", "tool", "answer"]
    return made
