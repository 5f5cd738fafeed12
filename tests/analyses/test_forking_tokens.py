"""Marks of high-entropy tokens: the documents' cases, their scopes, the lower bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses import run
from analyses.core.reading.softmax_terms import entropy, log_probs
from analyses.entropy.forking_tokens import (
    nucleus,
    siren_penalty,
    top_k_entropy,
    top_p_entropy,
    top_share,
    window_means,
)
from probe import Rollouts
from tests import logs, tiny


def example(folder: Path) -> dict[str, Any]:
    return {"model": tiny.save(folder / "m"), "rollouts": Rollouts.of(logs.rows(vocab=200))}


def logp(*p: float) -> torch.Tensor:
    return torch.tensor([p], dtype=torch.float64).log()


def test_top_p_entropy() -> None:
    assert float(top_p_entropy(logp(*[0.1] * 10), 0.85)) == pytest.approx(np.log(8), abs=1e-12)
    assert float(top_p_entropy(logp(0.5, 0.25, 0.15, 0.1), 0.8)) == pytest.approx(0.6365, abs=5e-5)
    assert float(top_p_entropy(logp(0.9, 0.05, 0.05), 0.8)) == 0
    assert float(top_p_entropy(logp(0.9, 0.05, 0.05), 0.8, forced=True)) == 0
    z = log_probs(torch.randn(20, 50, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(top_p_entropy(z, 1.0, forced=True), entropy(z))
    assert float((top_p_entropy(z, 0.8) - entropy(z)).max()) < 0


def test_the_nucleus_is_what_top_p_entropy_is_over() -> None:
    def of(*p: float, **how: Any) -> list[float]:
        found = nucleus(logp(*p), 0.8, **how)
        return [float(found["nucleus_size"]), round(float(found["nucleus_mass"]), 12)]

    assert of(0.5, 0.25, 0.15, 0.1) == [2, 0.75]
    assert of(1.0, 0.0) == [0, 0]  # the crossing token is left out
    assert of(1.0, 0.0, forced=True) == [1, 1]
    assert of(*[0.09] * 10, 0.1) == [8, 0.73]


def test_top_k_with_one_bucket_for_the_rest_is_a_bounded_lower_bound() -> None:
    z = log_probs(3 * torch.randn(200, 300, generator=torch.Generator().manual_seed(0)))
    bound, tail = top_k_entropy(z, 10)
    gap = entropy(z) - bound
    assert float(gap.min()) >= -1e-12
    assert float((gap - tail * np.log(290)).max()) <= 1e-12
    uniform_tail = logp(*[0.05] * 10, *[0.5 / 290] * 290)
    bound, tail = top_k_entropy(uniform_tail, 10)
    assert float(entropy(uniform_tail) - bound) == pytest.approx(float(tail) * np.log(290), abs=1e-9)


def test_top_share() -> None:
    assert top_share(np.arange(11.0), 0.2).sum() == 3
    assert top_share(np.arange(15.0), 0.2).sum() == 3
    assert np.flatnonzero(top_share(np.arange(11.0), 0.2)).tolist() == [8, 9, 10]
    assert top_share(np.ones(7), 0.2).sum() == 2  # ties: as many as wanted, whichever
    assert top_share(np.arange(7.0), 1.0).all()


def test_windows() -> None:
    h = np.array([5.0, 1, 2, 3, 4, 5])
    np.testing.assert_allclose(window_means(h, 1), [1, 2, 3, 4, 5, np.nan])
    np.testing.assert_allclose(window_means(h, 4), [2.5, 3.5, np.nan, np.nan, np.nan, np.nan])
    assert np.isnan(window_means(h[:4], 4)).all()  # a full window is needed
    np.testing.assert_allclose(window_means(np.full(9, 0.7), 4)[:5], 0.7)


def test_siren_penalty_starts_at_zero() -> None:
    np.testing.assert_allclose(siren_penalty(np.array([0.5, 0.5, 1.5])), [0, 0, 0.005])


def test_marks_have_their_own_scopes(tmp_path: Path) -> None:
    table = run("forking_tokens", **example(tmp_path)).table
    for _, call in table.groupby(["rollout_step", "micro_batch_id"]):
        assert call["top_20"].sum() == np.ceil(0.2 * len(call))
        assert call.loc[call["top_20"], "entropy_nats"].min() >= call.loc[~call["top_20"], "entropy_nats"].max() - 1e-6
    for _, step in table.groupby("rollout_step"):
        assert step["quantile"].mean() == pytest.approx(0.2, abs=0.03)
    for _, response in table.groupby(["rollout_step", "item", "group_uid", "sample"]):
        assert response["siren"].sum() <= max(1, np.ceil(0.2 * len(response)))
    assert (table["top_20"] != table["quantile"]).any()
    assert (table["top_20"] != table["siren"]).any()
    assert (table["top_10_entropy_nats"] <= table["entropy_nats"] + 1e-9).all()


def test_masked_out_tokens_are_never_marked_and_triggers_restrict(tmp_path: Path) -> None:
    given = example(tmp_path)
    every = run("forking_tokens", **given, window=1).table
    none = run("forking_tokens", **given, window=1, triggers=("no-such-word",)).table
    assert every["window"].any()
    assert not none["window"].any()
    assert len(every) == int(sum(r["response_mask"].sum() for r in logs.rows(vocab=200)))
