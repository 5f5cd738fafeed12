"""Memorisation scores from the log-probabilities of a text, and how well they tell members from non-members.

Every score is larger for texts more likely to have been trained on. Never imports torch; scores of one text are
functions of its token arrays.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from jaxtyping import Bool, Float

from analyses.core.stats import Estimate, intervals
from probe.errors import InputError
from probe.lazily import sklearn

Array = np.ndarray
SIGMA_FLOOR = 1e-6  # a one-hot prediction has no spread: (log p - mu) is 0 there too


def lowest_mean(values: Float[np.ndarray, " token"], share: float) -> float:
    """Mean of the lowest ``share`` of the values, at least one of them; NaN for none.

    Min-K% with per-token log-probabilities, Min-K%++ with their standardised form.
    """
    if not 0 < share <= 1:
        raise InputError(f"share {share}; expected a fraction in (0, 1]")
    if not len(values):
        return float("nan")
    count = max(1, int(len(values) * share))  # rounding down gives 0 on short texts, and their mean NaN
    return float(np.sort(values)[:count].mean())


def standardised(
    logprob: Float[np.ndarray, " token"], mean: Float[np.ndarray, " token"], variance: Float[np.ndarray, " token"]
) -> Float[np.ndarray, " token"]:
    """(log p(x_t) - mu_t) / sigma_t; over the model's own distribution it has mean 0 and variance 1."""
    return (logprob - mean) / np.maximum(np.sqrt(variance), SIGMA_FLOOR)


def compressed_bytes(text: str) -> int:
    """Length of the text compressed by zlib."""
    return len(zlib.compress(text.encode()))


def extractable(is_top: Bool[np.ndarray, " token"], prefix: int, length: int) -> float:
    """1 where greedy decoding from the first ``prefix`` tokens gives the next ``length``, else 0; NaN: text too short.

    ``is_top[t]`` says that token t is the most likely one given the tokens before it, all of them the text's own.
    Greedy decoding reproduces a stretch exactly if every token of it is.
    """
    stretch = is_top[prefix : prefix + length]
    return float("nan") if len(stretch) < length else float(stretch.all())


def exposure(nll: float, reference: Float[np.ndarray, " candidate"]) -> float:
    """log2 N - log2 rank of a canary by NLL among itself and N-1 references (bits): log2 N if the likeliest.

    Ties take the worse rank, so that a model that ranks nothing gives no exposure.
    """
    n = len(reference) + 1
    rank = 1 + int((reference <= nll).sum())
    return float(np.log2(n) - np.log2(rank))


def peakedness(distances: Sequence[int], lengths: Sequence[int], alpha: float = 0.05) -> float:
    """Share of samples whose edit distance to the greedy response is at most alpha x the largest length (CDD).

    Args:
        distances: token edit distance of each sample to the greedy response, both cut to their first 100 tokens.
        lengths: number of tokens of the greedy response and of each sample.
        alpha: how near counts.

    NaN without samples, and where all texts are empty: two silences agree about nothing.
    """
    if not len(distances) or not max(lengths):
        return float("nan")
    return float(np.mean(np.asarray(distances) <= alpha * max(lengths)))


def edit_distance(a: Sequence[object], b: Sequence[object]) -> int:
    """Levenshtein distance of two sequences of tokens."""
    row = np.arange(len(b) + 1)
    other = np.array(list(b), dtype=object)
    for i, token in enumerate(a, start=1):
        substituted = row[:-1] + (other != token)
        best = np.minimum(row[1:] + 1, substituted)
        new = np.concatenate([[i], best])
        # An insertion costs 1 more than the cell to the left: a running minimum of (value - column) + column.
        row = np.minimum.accumulate(new - np.arange(len(new))) + np.arange(len(new))
    return int(row[-1])


def separation(
    scores: Float[np.ndarray, " item"], is_member: Bool[np.ndarray, " item"], *, fpr: float = 0.01, level: float = 0.95
) -> dict[str, Estimate]:
    """`auroc` and `tpr` at the given false positive rate, with intervals.

    That of the AUROC is Newcombe's (2006, method 5): score type, with the variance of Hanley and McNeil, so that it has
    a width at 1 too. That of tpr is of the rate at the true quantile of non-members, of which few non-members know
    little: its lower bound is 0 below 368 of them at 1 %. With fewer than 1 / fpr non-members `tpr` is at zero false
    positives, a stricter operating point. None with fewer than six items on a side.
    """
    kept = ~np.isnan(scores)
    scores, is_member = np.asarray(scores, float)[kept], np.asarray(is_member, bool)[kept]
    sizes = int(is_member.sum()), int((~is_member).sum())
    n = min(sizes)
    if n == 0:
        nothing = Estimate(*(np.asarray(v) for v in (np.nan, np.nan, np.nan, 0)))
        return {"auroc": nothing, "tpr": nothing}
    values = _operating_points(scores, is_member, np.ones(len(scores)), fpr)
    bounds = [(np.nan, np.nan)] * 2
    if n >= intervals.LEAST:
        bounds = [auroc_bounds(values[0], *sizes, level), _tpr_bounds(scores, is_member, fpr, level)]
    found = zip(("auroc", "tpr"), values, bounds, strict=True)
    return {name: Estimate(*(np.asarray(v) for v in (value, *of, n))) for name, value, of in found}


def auroc_bounds(value: float, n_first: int, n_second: int, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of an AUROC of so many items on either side: where it lies z standard errors of its own away."""
    z = float(scipy.stats.norm.ppf((1 + level) / 2))
    extra = (n_first + n_second) / 2 - 1

    def error(theta: float) -> float:
        inner = 1 + extra * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return float(np.sqrt(max(theta * (1 - theta) * inner / (n_first * n_second), 0.0)))

    bounds: list[float] = []
    for end in (0.0, 1.0):
        inside, outside = value, end
        for _ in range(60):
            middle = (inside + outside) / 2
            is_inside = abs(middle - value) <= z * error(middle)
            inside, outside = (middle, outside) if is_inside else (inside, middle)
        bounds.append(inside)
    return bounds[0], bounds[1]


def _tpr_bounds(scores: Array, is_member: Array, fpr: float, level: float) -> tuple[float, float]:
    """(low, high) of the share of members above the non-members' quantile, which is itself only known within bounds."""
    alpha = (1 - level) / 2
    others, members = np.sort(scores[~is_member]), scores[is_member]
    ranks: Any = scipy.stats.binom.ppf([alpha, 1 - alpha], len(others), 1 - fpr)
    lowest = others[max(int(ranks[0]) - 1, 0)]
    highest = others[int(ranks[1])] if ranks[1] < len(others) else np.inf
    n = np.full(1, len(members))
    share = 1 - 2 * alpha / 2
    low, _ = intervals.proportion(np.array([(members > highest).sum()]), n, share)
    _, high = intervals.proportion(np.array([(members > lowest).sum()]), n, share)
    return float(low[0]), float(high[0])


def _operating_points(scores: Array, is_member: Array, weights: Array, fpr: float) -> tuple[float, float]:
    """(AUROC, TPR at FPR) of weighted items; ties count half in the first and not at all in the second."""
    values, at = np.unique(scores, return_inverse=True)
    members = np.bincount(at, weights * is_member, len(values))
    others = np.bincount(at, weights * ~is_member, len(values))
    below = np.cumsum(others) - others
    auroc = float((members * (below + others / 2)).sum() / (members.sum() * others.sum()))
    above = np.cumsum(others[::-1])[::-1] / others.sum()  # share of non-members at or above each score
    allowed = above <= fpr + 1e-12
    return auroc, float(members[allowed].sum() / members.sum())


def shift_auroc(texts: Sequence[str], is_member: Bool[np.ndarray, " item"], seed: int = 0) -> float:
    """AUROC of a bag-of-words classifier that never saw the model, cross-validated: .5 where the split is fair.

    Above that, members and non-members are different texts, and a score may tell them apart without any memory.
    """
    labels = np.asarray(is_member, int)
    folds = min(5, int(np.bincount(labels, minlength=2).min()))
    if folds < 2:
        return float("nan")
    words = sklearn.feature_extraction.text.CountVectorizer(token_pattern=r"\w+|[^\w\s]", binary=True)
    model = sklearn.pipeline.make_pipeline(words, sklearn.linear_model.LogisticRegression(C=0.1, max_iter=1000))
    split = sklearn.model_selection.StratifiedKFold(folds, shuffle=True, random_state=seed)
    guessed: Any = sklearn.model_selection.cross_val_predict(
        model, list(texts), labels, cv=split, method="predict_proba"
    )
    return float(sklearn.metrics.roc_auc_score(labels, guessed[:, 1]))
