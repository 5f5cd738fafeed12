"""At which layers a group of items can be told from another by a linear read-out of the hidden state.

Definition: L2-regularised logistic regression on the standardised pooled state, per state (0 = embedding, l+1 =
    output of block l), the same outer folds for all states; the strength C is chosen inside each training part
    (nested cross-validation), scaling is fitted there too. score = out-of-fold log-odds of the first group; AUC from
    these scores, per fold then averaged. Controls: a probe on covariates alone (prompt length and named columns);
    `gain` = AUC(state) - AUC(covariates); `partial_r` = correlation, on held-out items, of a ridge regression on the
    state with the residualised label (label minus the covariates' out-of-fold probability); p by permuting labels
    (within strata of the covariates' columns where asked) with the maximum over states, refitting with the chosen C.
Units: AUC in [0, 1], .5 = chance; partial_r in [-1, 1], 0 = chance; score in log-odds (nats).
Source: linear probes: arXiv 1610.01644; nested validation and permutation: Ojala and Garriga 2010. The released code
    of arXiv 2601.11061 fits d = 3584 dimensions to about 220 items on one split, separable by construction.
Does not show: that the model uses what the probe reads, nor that a peak is where it arises. Groups that differ in
    wording or length are separable at the embedding already: read the curve against covariates and state 0.
Control: covariates only; residualised labels (partial_r); permuted labels; fresh prompts (`together`); the same groups
    at the base checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.progress import progress
from analyses.core.reading.where_read import Pooling, pooled_sites
from analyses.core.result import Result
from analyses.core.stats import permuted_labels, resample_counts
from analyses.core.work import every_state
from analyses.states import _part_claims, _published_probe
from probe.errors import InputError
from probe.lazily import sklearn

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from analyses.core.reading.pooled import States
    from probe import Model, Prompts

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)


@analysis(renamed={"positions": "at"}, work=every_state, reads=pooled_sites)
def linear_probe(
    model: Model,
    prompts: Prompts,
    *,
    groups: tuple[str, ...] = (),
    pooling: Pooling = "last_prompt",
    at: tuple[int, ...] = (),
    covariates: tuple[str, ...] = (),
    strata: tuple[str, ...] = (),
    together: str | None = None,
    folds: int = 5,
    permutations: int = 200,
    draws: int = 1000,
    legacy: bool = False,
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Nested cross-validated AUC of a linear probe at every state, with intervals, a covariates-only control and p.

    Rows: item, group, state, score (out-of-fold log-odds of the first group), fold. Arrays over `state`: auc with
    interval over items, p_value (corrected over states), auc_null and auc_boot (its permutation and bootstrap
    draws, for rules that join several curves), partial_r with interval; scalar auc_covariates with interval; gain
    over it.

    Args:
        groups: the first is scored positive.
        at: the mean over them.
        covariates: columns of the prompt file for the control, beside prompt length (text columns are one-hot).
        together: column whose values are never split between folds, so that every score is of prompts (a source, a
            template) the probe has not seen.
        folds: outer ones, stratified by group.
        permutations: each refits every state.
        draws: bootstrap draws.
        legacy: `legacy_auc`, of all dimensions, one split, C = 1, without an interval.
        seed: folds, permutations and bootstrap.
    """

    first, second = reading.two_groups(prompts, groups, needed=folds)
    kept = prompts.where(group=[first, second])
    plan = {"batch_size": batch_size, "template": template}
    states = reading.pooled_states(model, kept, pooling=pooling, positions=at, what="linear probe", **plan)
    is_first = states.groups == first
    plain = covariate_matrix(states, covariates)
    fold = outer_folds(is_first, folds, seed, None if together is None else reading.strata_of(states, (together,)))
    table, data = probed(states, is_first, plain, reading.strata_of(states, strata), fold, permutations, draws, seed)
    if legacy:
        data = xr.merge([data, _published_probe.published(states, is_first)])
    claim = _part_claims.told_apart(data, (first, second), _part_claims.read_at(pooling, at))
    return Result.of(table, data.assign_attrs(groups=[first, second]), claims=[claim])


def covariate_matrix(states: States, names: tuple[str, ...]) -> np.ndarray:
    """Covariates [item, column]: prompt length, then each named column (numbers as they are, text one-hot)."""
    columns: list[np.ndarray] = [states.n_tokens.astype(float)[:, None]]
    for name in names:
        missing = [item.id for item in states.items if name not in item.meta]
        if missing:
            raise InputError(f"covariate {name!r}: not a column of item(s) {missing[:3]}")
        values = pd.Series([item.meta[name] for item in states.items])
        numeric = pd.api.types.is_numeric_dtype(values)
        columns.append(values.to_numpy(float)[:, None] if numeric else pd.get_dummies(values).to_numpy(float))
    return np.concatenate(columns, axis=1)


def probed(
    states: States,
    is_first: np.ndarray,
    plain: np.ndarray,
    strata: np.ndarray | None,
    fold: np.ndarray,
    permutations: int,
    draws: int,
    seed: int,
) -> tuple[pd.DataFrame, xr.Dataset]:
    """Scores and AUC of every state, one state in memory at a time.

    Args:
        states: pooled states of all items.
        is_first: True for items of the first group.
        plain: covariates [item feature] of the control.
        strata: labels within which permutations stay, None for all items.
        fold: outer fold of each item, from 0.
        permutations: label permutations for p.
        draws: bootstrap draws.
        seed: of folds, permutations and bootstrap.
    """

    labels = permuted_labels(is_first, permutations, seed, strata)
    rows: list[pd.DataFrame] = []
    scores: list[np.ndarray] = []
    null: list[list[float]] = []
    control, _ = nested_scores(reduced(plain), is_first, fold, seed)
    counts = np.concatenate([np.ones((1, len(fold))), resample_counts(len(fold), draws, seed, is_first)])
    partial: list[np.ndarray] = []
    for state in progress(range(states.n_layers + 1), "linear probe", total=states.n_layers + 1):
        x = reduced(states.layer(state))
        found, strengths = nested_scores(x, is_first, fold, seed)
        scores.append(found)
        partial.append(partial_correlation(x, is_first - 1 / (1 + np.exp(-control)), fold, counts))
        null.append([auc_by_fold(scores_at(x, y, fold, strengths), y, fold) for y in labels])
        columns = {"item": states.ids, "group": states.groups, "state": state, "score": found, "fold": fold}
        rows.append(pd.DataFrame(columns))
    auc = np.stack([weighted_auc(s, is_first, fold, counts) for s in [*scores, control]], axis=1)
    observed, nulls = auc[0, :-1], np.asarray(null).T
    p = (1.0 + (nulls.max(1)[:, None] >= observed).sum(0)) / (1.0 + permutations)
    table = pd.concat(rows, ignore_index=True).sort_values(["item", "state"], kind="stable")
    data = _dataset(auc, np.stack(partial, axis=1), p, is_first)
    data["auc_boot"], data["auc_null"] = (("draw", "state"), auc[1:, :-1]), (("permutation", "state"), nulls)
    return table, data


def outer_folds(is_first: np.ndarray, folds: int, seed: int, together: np.ndarray | None = None) -> np.ndarray:
    """Outer fold of each item, stratified by group; the same for all states. `together`: labels no fold boundary cuts.

    Args:
        is_first: True for items of the first group.
        folds: how many.
        seed: of the dealing.
        together: labels no fold boundary cuts, None for single items.

    Raises:
        InputError: a group (or the labels kept together) too small for so many folds.
    """
    smaller = int(min(is_first.sum(), (~is_first).sum()))
    if together is not None:
        smaller = min(smaller, *(len(np.unique(together[g])) for g in (is_first, ~is_first)))
    if smaller < folds or folds < 2:
        what = "items" if together is None else "values kept together"
        raise InputError(f"folds={folds} with {smaller} {what} in the smaller group: 2 to {smaller} folds are possible")
    kind = sklearn.model_selection.StratifiedKFold if together is None else sklearn.model_selection.StratifiedGroupKFold
    fold = np.empty(len(is_first), dtype=int)
    for number, (_, held) in enumerate(
        kind(folds, shuffle=True, random_state=seed).split(is_first, is_first, together)
    ):
        fold[held] = number
    return fold


def reduced(x: np.ndarray) -> np.ndarray:
    """The same points in at most n - 1 coordinates: an L2 penalty does not see a rotation (constant columns go).

    Columns are put on one scale first, without labels, so standardising leaks nothing about the groups.
    """
    x = x - x.mean(0)
    spread = x.std(0)
    varied = spread > 1e-12 * max(1.0, float(np.abs(x).max(initial=0.0)))
    if not varied.any():
        return np.zeros((len(x), 1))
    x = x[:, varied] / spread[varied]
    if x.shape[1] < len(x):
        return x / np.sqrt(x.shape[1])
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    return u * s / np.sqrt(x.shape[1])


def nested_scores(x: np.ndarray, y: np.ndarray, fold: np.ndarray, seed: int) -> tuple[np.ndarray, list[float]]:
    """Out-of-fold log-odds, and the C chosen inside each training part by inner cross-validation on the deviance.

    Args:
        x: features [item feature].
        y: True for items of the first group.
        fold: outer fold of each item, from 0.
        seed: of the inner folds.
    """
    if not x.any():  # nothing varies: no evidence either way, and nothing to fit
        return np.zeros(len(y)), [STRENGTHS[0]] * (int(fold.max()) + 1)
    strengths: list[float] = []
    for number in range(fold.max() + 1):
        inside = fold != number
        smaller = int(min(y[inside].sum(), (~y[inside]).sum()))
        inner = sklearn.model_selection.StratifiedKFold(max(2, min(3, smaller)), shuffle=True, random_state=seed)
        splits = list(inner.split(x[inside], y[inside]))
        loss = [np.mean([_deviance(x[inside], y[inside], a, b, c, len(x)) for a, b in splits]) for c in STRENGTHS]
        strengths.append(STRENGTHS[int(np.argmin(loss))])
    return scores_at(x, y, fold, strengths), strengths


def _deviance(x: np.ndarray, y: np.ndarray, train: np.ndarray, held: np.ndarray, c: float, n: int) -> float:
    """Mean held-out -log p of the right label."""
    odds = _fit(c, n).fit(x[train], y[train]).decision_function(x[held])
    return float(np.logaddexp(0.0, np.where(y[held], -odds, odds)).mean())


def scores_at(x: np.ndarray, y: np.ndarray, fold: np.ndarray, strengths: list[float]) -> np.ndarray:
    """Out-of-fold log-odds with a given C for each fold."""
    score = np.zeros(len(y))
    if not x.any():
        return score
    for number, c in enumerate(strengths):
        held = fold == number
        fit = _fit(c, len(x)).fit(x[~held], y[~held])
        score[held] = fit.decision_function(x[held])
    return score


def partial_correlation(x: np.ndarray, residual: np.ndarray, fold: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Held-out correlation of ridge predictions with the residualised label, for every row of item counts.

    Centred within folds: predictions of different folds come from different fits.

    Args:
        x: features [item feature].
        residual: label less what the covariates predict [item].
        fold: outer fold of each item, from 0.
        counts: weights [draw item], each row one resampling.
    """
    predicted, wanted = np.zeros(len(x)), np.zeros(len(x))
    for number in range(fold.max() + 1):
        held = fold == number
        found = (
            sklearn.linear_model.RidgeCV(np.logspace(-3, 3, 7) * len(x)).fit(x[~held], residual[~held]).predict(x[held])
        )
        predicted[held], wanted[held] = found - found.mean(), residual[held] - residual[held].mean()
    spread = np.sqrt((counts @ predicted**2) * (counts @ wanted**2))
    return np.divide(counts @ (predicted * wanted), spread, out=np.zeros(len(counts)), where=spread > 0)


def _fit(c: float, n: int) -> Any:
    """An L2-regularised logistic regression; solved to 1e-8, since looser tolerances move scores by percents."""
    return sklearn.linear_model.LogisticRegression(
        C=c * n, class_weight="balanced", solver="newton-cholesky", tol=1e-8, max_iter=200
    )


def auc_by_fold(score: np.ndarray, y: np.ndarray, fold: np.ndarray) -> float:
    """AUC within each fold, averaged: scores of different folds come from different fits."""
    return float(weighted_auc(score, y, fold, np.ones((1, len(y))))[0])


def weighted_auc(score: np.ndarray, y: np.ndarray, fold: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """AUC for every row of item counts: share of (first, second) pairs of one fold ranked right, ties half."""
    right, pairs = np.zeros(len(counts)), np.zeros(len(counts))
    for number in range(fold.max() + 1):
        a, b = np.flatnonzero((fold == number) & y), np.flatnonzero((fold == number) & ~y)
        wins = np.sign(score[a][:, None] - score[b][None]) / 2 + 0.5
        right += ((counts[:, a] @ wins) * counts[:, b]).sum(1)
        pairs += counts[:, a].sum(1) * counts[:, b].sum(1)
    return np.divide(right, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)


def _dataset(auc: np.ndarray, partial: np.ndarray, p: np.ndarray, is_first: np.ndarray) -> xr.Dataset:
    n = int(min(is_first.sum(), (~is_first).sum()))
    data = xr.Dataset(coords={"state": np.arange(len(p))})
    named = {
        "auc": (("state",), auc[:, :-1], "area under the ROC curve"),
        "auc_covariates": ((), auc[:, -1], "the same from covariates alone"),
        "gain": (("state",), auc[:, :-1] - auc[:, -1:], "AUC above covariates alone"),
        "partial_r": (("state",), partial, "correlation with the residualised label"),
    }
    for name, (dims, values, label) in named.items():
        low, high = np.nanquantile(values[1:], [0.025, 0.975], axis=0)
        data[name] = (dims, values[0], {"units": "fraction", "long_name": label})
        data[f"{name}_ci_low"], data[f"{name}_ci_high"] = (dims, low), (dims, high)
        data[f"{name}_n"] = (dims, np.full(np.shape(low), n))
    data["p_value"] = ("state", p, {"units": "", "long_name": "permutation p, corrected over states"})
    return data


def figures(result: Result) -> dict[str, Figure]:
    """AUC over states, and its gain over the covariates."""

    rows = result.summary()
    color = "step" if "step" in rows else None
    title = "Linear probe: nested cross-validated AUC, 95 % interval over items"
    auc = curve(rows[rows["quantity"] == "auc"], x="state", color=color, title=title, reference=0.5)
    gain = curve(
        rows[rows["quantity"] == "gain"], x="state", color=color, title=f"{title}: above covariates", reference=0
    )
    return {"auc": auc, "gain": gain}
