"""Which tokens of a log are called forking, uncertain or high-entropy, by four methods, and how far they agree.

Definition: H is the full-vocabulary entropy before a token. `top_20`: the ceil(share N) of largest H in a loss call (or
    rollout step); `quantile`: H at or above the (1 - share) quantile of the whole rollout step (TRL's
    top_entropy_quantile, inclusive); `siren`: within each response, positions whose top-p entropy exceeds its own
    quantile; `window`: the next w tokens (all w must exist) have mean entropy at or above a threshold, the mean over
    responses of each one's percentile of H. Top-p entropy: tokens before the cumulative mass reaches p (the crossing
    one excluded), renormalised; 0 where the first alone reaches p. Overlap: Jaccard index of two marks.
Units: nats; shares and overlaps in [0, 1].
Source: top_20: arXiv 2506.01939; quantile: TRL; siren: 2509.25133; window: ARES, 2510.08457 (its trigger words are
    matched on the most likely token: give `triggers`; none = every token may start a window).
Does not show: that training on these tokens only would help: a mark is a description of the sampled tokens.
Control: the overlap expected by chance, share^2 / (2 share - share^2) = .11 at a share of .2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve, heatmap
from analyses.core.reading import rollout_tokens
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes
from probe.lazily import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Model, Rollouts

MASKS = ("top_20", "quantile", "siren", "window")
SAME = 1e-5  # nats: entropies closer than fp32 can tell, as samples of one prompt have, fall on one side of a bound
RESPONSE = ["rollout_step", "item", "group_uid", "sample"]


def _work(case: Case) -> Work:
    """A pass over every response."""
    return passes(case, "answer")


@analysis(work=_work)
def forking_tokens(
    model: Model,
    rollouts: Rollouts,
    *,
    share: float = 0.2,
    siren_p: float = 0.8,
    siren_quantile: float = 0.8,
    siren_form: Literal["strict", "forced"] = "strict",
    window: int = 4,
    window_percentile: float = 95.0,
    triggers: tuple[str, ...] = (),
    at_temperature: bool = False,
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Marks of high-entropy tokens by four methods at a checkpoint, and their overlaps.

    Rows, one per masked-in token: step (of the log; in a sweep, of the checkpoint), rollout_step, item, group,
    group_uid, sample, pos, token, token_class, entropy_nats, top_p_entropy_nats, nucleus_size (tokens it is over),
    nucleus_mass, top_10_entropy_nats (ten most likely and the rest as one: a lower bound), tail_mass, top_20,
    quantile, siren, window.

    Args:
        share: that top_20 and quantile mark.
        siren_p: cumulative mass of top-p entropy.
        siren_quantile: quantile within each response above which SIREN marks.
        siren_form: strict leaves the crossing token out (as trained); forced always keeps the first (as its helper).
        window: those after a trigger, whose mean entropy counts.
        window_percentile: percentile of each response whose mean over responses is the threshold.
        triggers: words that may start a window; none given means every token.
    """

    rollouts = rollout_tokens.readable(rollouts, model)

    def values(logits: tuple[Tensor, ...], _targets: Tensor | None) -> dict[str, Tensor]:
        return _values(logits[0], siren_p, siren_form == "forced")

    micro = ["micro_batch_id"] * ("micro_batch_id" in rollouts.columns)
    plan: dict[str, Any] = {"batch_size": batch_size, "at_temperature": at_temperature, "what": "forking tokens"}
    table = rollout_tokens.read([model], rollouts, values, columns=micro, **plan)
    calls = table.groupby(["rollout_step", *micro])["entropy_nats"]
    table["top_20"] = calls.transform(lambda x: top_share(x.to_numpy(), share)).astype(bool)
    steps = table.groupby("rollout_step")["entropy_nats"]
    table["quantile"] = table["entropy_nats"] >= steps.transform(lambda x: x.quantile(1 - share)) - SAME
    responses = table.groupby(RESPONSE)["top_p_entropy_nats"]
    table["siren"] = table["top_p_entropy_nats"] > responses.transform(lambda x: x.quantile(siren_quantile)) + SAME
    table["window"] = _windows(table, window, window_percentile) & _triggered(table, triggers, model)
    table = table.drop(columns="top_token")
    table.insert(0, "step", table["rollout_step"])  # a sweep puts the checkpoint's step here
    return Result.of(table, _aggregate(table, seed), warnings=rollouts.notes)


def _values(logits: Tensor, p: float, forced: bool) -> dict[str, Any]:

    logp = reading.log_probs(logits)
    bound, tail = top_k_entropy(logp, 10)
    return {
        "entropy_nats": reading.entropy(logp),
        "top_p_entropy_nats": top_p_entropy(logp, p, forced=forced),
        **nucleus(logp, p, forced=forced),
        "top_10_entropy_nats": bound,
        "tail_mass": tail,
        "top_token": logp.argmax(-1),
    }


def top_p_entropy(
    logp: Float[Tensor, "row vocab"], p: float, *, cap: int = 10_000, forced: bool = False
) -> Float[Tensor, " row"]:
    """Entropy of the tokens before the cumulative mass reaches p, renormalised; 0 where none or one is left.

    `forced` keeps tokens while the cumulative mass is at most p, and always the first: the released helper's form,
    which at p = 1 is the full entropy.

    Args:
        logp: log-probabilities in nats.
        p: cumulative mass.
        cap: most tokens looked at.
        forced: keep the first token always.
    """
    kept = _kept(logp, p, cap, forced)
    total = kept.sum(-1, keepdim=True)
    return torch.special.entr(kept / total.clamp(min=1e-300)).sum(-1)


def nucleus(
    logp: Float[Tensor, "row vocab"], p: float, *, cap: int = 10_000, forced: bool = False
) -> dict[str, Float[Tensor, " row"]]:
    """How many tokens top-p entropy is taken over, and the mass they hold (at most p; 0 and 0 where the first alone
    reaches p and is left out).

    Args:
        logp: log-probabilities in nats.
        p: cumulative mass.
        cap: most tokens looked at.
        forced: keep the first token always.
    """
    kept = _kept(logp, p, cap, forced)
    return {"nucleus_size": (kept > 0).sum(-1).to(logp.dtype), "nucleus_mass": kept.sum(-1)}


def _kept(logp: Tensor, p: float, cap: int, forced: bool) -> Tensor:
    """Probabilities before the cumulative mass reaches p, 0 elsewhere; likeliest first."""
    top = logp.topk(min(cap, logp.shape[-1]), dim=-1).values.exp()
    mass = top.cumsum(-1)
    # A sum of all probabilities may end a rounding error above 1.
    keep = mass <= p + 1e-9 if forced else mass < p
    if forced:
        keep[:, 0] = True
    return torch.where(keep, top, 0.0)


def top_k_entropy(logp: Float[Tensor, "row vocab"], k: int) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
    """(entropy with everything but the k most likely tokens as one bucket, mass of that bucket).

    A lower bound of H; what it misses is at most tail ln(V - k).
    """
    top = logp.topk(min(k, logp.shape[-1]), dim=-1).values.exp()
    tail = (1 - top.sum(-1)).clamp(min=0.0)
    return torch.special.entr(top).sum(-1) + torch.special.entr(tail), tail


def top_share(entropies: Float[np.ndarray, " token"], share: float) -> Bool[np.ndarray, " token"]:
    """The ceil(share N) tokens of largest entropy (ties: the first), at most all."""
    chosen = np.zeros(len(entropies), bool)
    # 0.2 * 15 is 3.0000000000000004 in floating point: its ceiling must be 3.
    wanted = int(np.ceil(round(share * len(entropies), 9)))
    chosen[np.argsort(-np.round(entropies, 4), kind="stable")[:wanted]] = True
    return chosen


def window_means(entropies: Float[np.ndarray, " pos"], size: int) -> Float[np.ndarray, " pos"]:
    """Mean entropy of the next `size` tokens at each position; NaN where fewer follow."""
    out = np.full(len(entropies), np.nan)
    if len(entropies) > size:
        sums = np.convolve(entropies[1:], np.ones(size), "valid")
        out[: len(sums)] = sums / size
    return out


def _windows(table: pd.DataFrame, size: int, percentile: float) -> pd.Series:
    grouped = table.groupby(RESPONSE)["entropy_nats"]
    means = grouped.transform(lambda x: pd.Series(window_means(x.to_numpy(), size), index=x.index))
    tops = grouped.quantile(percentile / 100).groupby("rollout_step").mean()
    return means >= table["rollout_step"].map(tops) - SAME


def _triggered(table: pd.DataFrame, triggers: tuple[str, ...], model: Model) -> pd.Series | bool:
    if not triggers:
        return True
    words = {t.lower() for t in triggers}
    ids = {i for i in table["top_token"].unique() if model.tokenizer.decode([int(i)]).strip().lower() in words}
    return table["top_token"].isin(ids)


def siren_penalty(masked_entropies: Float[np.ndarray, " step"], weight: float = 0.005) -> Float[np.ndarray, " step"]:
    """weight (H_masked - anchor)^2 at each step, the anchor being the first step's: 0 there."""
    return weight * (masked_entropies - masked_entropies[0]) ** 2


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:

    rows = table.assign(n_tokens=1.0)
    found = [
        estimate(
            rows.assign(value=rows[m].astype(float)), "value", ["rollout_step"], per="n_tokens", seed=seed,
            name=f"{m}_share", units="1",
        )
        for m in MASKS
    ]  # fmt: skip
    found.append(estimate(rows, "nucleus_size", ["rollout_step"], per="n_tokens", seed=seed, units="tokens"))
    data = xr.merge(found).assign_coords(signal=list(MASKS), variant=list(MASKS))
    marks = table[list(MASKS)].to_numpy(float)
    both, sizes = marks.T @ marks, marks.sum(0)
    either = sizes[:, None] + sizes[None] - both
    jaccard = np.divide(both, either, out=np.full(both.shape, np.nan), where=either > 0)
    data["overlap"] = (("signal", "variant"), jaccard, {"units": "1", "long_name": "Jaccard overlap of marks"})
    masked = table[table["siren"]].groupby("rollout_step")["entropy_nats"].mean()
    masked = masked.reindex(data["rollout_step"].values).to_numpy(float)
    data["siren_entropy_nats"] = ("rollout_step", masked, {"units": "nats"})
    data["siren_penalty"] = ("rollout_step", siren_penalty(masked), {"units": "loss"})
    classes = sorted(table["token_class"].unique())
    shares = table.groupby("token_class")[list(MASKS)].mean().reindex(classes)
    data = data.assign_coords(token_class=classes)
    data["share_by_class"] = (("token_class", "signal"), shares.to_numpy(float), {"units": "1"})
    return data


def figures(result: Result) -> dict[str, Figure]:
    """Overlap of the marks, the classes of tokens they mark, their shares over steps, the size of the nucleus."""

    def cells(name: str) -> pd.DataFrame:
        frame = result.data[name].to_dataframe(name="value").reset_index()
        if "step" in frame:  # a sweep: the last checkpoint
            frame = frame[frame["step"] == frame["step"].max()].drop(columns="step")
        return frame

    rows = result.summary()
    extra = [c for c in ("step",) if c in rows]

    def over(which: pd.Series, title: str) -> Figure:
        return curve(rows[which], x="rollout_step", color="quantity", facet=extra or None, title=title)

    return {
        "overlap": heatmap(cells("overlap"), x="signal", y="variant", title="Jaccard overlap of marks", unit="1"),
        "classes": heatmap(
            cells("share_by_class"), x="signal", y="token_class", title="Share of each class that is marked", unit="1"
        ),
        "shares": over(rows["quantity"].str.endswith("_share"), "Share of tokens marked"),
        "nucleus": over(rows["quantity"] == "nucleus_size", "Tokens that hold the first top-p mass, mean over tokens"),
    }
