"""How much each turn tells: the fall of the entropy of what the model would answer, turn by turn.

Definition: a log has several sampled answers of every item at each turn (column `turn`): what the model would say
after that many turns. H = entropy of the shares of answers (each unreadable one alone), gain of a turn = H before minus
H after; total = H of the first turn minus H of the last, the sum of the gains. `gain_null` = the mean gain when the
samples of the two turns are dealt to them anew (0 by symmetry where they are as many); excess = gain - gain_null.

Units: nats per turn.

Source: Nous (information gain per turn; yes or no on 2^n equal hypotheses gives ln 2 each).

Does not show: that what was learnt is right: a turn may make the model certain of a wrong answer (`right` stands beside
it). Entropy of few samples is too low, and at most ln of their number: compare equal numbers.

Control: `gain_null`; a turn that says nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.answers import _judged
from analyses.answers._response_diversity import frequencies, semantic_entropy_nats
from analyses.answers._samples import BY, sampled
from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.reading.votes import clusters
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from analyses.core.claim import Claim

WHAT = "turns tell the model about its answer"


@analysis
def turn_gain(evaluate: Annotated[Result, "evaluate"], *, deals: int = 50, seed: int = 0) -> Result:
    """Entropy of answers after every turn, the gain of each turn beyond its null, and the total.

    Rows: step (where there are steps), item, group, answer_kind, turn, n, entropy_nats, right (share), gain_nats,
    gain_null_nats, excess_nats (NaN at the first turn).

    Args:
        evaluate: result of `evaluate` over a log with a column `turn` and several samples at each.
        deals: samples of two turns, to these.
        seed: dealing and the bootstrap over items.
    """
    rows = sampled(evaluate.table, "turn_gain")
    if "turn" not in rows or pd.to_numeric(rows["turn"], errors="coerce").isna().any():
        raise InputError("turn_gain needs a number in the column `turn` of every response: after how many turns it is")
    rows = rows.assign(turn=pd.to_numeric(rows["turn"]))
    keys = [*(["step"] if "step" in rows else []), "item", *BY]
    made = [row for at, of in rows.groupby(keys, sort=True) for row in _of(of, dict(zip(keys, at)), deals, seed)]
    table = pd.DataFrame(made)
    if table["gain_nats"].isna().all():
        raise InputError("no item has samples after two turns; gains are between turns of one item")
    over = [*keys[:-3], *BY]
    shown = table.rename(columns={"turn": "segment"})
    labels = {"entropy_nats": "entropy of answers", "gain_nats": "gain of the turn",
              "gain_null_nats": "the same, samples dealt anew"}  # fmt: skip
    at = [*over, "segment"]
    parts = [
        stats.estimate(shown.dropna(subset=[q]), q, at, long_name=v, seed=seed, units="nats") for q, v in labels.items()
    ]
    total = table.groupby(keys, sort=True)[["gain_nats", "excess_nats"]].sum(min_count=1).reset_index()
    total = total.rename(columns={"gain_nats": "total_nats"})
    named = "gain of all turns"
    parts.append(stats.estimate(total, "total_nats", over, long_name=named, seed=seed, units="nats"))
    return Result.of(table, xr.merge(parts, join="outer"), claims=list(_claims(total)))


def _of(of: pd.DataFrame, named: dict[str, Any], deals: int, seed: int) -> list[dict[str, Any]]:
    """Rows of one item, one a turn."""
    made: list[dict[str, Any]] = []
    before: list[Hashable] | None = None
    for turn, part in of.groupby("turn", sort=True):
        answers = clusters(part["answer"].tolist())
        gain, null = (np.nan, np.nan) if before is None else gains(before, answers, deals, seed)
        made.append({
            **named, "turn": float(str(turn)), "n": len(part), "entropy_nats": entropy(answers),
            "right": float(part["right"].mean()), "gain_nats": gain, "gain_null_nats": null, "excess_nats": gain - null,
        })  # fmt: skip
        before = answers
    return made


def entropy(answers: Sequence[Hashable]) -> float:
    """Entropy of the shares of answers, in nats."""
    return semantic_entropy_nats(frequencies(answers))


def gains(before: Sequence[Hashable], after: Sequence[Hashable], deals: int, seed: int) -> tuple[float, float]:
    """H before minus H after, and its mean when the samples are dealt to the two anew."""
    n = len(before)
    pooled = [*before, *((a, "after") if isinstance(a, tuple) and a[0] == "unread" else a for a in after)]
    rng = np.random.default_rng(seed)
    dealt = [rng.permutation(len(pooled)) for _ in range(deals)]
    null = [entropy([pooled[i] for i in d[:n]]) - entropy([pooled[i] for i in d[n:]]) for d in dealt]
    return entropy(before) - entropy(after), float(np.mean(null)) if len(Counter(pooled)) > 1 else 0.0


def _claims(total: pd.DataFrame) -> Iterator[Claim]:
    """Of every group and kind (at the last step): do the turns lower the entropy of answers?"""
    last = total[total["step"] == total["step"].max()] if "step" in total else total
    cells = list(last.groupby(BY, sort=True))
    for (group, kind), rows in cells:
        found = _judged.mean(rows.dropna(subset=["excess_nats"]), "excess_nats", len(cells))
        said: dict[str, object] = {
            "group": str(group) if last["answer_kind"].nunique() == 1 else f"{group}, {kind}",
            "family": f"{len(cells)} group(s)", "control": "samples of two turns dealt anew", "unit": "nats",
            "estimand": "entropy of the first turn minus that of the last",
        }  # fmt: skip
        yield _judged.claim(found, found.is_above(), "informs", WHAT, **said)


def figures(result: Result) -> dict[str, Figure]:
    """Entropy of answers and gains by turn; with steps, one line a step."""
    rows = result.summary()
    rows = rows[rows["quantity"].isin(["entropy_nats", "gain_nats"])]
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    color, facet = ("step", ["quantity", "series"]) if "step" in rows else ("series", "quantity")
    return {"turns": curve(rows, x="segment", color=color, facet=facet, title="Entropy of answers, turn by turn")}
