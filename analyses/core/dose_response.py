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
import xarray as xr

from analyses.core.stats import estimate, group_difference, sign_flip_max_t

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
      draws); never 0, so 19 draws are needed for .05.
    - `specificity` [layer arm variant group answer_kind]: slope on the target groups minus slope on each other one.
    - `p_max_t` [layer alpha group answer_kind]: sign-flip p of the treatment's effects over all layers and doses.

    Args:
        table: the rows.
        treatment: name of the arm that is not a placebo.
        targets: groups the neurons were chosen for.
        none: the dose without effect.
        seed: of the bootstrap and the sign flips.
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
        specificity(slopes, targets, seed, unit),
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
    """Rank of the treatment's slope among the draws of each placebo, as a two-sided p."""
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
    return p.reorder_levels(["layer", "arm", "variant", *CELL]).to_xarray().to_dataset()


def specificity(slopes: pd.DataFrame, targets: Sequence[str], seed: int, unit: str) -> xr.Dataset | None:
    """Slope on the target groups minus slope on every other group, items resampled within each."""
    others = sorted(set(slopes["group"]) - set(targets))
    if not others or not targets:
        return None
    keys = ["layer", "arm", "variant", "answer_kind"]
    rows: list[dict[str, Any]] = []
    for cell, part in slopes.groupby(keys, sort=True):
        sums = part.groupby(["group", "item"])[["xy", "xx"]].sum()
        per_item = (sums["xy"] / sums["xx"]).reset_index(name="slope")
        in_target = per_item["group"].isin(targets)
        for other in others:
            used = per_item[in_target | (per_item["group"] == other)]
            is_target = used["group"].isin(targets).to_numpy()
            if not is_target.any() or is_target.all():
                continue
            found = group_difference(used["slope"].to_numpy(), is_target, seed=seed)
            estimates = {"": found.value, "_ci_low": found.ci_low, "_ci_high": found.ci_high, "_n": found.n}
            named = {f"specificity{s}": float(v) for s, v in estimates.items()}
            rows.append({**dict(zip(keys, cell, strict=True)), "group": other, **named})
    if not rows:
        return None
    data = pd.DataFrame(rows).set_index(["layer", "arm", "variant", *CELL]).to_xarray()
    label = f"slope on {', '.join(targets)} minus slope on the group"
    data["specificity"].attrs.update(units=f"{unit} per unit of dose", long_name=label)
    return data


def corrected(rows: pd.DataFrame, seed: int) -> xr.Dataset | None:
    """Max-t p of the treatment's effects over all layers and doses, for each group; NaN below six items."""
    found: list[xr.DataArray] = []
    for (group, kind), part in rows.groupby(CELL, sort=True):
        grid = part.pivot_table(index="item", columns=["layer", "alpha"], values="effect", aggfunc="mean")
        p = np.full(grid.shape[1], np.nan)
        if len(grid) >= 6:
            p = sign_flip_max_t(grid.to_numpy(), seed=seed).p_cell
        series = pd.Series(p, index=grid.columns, name="p_max_t").to_xarray()
        found.append(series.expand_dims(group=[group], answer_kind=[kind]))
    return xr.merge(found, join="outer", compat="no_conflicts") if found else None


def claims(data: xr.Dataset, treatment: str, targets: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """Where the treatment is selective, one sentence per layer and side: all three conditions must hold.

    The slope's interval on the target groups excludes 0; no draw of any placebo reaches it; and its difference
    to every other group excludes 0 on the same side.
    """
    found: list[str] = []
    for layer in data["layer"].values:
        for side in ("below", "above"):
            for kind in kinds:
                cell = data.sel(layer=layer, answer_kind=kind)
                if side in data["variant"].values and _is_selective(cell.sel(variant=side), treatment, targets):
                    slope = float(cell["slope"].sel(arm=treatment, variant=side, group=list(targets)).mean())
                    verb = "lowering" if side == "below" else "raising"
                    found.append(f"layer {layer}, {verb}, {kind}: slope {slope:+.3g} on {', '.join(targets)}")
    return found


def _is_selective(cell: xr.Dataset, treatment: str, targets: Sequence[str]) -> bool:
    at = cell.sel(arm=treatment, group=list(targets))
    low, high = at["slope_ci_low"], at["slope_ci_high"]
    sign = np.sign(at["slope"].mean())
    excludes_zero = bool(((low * sign > 0) & (high * sign > 0)).all())
    if not excludes_zero or "specificity" not in cell or "placebo_p" not in cell:
        return False
    placebo = cell["placebo_p"].sel(group=list(targets)).dropna("arm", how="all")
    # The smallest p there is means that no draw came near; it is not a p-value across layers.
    beyond_all = bool((placebo <= 0.05).all()) and placebo.size > 0
    against = cell.sel(arm=treatment)
    bound = against["specificity_ci_low"] if sign > 0 else against["specificity_ci_high"]
    bound = bound.dropna("group")
    return beyond_all and bound.size > 0 and bool((bound * sign > 0).all())
