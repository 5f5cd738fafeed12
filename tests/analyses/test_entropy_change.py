"""Change of entropy between two checkpoints at a log's states: identities, a planted step, the null pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses import run
from probe import Model, Rollouts
from tests import logs, tiny


def example(folder: Path) -> dict[str, Any]:
    series = tiny.series(folder / "run", steps=(0, 20))
    return {
        "base": series / "checkpoint-0",
        "tuned": series / "checkpoint-20",
        "rollouts": Rollouts.of(logs.rows(vocab=200)),
    }


def test_decomposition_is_exact_on_every_token(tmp_path: Path) -> None:
    table = run("entropy_change", **example(tmp_path)).table
    exact = table["entropy_tuned_nats"] - table["entropy_base_nats"]
    np.testing.assert_allclose(table["exact_nats"], exact, atol=1e-12)
    np.testing.assert_allclose(table["exact_nats"], table["cross_entropy_term_nats"] - table["kl_nats"], atol=1e-12)
    assert (table["kl_nats"] >= 0).all()
    assert table["exact_nats"].abs().max() > 1e-2


def test_entropies_are_those_of_the_entropy_analysis(tmp_path: Path) -> None:
    given = example(tmp_path)
    table = run("entropy_change", **given).table
    alone = run("entropy", model=given["tuned"], rollouts=given["rollouts"], level="token").table
    np.testing.assert_allclose(table["entropy_tuned_nats"], alone["entropy_nats"], atol=1e-5)


def scaled(model: Model, factor: float) -> Model:
    model.unembed_weights()[0].mul_(factor)
    return model


def test_small_steps_are_first_order(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "m", tie_word_embeddings=False)
    base, log = Model.load(folder), Rollouts.of(logs.rows(vocab=200))
    errors = []
    for size in (0.2, 0.1):
        data = run("entropy_change", base=base, tuned=scaled(Model.load(folder), 1 + size), rollouts=log).data
        errors.append(abs(float(data["not_first_order_nats"])))
        assert float(data["first_order_nats"]) < 0  # sharper logits, less entropy
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)


def test_scaling_all_logits_has_its_closed_form(tmp_path: Path) -> None:
    """z -> (1 + t) z: dH = -t Var_p(z) to first order, and -Cov_p(log p, t z) says the same."""
    folder = tiny.save(tmp_path / "m", tie_word_embeddings=False)
    base, log = Model.load(folder), Rollouts.of(logs.rows(vocab=200, steps=(0,), items=1, group=2))
    table = run("entropy_change", base=base, tuned=scaled(Model.load(folder), 1.01), rollouts=log).table
    row = next(r for r in logs.rows(vocab=200, steps=(0,), items=1, group=2))
    ids = torch.tensor([[*row["prompt_token_ids"], *row["response_token_ids"]]])
    from probe.backends import Tokens

    hidden = base.backend.forward(
        Tokens(ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(ids.shape[1])[None]), {}
    )
    z = base.backend.head(hidden)[0, len(row["prompt_token_ids"]) - 1].detach().double()
    p = z.softmax(-1)
    variance = float((p * z**2).sum() - (p * z).sum() ** 2)
    first = table[(table["pos"] == 0)]["first_order_nats"].to_numpy()
    np.testing.assert_allclose(first, -0.01 * variance, rtol=1e-3)


def test_contributions_and_the_rest_add_up_to_the_change(tmp_path: Path) -> None:
    data = run("entropy_change", **example(tmp_path)).data
    total = float(data["first_order_part_nats"].sum() + data["not_first_order_nats"])
    assert total == pytest.approx(float(data["entropy_tuned_nats"] - data["entropy_base_nats"]), abs=1e-12)


def test_visitation_is_measured_only_on_the_base_checkpoints_own_samples(tmp_path: Path) -> None:
    given = example(tmp_path)
    foreign = run("entropy_change", **given)
    assert foreign.table["visitation_nats"].isna().all()
    assert any("no visitation term" in w for w in foreign.warnings)
    own = Rollouts.of([{**r, "policy_version": "checkpoint-0"} for r in logs.rows(vocab=200)])
    table = run("entropy_change", **{**given, "rollouts": own}).table
    last = table.groupby(["rollout_step", "item", "group_uid", "sample"]).tail(1)
    assert last["visitation_nats"].abs().max() < 1e-12  # nothing comes after the last token
    assert table["visitation_nats"].abs().max() > 0


def test_identical_checkpoints_change_nothing(tmp_path: Path) -> None:
    given = example(tmp_path)
    result = run("entropy_change", **{**given, "tuned": given["base"]})
    for name in ("exact_nats", "first_order_nats", "cross_entropy_term_nats", "kl_nats"):
        assert (result.table[name] == 0).all()
    assert result.warnings


def test_a_sweep_over_pairs_draws_the_last_waterfall(tmp_path: Path) -> None:
    from analyses import sweep

    folder = tiny.series(tmp_path / "run", steps=(0, 10, 20))
    result = sweep("entropy_change", checkpoints=folder, rollouts=Rollouts.of(logs.rows(vocab=200)), pairs="adjacent")
    figure = result.figures()["waterfall"]
    assert figure.data[0].measure[0] == "absolute"
    heights = np.array(figure.data[0].y)
    assert heights[:-1].sum() == pytest.approx(heights[-1], abs=1e-9)
    assert set(result.table["step"]) == {10, 20}


def test_the_place_that_changed_is_named_with_its_tokens_and_can_be_none() -> None:
    from analyses.entropy._places import change_claims

    rng = np.random.default_rng(0)
    rows = [
        {"item": f"q{i}", "pos": pos, "token": 7 if pos == 0 else 3, "change": rng.normal(0, 0.01) - 0.5 * (pos == 0)}
        for i in range(12)
        for pos in range(20)
    ]
    tokens = pd.DataFrame(rows)
    claim = change_claims(tokens, "change", {7: " think", 3: "x"}.__getitem__)[0]
    assert (claim.answer, claim.place) == ("found", "position 0")
    assert claim.what == "entropy falls most at position 0, where 'think' is sampled"
    assert claim.effect == pytest.approx(-0.5 / 20, abs=1e-3)
    found = 0
    for seed in range(20):
        noise = tokens.assign(change=np.random.default_rng(seed).normal(0, 0.3, len(tokens)))
        found += change_claims(noise, "change", str)[0].is_found
    assert found <= 4
    few = change_claims(tokens[tokens["item"] < "q3"], "change", str)
    assert few[0].answer == "cannot be judged" or few[0].n >= 5
