"""Linear probe: signal planted from a layer on is found there and not before; labels that are covariates are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from analyses.states import linear_probe as module
from analyses.states._part_claims import told_apart
from analyses.states.linear_probe import linear_probe
from probe import Item, Prompts
from probe.errors import InputError
from tests import tiny
from tests.planted import states_of


def example(folder: Path) -> dict:
    """For the contract tests: a tiny model and few permutations."""
    from tests.tiny import twelve_items

    return {"model": str(tiny.save(folder / "m")), "prompts": twelve_items(), "permutations": 2, "folds": 2}


def planted(seed: int = 0, *, n: int = 48, n_states: int = 5, d: int = 12, since: int = 2, size: float = 2.0):
    rng = np.random.default_rng(seed)
    is_first = np.arange(n) < n // 2
    values = rng.normal(size=(n, n_states, d))
    values[is_first, since:, 0] += size
    return states_of(values, is_first)


def probed(states, plain=None, permutations=10, strata=None, folds=3):
    plain = np.zeros((len(states.items), 1)) if plain is None else plain
    is_first = states.groups == "leak"
    fold = module.outer_folds(is_first, folds, 0)
    return module.probed(states, is_first, plain, strata, fold, permutations, 100, 0)


def test_signal_planted_from_a_layer_on_is_found_there():
    table, data = probed(planted(n_states=4), permutations=25)
    auc = data["auc"].to_numpy()
    assert auc[2:].min() > max(0.8, auc[:2].max())
    assert (data["p_value"].to_numpy()[2:] <= 0.05).all() and (data["p_value"].to_numpy()[:2] > 0.05).all()
    assert set(table.columns) == {"item", "group", "state", "score", "fold"} and len(table) == 48 * 4
    said = told_apart(data, ("leak", "stable"), "at the last prompt token")
    assert said.is_found and said.place in ("state 2", "state 3") and said.low > 0
    _, null = probed(planted(n_states=2, since=9), permutations=25)
    assert told_apart(null, ("leak", "stable"), "over the prompt").answer == "none found"


def test_permuted_labels_are_at_chance():
    """Null: out-of-fold AUC averages .5 over data sets (nested validation does not leak)."""
    found = [float(probed(planted(s, n_states=1, since=9), permutations=1)[1]["auc"][0]) for s in range(8)]
    assert np.mean(found) == pytest.approx(0.5, abs=4 * np.std(found) / np.sqrt(8))
    assert np.mean(found) < 0.6


@pytest.mark.verify
def test_the_refitted_null_holds_its_level_where_permuted_scores_do_not():
    """No signal, states correlated over depth: why the localisation rule reads the AUC and not scores per item."""
    from analyses.states._window_rule import DrawnCurve, ItemCurve, families

    hits = {"scores": 0, "refit": 0}
    is_first = np.arange(30) < 15
    for seed in range(60):
        walk = np.cumsum(np.random.default_rng(seed).normal(size=(30, 8, 4)), axis=1)
        fold = module.outer_folds(is_first, 3, seed)
        table, data = module.probed(states_of(walk, is_first), is_first, np.zeros((30, 1)), None, fold, 19, 20, seed)
        scores = table[table["state"] > 0].pivot(index="item", columns="state", values="score").to_numpy()
        drawn = DrawnCurve(*(data[n].to_numpy()[..., 1:] - 0.5 for n in ("auc", "auc_null", "auc_boot")))
        for name, curve in (("scores", ItemCurve(scores)), ("refit", drawn)):
            found = families({"probe": curve}, is_first, width=1, permutations=200, draws=20, seed=seed)
            hits[name] += found["probe"].p <= 0.05
    assert hits["refit"] <= 7 < hits["scores"]  # 7 is the binomial .99 quantile of 60 at .05


def test_a_label_that_is_a_covariate_gains_nothing_over_covariates():
    rng = np.random.default_rng(1)
    states = planted(since=9)
    length = rng.normal(size=48) + 2.0 * (states.groups == "leak")
    states.values[:, :, 0] = length[:, None]
    _, data = probed(states, plain=length[:, None])
    assert float(data["auc_covariates"]) > 0.8
    assert (data["gain_ci_low"] <= 0).all() and float(data["gain"].max()) < 0.08


def test_residualised_labels_keep_what_covariates_do_not_tell():
    """A state that only repeats the covariate has no partial correlation; one with a signal of its own has."""
    rng = np.random.default_rng(2)
    states = planted(n=96, since=1, n_states=2, size=1.5)
    length = rng.normal(size=96) + 2.0 * (states.groups == "leak")
    states.values[:, 0, 0] = length
    _, data = probed(states, plain=length[:, None])
    low, high = (data[f"partial_r_ci_{side}"].to_numpy() for side in ("low", "high"))
    assert low[0] <= 0.05 and abs(float(data["partial_r"][0])) < 0.25
    assert low[1] > 0.1 and high[1] <= 1
    found = [float(probed(planted(s, n_states=1, since=9), permutations=1)[1]["partial_r"][0]) for s in range(8)]
    assert abs(np.mean(found)) < 0.2  # no signal: chance


def test_a_quirk_of_sources_does_not_carry_over_to_fresh_ones():
    """Each source has a direction of its own that names its group: read within a source, useless on another."""
    rng = np.random.default_rng(3)
    source = np.repeat(np.arange(12), 8)
    is_first = source < 6
    values = 0.1 * rng.normal(size=(96, 1, 12))
    values[np.arange(96), 0, source] += 3.0
    states = states_of(values, is_first)
    auc = {}
    for name, together in (("mixed", None), ("fresh", source)):
        fold = module.outer_folds(is_first, 3, 0, together)
        auc[name] = float(module.probed(states, is_first, np.zeros((96, 1)), None, fold, 1, 20, 0)[1]["auc"][0])
    assert auc["mixed"] > 0.95 and auc["fresh"] < 0.7
    assert all(len(set(module.outer_folds(is_first, 3, 0, source)[source == s])) == 1 for s in range(12))
    with pytest.raises(InputError, match="2 values kept together"):
        module.outer_folds(is_first, 3, 0, source // 3)


def test_auc_is_scikit_learns_within_folds():
    rng = np.random.default_rng(2)
    y, score, fold = rng.random(60) < 0.5, np.round(rng.normal(size=60), 1), np.arange(60) % 2
    parts = [
        (roc_auc_score(y[fold == f], score[fold == f]), y[fold == f].sum() * (~y[fold == f]).sum()) for f in (0, 1)
    ]
    expected = sum(a * w for a, w in parts) / sum(w for _, w in parts)
    assert module.auc_by_fold(score, y, fold) == pytest.approx(expected)


def test_bootstrap_counts_are_repeated_items():
    rng = np.random.default_rng(3)
    y, score, fold = np.arange(10) < 5, rng.normal(size=10), np.zeros(10, int)
    counts = rng.integers(0, 3, size=(1, 10))
    again = np.repeat(np.arange(10), counts[0])
    expected = roc_auc_score(y[again], score[again])
    assert module.weighted_auc(score, y, fold, counts)[0] == pytest.approx(expected)


def test_reduction_keeps_all_distances():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(10, 50))
    small = module.reduced(x)
    z = (x - x.mean(0)) / x.std(0) / np.sqrt(50)
    assert small.shape[1] <= 10
    np.testing.assert_allclose(small @ small.T, z @ z.T, atol=1e-10)


def test_constant_columns_are_no_signal():
    """A constant state (the embedding of the same last token) gives AUC .5 and no warning."""
    states = planted(n_states=2, since=1)
    states.values[:, 0] = 3.7
    _, data = probed(states)
    assert float(data["auc"][0]) == 0.5 and float(data["auc"][1]) > 0.8


def test_covariates_of_both_kinds():
    states = planted(n_states=1)
    items = tuple(
        Item(i.id, "p", "a", group=i.group, meta={"level": k % 3, "set": "ab"[k % 2]})
        for k, i in enumerate(states.items)
    )
    states.items = items
    assert module.covariate_matrix(states, ("level", "set")).shape == (48, 1 + 1 + 2)
    with pytest.raises(InputError, match="'subject'"):
        module.covariate_matrix(states, ("subject",))


def test_on_a_model_and_what_it_refuses(base, prompts):
    result = linear_probe(base, prompts, permutations=3, folds=3, draws=50)
    assert result.data["auc"].dims == ("state",) and len(result.data["auc"]) == base.shape.n_layers + 1
    assert result.data.attrs["groups"] == ["leaked", "unseen"]
    assert set(module.figures(result)) == {"auc", "gain"}
    with pytest.raises(InputError, match="at least 9 in each"):
        linear_probe(base, prompts, folds=9)
    with pytest.raises(InputError, match="exactly two"):
        linear_probe(base, Prompts(tuple(i for i in prompts.items if i.group == "leaked")))
