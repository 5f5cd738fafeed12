"""Sizes of MLP keys: the model's own, closed forms, a planted key found at its layer and groups alike not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from analyses import run
from analyses.states.key_size import _claims, sizes


def test_keys_are_the_models_own(base, prompts) -> None:
    table = run("key_size", model=base, prompts=prompts).table
    (alone,) = base.batches(prompts.limit(1), batch_size=1)
    k = base.run(alone, read=["mlp_post.1"], logits="none")["mlp_post.1"][0, int(alone.last_prompt[0])]
    row = table.query("item == 'q00' and layer == 1").iloc[0]
    assert row["key_norm"] == pytest.approx(float(k.norm()), rel=1e-5)
    assert row["key_mean"] == pytest.approx(float(k.abs().mean()), rel=1e-5)
    np.testing.assert_allclose(table.groupby("item")["key_share"].sum(), 1)


def test_closed_forms() -> None:
    found = sizes(torch.tensor([[3.0, -4.0] + [0.0] * 18, [1.0] * 20]), torch.tensor([0.5, 0.5]))
    assert found == pytest.approx(
        {"key_norm": (5 + 20**0.5) / 2, "key_mean": (7 / 20 + 1) / 2, "top_share": (1 + 0.5) / 2}
    )


def claim(extra: float, seed: int = 0, n: int = 20):
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.9, 1.1, (2 * n, 4))
    values[:n, 2] += extra
    share = values / values.sum(1, keepdims=True)
    table = pd.DataFrame({"item": np.repeat([f"i{k:03d}" for k in range(2 * n)], 4), "layer": np.tile(range(4), 2 * n),
                          "group": np.repeat(["a"] * n + ["b"] * n, 4), "key_share": share.ravel()})  # fmt: skip
    return _claims(table, "at the last prompt token", seed)[0]


def test_a_planted_key_is_found_at_its_layer_and_groups_alike_are_not() -> None:
    found = claim(0.2)
    assert found.is_found and found.place == "layer 2" and found.low > 0
    assert [claim(0.0, s).answer for s in range(20)].count("found") <= 3
    assert claim(0.2, n=6).answer == "cannot be judged"
