"""Gradient estimates of every patch from two runs and one backward pass, and how far they can be trusted here.

Definition: the effect of denoising a site (clean value into the corrupt run) is estimated to first order,
    sum over coordinates of (clean - corrupt) x dM/dsite at the corrupt run (AtP). With steps > 1 the gradient is the
    mean over runs whose embeddings go from corrupt to clean (integrated gradients on the inputs). With the QK fix,
    q and k are carried through the softmax exactly: z is recomputed with the clean q (or k) and its change
    multiplied by dM/dz. The largest estimates and as many random others are then patched exactly (replay), and
    Spearman's rank correlation over the random ones is reported.
Units: nats per token (M is the mean teacher-forced log-probability of the answer's tokens); the correlation has none.
Source: arXiv 2310.10348 (attribution patching), 2403.00745 (AtP*, the QK fix), 2403.17806 (integrated gradients).
Does not show: an effect where the metric is curved along the patch: saturated softmaxes and norms make estimates
    too small or of the wrong sign, and effects of opposite sign cancel. What is not verified is a guess.
Control: the exact effects of the verified cells; their rank correlation with the estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import curve, heatmap, scatter
from analyses.core.progress import progress
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes, replays, together
from analyses.patching._clean_and_corrupt import paired_batches
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Model, Prompts

CELL = ["site", "layer", "head", "pos"]
FEWEST = 8  # random places verified
RANKS = "estimates rank places as exact patches do"


def _work(case: Case) -> Work:
    """Both prompts, a pass and its gradient a step, and the cells that are verified by replay."""
    options = case.options
    steps = 1 + (int(options["steps"]) if int(options["steps"]) > 1 else 0)
    gradients = passes(case, "answer", times=3 * steps)
    exact = replays(case, range(case.n_layers), 2 * int(options["verify"]) / case.n_layers)
    return together(passes(case, "answer", times=3), gradients, exact)


@analysis(work=_work)
def attribution_patching(
    model: Model,
    prompts: Prompts,
    *,
    sites: tuple[str, ...] = ("attn_out", "mlp_out", "z"),
    layers: tuple[int, ...] = (),
    positions: Literal["each", "all_prompt"] = "all_prompt",
    steps: int = 1,
    qk_fix: bool = True,
    verify: int = 20,
    corrupt: Literal["column", "rotate"] = "column",
    template: Literal["none", "chat"] = "none",
    boundary: Literal["joint", "concat", "offsets"] = "joint",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Estimated effect of denoising every site, with the exact effect of some and the rank correlation.

    Rows: item, group, answer_kind, site, layer, head, pos (missing unless positions=each), estimate, exact (missing
    where not verified), chosen (top, random or no).

    Args:
        positions: each prompt token by itself, or the sum over them (patched together when verified).
        steps: the one run is the corrupt one.
        qk_fix: carry q and k through the softmax exactly.
        seed: random choice and the bootstrap over items.
    """
    from analyses.patching._gradients import PromptPair

    if steps < 1 or verify < 0:
        raise InputError(f"steps={steps}, verify={verify}; expected at least 1 step and 0 verified cells")
    plan: dict[str, object] = {"batch_size": batch_size, "template": template, "boundary": boundary}
    pairs, warnings = paired_batches(model, prompts, corrupt, **plan)
    places = reading.chosen_sites(model, sites, layers, ())
    runs = [PromptPair(model, clean, other) for clean, other in pairs]
    estimates = [
        pair.estimates(places, positions, steps, qk_fix)
        for pair in progress(runs, "attribution patching", total=len(runs))
    ]
    table = pd.concat(estimates, ignore_index=True)
    cells = _chosen(table, verify, seed)
    exact = pd.concat([pair.exact(cells) for pair in runs]) if verify else None
    table = _with_exact(table, cells, exact)
    return Result.of(table, _aggregate(table, seed), claims=_claims(table), warnings=warnings)


def _chosen(table: pd.DataFrame, verify: int, seed: int) -> pd.DataFrame:
    """Cells (site, layer, head, pos) to verify: the largest mean estimates, and as many random others."""
    mean = table.groupby(CELL, dropna=False, sort=True)["estimate"].mean().reset_index()
    mean = mean.sort_values("estimate", key=lambda v: -v.abs(), kind="stable", ignore_index=True)
    mean["cell"] = np.arange(len(mean))
    rest = np.arange(min(verify, len(mean)), len(mean))
    drawn = np.random.default_rng(seed).choice(rest, size=min(verify, len(rest)), replace=False)
    mean["chosen"] = np.where(mean["cell"] < verify, "top", "no")
    mean.loc[drawn, "chosen"] = "random"
    return mean[mean["chosen"] != "no"]


def _with_exact(table: pd.DataFrame, cells: pd.DataFrame, exact: pd.DataFrame | None) -> pd.DataFrame:
    # A merge does not match missing keys: they are -1 while it runs.
    keyed = table.assign(**{c: table[c].fillna(-1) for c in CELL[1:]})
    known = cells.assign(**{c: cells[c].fillna(-1) for c in CELL[1:]})
    keyed = keyed.merge(known[[*CELL, "cell", "chosen"]], on=CELL, how="left")
    keyed["chosen"] = keyed["chosen"].fillna("no")
    if exact is None:
        keyed["exact"] = np.nan
    else:
        keyed = keyed.merge(exact, on=["item", "answer_kind", "cell"], how="left")
    for column in CELL[1:]:
        keyed[column] = keyed[column].astype("Int64").mask(keyed[column] == -1)
    names = ["item", "group", "answer_kind", *CELL, "estimate", "exact", "chosen"]
    return keyed[names].sort_values([*CELL, "item", "answer_kind"], kind="stable", ignore_index=True)


def _agreement(table: pd.DataFrame, chosen: Sequence[str]) -> float:
    """Spearman's correlation of mean estimate and mean exact effect over the chosen cells; NaN below three."""

    rows = table[table["chosen"].isin(chosen)]
    cells = rows.groupby(CELL, dropna=False)[["estimate", "exact"]].mean()
    if len(cells) < 3 or (cells.nunique() < 2).any():
        return float("nan")
    found: Any = scipy.stats.spearmanr(cells["estimate"], cells["exact"])
    return float(found.statistic)


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    """Mean estimate and exact effect per cell and group, and the rank correlations."""

    rows = table.assign(layer=table["layer"].fillna(-1).astype(int))
    parts: list[xr.Dataset] = []
    for prefix, own in (("", rows[rows["head"].isna()]), ("head_", rows[rows["head"].notna()])):
        if own.empty:
            continue
        extra = [d for d in ("head", "pos") if own[d].notna().any()]
        by = ["site", "layer", *extra, "group", "answer_kind"]
        own = own.astype(dict.fromkeys(extra, int))
        names = {"estimate": "estimated change of the answer's log-probability", "exact": "exact change of it"}
        for column, long_name in names.items():
            label: dict[str, Any] = {"units": "nats/token", "long_name": long_name, "seed": seed}
            parts.append(estimate(own, column, by, name=f"{prefix}{column}", **label))
    data = xr.merge(parts, join="outer", compat="no_conflicts", combine_attrs="drop_conflicts")
    for name, chosen in (("random", ("random",)), ("all_verified", ("top", "random"))):
        data[f"rank_correlation_{name}"] = xr.DataArray(_agreement(table, chosen), attrs={"units": "1"})
    return data


def _claims(table: pd.DataFrame) -> list[Claim]:
    """Whether estimates rank places as exact patches do, by the random places alone (the largest were picked)."""
    verified = table[table["chosen"] != "no"]
    if verified.empty:
        return []
    cells = verified.groupby([*CELL, "chosen"], dropna=False)[["estimate", "exact"]].mean().reset_index()
    random = cells[cells["chosen"] == "random"]
    signs = float((np.sign(cells["estimate"]) == np.sign(cells["exact"])).mean())
    return [
        agreement(random[["estimate", "exact"]].to_numpy(float), f"sign right in {signs:.0%} of {len(cells)} places")
    ]


def agreement(pairs: np.ndarray, noted: str = "") -> Claim:
    """The claim of (estimate, exact effect) of places drawn at random; [place, 2].

    The interval of Spearman's correlation is Bonett and Wright's (2000), on Fisher's scale.
    """
    n = len(pairs)
    said: Fields = {"n": n, "control": "exact patches of places drawn at random", "group": None}
    if n < FEWEST:
        needs = f"verify of at least {FEWEST}, and as many places besides the largest"
        return Claim("agreement", UNJUDGED, RANKS, why=f"{n} random places were verified", needs=needs, **said)
    if (np.ptp(pairs, axis=0) == 0).any():
        needs = "places that differ"
        return Claim("agreement", UNJUDGED, RANKS, why="all places have one effect", needs=needs, **said)
    rank: Any = scipy.stats.spearmanr(pairs[:, 0], pairs[:, 1])
    r = float(rank.statistic)
    reach = scipy.stats.t.ppf(0.975, n - 2) * np.sqrt((1 + r**2 / 2) / (n - 3))
    low, high = (r, r) if abs(r) == 1 else (float(np.tanh(np.arctanh(r) + side * reach)) for side in (-1, 1))
    return Claim(
        "agreement", FOUND if low > 0 else NONE, f"{RANKS}, rank correlation" if low > 0 else f"that {RANKS}",
        estimand="Spearman's correlation of estimate and exact effect over places", effect=r, low=low, high=high,
        is_change=False, assumptions=(noted,) if noted else (), **said,
    )  # fmt: skip


def figures(result: Result) -> dict[str, Figure]:
    """Estimates by layer (and head, or position), and estimate against exact effect of the verified cells."""

    rows = result.summary()
    drawn: dict[str, Any] = {}
    for name in ("estimate", "head_estimate"):
        part = rows[rows["quantity"] == name]
        if part.empty:
            continue
        facet = [d for d in ("step", "group", "answer_kind", "site") if d in part and part[d].nunique() > 1]
        title = "Estimated effect of the patch (gradient, not verified): mean over items"
        across = next((d for d in ("pos", "head") if d in part and part[d].notna().any()), None)
        if across is None:
            drawn[name] = curve(part, x="layer", facet=facet or None, title=title, reference=0.0)
        else:
            more = ["head"] if across == "pos" and name == "head_estimate" else []
            drawn[name] = heatmap(part, x=across, y="layer", facet=[*facet, *more] or None, title=title)
    cells = result.table[result.table["chosen"] != "no"]
    if len(cells):
        mean = cells.groupby([*CELL, "chosen"], dropna=False)[["estimate", "exact"]].mean().reset_index()
        looks: dict[str, Any] = {
            "x_title": "estimate (nats/token)",
            "y_title": "exact effect (nats/token)",
        }
        title = "Estimate against exact effect of the verified cells"
        drawn["agreement"] = scatter(mean, x="estimate", y="exact", color="chosen", title=title, diagonal=True, **looks)
    return drawn
