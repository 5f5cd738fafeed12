"""What a policy that is rewarded for agreeing with itself would be paid, and how near its groups are to one answer.

Definition: the responses of a sampling group are clustered by their final answer; f are the clusters' shares.
    cluster_reward of a response = share of its cluster; its mean over a group is sum f^2 = exp(-H2), 1 where all agree
    and 1/G where none do. A group whose largest cluster is below `least_share` is zeroed. true_reward beside it.
Units: shares in [0, 1].
Source: EMPO (released code: a response without an answer is a cluster of its own; groups below .25 are zeroed).
Does not show: correctness: one cluster may be one wrong answer (see pseudo_labels).
Control: reward beside it; groups of an untrained policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.credit import _answers, _log

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from plotly.graph_objects import Figure

    from probe import Rollouts


@analysis(renamed={"answer": "pattern"})
def cluster_rewards(
    rollouts: Rollouts, *, pattern: str | None = None, tokenizer: str = "", least_share: float = 0.25, seed: int = 0
) -> Result:
    """Self-consistency reward of every response, and how far each sampling group has collapsed to one answer.

    Rows, one per response: rollout_step, item, group, group_uid, sample, answer, cluster_share, cluster_reward (0 in a
    zeroed group), zeroed, largest_share, n_clusters, reward (NaN where the log has none).

    Args:
        pattern: by default the last box, else the last number.
        tokenizer: needed of a log without texts.
        least_share: groups whose largest cluster is below this share are zeroed.
    """
    has_reward = "reward" in rollouts.columns
    rows = _log.responses(rollouts, ["reward"] if has_reward else [], "cluster_rewards")
    rows = _answers.with_answers(rows, rollouts, pattern, tokenizer, "cluster_rewards")
    share = shares(rows["cell"].to_numpy(), rows["cluster"].to_numpy())
    largest = rows.assign(share=share).groupby("cell")["share"].transform("max").to_numpy()
    clusters = rows.groupby("cell")["cluster"].transform("nunique").to_numpy()
    zeroed = largest < least_share
    table = rows[_log.KEYS].assign(
        answer=rows["answer"], cluster_share=share, cluster_reward=np.where(zeroed, 0.0, share), zeroed=zeroed,
        largest_share=largest, n_clusters=clusters, reward=rows["reward"] if has_reward else np.nan,
    )  # fmt: skip
    return Result.of(table, _aggregate(table, seed), warnings=[*rollouts.notes, *_answers.unread(rows)])


def shares(cell: Int[np.ndarray, " response"], cluster: Int[np.ndarray, " response"]) -> Float[np.ndarray, " response"]:
    """Each response's share of its sampling group that gives the same answer (clusters are numbered over all)."""
    return np.bincount(cluster)[cluster] / np.bincount(cell)[cell]


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    table = table.assign(zeroed=table["zeroed"].astype(float))
    names = {
        "cluster_share": "mean self-consistency reward (sum f^2)",
        "largest_share": "share of the largest cluster",
        "zeroed": "share of groups that are zeroed",
        "reward": "true reward",
    }
    return xr.merge([estimate(table, q, ["rollout_step"], seed=seed, units="1", long_name=n) for q, n in names.items()])


def figures(result: Result) -> dict[str, Figure]:
    """Self-consistency, the largest cluster and the true reward over steps."""
    rows = result.summary()
    extra = "step" if "step" in rows else None
    title = "Agreement within groups beside the true reward, 95 % over items"
    return {"collapse": curve(rows, x="rollout_step", color="quantity", facet=extra, title=title)}
