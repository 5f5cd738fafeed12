"""The tree of prefixes: values sum to reward minus mean, branches are where they are, and the border cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses import Result, run
from probe import Rollouts
from tests import logs


def example(folder: Path) -> dict[str, Any]:
    return {"rollouts": Rollouts.of(logs.full(vocab=6))}


def tree(texts: list[str], rewards: list[float], end: str = "$") -> Result:
    rows = [
        {
            "step": 1,
            "prompt_id": "q",
            "prompt_token_ids": [1],
            "response_token_ids": [ord(c) for c in t + end],
            "reward": r,
        }
        for t, r in zip(texts, rewards, strict=True)
    ]
    return run("prefix_values", rollouts=Rollouts.of(rows))


def summed(result: Result) -> dict[int, float]:
    return result.table.groupby("sample")["delta"].sum().round(12).to_dict()


def test_values_sum_to_reward_minus_mean() -> None:
    result = tree(["abc", "abd", "aef", "xyz"], [1, 0, 1, 0])
    assert sorted(summed(result).values()) == [-0.5, -0.5, 0.5, 0.5]
    first = result.table[result.table["pos"] == 0].set_index("sample")
    assert set(first["n_children"]) == {2}
    assert sorted(first["value_after"]) == pytest.approx([0, 2 / 3, 2 / 3, 2 / 3])
    assert result.table["n_before"].min() > 1  # what nobody shares has no row


def test_tempo_is_grpo_where_nobody_parts() -> None:
    result = tree(["abc", "abd"], [1, 0])
    same = result.table[result.table["n_children"] == 1]
    np.testing.assert_allclose(same["tempo_advantage"], same["grpo_advantage"])
    parts = result.table[result.table["n_children"] == 2]
    np.testing.assert_allclose(parts["tempo_advantage"], 2 * parts["grpo_advantage"])


def test_no_shared_prefix_gives_the_first_token_twice_the_advantage() -> None:
    result = tree(["a", "b", "c"], [1, 0, 0])
    np.testing.assert_allclose(result.table["tempo_advantage"], 2 * result.table["grpo_advantage"])
    assert set(result.table["pos"]) == {0}


def test_equal_texts_share_the_value_of_their_end() -> None:
    result = tree(["ab", "ab", "cd"], [1, 0, 0])
    found = sorted(result.table.groupby("sample")["delta"].sum())
    assert found == pytest.approx([-1 / 3, 1 / 6, 1 / 6])


def test_a_prefix_of_another_is_told_apart_by_its_end() -> None:
    result = tree(["ab", "abc"], [1, 0])
    assert sorted(summed(result).values()) == [-0.5, 0.5]


def test_no_spread_is_no_advantage() -> None:
    result = tree(["ab", "cd"], [1, 1])
    assert result.table["tempo_advantage"].isna().all()
    assert (result.table["delta"] == 0).all()
    assert any("1 sampling group(s) have no spread" in w for w in result.warnings)


def test_against_a_walk_by_hand() -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ab"), 6)) for _ in range(12)]
    rewards = rng.integers(0, 2, 12).astype(float)
    found = sorted(
        map(tuple, tree(texts, rewards.tolist()).table[["pos", "n_before", "value_before", "value_after"]].to_numpy())
    )
    want = []
    for text in (t + "$" for t in texts):
        for pos in range(len(text)):
            through = np.array([(t + "$").startswith(text[:pos]) for t in texts])
            after = np.array([(t + "$").startswith(text[: pos + 1]) for t in texts])
            if through.sum() > 1:
                want.append((pos, through.sum(), rewards[through].mean(), rewards[after].mean()))
    np.testing.assert_allclose(found, sorted(want))
