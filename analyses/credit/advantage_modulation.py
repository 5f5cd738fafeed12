"""What entropy-modulated methods would do with a log's advantages: EMPG's weights, AEPO's temperature, EPO's band.

Definition: a segment is a part of a response between logged boundaries (a whole response without any), H_t the mean
    token entropy of segment t. EMPG: Hn = (H - min) / (max - min + 1e-8) over a rollout step, g = exp(-k Hn) divided by
    its mean, f = exp(-k' Hn); A_mod = A g(H_t) + zeta f(H_{t+1}), no bonus for a response's last segment, minus the
    batch mean. AEPO: entropy at temperature T, dH/dT = Var_{p_T}(z) / T^3, and the T at which the mean entropy is a
    target. EPO: share of segments whose H leaves [kmin, kmax] times the mean over earlier steps of the same turn.
Units: nats; dH/dT in nats per unit of temperature; weights and shares have none.
Source: EMPG, arXiv 2509.09265 (k = k' = 1, zeta = .05 from a re-implementation); AEPO, 2510.08141; EPO, 2509.22576 (as
    released its penalty carries no gradient: here it is a monitor).
Does not show: the effect of training with any of these: the log's policy was not trained with them.
Control: k = 0 (g = 1 everywhere); a constant entropy (nothing leaves the band).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve, scatter
from analyses.core.reading import rollout_tokens
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes
from probe.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Model, Rollouts

RESPONSE = ["rollout_step", "item", "group", "group_uid", "sample"]
TEMPERATURES = (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0)


def _work(case: Case) -> Work:
    """A pass over every response."""
    return passes(case, "answer")


@analysis(renamed={"k": "k_own"}, work=_work)
def advantage_modulation(
    model: Model,
    rollouts: Rollouts,
    *,
    k_own: float = 1.0,
    k_future: float = 1.0,
    zeta: float = 0.05,
    target: float = 0.5,
    temperatures: tuple[float, ...] = TEMPERATURES,
    band_low: float = 0.8,
    band_high: float = 1.2,
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Entropy of every segment with EMPG's modulated advantage; entropy by temperature; share outside EPO's band.

    Rows, one per segment: step (of the log; in a sweep, of the checkpoint), rollout_step, item, group, group_uid,
    sample, segment, n_tokens, entropy_nats, delta_entropy_nats (minus the previous segment's), advantage, empg_g,
    empg_f, empg_advantage, history_nats (mean of earlier steps at this turn; NaN at the first), outside_band (NaN at
    the first step).

    Args:
        k_own: strength of EMPG's weight on a segment's own entropy.
        k_future: strength of its bonus for a certain next segment.
        zeta: size of that bonus.
        target: mean entropy in nats for which AEPO's temperature is sought.
        temperatures: temperatures at which the mean entropy is read.
        band_low: lower end of EPO's band, as a multiple of the history.
        band_high: upper end of EPO's band.
    """

    if not temperatures or min(temperatures) <= 0:
        raise InputError(f"temperatures={temperatures}; expected at least one, all above 0")
    rollouts = rollout_tokens.readable(rollouts, model)
    rollouts.require("advantage", by="advantage_modulation")
    heats = sorted(temperatures)

    def values(logits: tuple[Tensor, ...], _targets: Tensor | None) -> dict[str, Tensor]:
        return _by_temperature(logits[0], heats)

    plan: dict[str, Any] = {"columns": ["advantage"], "batch_size": batch_size, "what": "advantage modulation"}
    frame = rollout_tokens.read([model], rollouts, values, **plan)
    marks = rollout_tokens.segments(rollouts)
    frame["segment"] = 0 if marks is None else marks.to_numpy()
    table = _segments(frame)
    steps = [_empg_step(part, k_own, k_future, zeta) for _, part in table.groupby("rollout_step", sort=True)]
    table = outside_band(pd.concat(steps).sort_index(), band_low, band_high)
    table.insert(0, "step", table["rollout_step"])  # a sweep puts the checkpoint's step here
    return Result.of(table, _aggregate(table, frame, heats, target, seed), warnings=rollouts.notes)


def _by_temperature(logits: Tensor, heats: Sequence[float]) -> dict[str, Any]:

    found = {f"at_{i}": reading.entropy(reading.log_probs(logits.double() / heat)) for i, heat in enumerate(heats)}
    return {
        "entropy_nats": reading.entropy(reading.log_probs(logits)),
        "slope": heat_derivative(logits.double(), 1.0),
        **found,
    }


def heat_derivative(logits: Float[Tensor, "*row vocab"], temperature: float) -> Float[Tensor, "*row"]:
    """dH/dT = Var_{p_T}(z) / T^3 >= 0 for p_T = softmax(z / T): exact."""

    return reading.covariance(reading.log_probs(logits / temperature), logits, logits) / temperature**3


def temperature_for(target: float, heats: Sequence[float], entropies: Sequence[float]) -> float:
    """Temperature of a target mean entropy, interpolated (entropy rises with T); NaN outside what was read.

    Args:
        target: mean entropy in nats.
        heats: temperatures, rising.
        entropies: mean entropy at each, nats.
    """
    if not entropies[0] <= target <= entropies[-1]:
        return float("nan")
    return float(np.interp(target, entropies, heats))


def empg_weights(
    entropies: Float[np.ndarray, " segment"], k: float, k_future: float
) -> tuple[Float[np.ndarray, " segment"], Float[np.ndarray, " segment"]]:
    """(g, f): g = exp(-k Hn) with mean 1, f = exp(-k' Hn), Hn the entropy between the batch's least and most.

    Args:
        entropies: mean entropy of each segment of one step, nats.
        k: strength of the weight on a segment's own entropy.
        k_future: strength of the bonus for the next segment's.
    """
    least, most = entropies.min(), entropies.max()
    hn = (entropies - least) / (most - least + 1e-8)
    g = np.exp(-k * hn)
    return g / g.mean(), np.exp(-k_future * hn)


def _segments(frame: pd.DataFrame) -> pd.DataFrame:
    grouped = frame.groupby([*RESPONSE, "segment"], sort=True)
    table = grouped.agg(
        n_tokens=("pos", "size"), entropy_nats=("entropy_nats", "mean"), advantage=("advantage", "mean")
    )
    table = table.reset_index()
    table["delta_entropy_nats"] = table.groupby(RESPONSE)["entropy_nats"].diff()
    return table


def _empg_step(part: pd.DataFrame, k: float, k_future: float, zeta: float) -> pd.DataFrame:
    """One rollout step's segments with their weights and modulated advantages (mean 0 over the step)."""
    g, f = empg_weights(part["entropy_nats"].to_numpy(), k, k_future)
    part = part.assign(empg_g=g, empg_f=f)
    bonus = zeta * part.groupby(RESPONSE)["empg_f"].shift(-1).fillna(0.0)
    changed = part["advantage"].astype(float) * g + bonus
    return part.assign(empg_advantage=changed - changed.mean())


def outside_band(table: pd.DataFrame, low: float, high: float) -> pd.DataFrame:
    """The table with each segment's history and whether its entropy leaves the band around it.

    The band is open, as published: an entropy on its edge has left it. One that equals its history has not, whatever
    the band: constant ones, 0 too, never leave. The history of a turn is the mean over earlier steps of that turn's
    mean entropy. (The released code pads its history on the left, which misaligns turns:
    not repeated here.)

    Args:
        table: rows with rollout_step, segment, entropy_nats.
        low: lower end of the band, as a multiple of the history.
        high: upper end.
    """
    turns = table.pivot_table(
        index="rollout_step", columns="segment", values="entropy_nats", aggfunc="mean"
    ).sort_index()
    history = turns.expanding().mean().shift(1)
    stacked = history.stack()
    keys = pd.MultiIndex.from_frame(table[["rollout_step", "segment"]])
    past = stacked.reindex(keys).to_numpy(float)
    h = table["entropy_nats"].to_numpy()
    left = ((h != past) & ((h <= low * past) | (h >= high * past))).astype(float)
    return table.assign(history_nats=past, outside_band=np.where(np.isnan(past), np.nan, left))


def _aggregate(
    table: pd.DataFrame, frame: pd.DataFrame, heats: Sequence[float], target: float, seed: int
) -> xr.Dataset:

    rows = frame.assign(n=1.0)
    slope: dict[str, Any] = {"per": "n", "seed": seed, "name": "dH_dT", "units": "nats per unit T"}
    found = [estimate(rows, "slope", ["rollout_step"], **slope)]
    found.append(estimate(table, "outside_band", ["rollout_step"], seed=seed, units="1"))
    data = xr.merge(found)
    steps = data["rollout_step"].values
    names = [f"at_{i}" for i in range(len(heats))]
    curves = frame.groupby("rollout_step")[names].mean().reindex(steps).to_numpy(float)
    data = data.assign_coords(alpha=list(heats))
    data["entropy_at_T_nats"] = (
        ("rollout_step", "alpha"), curves, {"units": "nats", "long_name": "mean entropy at temperature alpha"}
    )  # fmt: skip
    wanted = [temperature_for(target, heats, row) for row in curves.tolist()]
    data["temperature_for_target"] = ("rollout_step", wanted, {"units": "1"})
    spread = table.groupby("rollout_step")["entropy_nats"].var(ddof=0).reindex(steps).to_numpy(float)
    data["segment_entropy_variance"] = ("rollout_step", spread, {"units": "nats^2"})
    return data


def figures(result: Result) -> dict[str, Figure]:
    """Entropy by temperature, EMPG's weight by entropy, and the share outside EPO's band over steps."""

    rows = result.summary()
    extra = ["step"] if "step" in rows else None
    heat = result.data["entropy_at_T_nats"].to_dataframe(name="value").reset_index().assign(unit="nats")
    band = rows[rows["quantity"] == "outside_band"]
    return {
        "temperature": curve(heat, x="alpha", color="rollout_step", facet=extra, title="Mean entropy by temperature"),
        "empg": scatter(
            result.table,
            x="entropy_nats",
            y="empg_g",
            title="EMPG's weight of a segment by its entropy",
            x_title="entropy (nats)",
            y_title="g",
        ),
        "band": curve(band, x="rollout_step", color=extra, title="Share of segments outside EPO's band"),
    }
