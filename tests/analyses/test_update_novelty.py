"""Novelty of update directions: the score's own derivative, closed forms of a group, and what the log lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses import run
from analyses.weights.update_novelty import directions, gradients, novelty
from probe import InputError, Model, Rollouts
from tests import logs, tiny


def example(folder: Path) -> dict[str, Any]:
    return {"model": str(tiny.save(folder / "m")), "rollouts": Rollouts.of(logs.full(vocab=200))}


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_phi_is_the_derivative_of_the_score(tmp_path: Path, family: str) -> None:
    model = Model.load(tiny.save(tmp_path, family), check=False)
    resid, ids = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 9, 5, 80])
    found = gradients(model, resid, ids)
    h = model.final_norm(resid)
    step = 1e-2 * torch.randn(32, generator=torch.Generator().manual_seed(1))
    ends = [model.backend.head(h + s).double().log_softmax(-1).gather(-1, ids[:, None])[:, 0] for s in (step, -step)]
    torch.testing.assert_close((found @ step).double(), (ends[0] - ends[1]).detach() / 2, rtol=2e-2, atol=1e-5)
    if family == "llama":  # a plain head: W_y - sum p W
        w, _ = model.unembed_weights()
        p = model.backend.head(h).softmax(-1).detach()
        torch.testing.assert_close(found, (w.T[ids] - p @ w.T).detach(), rtol=1e-4, atol=1e-5)


def test_a_group_in_closed_form() -> None:
    same = novelty(np.ones((4, 3)), np.zeros(4), 1.0, 0.9)
    assert same["novelty"].tolist() == pytest.approx([0] * 4) and same["collinear"].tolist() == [1] * 4
    apart = novelty(np.eye(4), np.array([1.0, 0, 0, 1]), 0.5, 0.9)
    assert apart["novelty"].tolist() == [1] * 4 and apart["shaped"].tolist() == [1.5, 0, 0, 1.5]
    against = novelty(np.array([[1.0, 0], [-1, 0], [0, 1]]), np.array([0.0, 0, np.log(3)]), 1.0, 0.9)
    assert against["negative"].tolist() == [0.5, 0.5, 0]
    np.testing.assert_allclose(against["novelty"], [3 / 4, 3 / 4, 1])  # the third weighs 3 : 1
    assert novelty(10 * np.eye(2), np.array([9.0, -9]), 1.0, 0.9)["shaped"].tolist() == [3, 3]
    assert novelty(np.ones((1, 3)), np.zeros(1), 1.0, 0.9) == {}


def test_random_directions_are_new() -> None:
    rng = np.random.default_rng(0)
    found = np.mean([novelty(rng.normal(size=(6, 50)), np.zeros(6), 1, 0.9)["novelty"].mean() for _ in range(200)])
    assert found == pytest.approx(1 - 1 / 50, abs=2e-3)


def test_masked_tokens_and_batches_change_nothing(tmp_path: Path) -> None:
    model = Model.load(tiny.save(tmp_path), check=False)
    log = Rollouts.of(logs.rows(vocab=200))
    one, many = (directions(model, log, size) for size in (1, 5))
    np.testing.assert_allclose(one[0], many[0], atol=1e-5)
    assert sorted(one[1]) == sorted(int(np.sum(r["response_mask"])) for r in logs.rows(vocab=200))


def test_a_copied_response_has_nothing_new(tmp_path: Path) -> None:
    rows = logs.rows(vocab=200, steps=(0,), items=1, group=2)
    rows[1] |= {k: rows[0][k] for k in ("response_token_ids", "response_mask", "old_logp", "H")}
    given = {"model": str(tiny.save(tmp_path)), "rollouts": Rollouts.of(rows)}
    found = run("update_novelty", **given).table
    np.testing.assert_allclose(found["novelty"], 0, atol=1e-6)
    assert (found["collinear"] == 1).all() and (found["shaped"] == found["reward"]).all()
    with pytest.raises(InputError, match="expected a cosine"):
        run("update_novelty", **given, collinear_above=2.0)
