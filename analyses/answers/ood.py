"""What the run did to accuracy outside its training distribution, item by item.

Definition: change = accuracy at a step minus accuracy at the reference step, mean over the same items, by group;
outside and inside are pools of groups; ood_gap = change outside minus change inside. Compare checkpoints of equal
accuracy inside (the stage rule's good fit and over-memorized ones), not of equal epoch.

Units: fractions of items.

Source: arXiv 2508.04117 reports a loss of about 2 points on average, without seeds or intervals.

Does not show: that memorization caused the loss: more training, or forgetting, does the same. One run is one seed:
its intervals are over items only.

Control: a run of small learning rate at equal inside accuracy; the reference step itself (change exactly 0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.answers._since_a_step import since
from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.figures import curve, forest
from analyses.core.published import joined
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BY = ["group", "answer_kind"]
INSIDE, OUTSIDE = "inside", "outside"


@analysis
def ood(
    evaluate: Annotated[Result, "evaluate"],
    *,
    inside: tuple[str, ...] = (),
    reference: int | None = None,
    unparsed: Literal["missing", "wrong"] = "missing",
    seed: int = 0,
) -> Result:
    """Paired change of accuracy by group over steps, of the pools inside and outside, and the gap between them.

    Args:
        evaluate: a sweep of `evaluate` over prompts of several groups (one per benchmark).
        inside: groups of the training distribution; the others are outside.
        reference: step compared with; the first by default.
    """
    table = evaluate.table
    if "step" not in table.columns or table["step"].nunique() < 2:
        raise InputError("ood compares checkpoints: sweep evaluate over at least 2")
    greedy = table[table["decoding"] == "greedy"]
    rows = (greedy if len(greedy) else table)[["item", *BY, "step", "status", "correct"]].copy()
    if unparsed == "wrong":
        rows["correct"] = rows["correct"].mask(rows["status"] == "unparsed", 0.0)
    rows["accuracy"] = rows["correct"].astype(float)
    groups = sorted(rows["group"].unique())
    unknown = sorted(set(inside) - set(groups))
    if unknown:
        raise InputError(f"no groups {unknown} in the evaluate result; it has {groups}")
    named = {"accuracy": ("1", "accuracy")}
    parts = [
        stats.estimate(rows, "accuracy", [*BY, "step"], seed=seed, units="1"),
        since(rows, named, BY, reference=reference, seed=seed),
    ]
    warnings: list[str] = []
    if inside and set(groups) - set(inside):
        parts.append(_gap(rows, inside, reference, seed))
    else:
        warnings.append("no gap: name the groups of the training distribution with `inside`")
    data = xr.merge(parts, join="outer")
    return Result.of(rows.drop(columns="correct"), data, warnings=warnings)


def _gap(rows: pd.DataFrame, inside: tuple[str, ...], reference: int | None, seed: int) -> xr.Dataset:
    """Change of the pooled groups, and outside minus inside with items resampled within each pool."""
    pooled = rows.assign(group=np.where(rows["group"].isin(inside), INSIDE, OUTSIDE))
    steps = sorted(pooled["step"].unique())
    start = steps[0] if reference is None else reference
    wide = pooled.pivot_table(index=["item", "group"], columns="step", values="accuracy", aggfunc="mean")
    moved = wide.sub(wide[start], axis=0)
    is_outside = moved.index.get_level_values("group") == OUTSIDE
    values = moved[steps].to_numpy()
    parts = {
        "inside_change": stats.mean_of_items(values[~is_outside]),
        "outside_change": stats.mean_of_items(values[is_outside]),
        "ood_gap": stats.group_difference(values, is_outside, seed=seed),
    }
    data = xr.Dataset(coords={"step": steps})
    for name, e in parts.items():
        for suffix, value in (("", e.value), ("_ci_low", e.ci_low), ("_ci_high", e.ci_high), ("_n", e.n)):
            data[name + suffix] = ("step", value)
        data[name].attrs.update(units="1", long_name=name.replace("_", " "))
    return data


def figures(result: Result) -> dict[str, Figure]:
    """Change of accuracy by group, and the gap outside minus inside."""

    rows = result.summary()
    change = rows[rows["quantity"] == "accuracy_change"]
    change = change.assign(series=change["group"].astype(str) + ", " + change["answer_kind"].astype(str))
    drawn = {"change": curve(change, x="step", color="series", title="Change of accuracy by group", reference=0.0)}
    last = change[change["step"] == change["step"].max()]
    title = "Change of accuracy at the last step, beside published gains of the same benchmark"
    drawn["gain"] = forest(joined(last, "accuracy_change"), label="series", color="source", title=title)
    gap = rows[rows["quantity"].isin(["inside_change", "outside_change", "ood_gap"])]
    if len(gap):
        drawn["gap"] = curve(gap, x="step", color="quantity", title="Inside, outside and the gap", reference=0.0)
    return drawn
