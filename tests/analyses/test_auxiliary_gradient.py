"""An auxiliary gradient: the quadratic's exact change, torch's own gradients, planted help and harm, nulls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses import run
from analyses.core.claim import sentence
from analyses.weights import _item_gradients, _log_gradients
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
