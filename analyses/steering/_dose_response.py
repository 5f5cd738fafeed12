"""Dose-response of an intervention: effects, slopes on both sides of "none", specificity, rank among placebos.

Rows come long: layer, arm, draw, alpha, item, group, answer_kind, metric, the dose without effect included.
Everything is paired by item and resampled over items; draws of a placebo are averaged within an item, except
where the treatment is ranked among single draws. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from analyses.core.stats import estimate, group_difference, mean_max_t, paired_difference

SIDES = ("below", "above", "joint")
CELL = ["group", "answer_kind"]


def dose_response(
    table: pd.DataFrame,
    *,
    treatment: str,
    targets: Sequence[str],
    none: float = 1.0,
    seed: int = 0,
    unit: str = "nats/token",
) -> xr.Dataset:
    """Every estimate of a dose-response.

    - `effect` [layer arm alpha group answer_kind]: paired difference from the dose `none`.
    - `slope` [layer arm variant group answer_kind]: no-intercept slope of effect on x = alpha - none, sum(xy) /
      sum(xx), for x < 0 (`below`), x > 0 (`above`) and both (`joint`).
    - `placebo_p` [layer arm variant group answer_kind]: (1 + draws whose slope is at least as far from 0) / (1 +
      draws); never 0, so 19 draws are needed for .05. `placebo_t_p`: the same by Student's t of the draws.
    - `specificity`, `matched_specificity` [layer arm variant group answer_kind]: slope on the target groups minus slope
      on each other one, all items and items matched by their unaltered metric.
    - `p_max_t` [layer alpha group answer_kind]: max-t p (items drawn again) of the treatment's effects over all layers
      and doses.

    Args:
        table: the rows.
        treatment: name of the arm that is not a placebo.
        targets: groups the neurons were chosen for.
        none: the dose without effect.
        seed: of the bootstrap and the max-t draws.
        unit: of the metric.
    """
    rows = with_effects(table, none)
    label: dict[str, Any] = {"units": unit, "long_name": "change of the metric"}
    slopes = by_side(rows, none)
    per_dose: dict[str, Any] = {"units": f"{unit} per unit of dose", "long_name": "slope of the dose-response"}
    found = [
        estimate(rows, "effect", ["layer", "arm", "alpha", *CELL], seed=seed, **label),
        estimate(slopes, "xy", ["layer", "arm", "variant", *CELL], per="xx", seed=seed, name="slope", **per_dose),
        placebo_p(slopes, treatment),
        specificity(rows, slopes, targets, seed, unit),
        corrected(rows[(rows["arm"] == treatment) & (rows["alpha"] != none)], seed),
    ]
    return xr.merge([f for f in found if f], join="outer", compat="no_conflicts", combine_attrs="override")


def with_effects(table: pd.DataFrame, none: float) -> pd.DataFrame:
    """The rows with `effect`: the metric minus that of the same item, arm and draw without intervention."""
    keys = ["layer", "arm", "draw", "item", "answer_kind"]
    at_none = table.loc[table["alpha"] == none, [*keys, "metric"]].rename(columns={"metric": "unaltered"})
    rows = table.merge(at_none, on=keys, validate="many_to_one")
    return rows.assign(effect=rows["metric"] - rows["unaltered"])


def by_side(rows: pd.DataFrame, none: float) -> pd.DataFrame:
    """One row per arm, draw, item and side: `xy` and `xx`, the sums whose ratio is the slope."""
    x = rows["alpha"] - none
    moved = rows.assign(xy=x * rows["effect"], xx=x * x)[x != 0]
    sides = {"below": moved["alpha"] < none, "above": moved["alpha"] > none, "joint": moved["alpha"].notna()}
    keys = ["layer", "arm", "draw", "item", *CELL]
    parts = [moved[at].groupby(keys, sort=True)[["xy", "xx"]].sum().assign(variant=s) for s, at in sides.items()]
    return pd.concat(parts).reset_index()


def placebo_p(slopes: pd.DataFrame, treatment: str) -> xr.Dataset | None:
    """Rank of the treatment's slope among the draws of each placebo, as a two-sided p; and by Student's t.

    A rank among 20 draws is at least 1/21, which no correction over layers leaves below .05; how far the slope lies
    beyond the draws' spread has no such floor.
    """
    cells = ["layer", "variant", *CELL]
    sums = slopes.groupby(["arm", "draw", *cells])[["xy", "xx"]].sum()
    slope = (sums["xy"] / sums["xx"]).rename("slope").reset_index()
    treated = slope[slope["arm"] == treatment].rename(columns={"slope": "treated"})[[*cells, "treated"]]
    drawn = slope[slope["arm"] != treatment].merge(treated, on=cells)
    if drawn.empty:
        return None
    beyond = drawn.assign(beyond=drawn["slope"].abs() >= drawn["treated"].abs())
    counted = beyond.groupby(["arm", *cells])["beyond"].agg(["sum", "count"])
    p = ((1 + counted["sum"]) / (1 + counted["count"])).rename("placebo_p")
    spread = drawn.groupby(["arm", *cells]).agg(mean=("slope", "mean"), sd=("slope", "std"), n=("slope", "count"),
                                                treated=("treated", "first"))  # fmt: skip
    t = (spread["treated"] - spread["mean"]).abs() / (spread["sd"] * np.sqrt(1 + 1 / spread["n"]))
    beside = pd.Series(2 * scipy.stats.t.sf(t, spread["n"] - 1), spread.index, name="placebo_t_p")
    both = pd.concat([p, beside], axis=1)
    return both.reorder_levels(["layer", "arm", "variant", *CELL]).to_xarray()


def specificity(
    rows: pd.DataFrame, slopes: pd.DataFrame, targets: Sequence[str], seed: int, unit: str
) -> xr.Dataset | None:
    """Slope on the target groups minus slope on every other group: of all items, and of matched items only.

    Unmatched, items are resampled within each group. Matched (`matched_specificity`), target items are paired with
    items of the other group near in the unaltered metric, and pairs are resampled: answers that are already unlikely
    have less to lose, so a group of such answers is no control.
    """
    others = sorted(set(slopes["group"]) - set(targets))
    if not others or not targets:
        return None
    unaltered = rows.drop_duplicates(["item", *CELL]).set_index(["item", *CELL])["unaltered"]
    pairs = {(g, k): matched_pairs(unaltered, targets, g, k) for g in others for k in slopes["answer_kind"].unique()}
    keys = ["layer", "arm", "variant", "answer_kind"]
    found: list[dict[str, object]] = []
    for cell, part in slopes.groupby(keys, sort=True):
        sums = part.groupby(["group", "item"])[["xy", "xx"]].sum()
        slope = sums["xy"] / sums["xx"]
        for other in others:
            named = {**dict(zip(keys, cell, strict=True)), "group": other}
            found.append({**named, **_against(slope, targets, other, pairs[other, cell[-1]], seed)})
    data = pd.DataFrame(found).set_index(["layer", "arm", "variant", *CELL]).to_xarray()
    for name, how in (("specificity", ""), ("matched_specificity", ", items matched by the unaltered metric")):
        label = f"slope on {', '.join(targets)} minus slope on the group{how}"
        data[name].attrs.update(units=f"{unit} per unit of dose", long_name=label)
    return data


def matched_pairs(unaltered: pd.Series, targets: Sequence[str], other: str, kind: str) -> list[tuple[str, str]]:
    """Target items paired with items of the other group within `WITHIN` in the unaltered metric, each used once.

    As many pairs as there can be, then the nearest. A control used twice would make few controls look like many.
    Fewer than `ENOUGH` pairs count as none.
    """

    of = unaltered.xs(kind, level="answer_kind").reset_index()
    mine, theirs = of[of["group"].isin(targets)], of[of["group"] == other]
    if mine.empty or theirs.empty:
        return []
    gap = np.abs(mine["unaltered"].to_numpy()[:, None] - theirs["unaltered"].to_numpy())
    far = 1 + WITHIN * min(gap.shape)  # one more pair is always worth more than nearer ones
    rows, columns = scipy.optimize.linear_sum_assignment(np.where(gap <= WITHIN, gap, far))
    close = gap[rows, columns] <= WITHIN
    pairs = zip(mine["item"].to_numpy()[rows[close]], theirs["item"].to_numpy()[columns[close]], strict=True)
    return list(pairs) if close.sum() >= ENOUGH else []


WITHIN = 0.25  # of the metric's unit (nats per token): about a quarter of a likelihood ratio of e
ENOUGH = 6  # pairs; fewer cannot reach p = .05 under sign flips


def _against(
    slope: pd.Series, targets: Sequence[str], other: str, pairs: Sequence[tuple[str, str]], seed: int
) -> dict[str, float]:
    by_item = slope.reset_index(level="group")
    used = by_item[by_item["group"].isin([*targets, other])]
    is_target = used["group"].isin(targets).to_numpy()
    nothing = np.full(1, np.nan)
    plain = paired = paired_difference(nothing, nothing, seed=seed)
    if is_target.any() and not is_target.all():
        plain = group_difference(used.iloc[:, -1].to_numpy(), is_target, seed=seed)
    if pairs:
        mine, theirs = (slope.droplevel("group").loc[list(side)].to_numpy() for side in zip(*pairs, strict=True))
        paired = paired_difference(mine, theirs, seed=seed)
    out: dict[str, float] = {}
    for name, e in (("specificity", plain), ("matched_specificity", paired)):
        parts = {"": e.value, "_ci_low": e.ci_low, "_ci_high": e.ci_high, "_n": e.n}
        out |= {f"{name}{suffix}": float(part) for suffix, part in parts.items()}
    return out


def corrected(rows: pd.DataFrame, seed: int) -> xr.Dataset | None:
    """Max-t p of the treatment's effects over all layers and doses, for each group; NaN below six items."""
    found: list[xr.DataArray] = []
    for (group, kind), part in rows.groupby(CELL, sort=True):
        grid = part.pivot_table(index="item", columns=["layer", "alpha"], values="effect", aggfunc="mean")
        p = np.full(grid.shape[1], np.nan)
        if len(grid) >= 6:
            p = mean_max_t(grid.to_numpy(), seed=seed).p_cell
        series = pd.Series(p, index=grid.columns, name="p_max_t").to_xarray()
        found.append(series.expand_dims(group=[group], answer_kind=[kind]))
    return xr.merge(found, join="outer", compat="no_conflicts") if found else None
