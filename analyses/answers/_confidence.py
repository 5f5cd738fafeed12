"""How well a confidence tells right answers from wrong ones: AUROC and the risk-coverage curve. Never imports torch.

Responses of one item are not independent: intervals count items.
"""

from __future__ import annotations

import math

import numpy as np
import scipy
from jaxtyping import Float

Scores = Float[np.ndarray, " response"]


def auroc(score: Scores, right: Scores) -> float:
    """P(score of a right one > score of a wrong one), ties one half; NaN where one of the two is missing."""
    n_right, n_wrong = int((right == 1).sum()), int((right == 0).sum())
    if not n_right or not n_wrong:
        return math.nan
    ranks = scipy.stats.rankdata(score)
    return float((ranks[right == 1].sum() - n_right * (n_right + 1) / 2) / (n_right * n_wrong))


def auroc_interval(score: Scores, right: Scores, item: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Interval of the AUROC, items resampled as wholes; NaN below 5 right or 5 wrong responses.

    DeLong's components, summed over the responses of each item, on the scale of log odds; an AUROC of 0 or 1 gets the
    bound at which so clear a separation has chance 5 % (one half to the power of 1 / the smaller number).
    """
    value, n_right, n_wrong = auroc(score, right), int((right == 1).sum()), int((right == 0).sum())
    if min(n_right, n_wrong) < 5:
        return math.nan, math.nan
    if value in (0.0, 1.0):
        reach = 0.05 ** (1 / min(n_right, n_wrong))
        return (reach, 1.0) if value == 1 else (0.0, 1 - reach)
    inner = {flag: scipy.stats.rankdata(score[right == flag]) for flag in (0, 1)}
    ranks = scipy.stats.rankdata(score)
    part = np.empty(len(score))
    part[right == 1] = (ranks[right == 1] - inner[1]) / n_wrong - value
    part[right == 0] = 1 - (ranks[right == 0] - inner[0]) / n_right - value
    part[right == 1] /= n_right
    part[right == 0] /= n_wrong
    codes = np.unique(item.astype(str), return_inverse=True)[1].ravel()
    spread = math.sqrt(float((np.bincount(codes, part) ** 2).sum()))
    half = float(scipy.stats.norm.ppf((1 + level) / 2)) * spread / (value * (1 - value))
    odds = math.log(value / (1 - value))
    low, high = (1 / (1 + math.exp(-x)) for x in (odds - half, odds + half))
    return low, high


def aurc(score: Scores, right: Scores) -> float:
    """Mean over coverages i / n of the share of errors among the i most confident; ties in expectation of any order.

    Between 0 and 1; the error rate for a confidence that says nothing, NaN for no responses.
    """
    if not len(score):
        return math.nan
    order = np.argsort(-score, kind="stable")
    wrong, ordered = 1.0 - right[order], score[order]
    starts = np.flatnonzero(np.concatenate([[True], np.diff(ordered) != 0]))
    sizes = np.diff(np.append(starts, len(score)))
    level = np.repeat(np.add.reduceat(wrong, starts) / sizes, sizes)  # each tied response has its block's error rate
    return float((np.cumsum(level) / np.arange(1, len(score) + 1)).mean())
