"""Does reward follow entropy, R = -a exp(H) + b, and what ceiling does that leave?

Definition: ordinary least squares of the reward R_t on (-exp(H_t), 1) at the steps that have both; ceiling = b - a is
    the reward at H = 0; dR/dH = -a exp(H). The first `fit_steps` steps are fitted, the rest predicted:
    extrapolation_rmse and final_error are the errors there. Intervals are of autocorrelation-robust (Newey-West)
    standard errors, since consecutive steps are not independent.
Units: rewards as logged; entropy in nats; a and b in units of reward.
Source: arXiv 2505.22617 Eq. 6 (a box there prints exp(H + b), which contradicts it). Published: the first 36 steps
    predict the next 200 with RMSE .9 % (math), 1.2 % (code); not claimed to be universal.
Does not show: that spending entropy causes reward. One run fixes two numbers for its model and data only; where
    exp(H) hardly varies there is nothing to fit, and no numbers are given.
Control: the extrapolated half; a run whose reward is random (a is then about 0, and its interval holds 0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.figures import scatter
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
    from probe import RunLog

LEAST_STEPS = 6
QUANTITIES = ("a", "b", "ceiling")
ERRORS = ("rmse", "extrapolation_rmse", "final_error")


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
    why = refusal(both["entropy_nats"].to_numpy()[fitted], least_range)
    data = _empty() if why else fit(both["entropy_nats"].to_numpy(), both["reward"].to_numpy(), count)
    table = both.reset_index(names="step")
    a, b = float(data["a"]), float(data["b"])
    table["predicted_reward"] = b - a * np.exp(table["entropy_nats"])
    table["part"] = np.where(fitted, "fitted", "predicted")
    return Result.of(table, data, verdict=why or _verdict(data), warnings=[*log.notes, *([why] if why else [])])


def refusal(entropies: np.ndarray, least_range: float) -> str | None:
    """Why nothing can be fitted to these entropies, or None."""
    if len(entropies) < LEAST_STEPS:
        return f"not fitted: {len(entropies)} steps to fit, at least {LEAST_STEPS} are needed"
    spread = float(np.ptp(np.exp(entropies)))
    if spread < least_range:
        return (
            f"not fitted: exp(H) ranges over {spread:.3g} only (least_range {least_range}): a and b are not determined"
        )
    return None


def fit(entropies: np.ndarray, rewards: np.ndarray, count: int) -> xr.Dataset:
    """The law fitted to the first `count` steps, with its errors on the others."""
    import statsmodels.api as sm

    design = np.column_stack([-np.exp(entropies), np.ones(len(entropies))])
    lags = int(np.floor(4 * (count / 100) ** (2 / 9)))
    found: Any = sm.OLS(rewards[:count], design[:count]).fit(cov_type="HAC", cov_kwds={"maxlags": lags})
    ceiling = found.t_test(np.array([[-1.0, 1.0]]))
    bounds = np.vstack([found.conf_int(), ceiling.conf_int()])
    values = [*found.params, float(ceiling.effect[0])]
    data = xr.Dataset()
    for name, value, (low, high) in zip(QUANTITIES, values, bounds, strict=True):
        for suffix, number in (("", value), ("_ci_low", low), ("_ci_high", high), ("_n", count)):
            data[name + suffix] = ((), float(number))
        data[name].attrs["units"] = "reward"
    errors = rewards - design @ found.params
    rest = errors[count:]
    numbers = (np.sqrt((errors[:count] ** 2).mean()), np.sqrt((rest**2).mean()) if len(rest) else np.nan)
    for name, number in zip(ERRORS, (*numbers, errors[-1] if len(rest) else np.nan), strict=True):
        data[name] = ((), float(number), {"units": "reward"})
    return data


def _empty() -> xr.Dataset:
    names = [q + s for q in QUANTITIES for s in ("", "_ci_low", "_ci_high")]
    data = xr.Dataset(dict.fromkeys((*names, *ERRORS), ((), np.nan)))
    return data.assign({f"{q}_n": ((), 0.0) for q in QUANTITIES})


def _verdict(data: xr.Dataset) -> str:
    a, low, high = (float(data[n]) for n in ("a", "a_ci_low", "a_ci_high"))
    if low <= 0 <= high:
        return f"reward does not follow exp(H) here: a = {a:.3g}, interval [{low:.3g}, {high:.3g}] holds 0"
    off = f"off by {float(data['extrapolation_rmse']):.2g} (RMSE) on later steps"
    law = f"R = {float(data['b']):.3g} {'-' if a > 0 else '+'} {abs(a):.3g} exp(H)"
    if a < 0:
        return f"{law}: reward rose with entropy, the reverse of the law, so there is no ceiling to speak of; {off}"
    return f"{law}, ceiling {float(data['ceiling']):.3g}, {off}"


def figures(result: Result) -> dict[str, Any]:
    """Reward against entropy with the law, and both over steps."""

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
    return {"law": law, "steps": steps}
