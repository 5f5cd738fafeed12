"""Does what a run forgets follow how far it moved on the new task, and do two runs lie on one curve?

Definition: from a swept forgetting, at each step x = mean KL(base, tuned) on the new task and y = mean loss on old
    tasks, tuned minus base; y = a x + b x^2, through (0, 0), by least squares over steps; r2 = 1 - squared errors /
    squares about the mean. Whether it fits is asked of steps that were not fitted: held_out_rmse is the error on the
    last half of a run from its first half, or, with two runs, on each run from the other; trivial_rmse that of
    whoever guesses the mean of what was fitted. The law is claimed of two runs only: along one run both only grow.
Units: y in nats per token; a and r2 have none; b per nat.
Source: arXiv 2509.04259 (a quadratic in KL fits SFT and RL runs alike).
Does not show: that KL causes forgetting, or that RL forgets less at equal KL: with two runs on one curve it does not.
Control: a second run (SFT against RL); (0, 0) for the first checkpoint against itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import scatter
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FEWEST = 4  # steps of a run behind its first
WHAT = "forgetting follows KL on the new task"
DRAWS = 500


@analysis
def forgetting_law(
    forgetting: Annotated[Result, "forgetting"],
    other: Annotated[Result, "forgetting"] | None = None,
    *,
    seed: int = 0,
) -> Result:
    """The curve of forgetting over KL, its coefficients with intervals over items, and whether it fits.

    Rows: run (first or other), step, kl_nats, forgotten_nats, fitted_nats.

    Args:
        seed: the bootstrap over items.
    """
    tables = {name: _of(r) for name, r in (("first", forgetting), ("other", other)) if r is not None}
    points = pd.concat([_points(t).assign(run=name) for name, t in tables.items()], ignore_index=True)
    fitted = fit(points)
    points["fitted_nats"] = curve_at(fitted, points["kl_nats"].to_numpy())
    drawn = _drawn(tables, seed)
    data = xr.Dataset()
    for number, (name, unit) in enumerate((("a", "1"), ("b", "1/nat"))):
        low, high = np.nanquantile(drawn[:, number], [0.025, 0.975])
        value = float(fitted[number])
        for suffix, bound in (("", value), ("_ci_low", min(low, value)), ("_ci_high", max(high, value))):
            data[name + suffix] = ((), float(bound))
        data[f"{name}_n"] = ((), float(min(t["item"].nunique() for t in tables.values())))
        data[name].attrs["units"] = unit
    errors = _errors(points)
    for name, value in errors.items():
        data[name] = ((), value, {"units": "1" if name == "r2" else "nats/token"})
    columns = ["run", "step", "kl_nats", "forgotten_nats", "fitted_nats"]
    return Result.of(points[columns], data, claims=[_claim(points, data)])


def _of(result: Result) -> pd.DataFrame:
    table = result.table
    if "step" not in table or table["step"].nunique() < 2:
        raise InputError("this forgetting is of one pair; expected a sweep: `probe sweep forgetting --checkpoints DIR`")
    return table


def _points(table: pd.DataFrame) -> pd.DataFrame:
    """(KL on the new task, forgetting of the old ones) at every step, items averaged."""
    new, old = (table[table["variant"] == task] for task in ("new", "old"))
    sides = [new.groupby("step")["kl_nats"].mean(), old.groupby("step")["forgotten_nats"].mean()]
    return pd.concat(sides, axis=1).reset_index()


def fit(points: pd.DataFrame) -> np.ndarray:
    """a and b of y = a x + b x^2, by least squares."""
    x = points["kl_nats"].to_numpy(float)
    return np.linalg.lstsq(np.column_stack([x, x**2]), points["forgotten_nats"].to_numpy(float), rcond=None)[0]


def curve_at(fitted: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The curve's height at these KL."""
    return fitted[0] * x + fitted[1] * x**2


def _drawn(tables: dict[str, pd.DataFrame], seed: int) -> np.ndarray:
    """Coefficients with items drawn again, new and old ones apart, the same items at every step [draw, 2]."""
    rng = np.random.default_rng(seed)
    grids = [
        (t[t["variant"] == task].pivot_table(index="item", columns="step", values=column).to_numpy(float))
        for t in tables.values()
        for task, column in (("new", "kl_nats"), ("old", "forgotten_nats"))
    ]
    found = np.empty((DRAWS, 2))
    for draw in range(DRAWS):
        means = [g[rng.integers(0, len(g), len(g))].mean(0) for g in grids]
        x, y = np.concatenate(means[::2]), np.concatenate(means[1::2])
        found[draw] = fit(pd.DataFrame({"kl_nats": x, "forgotten_nats": y}))
    return found


def _errors(points: pd.DataFrame) -> dict[str, float]:
    y = points["forgotten_nats"].to_numpy(float)
    about = float(((y - y.mean()) ** 2).sum())
    off = y - points["fitted_nats"].to_numpy(float)
    pairs = [_held_out(*sides) for sides in _splits(points)]
    held, trivial = (float(np.sqrt(np.mean(np.concatenate(e) ** 2))) for e in zip(*pairs, strict=True))
    r2 = 1 - float((off**2).sum()) / about if about > 0 else np.nan
    return {"r2": r2, "held_out_rmse": held, "trivial_rmse": trivial}


def _splits(points: pd.DataFrame) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """(fitted, held out): each run from the other, or a run's later half from its first."""
    runs = [own for _, own in points.groupby("run", sort=True)]
    if len(runs) > 1:
        return [(runs[0], runs[1]), (runs[1], runs[0])]
    half = (len(points) + 1) // 2
    return [(points.iloc[:half], points.iloc[half:])]


def _held_out(fitted: pd.DataFrame, rest: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    y = rest["forgotten_nats"].to_numpy(float)
    guess = curve_at(fit(fitted), rest["kl_nats"].to_numpy(float))
    return y - guess, y - fitted["forgotten_nats"].to_numpy(float).mean()


def _claim(points: pd.DataFrame, data: xr.Dataset) -> Claim:
    n = len(points)
    counts = points.groupby("run").size()
    moved = points["kl_nats"].max() > 0
    if not moved:
        return Claim("law", NONE, "that anything moved on the new task", n=n)
    if len(counts) < 2 or counts.min() <= FEWEST:
        why = "along one run both only grow" if len(counts) < 2 else f"a run has {counts.min()} steps"
        needs = f"a second run of more than {FEWEST} steps (other=), SFT against RL say"
        return Claim("law", UNJUDGED, WHAT, why=why, needs=needs, n=n)
    held, trivial, r2 = (float(data[q]) for q in ("held_out_rmse", "trivial_rmse", "r2"))
    said: Fields = {
        "n": n, "estimand": "error of each run from the other's curve over that of its mean", "effect": held / trivial,
        "is_change": False, "control": "the mean of the run that was fitted",
        "assumptions": (f"r2 over all steps {r2:.2f}", f"error {held:.2g}, trivial {trivial:.2g} nats"),
        "caveat": "follows, not causes",
    }  # fmt: skip
    if held < trivial / 2 and r2 > 0.5:
        return Claim("law", FOUND, "forgetting follows KL on the new task in both runs, error over trivial", **said)
    return Claim("law", NONE, "one curve of forgetting over KL for both runs, error over trivial", **said)


def figures(result: Result) -> dict[str, Figure]:
    """Forgetting over KL, measured and fitted."""
    rows = result.table
    drawn = pd.concat(
        [
            rows.assign(shown=rows["forgotten_nats"], what=rows["run"]),
            rows.assign(shown=rows["fitted_nats"], what="fit"),
        ]
    )
    look: dict[str, Any] = {
        "x_title": "KL(base, tuned) on the new task (nats/token)",
        "y_title": "loss on old tasks (nats/token)",
    }
    return {"law": scatter(drawn, x="kl_nats", y="shown", color="what", title="Forgetting over KL", **look)}
