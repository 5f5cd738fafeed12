"""Identities of the entropy of a softmax, to 1e-9 in fp64, and the forms that must fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from analyses.core.reading import softmax_terms as terms


def policy(vocab: int = 50, scale: float = 1.5, seed: int = 0, rows: int = 1) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(rows, vocab)) * scale)


def moved(z: Tensor) -> Tensor:
    return terms.entropy(terms.log_probs(z))


def order(errors: list[float], sizes: list[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


@pytest.mark.parametrize("vocab", [5, 50, 1000])
def test_one_logit_moves_entropy_by_its_discriminator(vocab: int) -> None:  # C1
    z = policy(vocab)
    s = terms.discriminator(terms.log_probs(z))[0]
    k = int(s.abs().argmax())
    sizes = [1e-2, 1e-3, 1e-4]
    bump = torch.zeros(vocab, dtype=torch.float64)
    bump[k] = 1.0
    errors = [float((moved(z + e * bump) - moved(z) + e * s[k]).abs()) for e in sizes]
    assert order(errors, sizes) == pytest.approx(2.0, abs=0.03)


def test_any_step_is_minus_the_covariance_to_first_order() -> None:  # C2
    z, dz = policy(), policy(seed=1)
    predicted = terms.first_order(terms.log_probs(z), dz)
    ratios = [float((moved(z + t * dz) - moved(z) - t * predicted) / t**2) for t in (1e-2, 1e-3, 1e-4)]
    assert ratios[2] == pytest.approx(ratios[1], rel=1e-2)
    assert abs(ratios[2]) > 1e-3


def test_constants_change_nothing() -> None:  # C3
    logp, dz = terms.log_probs(policy()), policy(seed=1)
    assert torch.allclose(terms.first_order(logp, dz), terms.first_order(logp, dz + 7.0), atol=1e-12, rtol=0)
    assert torch.allclose(moved(policy() + 7.0), moved(policy()), atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [1e-6, 0.1, 3.0])
def test_exact_change_is_cross_entropy_term_minus_kl_at_any_step(size: float) -> None:  # C4
    logp, logq = terms.log_probs(policy(rows=20)), terms.log_probs(policy(rows=20) + size * policy(seed=1, rows=20))
    found = terms.change(logp, logq)
    assert float((found.exact - (found.cross_entropy_term - found.kl)).abs().max()) < 1e-14
    assert float(found.kl.min()) >= 0
    if size < 1e-5:
        assert torch.allclose(found.cross_entropy_term, found.first_order, rtol=1e-3, atol=1e-10)
        assert torch.allclose(found.kl, found.half_variance, rtol=1e-3, atol=1e-16)


def test_a_token_that_is_ruled_out_is_no_small_step() -> None:
    some, all_ = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.4, 0.3, 0.3]).log()
    closed, opened = terms.change(all_, some), terms.change(some, all_)
    assert torch.isnan(closed.first_order) and torch.isnan(closed.half_variance) and torch.isinf(closed.kl_forward)
    assert torch.isfinite(closed.kl) and float(closed.exact) == pytest.approx(-float(opened.exact))
    assert torch.isinf(opened.kl) and torch.isinf(opened.cross_entropy_term) and torch.isfinite(opened.first_order)
    assert torch.isfinite(terms.change(some, some).first_order), "ruled out in both: nothing happened to it"


def test_discriminators_sum_to_zero_and_baseline_is_a_covariance() -> None:  # C5, C6
    logp = terms.log_probs(policy(rows=30))
    p, h = logp.exp(), terms.entropy(logp)
    assert float(terms.discriminator(logp).sum(-1).abs().max()) < 5e-15
    b = terms.baseline(logp)
    assert torch.allclose(b, h * (p * p).sum(-1) + (p * p * logp).sum(-1), atol=1e-15, rtol=0)
    assert torch.allclose(b, terms.covariance(logp, p, logp), atol=1e-15, rtol=0)
    assert float(b.min()) > 0
    support = torch.tensor([[0.0, 0.0, 0.0, -torch.inf, -torch.inf]])
    assert float(terms.baseline(terms.log_probs(support)).abs()) < 1e-15
    assert float(terms.entropy(terms.log_probs(support))) == pytest.approx(np.log(3), abs=1e-15)


def test_sign_of_the_discriminator() -> None:  # C7
    logp = terms.log_probs(policy(rows=30))
    s, h = terms.discriminator(logp), terms.entropy(logp)[:, None]
    assert torch.equal(s > 0, logp.exp() > (-h).exp())
    assert torch.equal(s > 0, -logp < h)


def test_one_sampled_token_needs_the_baseline() -> None:
    logp = terms.log_probs(policy(200, rows=1))
    p = logp.exp()[0]
    every = terms.sampled_change(logp.expand(200, -1), torch.arange(200), 1.0)
    assert float((p * every).sum().abs()) < 1e-15  # zero on average over the policy's own samples
    z = policy(200)
    z[0, 7] -= 9.0
    logp = terms.log_probs(z)
    rare = torch.tensor([7])
    assert float(logp[0, 7].exp()) < 2e-5
    for alpha in (1e-2, 1e-3):
        step = -alpha * logp.exp()
        step[0, 7] += alpha
        exact = float(moved(z + step) - moved(z))
        assert float(terms.sampled_change(logp, rare, alpha)) == pytest.approx(exact, rel=0.05)
        s_only = float(-alpha * terms.discriminator(logp)[0, 7])
        assert abs(exact / s_only) > 50  # and no better for a smaller step


def test_a_group_is_the_sum_of_its_tokens() -> None:
    z, tokens = policy(40), torch.tensor([3, 11, 29, 3])
    weights = torch.tensor([0.5, -1.0, 0.25, 0.75], dtype=torch.float64)
    logp = terms.log_probs(z)
    predicted = terms.sampled_change(logp.expand(4, -1), tokens, weights).mean()
    onehot = torch.nn.functional.one_hot(tokens, 40).double()
    step = (weights[:, None] * (onehot - logp.exp())).mean(0)
    assert float(terms.first_order(logp, step[None])) == pytest.approx(float(predicted), abs=1e-15)


def two_steps(z0: Tensor, z1: Tensor) -> Tensor:
    """Entropy of a two-token sequence: the first token chooses the state of the second."""
    first, second = terms.log_probs(z0), terms.log_probs(z1)
    return terms.entropy(first) + (first.exp() * terms.entropy(second)).sum(-1)


def test_autoregressive_change_has_a_visitation_term() -> None:
    z0, z1 = policy(4)[0], policy(6, seed=1, rows=4)
    d0, d1 = policy(4, seed=2)[0], policy(6, seed=3, rows=4)
    e = 1e-5
    exact = (two_steps(z0 + e * d0, z1 + e * d1) - two_steps(z0 - e * d0, z1 - e * d1)) / (2 * e)
    first, second = terms.log_probs(z0), terms.log_probs(z1)
    local = terms.first_order(first, d0) + (first.exp() * terms.first_order(second, d1)).sum()
    visits = terms.covariance(first, terms.entropy(second), d0)
    assert float(exact) == pytest.approx(float(local + visits), abs=1e-9)
    assert abs(float(visits)) > 1e-2
    # What one response contributes has exactly that mean over responses.
    moved_first = terms.log_probs(z0 + e * d0)
    parts = terms.change(first, moved_first)
    mean = 0.0
    for a in range(4):
        h = torch.stack([terms.entropy(first), terms.entropy(second[a])])
        gap = torch.stack([moved_first[a] - first[a], torch.tensor(0.0).double()])
        kl = torch.stack([parts.kl_forward, torch.tensor(0.0).double()])
        mean += float(first[a].exp() * terms.visitation(gap, kl, h).sum())
    assert mean / e == pytest.approx(float(visits), rel=1e-4)


def test_sampling_noise_lowers_entropy_in_flat_states_and_raises_it_in_peaked_ones() -> None:
    """Random +-1 advantages: E[dH] = c alpha^2 with c < 0 for mild Gaussian logits, c = +.0289 in a peaked state."""

    def drift(logp: Tensor) -> float:
        p, alpha = logp.exp(), 1e-3
        step = alpha * (torch.eye(len(p)).double() - p)
        moves = [terms.entropy(terms.log_probs(logp + s * step)) - terms.entropy(logp) for s in (1, -1)]
        return float((p * (moves[0] + moves[1]) / 2).sum() / alpha**2)

    peaked = torch.tensor([0.85, *[0.15 / 99] * 99], dtype=torch.float64).log()
    assert drift(peaked) == pytest.approx(0.0289, abs=2e-4)
    assert max(drift(terms.log_probs(policy(100, scale=0.5, seed=s))[0]) for s in range(10)) < 0


def test_discriminator_and_token_step_differ_in_sign_more_often_in_flat_states() -> None:
    """Trap 3: S and S - B differ in sign where 0 < S < B: never to rarely below .2 nats, about 20 % above 2.5."""
    rng = np.random.default_rng(0)
    logp = terms.log_probs(torch.tensor(rng.normal(size=(4000, 200)) * rng.uniform(0.5, 6, (4000, 1))))
    token = torch.multinomial(logp.exp(), 1, generator=torch.Generator().manual_seed(0))
    s = terms.discriminator(logp).gather(-1, token)[:, 0]
    differ = ((s > 0) & (s < terms.baseline(logp))).double()
    h = terms.entropy(logp)
    assert float(differ[h < 0.2].mean()) < 0.02
    assert 0.1 < float(differ[h > 2.5].mean()) < 0.3
    assert 0.05 < float(differ.mean()) < 0.25
