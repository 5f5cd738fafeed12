"""Token-level signals: STEER's weights, the clip marks, and which signal recovers a planted single-token step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses import run
from analyses.core.reading import softmax_terms as terms
from analyses.entropy.entropy_attribution import agreement, clip_b, clip_v, signals, steer_exp, steer_linear
from probe import InputError, Rollouts
from tests import logs, tiny


def example(folder: Path) -> dict[str, Any]:
    series = tiny.series(folder / "run", steps=(0, 20))
    log = Rollouts.of(logs.rows(vocab=200))
    return {"base": series / "checkpoint-0", "tuned": series / "checkpoint-20", "rollouts": log}


def test_steer_weights() -> None:
    five = np.array([0, 0.005, 0.01, 0.02, 0.05])
    np.testing.assert_allclose(steer_exp(five, 0.8), [1, 0.97793, 0.95635, 0.91461, 0.8], atol=5e-6)
    np.testing.assert_allclose(steer_exp(five, 0.7), [1, 0.96496, 0.93115, 0.86704, 0.7], atol=5e-6)
    np.testing.assert_allclose(steer_exp(np.array([0, 0.001, 0.004]), 0.8), [1, 0.98890, 0.95635], atol=5e-6)
    np.testing.assert_allclose(steer_linear(np.array([0, 0.001, 0.004]), 0.8, 1.2), [1.2, 1.1, 0.8], atol=1e-12)
    np.testing.assert_allclose(steer_linear(np.ones(3), 0.8, 1.2), 1.0)
    assert (np.diff(steer_exp(five, 0.8)) < 0).all()
    # p -> 1 or A = 0: nothing is predicted, so nothing is weighted down.
    sure = signals(np.array([-1e-12]), np.array([0.3]), np.zeros(1), np.zeros(1), np.ones(1))["omega"]
    idle = signals(np.array([-1.0]), np.array([0.3]), np.zeros(1), np.zeros(1), np.zeros(1))["omega"]
    np.testing.assert_allclose(steer_exp(np.abs(np.concatenate([sure, idle])), 0.8), 1.0, atol=1e-6)


def test_clip_b_keeps_every_positive_advantage() -> None:
    rng = np.random.default_rng(0)
    s, a = rng.normal(size=1000), rng.choice([-1.0, 1.0], 1000)
    dropped = clip_b(s, a, 2.0)
    assert dropped.any()
    assert (a[dropped] < 0).all()
    assert (s[dropped] < s.mean() - 2 * s.std()).all()
    assert clip_b(np.full(5, 0.3), -np.ones(5), 0.0).sum() == 0  # equal S: keeps all


def test_clip_v_keeps_to_its_cap_and_drops_the_worst() -> None:
    d, a = np.linspace(0, 1, 1000), -np.ones(1000)
    assert clip_v(d, a, 1.0, 1e-2).sum() == 10
    assert np.flatnonzero(clip_v(d, a, 1.0, 1e-2)).min() == 990
    assert clip_v(d, a, 1.0, 1e-9).sum() == 1
    assert clip_v(d, -a, 1.0, 1.0).sum() == 0


def synthetic(
    n: int = 4000, vocab: int = 200, alpha: float = 1e-3
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Sampled tokens of Gaussian-logit policies, one tabular policy-gradient step each, and the exact change."""
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.5, 6, (n, 1))
    logp = terms.log_probs(torch.tensor(rng.normal(size=(n, vocab)) * scale))
    p = logp.exp().numpy()
    token = torch.tensor([rng.choice(vocab, p=row / row.sum()) for row in p])
    a = rng.choice([-1.0, 1.0], n)
    step = alpha * torch.tensor(a)[:, None] * (torch.nn.functional.one_hot(token, vocab) - logp.exp())
    exact = (terms.entropy(terms.log_probs(logp + step)) - terms.entropy(logp)).numpy()
    s = terms.discriminator(logp).gather(-1, token[:, None])[:, 0].numpy()
    own, h = logp.gather(-1, token[:, None])[:, 0].numpy(), terms.entropy(logp).numpy()
    return signals(own, h, s, terms.baseline(logp).numpy(), a), exact, h


def test_only_the_token_step_recovers_planted_single_token_steps() -> None:
    found, exact, _ = synthetic()
    scores = {name: agreement(value, exact) for name, value in found.items()}
    assert scores["token_step"]["pearson"] > 0.999
    assert scores["token_step"]["same_sign"] > 0.995
    assert scores["s_only"]["same_sign"] < 0.9
    for name, spearman in {"s_only": 0.77, "omega": 0.74, "omega2": 0.70, "surprisal_gap": 0.81}.items():
        assert scores[name]["spearman"] == pytest.approx(spearman, abs=0.08), name
        assert scores[name]["spearman"] < 0.9


def test_omega_gets_the_sign_right_only_at_low_entropy() -> None:
    found, exact, h = synthetic()
    low, high = h < 0.2, h > 2.5
    assert agreement(found["omega"][low], exact[low])["same_sign"] > 0.97
    assert agreement(found["omega"][high], exact[high])["same_sign"] < 0.9


def test_signals_of_a_log_and_shuffled_advantages(tmp_path: Path) -> None:
    given = example(tmp_path)
    result = run("entropy_attribution", **given)
    table = result.table
    want = -table["ratio"] * table["advantage"] * (table["S"] - table["B"])
    np.testing.assert_allclose(table["token_step"], want, atol=1e-12)
    change = run("entropy_change", **given).table
    np.testing.assert_allclose(table["exact_nats"], change["exact_nats"], atol=1e-9)
    # The second checkpoint knows nothing of these advantages: no signal may be found to agree.
    assert abs(float(result.data["agreement"].sel(signal="token_step", variant="pearson"))) < 0.5


def test_uncentred_advantages_are_named(tmp_path: Path) -> None:
    rows = [{**r, "advantage": r["reward"]} if r["group_uid"] == "4-2" else r for r in logs.rows(vocab=200)]
    given = {**example(tmp_path), "rollouts": Rollouts.of(rows)}
    with pytest.raises(InputError, match=r"do not average to zero: 4/4-2"):
        run("entropy_attribution", **given)
    table = run("entropy_attribution", **given, centre="group").table
    responses = table.drop_duplicates(["group_uid", "sample"])
    assert responses.groupby("group_uid")["advantage"].mean().abs().max() < 1e-6


def test_groups_without_spread_do_not_pull_an_interval() -> None:
    import pandas as pd

    from analyses.entropy.entropy_attribution import SIGNALS, _interval, _resampled_agreement

    rng = np.random.default_rng(0)
    spoken = rng.normal(size=(30, len(SIGNALS) + 1))
    silent = np.hstack([np.zeros((90, len(SIGNALS))), rng.normal(size=(90, 1))])
    table = pd.DataFrame(np.vstack([spoken, silent]), columns=[*SIGNALS, "exact_nats"])
    one = table.assign(item=["q0"] * 30 + [f"q{1 + i // 10}" for i in range(90)])
    n, drawn = _resampled_agreement(one, 0, 50)
    assert n == 1
    assert np.isnan(_interval(drawn[1:], n)).all()  # one item alone says something: no interval
    two = table.assign(item=["q0"] * 15 + ["q9"] * 15 + [f"q{1 + i // 15}" for i in range(90)])
    n, drawn = _resampled_agreement(two, 0, 50)
    low, high = _interval(drawn[1:], n)
    assert n == 2
    same = 2  # the place of same_sign: draws of silent items alone never count as 0
    alone = [float((np.sign(part[:, 0]) == np.sign(part[:, -1])).mean()) for part in (spoken[:15], spoken[15:])]
    assert min(alone) - 1e-9 <= low[0, same] <= high[0, same] <= max(alone) + 1e-9
