"""How wrong advantages become when the majority's answer stands in for the truth.

Definition: in a sampling group of n responses, A = (r - mean) / std (population std; 0 in a group without spread) under
    the true reward and under the pseudo-reward 1[answer = the majority's]. gap = |A_true - A_pseudo|_2 over the group:
    0 where the majority is right. For a wrong majority of x votes and y correct responses it is
    sqrt(2 n (1 + sqrt(x y / ((n - x)(n - y))))), sqrt(n) at y = 0 and 0 at x = n. Ties for the majority: the mean over
    the tied answers.
Units: standard deviations of reward, as a norm over the group.
Source: CARE / RLAVR (trainers often use the sample std).
Does not show: what training on pseudo-labels would do; only how far the signal of this batch would be off.
Control: majority_right beside it; groups where all agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.credit import _answers, _log

if TYPE_CHECKING:
    from jaxtyping import Float
    from plotly.graph_objects import Figure

    from probe import Rollouts


@analysis(renamed={"answer": "pattern"})
def pseudo_labels(
    rollouts: Rollouts, *, pattern: str | None = None, tokenizer: str = "", success_above: float = 0.5, seed: int = 0
) -> Result:
    """Gap between advantages from the true reward and from the majority's answer, for every sampling group.

    Rows, one per sampling group: rollout_step, item, group, group_uid, n, votes (of the majority), n_correct, tied
    (answers that share the majority), majority_right (share of the tied that are), gap, gap_per_response (gap /
    sqrt n).

    Args:
        pattern: by default the last box, else the last number.
        tokenizer: needed of a log without texts.
    """
    rows = _log.responses(rollouts, ["reward"], "pseudo_labels")
    rows = _answers.with_answers(rows, rollouts, pattern, tokenizer, "pseudo_labels")
    rows["success"] = _log.successes(rows, success_above, "pseudo_labels")
    made: list[dict[str, Any]] = []
    for _, part in rows.groupby("cell", sort=True):
        first = part.iloc[0]
        facts = majority_gap(part["cluster"].to_numpy(), part["success"].to_numpy(), part["answer"].notna().to_numpy())
        made.append({k: first[k] for k in _log.KEYS[:4]} | facts)
    table = pd.DataFrame(made)
    return Result.of(table, _aggregate(table, seed), warnings=[*rollouts.notes, *_answers.unread(rows)])


def majority_gap(
    cluster: Float[np.ndarray, " response"],
    success: Float[np.ndarray, " response"],
    read: Float[np.ndarray, " response"],
) -> dict[str, float]:
    """The gap of one group and what it is made of; NaN where no answer can be read."""
    n, n_correct = len(cluster), int(success.sum())
    names, votes = np.unique(cluster[read.astype(bool)], return_counts=True)
    if not len(names):
        nothing = {"votes": 0, "n_correct": n_correct, "tied": 0, "majority_right": np.nan}
        return {"n": n, **nothing, "gap": np.nan, "gap_per_response": np.nan}
    tied = names[votes == votes.max()]
    true = _advantage(success)
    gaps = [float(np.linalg.norm(true - _advantage((cluster == name).astype(float)))) for name in tied]
    right = float(np.mean([success[cluster == name].mean() > 0.5 for name in tied]))
    gap = float(np.mean(gaps))
    return {
        "n": n, "votes": int(votes.max()), "n_correct": n_correct, "tied": len(tied), "majority_right": right,
        "gap": gap, "gap_per_response": gap / np.sqrt(n),
    }  # fmt: skip


def _advantage(reward: np.ndarray) -> np.ndarray:
    spread = reward.std()
    return (reward - reward.mean()) / spread if spread > 0 else np.zeros(len(reward))


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    names = {"gap_per_response": "gap of advantages per response", "majority_right": "groups whose majority is right"}
    return xr.merge([estimate(table, q, ["rollout_step"], seed=seed, units="1", long_name=n) for q, n in names.items()])


def figures(result: Result) -> dict[str, Figure]:
    """The gap per response, and how often the majority is right, over steps."""
    rows = result.summary()
    extra = "step" if "step" in rows else None
    title = "Advantages from the majority's answer against the true ones, 95 % over items"
    return {"gap": curve(rows, x="rollout_step", color="quantity", facet=extra, title=title)}
