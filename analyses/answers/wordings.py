"""How much accuracy changes when the same problem is worded otherwise, in the words of your own data.

Definition: a prompt file gives one problem several wordings (`id` and `variant`). The score of a wording of a problem
is the share of its responses that are right (the greedy one; the samples where there is none); a response without a
readable answer is not right. difference = score of a wording minus that of the reference wording, mean over the
problems measured under both: every problem is its own control. mcnemar_p is the exact two-sided p of the flips where
scores are 0 or 1. all_right and any_right: shares of problems that are right in every wording, and in one at least.

Units: fractions of problems.

Source: comparison of paired items with McNemar's exact test.

Does not show: that a wording is harder because of the model. A wording may be longer, rarer or ambiguous: the base
checkpoint loses on it too. Wordings that change numbers make other problems.

Control: the base checkpoint; a second wording that only repeats the first one (its difference is noise).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import xarray as xr

from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.figures import curve, forest
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BY = ["group", "answer_kind"]
AS_WRITTEN = "as written"
SCORES = {"correct": 1.0, "wrong": 0.0, "unparsed": 0.0}


@analysis(renamed={"reference": "reference_wording"})
def wordings(evaluate: Annotated[Result, "evaluate"], *, reference_wording: str | None = None, seed: int = 0) -> Result:
    """Score of every wording of every problem, paired differences from a reference wording with intervals.

    Rows: problem, group, answer_kind, variant, score, difference.

    Args:
        evaluate: result or sweep of `evaluate` over prompts with a column `variant`.
        reference_wording: wording the others are compared with; by default `original`, or the one without a name.
        seed: the bootstrap over problems.
    """
    table = _scores(evaluate.table)
    names = list(dict.fromkeys(table["variant"]))
    preferred = [n for n in ("original", AS_WRITTEN) if n in names]
    base = reference_wording or (preferred or names)[0]
    if base not in names or len(names) < 2:
        given = f"reference_wording={reference_wording!r}"
        raise InputError(f"{given}: the wordings are {names}; at least two are needed, one of them it")
    keys = [c for c in ("step", "problem", *BY) if c in table]
    own = table[table["variant"] == base].set_index(keys)["score"]
    table["difference"] = table["score"] - own.reindex(pd.MultiIndex.from_frame(table[keys])).to_numpy()
    compared = table[table["variant"] != base]
    lonely = sorted(set(compared.loc[compared["difference"].isna(), "problem"].astype(str)))
    warnings = (
        [f"{len(lonely)} problem(s) without the wording {base!r} beside: {', '.join(lonely[:5])}"] if lonely else []
    )
    return Result.of(table.reset_index(drop=True), _aggregate(table, compared, seed), warnings=warnings)


def _scores(answered: pd.DataFrame) -> pd.DataFrame:
    """One row per wording of a problem."""
    if "variant" not in answered:
        raise InputError("no item has a wording: give the prompts a column `variant` beside the problem's `id`")
    rows = answered.assign(
        problem=answered["problem"].where(answered["problem"].notna(), answered["item"]),
        variant=answered["variant"].where(answered["variant"].notna() & (answered["variant"] != ""), AS_WRITTEN),
        score=answered["status"].map(SCORES).astype(float),
    )
    greedy = rows[rows["decoding"] == "greedy"]
    keys = [c for c in ("step", "problem", *BY, "variant") if c in rows]
    return (greedy if len(greedy) else rows).groupby(keys, sort=False)["score"].mean().reset_index()


def _aggregate(table: pd.DataFrame, compared: pd.DataFrame, seed: int) -> xr.Dataset:
    over = [c for c in (*BY, "step") if c in table]
    wide = table.pivot_table(index=["problem", *over], columns="variant", values="score", dropna=False)
    whole = wide.dropna().eq(1.0)
    each = pd.DataFrame({"all_right": whole.all(axis=1), "any_right": whole.any(axis=1)}).astype(float).reset_index()
    estimate = partial(stats.estimate, item="problem", seed=seed, units="1")
    parts = [
        estimate(table, "score", [*over, "variant"], long_name="accuracy", name="accuracy"),
        estimate(compared, "difference", [*over, "variant"], long_name="accuracy minus the reference's"),
        estimate(each, "all_right", over, long_name="right in every wording"),
        estimate(each, "any_right", over, long_name="right in one wording at least"),
    ]
    flips = compared.groupby([*over, "variant"], sort=True)["difference"].agg(_flips)
    parts.append(flips.rename("mcnemar_p").to_frame().to_xarray())
    return xr.merge(parts, join="outer")


def _flips(difference: pd.Series) -> float:
    """McNemar's exact p where every score is 0 or 1, else NaN."""
    difference = difference.dropna()
    if not len(difference) or not difference.isin((-1.0, 0.0, 1.0)).all():
        return float("nan")
    return stats.mcnemar_exact(int((difference == -1).sum()), int((difference == 1).sum()))


def figures(result: Result) -> dict[str, Figure]:
    """Differences by wording, over steps where there are any."""
    rows = result.summary()
    rows = rows[rows["quantity"] == "difference"]
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    title = "Accuracy of a wording minus that of the reference wording"
    if "step" in rows:
        return {"difference": curve(rows, x="step", color="variant", facet="series", title=title, reference=0.0)}
    return {"difference": forest(rows, label="variant", color="series", title=title)}
