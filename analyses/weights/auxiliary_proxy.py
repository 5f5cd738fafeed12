"""Does an auxiliary update pull the log's tokens the way the reinforcement update did? Without any gradient.

Definition: at every logged token, main = log pi_new - log pi_old, what the reinforcement update did to it (columns
`new_logp` and `old_logp`), aux = log pi_tuned - log pi_base, what the auxiliary update did (`base` to `tuned`: some
steps of SFT, of a KL penalty or of multi-token heads alone). inner = sum of main aux, cosine = inner / (|main|
|aux|), proxy = max(inner, 0) / (|aux|^2 + eps): the share of the auxiliary update that is worth taking, by least
squares. All sums are over an item's tokens, then over items.

Units: inner in nats squared per token; cosine and proxy have none.

Source: OCC, arXiv 2605.28184 (its forward proxy; eps is ours).

Does not show: cause, nor what both updates would do together: log-probabilities of sampled tokens alone are compared,
to first order. Tokens that the sampler rarely gives are rarely seen.

Control: the reinforcement update itself in the place of the auxiliary one (cosine and proxy 1); the same checkpoint
twice (aux 0: nothing to judge).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import forest
from analyses.core.reading import rollout_tokens
from analyses.core.result import Result
from analyses.core.stats import estimate, subsample_interval, subsamples
from analyses.core.work import Case, Work, passes

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Model, Rollouts

FEWEST = 8  # items
EPS = 1e-12


def _work(case: Case) -> Work:
    """A pass of each checkpoint over every response."""
    return passes(case, "answer")


@analysis(work=_work)
def auxiliary_proxy(
    base: Model, tuned: Model, rollouts: Rollouts, *, draws: int = 500, batch_size: int = 8, seed: int = 0
) -> Result:
    """Agreement of an auxiliary update with the logged reinforcement update, token by token.

    Rows, one per item: item, group, n_tokens, inner, main_squared, aux_squared (sums over its tokens). Arrays: cosine
    and proxy with intervals of subsamples of the items, inner per token.

    Args:
        draws: subsamples of the items.
        seed: subsamples and the bootstrap over items.
    """
    warnings = reading.pair_warnings(base, tuned)
    rollouts.require("old_logp", "new_logp", by="auxiliary_proxy")
    rollouts = rollout_tokens.readable(rollouts, base)
    plan: dict[str, Any] = {"batch_size": batch_size, "what": "auxiliary proxy", "columns": ["old_logp", "new_logp"]}
    frame = rollout_tokens.read([base, tuned], rollouts, _values, **plan)
    frame["main"], frame["aux"] = frame["new_logp"] - frame["old_logp"], frame["after"] - frame["before"]
    table = of_items(frame.dropna(subset=["main", "aux"]))
    data = _arrays(table, draws, seed)
    return Result.of(table, data, claims=[_claim(table, data)], warnings=[*warnings, *rollouts.notes])


def _values(logits: tuple[Any, ...], targets: Any) -> dict[str, Any]:
    at = targets[:, None]
    return {
        name: reading.log_probs(z).gather(-1, at)[:, 0] for name, z in zip(("before", "after"), logits, strict=True)
    }


def of_items(frame: pd.DataFrame) -> pd.DataFrame:
    """Sums of products over every item's tokens."""
    made = frame.assign(
        inner=frame["main"] * frame["aux"], main_squared=frame["main"] ** 2, aux_squared=frame["aux"] ** 2, n_tokens=1
    )
    sums = ["n_tokens", "inner", "main_squared", "aux_squared"]
    return made.groupby(["item", "group"], sort=True)[sums].sum().reset_index()


def compared(inner: np.ndarray, main: np.ndarray, aux: np.ndarray) -> dict[str, np.ndarray]:
    """cosine and proxy from sums of products; NaN where one of the updates does nothing."""
    scale = np.sqrt(main * aux)
    cosine = np.divide(inner, scale, out=np.full(inner.shape, np.nan), where=scale > 0)
    proxy = np.where(aux > 0, np.maximum(inner, 0) / (aux + EPS), np.nan)
    return {"cosine": np.clip(cosine, -1, 1), "proxy": proxy}


def _arrays(table: pd.DataFrame, draws: int, seed: int) -> xr.Dataset:
    values = table[["inner", "main_squared", "aux_squared"]].to_numpy(float).T
    kept = subsamples(len(table), draws, seed, least=2) if len(table) > 2 else np.zeros((0, len(table)))
    weights = np.concatenate([np.ones((1, len(table))), kept])
    found = compared(*(weights @ v for v in values))
    label = "main times auxiliary change, per token"
    data = estimate(table, "inner", [], per="n_tokens", seed=seed, units="nats^2", long_name=label)
    for name, drawn in found.items():
        bounds = subsample_interval(drawn[:, None], kept)[:, 0] if len(kept) else np.full(2, np.nan)
        data[name] = ((), float(drawn[0]), {"units": "1", "long_name": f"{name} of the two updates"})
        data[f"{name}_ci_low"], data[f"{name}_ci_high"] = ((), bounds[0]), ((), bounds[1])
        data[f"{name}_n"] = ((), len(table))
    return data


def _claim(table: pd.DataFrame, data: xr.Dataset) -> Claim:
    """Whether the auxiliary update pulls the same way: the inner product's interval over items leaves out 0."""
    what, n = "the auxiliary update pulls tokens as the reinforcement update did", len(table)
    if n < FEWEST:
        return Claim("auxiliary", UNJUDGED, what, why=f"{n} items are too few", needs=f"at least {FEWEST} items", n=n)
    value, low, high = (float(data[f"cosine{side}"]) for side in ("", "_ci_low", "_ci_high"))
    sure = [float(data[f"inner{side}"]) for side in ("_ci_low", "_ci_high")]
    if np.isnan(value) or np.isnan(sure).any():
        why, needs = "one of the two updates changes nothing", "an update that acts on the log's tokens"
        return Claim("auxiliary", UNJUDGED, what, why=why, needs=needs, n=n)
    said: Fields = {
        "effect": value, "low": min(low, value), "high": max(high, value), "n": n, "unit": "cosine",
        "control": "an update that changes other tokens (0)", "estimand": "cosine of changes of log-probability",
    }  # fmt: skip
    if sure[1] < 0:
        return Claim("auxiliary", FOUND, "the auxiliary update pulls tokens against the reinforcement update", **said)
    return Claim("auxiliary", FOUND if sure[0] > 0 else NONE, what, **said)


def figures(result: Result) -> dict[str, Figure]:
    """Cosine and proxy with their intervals; with steps, one line a step."""
    rows = result.summary()
    label = ["quantity", "step"] if "step" in rows else "quantity"
    rows = rows[rows["quantity"].isin(["cosine", "proxy"])]
    return {"proxy": forest(rows, label=label, title="Auxiliary update against the logged one", unit="1")}
