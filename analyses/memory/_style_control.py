"""Is a rise of perplexity memorization, or only the style of the text it is measured on?

Three quantities tell them apart: NLL on rationales of the training data's own generator, and over a fixed pool of
valid rationales y_j of each item the mean NLL per token, the marginal -log mean_j p(y_j|x) and the entropy of p(y_j|x)
normalised over the pool (sequence probabilities, so the pool and its lengths must stay fixed). Concentration on a
few valid rationales leaves the marginal where it was: it is the entropy that falls. Never imports torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from analyses.core import stats
from probe.errors import InputError

FLAT = 0.02  # nats: a curve that moves less than this is read as flat


def answer_grids(table: pd.DataFrame, mask: str, answer_kind: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Summed NLL (nats) and token counts [item, step] of one kind of answer in a swept perplexity table.

    Raises:
        InputError: a table of one checkpoint, a kind or mask it does not hold, several kinds and none named.
    """
    if "step" not in table.columns:
        raise InputError("the perplexity result is of one checkpoint; sweep perplexity over the series first")
    rows = table[table["mask"] == mask]
    kinds = sorted(rows["answer_kind"].unique())
    if answer_kind is None and len(kinds) > 1:
        raise InputError(f"perplexity holds answer kinds {kinds}, which are never pooled: name one with answer_kind")
    chosen = answer_kind or (kinds[0] if kinds else None)
    rows = rows[rows["answer_kind"] == chosen]
    if not len(rows):
        masks = sorted(table["mask"].unique())
        raise InputError(f"no perplexity rows with mask={mask!r}, answer_kind={chosen!r}; masks {masks}, kinds {kinds}")
    grid: Any = rows.pivot_table(index="item", columns="step", values=["nll_nats", "n_tokens"], aggfunc="sum").dropna()
    return grid["nll_nats"], grid["n_tokens"]


def pool_measures(log_p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(marginal NLL, entropy) of a pool from sequence log-probabilities [..., rationale], both in nats.

    The marginal is -ln mean_j p(y_j|x); the entropy that of p normalised over the pool, 0 (one rationale) to ln m.
    """

    total: Any = scipy.special.logsumexp(log_p, axis=-1)
    share = np.exp(log_p - total[..., None])
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(share > 0, share * np.log(share), 0.0)
    return np.log(log_p.shape[-1]) - total, -terms.sum(-1)


def style_reading(human: float, training: float, pool: float, marginal: float, entropy: float) -> str:
    """Reading of five changes (nats, positive = rose) since the start, by the table of the method page."""
    up, down = (lambda x: x > FLAT), (lambda x: x < -FLAT)
    if not up(human):
        return "no rise of perplexity to explain"
    if up(pool) and up(marginal):
        return "mass leaves the pool of valid rationales (collapse, or a pool too small)"
    if up(pool) and down(entropy):
        return "concentration on few valid rationales"
    if not up(pool) and not up(training):
        return "style shift"
    return "undecided"


def style_control(
    table: pd.DataFrame, mask: str, answer_kind: str | None, training_kind: str | None, pool: tuple[str, ...]
) -> xr.Dataset:
    """style_* curves over `step` with intervals, and the reading of their change in ``attrs["style_reading"]``."""
    if pool and len(pool) < 4:
        raise InputError(f"a pool of {len(pool)} rationales; the style control needs at least 4 valid ones per item")
    parts: list[xr.Dataset] = []
    for name, kind in (("style_human", answer_kind), ("style_training", training_kind)):
        if kind is not None:
            nll, tokens = answer_grids(table, mask, kind)
            parts.append(_curve(name, nll.to_numpy() / tokens.to_numpy(), nll.columns))
    if pool:
        parts += _pool_curves(table, mask, pool)
    data = xr.merge(parts, join="outer")
    wanted = ("style_human", "style_training", "style_pool", "style_marginal", "style_entropy")
    if all(name in data for name in wanted):
        change = [float(data[name][-1] - data[name][0]) for name in wanted]
        data.attrs["style_reading"] = style_reading(*change)
    return data


def _pool_curves(table: pd.DataFrame, mask: str, pool: tuple[str, ...]) -> list[xr.Dataset]:
    grids = [answer_grids(table, mask, kind) for kind in pool]
    items = sorted(set.intersection(*(set(nll.index) for nll, _ in grids)))
    if not items:
        raise InputError(f"no item has all rationales of the pool {pool}")
    steps = grids[0][0].columns
    nll = np.stack([g.loc[items, steps].to_numpy(float) for g, _ in grids], axis=-1)
    tokens = np.stack([t.loc[items, steps].to_numpy(float) for _, t in grids], axis=-1)
    marginal, entropy = pool_measures(-nll)
    named = {"style_pool": (nll / tokens).mean(-1), "style_marginal": marginal, "style_entropy": entropy}
    return [_curve(name, values, steps) for name, values in named.items()]


def _curve(name: str, values: np.ndarray, steps: pd.Index) -> xr.Dataset:
    e = stats.mean_of_items(values)
    parts = {"": e.value, "_ci_low": e.ci_low, "_ci_high": e.ci_high, "_n": e.n}
    data = xr.Dataset(
        {name + suffix: ("step", part) for suffix, part in parts.items()}, coords={"step": np.asarray(steps)}
    )
    units = "nats" if name in ("style_marginal", "style_entropy") else "nats per token"
    data[name].attrs.update(units=units, long_name=name.replace("_", " "))
    return data
