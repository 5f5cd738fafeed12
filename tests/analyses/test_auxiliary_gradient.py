"""An auxiliary gradient: the quadratic's exact change, torch's own gradients, planted help and harm, nulls."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses import run
from analyses.core.claim import sentence
from analyses.weights import _ahead_gradients, _item_gradients, _log_gradients
from analyses.weights.auxiliary_gradient import _aggregates, _claim, _Products, predicted_change
from probe import InputError, Model, Rollouts
from tests import logs, tiny


def example(folder: Path) -> dict[str, Any]:
    pair = {"base": tiny.save(folder / "a"), "tuned": tiny.save(folder / "b", seed=3)}
    log = Rollouts.of(logs.rows(vocab=200, steps=(0,), items=2, group=2))
    return {**pair, "rollouts": log, "prompts": tiny.twelve_items().limit(4), "draws": 10}


def test_the_predicted_change_is_exact_on_a_quadratic() -> None:
    rng = np.random.default_rng(0)
    g, a = rng.normal(size=(2, 20))
    step, weight, smooth = 0.3, 0.7, 1.4

    def objective(x: np.ndarray) -> float:
        return float(g @ x - smooth / 2 * x @ x)

    start = np.zeros(20)  # the gradient there is g
    want = objective(start + step * (g + weight * a)) - objective(start + step * g)
    assert predicted_change(g @ a, a @ a, step, weight, smooth) == pytest.approx(want, abs=1e-12)
    right = a - (a @ g) / (g @ g) * g
    assert predicted_change(g @ right, right @ right, step, weight, smooth) == pytest.approx(
        -smooth * step**2 * weight**2 * (right @ right) / 2
    )


def test_gradients_of_a_log_are_torchs(tmp_path: Path) -> None:
    policy, reference = (Model.load(tiny.save(tmp_path / str(s), seed=s), check=False) for s in (0, 3))
    log = Rollouts.of(logs.rows(vocab=200, steps=(0,), items=1, group=2))
    leaves = _item_gradients.Leaves(policy, ("all",), ())
    own, _ = _log_gradients.of_policy(policy, log, leaves, 0, 0)
    near, items = _log_gradients.of_nearness(policy, reference, log, leaves, 0, 0)
    ((_, table),) = log.windows(["prompt_token_ids", "response_token_ids", "response_mask"])
    row = {name: np.asarray(table[name][0].as_py()) for name in table.column_names}
    ids = torch.tensor(np.concatenate([row["prompt_token_ids"], row["response_token_ids"]]))[None]
    at = len(row["prompt_token_ids"]) + np.flatnonzero(row["response_mask"]) - 1
    p, q = (m.backend.plain(ids).logits[0, at].log_softmax(-1) for m in (policy, reference))
    advantage = log.advantages()["advantage"][0]
    wanted = {
        "own": advantage * p.gather(-1, ids[0, at + 1][:, None]).mean(),
        "near": -(p.exp() * (p - q.detach())).sum(-1).mean(),
    }
    order = [str(n) for n in items]
    assert len(order) == 2
    for found, name in ((own, "own"), (near, "near")):
        grads = torch.autograd.grad(wanted[name], [w for w, _ in leaves.slots], retain_graph=True)
        flat = torch.cat([g.flatten() for g in grads]).numpy()
        closest = min(np.abs(found.values - flat).max(1))
        assert closest < 1e-5


def told(rng: np.random.Generator, shared: float, n: int = 20, m: int = 20) -> Any:
    u = np.linalg.qr(rng.normal(size=(300, 1)))[0].T
    main, other = (rng.normal(size=(k, 300)) / 300**0.5 + s * u for k, s in ((n, 1.0), (m, shared)))
    products = _Products(main @ other.T, main @ main.T, other @ other.T, np.arange(n), 100 + np.arange(m))
    return _aggregates(products, (0.1, 1.0, 1.0), 100, 0)


@pytest.mark.parametrize(("shared", "answer", "word"), [(1, "found", "helps"), (-1, "found", "opposes")])
def test_planted_help_and_harm_are_found(shared: float, answer: str, word: str) -> None:
    said = _claim(told(np.random.default_rng(0), shared), 20, "sft")
    assert said.answer == answer and word in said.what and len(sentence(said).split()) <= 25


def test_an_unrelated_gradient_is_none_found() -> None:
    answers = [_claim(told(np.random.default_rng(s), 0.0), 20, "kl").answer for s in range(20)]
    assert answers.count("found") <= 3
    assert _claim(told(np.random.default_rng(0), 1.0, n=5), 5, "kl").answer == "cannot be judged"


def test_the_same_objective_twice_and_the_reference_itself(tmp_path: Path) -> None:
    given = example(tmp_path)
    same = run("auxiliary_gradient", **{**given, "base": given["tuned"]})
    assert "identical" in same.warnings[0] and float(same.data["perturbation"]) == pytest.approx(0, abs=1e-9)
    assert same.claims[0].answer == "cannot be judged"
    sft = run("auxiliary_gradient", **given, auxiliary="sft")
    assert set(sft.table["signal"]) == {"main", "auxiliary"} and len(sft.table) == 2 + 4
    with pytest.raises(InputError, match="needs prompts"):
        run("auxiliary_gradient", **{**given, "prompts": None}, auxiliary="sft")


def sampled(items: int = 6, vocab: int = 60, group: int = 4) -> Rollouts:
    """A log in which the token two after each is that token again: a b a b ..."""
    rows = logs.rows(vocab=vocab, steps=(0,), items=items, group=group)
    for row in rows:
        ids = row["response_token_ids"]
        row["response_mask"][:] = True
        ids[:] = ids[np.arange(len(ids)) % 2]
    return Rollouts.of(rows)


def test_heads_ahead_give_torchs_gradients_of_their_loss(tmp_path: Path) -> None:
    policy = Model.load(tiny.save(tmp_path / "a"), check=False)
    log = Rollouts.of(logs.rows(vocab=200, steps=(0,), items=2, group=2))
    leaves = _item_gradients.Leaves(policy, ("all",), ())
    heads = _ahead_gradients.fitted(policy, log, 1, 5, 0)
    last: list[torch.Tensor] = []
    plain = policy.backend.plain
    plain.model.norm.register_forward_pre_hook(lambda _, given: last.append(given[0]))
    ((index, table),) = log.windows(["prompt_token_ids", "response_token_ids", "response_mask"])
    row = {name: np.asarray(table[name][0].as_py()) for name in table.column_names}
    ids = torch.tensor(np.concatenate([row["prompt_token_ids"], row["response_token_ids"]]))[None]
    at = len(row["prompt_token_ids"]) - 1 + np.arange(len(row["response_token_ids"]))
    kept = [a for a, m, n in zip(at[:-1], row["response_mask"], row["response_mask"][1:], strict=False) if m and n]
    assert kept
    for is_policy in (False, True):
        found, _ = _ahead_gradients.of_heads(policy, log, leaves, 0, 0, heads, 1, is_policy=is_policy)
        plain(ids)
        states = last[-1][0, kept] @ heads.of_item[str(index["item"].iloc[0])]
        logp = plain.lm_head(plain.model.norm(states)).log_softmax(-1)
        goal = logp.gather(-1, ids[0, np.asarray(kept) + 2][:, None]).mean()
        goal = goal * (log.advantages()["advantage"][0] if is_policy else 1.0)
        want = torch.cat([g.flatten() for g in torch.autograd.grad(goal, [w for w, _ in leaves.slots])]).numpy()
        assert np.abs(found.values - want).max(1).min() < 2e-5 < np.abs(want).max()


def test_a_gap_in_the_mask_makes_no_pair() -> None:
    states, targets = torch.arange(5.0)[:, None], torch.arange(10, 15)
    x, y, at = _ahead_gradients.pairs(states, targets, torch.tensor([3, 4, 6, 7, 8]), 1)
    assert (x[:, 0].tolist(), y.tolist(), at.tolist()) == ([0.0, 2.0, 3.0], [11, 13, 14], [0, 2, 3])
    assert len(_ahead_gradients.pairs(states[:1], targets[:1], torch.tensor([3]), 1)[1]) == 0


def test_heads_learn_what_is_ahead_and_say_so_where_they_do_not(tmp_path: Path) -> None:
    policy = Model.load(tiny.save(tmp_path / "a", tie_word_embeddings=True), check=False)
    with torch.no_grad():  # a stream that still says which token was read
        policy.backend.plain.model.embed_tokens.weight.mul_(3)
    known = _ahead_gradients.fitted(policy, sampled(24, group=8), 1, 50, 0)
    assert known.nll_nats < known.frequency_nats and not _ahead_gradients.notes(known, 1)
    random = _ahead_gradients.fitted(policy, Rollouts.of(logs.rows(vocab=200, steps=(0,), items=6)), 1, 100, 0)
    (said,) = _ahead_gradients.notes(random, 1)
    assert "says little" in said


def test_the_first_order_prediction_is_what_a_small_step_does(tmp_path: Path) -> None:
    """The main objective changes along the auxiliary gradient by step <g, a> (a central difference)."""
    policy, log = Model.load(tiny.save(tmp_path / "a"), check=False), sampled()
    leaves = _item_gradients.Leaves(policy, ("mlp",), ())
    main, _ = _log_gradients.of_policy(policy, log, leaves, 0, 0)
    heads = _ahead_gradients.fitted(policy, log, 1, 20, 0)
    other, _ = _ahead_gradients.of_heads(policy, log, leaves, 0, 0, heads, 1, is_policy=False)
    g, a = (torch.from_numpy(x.values.mean(0)) for x in (main, other))
    step = 0.05 / float(a.norm())
    values = []
    for sign in (1, -1):
        moved(leaves, a, sign * step)
        values.append(objective(policy, log))
        moved(leaves, a, -sign * step)
    assert (values[0] - values[1]) / 2 == pytest.approx(step * float(g @ a), rel=0.1)


def moved(leaves: Any, direction: torch.Tensor, step: float) -> None:
    sizes = [w.numel() for w, _ in leaves.slots]
    with torch.no_grad():
        for (weight, _), part in zip(leaves.slots, direction.split(sizes), strict=True):
            weight.add_(step * part.view_as(weight))


def objective(policy: Model, log: Rollouts) -> float:
    total = []
    advantages = log.advantages()["advantage"].to_numpy(float)
    ((_, table),) = log.windows(["prompt_token_ids", "response_token_ids"])
    for n in range(len(log)):
        prompt, answer = (torch.tensor(table[c][n].as_py()) for c in ("prompt_token_ids", "response_token_ids"))
        with torch.no_grad():
            logp = policy.backend.plain(torch.cat([prompt, answer])[None]).logits[0].double().log_softmax(-1)
        own = logp[len(prompt) - 1 : -1].gather(-1, answer[:, None].long())
        total.append(advantages[n] * float(own.mean()))
    return float(np.mean(total))


@pytest.mark.parametrize("kind", ["ahead", "ahead_policy"])
def test_the_analysis_with_heads_ahead(kind: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {**example(tmp_path), "rollouts": sampled(vocab=60)}
    result = run("auxiliary_gradient", **given, auxiliary=kind, updates=20)
    assert {"ahead_nll_nats", "ahead_frequency_nats", "predicted"} <= set(result.data)
    assert result.claims and len(result.table) == 12
    with pytest.raises(InputError, match="ahead=0"):
        run("auxiliary_gradient", **given, auxiliary=kind, ahead=0)
    with pytest.raises(InputError, match="that far ahead"):
        run("auxiliary_gradient", **given, auxiliary=kind, ahead=50)
