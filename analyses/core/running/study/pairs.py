"""Which pair of checkpoints a study looks into: the one that the curves choose.

The choice is made on the items that the pair is then asked about, so how far the answers moved between the two is the
largest of several changes and no estimate of a typical one. Where it sits is not chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pandas as pd

from analyses.core.result import Result
from probe import Checkpoint, Rollouts
from probe.errors import InputError


def moved_most(series: Sequence[Checkpoint], perplexity: Result | None) -> tuple[Checkpoint, Checkpoint]:
    """(the first checkpoint, the one whose answers moved furthest from the first's); without scores the last one.

    How far: mean over items of |nats per answer token - the same at the first step|; of equal ones the earlier.

    Args:
        series: two checkpoints or more, in order.
        perplexity: a sweep over them.
    """
    if perplexity is None:
        return series[0], series[-1]
    rows = perplexity.table.query("mask == 'answer'")
    scores = rows.assign(nats=rows["nll_nats"] / rows["n_tokens"]).pivot_table("nats", "step", ["item", "answer_kind"])
    moved = (scores - scores.loc[scores.index.min()]).abs().mean(axis=1).drop(scores.index.min())
    if not moved.notna().any():
        return series[0], series[-1]
    chosen = int(moved.idxmax())
    return series[0], next(c for c in series if int(c.step or 0) == chosen)


def fell_most(series: Sequence[Checkpoint], rollouts: Rollouts) -> tuple[Checkpoint, Checkpoint]:
    """The neighbouring checkpoints between which the entropy of the sampling policy fell most.

    Args:
        series: checkpoints in order.
        rollouts: a log whose steps are those of the policies that sampled it.

    Raises:
        InputError: a log without entropies, or fewer than two checkpoints that sampled some of it.
    """
    rollouts.require("H", by="the pair between which entropy fell most")
    means: pd.Series = pd.concat(rollouts.tokens(["H"])).groupby("step")["H"].mean()
    entropy: dict[int | None, float] = dict(zip(map(int, means.index), means, strict=True))
    sampled = [c for c in series if c.step in entropy]
    if len(sampled) < 2:
        raise InputError(
            f"{len(sampled)} of the checkpoints (steps {[c.step for c in series]}) sampled rollouts of the log (steps "
            f"{list(entropy)[:8]}); entropy is compared between two that did: save checkpoints at those steps"
        )
    return min(pairwise(sampled), key=lambda pair: entropy[pair[1].step] - entropy[pair[0].step])
