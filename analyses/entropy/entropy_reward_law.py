"""Does reward follow entropy, R = -a exp(H) + b, and what ceiling does that leave?

Definition: ordinary least squares of the reward R_t on (-exp(H_t), 1) at the steps that have both; ceiling = b - a is
    the reward at H = 0; dR/dH = -a exp(H). The first `fit_steps` steps are fitted, the rest predicted:
    extrapolation_rmse and final_error are the errors there, trivial_rmse that of whoever knows no entropy (the last
    value, or a line in the step, goes on). Errors are autoregressive and are whitened, intervals are Student's. The law
    is claimed only if reward moves with exp(H) beyond a cubic trend of the step, in levels and in first differences,
    and predicts later steps better than the trivial guess.
Units: rewards as logged; entropy in nats; a and b in units of reward.
Source: arXiv 2505.22617 Eq. 6 (a box there prints exp(H + b), which contradicts it). Published: the first 36 steps
    predict the next 200 with RMSE .9 % (math), 1.2 % (code); not claimed to be universal.
Does not show: that spending entropy causes reward. One run fixes two numbers for its model and data only; where
    exp(H) hardly varies there is nothing to fit, and no numbers are given. Where both only trend, nothing is claimed:
    entropy falls and reward rises in most runs, whatever ties them.
Control: the extrapolated half against the trivial guess; a run whose reward is random; benchmarks/nulls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import forest, scatter
from analyses.core.result import Result
from analyses.entropy._serial import LEAST, beyond_trend, is_associated, whitened
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import RunLog

LEAST_STEPS = 6
QUANTITIES = ("a", "b", "ceiling")
ERRORS = ("rmse", "extrapolation_rmse", "final_error", "trivial_rmse")
AGAINST = {"extrapolation_rmse": "the law", "trivial_rmse": "last value, or a line in the step"}
WHETHER = "reward follows entropy"


@analysis
def entropy_reward_law(
    log: RunLog,
    *,
    entropy: str = "entropy",
    reward: str = "reward",
    fit_steps: int = 36,
    least_range: float = 0.1,
) -> Result:
    """Coefficients, ceiling and extrapolation error of R = -a exp(H) + b over a run's steps.

    Rows: step, entropy_nats, reward, predicted_reward, part (fitted or predicted).

    Args:
        entropy: scalar that holds the mean entropy in nats (trainers' own names of it are known).
        reward: scalar that holds the reward or validation score.
        fit_steps: how many of the first steps are fitted; where a run has no more than that, its first half.
        least_range: smallest range of exp(H) among fitted steps that is fitted at all.
    """
    both = pd.concat([log.series(entropy), log.series(reward)], axis=1, join="inner", keys=["entropy_nats", "reward"])
    if both.empty:
        raise InputError(f"{log.source}: no step has both {entropy!r} and {reward!r}; log them at the same steps")
    both = both.sort_index()
    count = fit_steps if len(both) > fit_steps else len(both) // 2
    fitted = np.arange(len(both)) < count
    h, r = both["entropy_nats"].to_numpy(), both["reward"].to_numpy()
    why = refusal(h[fitted], least_range)
    data = _empty() if why else fit(h, r, count)
    table = both.reset_index(names="step")
    a, b = float(data["a"]), float(data["b"])
    table["predicted_reward"] = b - a * np.exp(table["entropy_nats"])
    table["part"] = np.where(fitted, "fitted", "predicted")
    warnings = [*log.notes, *([why] if why else [])]
    return Result.of(table, data, claims=[_claim(data, h, r, why)], warnings=warnings)


def refusal(entropies: np.ndarray, least_range: float) -> str | None:
    """Why nothing can be fitted to these entropies, or None."""
    if len(entropies) < LEAST_STEPS:
        return f"there are {len(entropies)} steps to fit, at least {LEAST_STEPS} are needed"
    spread = float(np.ptp(np.exp(entropies)))
    if spread < least_range:
        return f"exp(H) ranges over {spread:.3g} only (least_range {least_range}), so a and b are not determined"
    return None


def fit(entropies: np.ndarray, rewards: np.ndarray, count: int) -> xr.Dataset:
    """The law fitted to the first `count` steps, with its errors on the others."""
    design = np.column_stack([-np.exp(entropies), np.ones(len(entropies))])
    found = whitened(rewards[:count], design[:count], 1)
    data = xr.Dataset()
    for name, weights in zip(QUANTITIES, np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]]), strict=True):
        for suffix, number in zip(("", "_ci_low", "_ci_high"), found.combined(weights), strict=True):
            data[name + suffix] = ((), number)
        data[name + "_n"] = ((), float(count))
        data[name].attrs["units"] = "reward"
    errors = rewards - design @ found.values
    rest = errors[count:]
    numbers = [np.sqrt((errors[:count] ** 2).mean()), np.nan, np.nan, np.nan]
    if len(rest):
        numbers[1:] = np.sqrt((rest**2).mean()), errors[-1], trivial_rmse(rewards, count)
    for name, number in zip(ERRORS, numbers, strict=True):
        data[name] = ((), float(number), {"units": "reward"})
    return data


def trivial_rmse(rewards: np.ndarray, count: int) -> float:
    """Error on later steps of whoever knows no entropy: the last fitted rewards go on, or their line does."""
    later = np.arange(count, len(rewards))
    last = rewards[count - min(5, count) : count].mean()
    line = np.polyval(np.polyfit(np.arange(count), rewards[:count], 1), later)
    return float(min(np.sqrt(((rewards[later] - g) ** 2).mean()) for g in (last, line)))


def _empty() -> xr.Dataset:
    names = [q + s for q in QUANTITIES for s in ("", "_ci_low", "_ci_high")]
    data = xr.Dataset(dict.fromkeys((*names, *ERRORS), ((), np.nan)))
    return data.assign({f"{q}_n": ((), 0.0) for q in QUANTITIES})


def _claim(data: xr.Dataset, h: np.ndarray, r: np.ndarray, why: str | None) -> Claim:
    needs = "a longer run, or several runs whose entropies differ"
    if why or len(h) < LEAST:
        reason = why or f"there are {len(h)} steps, too few to tell a law from a trend"
        return Claim("law", UNJUDGED, WHETHER, why=reason, needs=needs, n=len(h))
    pair = beyond_trend(r, -np.exp(h))
    a, low, high = (float(data[n]) for n in ("a", "a_ci_low", "a_ci_high"))
    off, trivial = float(data["extrapolation_rmse"]), float(data["trivial_rmse"])
    numbers = ", ".join(f"{q} {float(data[q]):.3g}" for q in ("b", "ceiling"))
    shown: Fields = {
        "estimand": "a of R = b - a exp(H), errors autoregressive", "effect": a, "low": low, "high": high, "n": len(h),
        "unit": "reward", "p": max(f.p() for f in pair), "control": f"last value or line: error {trivial:.2g} later on",
        "assumptions": (f"error on later steps {off:.2g}", f"{numbers}", "tested beyond a cubic trend of the step"),
    }  # fmt: skip
    if is_associated(pair) and off < trivial and pair[0].values[0] * a > 0:
        if a > 0:
            return Claim("law", FOUND, "reward follows entropy as R = b - a exp(H), a being", **shown)
        caveat = "the reverse of the law: there is no ceiling to speak of"
        return Claim(
            "reverse", FOUND, "reward rises with entropy, the reverse of the law, a being", caveat=caveat, **shown
        )
    _, near, far = pair[0].combined(np.eye(5)[0])
    if (low > 0 or high < 0) and near < a < far:
        return Claim("law", UNJUDGED, WHETHER, why="both only trend, and any two trends agree", needs=needs, n=len(h))
    return Claim("law", NONE, "a law that ties reward to entropy beyond trends, a being", **shown)


def figures(result: Result) -> dict[str, Figure]:
    """Reward against entropy with the law, both over steps, and the law's error beside that of who knows no entropy."""

    table = result.table
    rows = pd.concat(
        [
            table.rename(columns={"reward": "shown"}).assign(what="logged, " + table["part"]),
            table.rename(columns={"predicted_reward": "shown"}).assign(what="law"),
        ]
    )
    titles: dict[str, Any] = {"x_title": "mean entropy (nats)", "y_title": "reward"}
    law = scatter(rows, x="entropy_nats", y="shown", color="what", title="Reward against entropy", **titles)
    steps = scatter(rows, x="step", y="shown", color="what", title="Reward over steps", y_title="reward")
    found = [(label, float(result.data[name])) for name, label in AGAINST.items()]
    errors = pd.DataFrame(found, columns=["error", "value"]).assign(unit="reward").dropna()
    title = "Error on steps after the fitted ones (RMSE)"
    return {"law": law, "steps": steps, "errors": forest(errors, label="error", reference=0.0, title=title)}
