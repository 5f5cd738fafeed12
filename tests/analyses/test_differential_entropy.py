"""InstructDiff's signs and selection; token-DID's ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses import run
from analyses.entropy.differential_entropy import did_entropy, selected, trimmed
from probe import Model, Rollouts
from tests import logs, tiny


def example(folder: Path) -> dict[str, Any]:
    series = tiny.series(folder / "run", steps=(0, 20))
    log = Rollouts.of(logs.rows(vocab=200))
    return {"base": series / "checkpoint-0", "tuned": series / "checkpoint-20", "rollouts": log}


def test_token_did() -> None:
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(4, 300, generator=rng)
    np.testing.assert_allclose(did_entropy(z, z + 5.0), np.log(300), atol=1e-9)
    found = did_entropy(z.double(), z.double() + 0.3 * torch.randn(4, 300, generator=rng).double())
    np.testing.assert_allclose(found, 5.66284, atol=0.02)  # one draw's value; the mean is ln V - sd^2 / 2
    bump = torch.zeros(4, 300)
    bump[:, 7] = 6.0
    assert float(did_entropy(z, z + bump).max()) < np.log(300) - 0.5
    assert float(did_entropy(z, z + 40 * bump).max()) < 1e-6


def test_trimming_is_symmetric_in_the_sign_of_delta_nll() -> None:
    rng = np.random.default_rng(0)
    delta = rng.normal(size=50)
    assert trimmed(delta, 0.1).sum() == 40
    np.testing.assert_array_equal(trimmed(delta, 0.1), trimmed(-delta, 0.1))
    assert trimmed(delta, 0.5).all()  # nothing would be left: unfiltered


def test_the_budget_is_respected_and_the_smallest_come_first() -> None:
    delta, tokens = np.array([0.3, -0.2, 0.1, -0.5]), np.array([5, 5, 5, 5])
    assert selected(delta, tokens, np.ones(4, bool), 0.5).tolist() == [False, True, False, True]
    assert selected(delta, tokens, np.array([True, True, True, False]), 0.5).tolist() == [False, True, True, False]
    assert selected(delta, tokens, np.ones(4, bool), 0.1).sum() == 0


def test_a_compressed_policy_has_positive_delta_entropy(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "m", tie_word_embeddings=False)
    base, sharp = Model.load(folder), Model.load(folder)
    sharp.unembed_weights()[0].mul_(1.5)
    result = run("differential_entropy", base=base, tuned=sharp, rollouts=Rollouts.of(logs.rows(vocab=200)))
    assert (result.table["delta_entropy_nats"] > 0).all()
    change = run("entropy_change", base=base, tuned=sharp, rollouts=Rollouts.of(logs.rows(vocab=200))).table
    keys = ["rollout_step", "item", "group_uid", "sample"]
    want = -change.groupby(keys)["exact_nats"].mean()
    np.testing.assert_allclose(
        result.table.set_index(keys)["delta_entropy_nats"].sort_index(), want.sort_index(), atol=1e-9
    )


def test_identical_checkpoints(tmp_path: Path) -> None:
    given = example(tmp_path)
    result = run("differential_entropy", **{**given, "tuned": given["base"]})
    assert (result.table["delta_entropy_nats"] == 0).all()
    assert (result.table["delta_nll_nats"] == 0).all()
    vocab = Model.load(given["base"]).shape.d_vocab
    np.testing.assert_allclose(result.table["did_entropy_nats"], np.log(vocab), atol=1e-12)
    assert float(result.table["did_concentration_nats"].abs().max()) == pytest.approx(0, abs=1e-12)


def test_two_way_gap_has_its_closed_form() -> None:
    """Two tokens with logit gaps g and g': delta_entropy = h(sigma(g)) - h(sigma(g'))."""
    from analyses.core.reading.softmax_terms import entropy, log_probs

    def h(gap: float) -> float:
        p = 1 / (1 + np.exp(-gap))
        return float(-p * np.log(p) - (1 - p) * np.log(1 - p))

    z = torch.tensor([[1.3, 0.0], [0.4, 0.0]])
    found = entropy(log_probs(z))
    assert float(found[0] - found[1]) == pytest.approx(h(float(z[0, 0])) - h(float(z[1, 0])), abs=1e-12)
