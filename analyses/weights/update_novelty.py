"""Whether the responses of a group would move the model in new directions or in one and the same.

Definition: phi = grad_h log p(y | h) at a sampled token y, h the state behind the final norm (of a plain head W:
    W_y - sum_v p_v W_v); Phi its mean over a response's tokens. For responses i, j of a sampling group S_ij =
    cos(Phi_i, Phi_j) and w_ij = e^(r_j) / sum_(k != i) e^(r_k): novelty_i = max(1 - sum_(j != i) w_ij S_ij^2, 0), 0
    where all others point the same way or the opposite, 1 at right angles. collinear = share of the others with S >
    `collinear_above`, negative = share with S < 0. shaped = clip(r (1 + scale r novelty / max novelty), +-3).
Units: novelty and shares in [0, 1]; shaped in units of the reward.
Source: arXiv 2512.15687.
Does not show: gradients of the weights: only of the last state, so what layers below would change is not seen.
    Novelty is high where a group's responses are unlike, useful or not.
Control: one response twice (novelty 0); rewards permuted within the group; unrelated responses (1 minus 1 / d_model on
    average for random directions).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve, scatter
from analyses.core.progress import progress
from analyses.core.reading import rollout_tokens
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes
from probe.errors import InputError
from probe.lazily import torch
from probe.rollouts import WINDOW

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Model, Rollouts

KEYS = ["rollout_step", "item", "group", "group_uid", "sample"]
LARGEST = 3.0  # a shaped reward is clipped to this
NOTHING = 1e-5  # novelty of a group below this is rounding, which a division by the largest would blow up
QUANTITIES = {
    "novelty": "novelty of a response's update direction",
    "collinear": "share of the group in the same direction",
    "negative": "share of the group in opposed directions",
}


def _work(case: Case) -> Work:
    """A pass and its gradient over every response."""
    return passes(case, "answer", times=3)


@analysis(work=_work)
def update_novelty(
    model: Model,
    rollouts: Rollouts,
    *,
    scale: float = 1.0,
    collinear_above: float = 0.9,
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Novelty of every response's update direction in its group, collinear and opposed shares, the shaped reward.

    Rows, one per response: rollout_step, item, group, group_uid, sample, n_tokens, reward, novelty, collinear,
    negative, shaped (NaN in a group of one, or of a response without tokens). Forward passes only.

    Args:
        scale: how much novelty changes a reward.
        collinear_above: cosine above which two responses count as one direction.
    """
    if not -1 <= collinear_above <= 1:
        raise InputError(f"collinear_above={collinear_above}; expected a cosine")
    rollouts.require("reward", by="update_novelty")
    log = rollout_tokens.readable(rollouts, model)
    rows = log.scalars(["reward"]).rename(columns={"step": "rollout_step"})
    rows["reward"] = pd.to_numeric(rows["reward"], errors="coerce").astype(float)
    phi, counts = directions(model, log, batch_size)
    rows = rows.assign(n_tokens=counts, **dict.fromkeys((*QUANTITIES, "shaped"), np.nan)).reset_index(drop=True)
    for at in rows.groupby(["rollout_step", "group_uid"], sort=True).indices.values():
        own = at[(counts[at] > 0) & ~np.isnan(rows["reward"].to_numpy()[at])]
        for name, values in novelty(phi[own], rows["reward"].to_numpy()[own], scale, collinear_above).items():
            rows.loc[own, name] = values
    table = rows[[*KEYS, "n_tokens", "reward", *QUANTITIES, "shaped"]].sort_values(KEYS, kind="stable")
    data = xr.merge(
        [estimate(table, q, ["rollout_step"], seed=seed, units="1", long_name=t) for q, t in QUANTITIES.items()]
    )
    return Result.of(table, data, warnings=rollouts.notes)


def novelty(phi: np.ndarray, reward: np.ndarray, scale: float, collinear_above: float) -> dict[str, np.ndarray]:
    """Every quantity of the responses of one group; {} for fewer than two.

    Args:
        phi: directions [response, d_model].
        reward: of each response.
        scale: how much novelty changes a reward.
        collinear_above: cosine above which two responses count as one direction.
    """
    n = len(phi)
    if n < 2:
        return {}
    size = np.linalg.norm(phi, axis=1)
    unit = np.divide(phi, size[:, None], out=np.zeros_like(phi), where=size[:, None] > 0)
    cosine = np.clip(unit @ unit.T, -1, 1)
    other = ~np.eye(n, dtype=bool)
    weight = np.exp(reward - reward.max())[None] * other
    new = np.maximum(1 - (weight / weight.sum(1, keepdims=True) * cosine**2).sum(1), 0.0)
    largest = new.max()
    share = new / largest if largest > NOTHING else np.zeros(n)
    return {
        "novelty": new,
        "collinear": ((cosine > collinear_above) & other).sum(1) / (n - 1),
        "negative": ((cosine < 0) & other).sum(1) / (n - 1),
        "shaped": np.clip(reward * (1 + scale * reward * share), -LARGEST, LARGEST),
    }


def directions(model: Model, log: Rollouts, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Phi of every response [response, d_model] and its number of masked-in tokens, in the order of the log."""
    from probe import recompute

    recompute.check(model, log)
    parts: list[np.ndarray] = []
    counts: list[np.ndarray] = []
    total = -(-len(log) // WINDOW)
    windows = log.windows(["prompt_token_ids", "response_token_ids", "response_mask"])
    for rows, table in progress(windows, "update directions", total):
        phi, seen = np.zeros((len(rows), model.shape.d_model)), np.zeros(len(rows), int)
        masks = table["response_mask"].to_pylist() if "response_mask" in table.column_names else None
        for number, mean, count in _window(model, recompute, table, rows, masks, batch_size):
            phi[number], seen[number] = mean, count
        parts.append(phi)
        counts.append(seen)
    return np.concatenate(parts), np.concatenate(counts)


def _window(
    model: Model, recompute: Any, table: Any, rows: Any, masks: list[Any] | None, batch_size: int
) -> Iterator[tuple[int, np.ndarray, int]]:
    """Number, mean direction and token count of every response of a window."""
    from probe.finite import as_named

    last = f"resid_post.{model.shape.n_layers - 1}"
    for batch in recompute.response_batches(model, table, batch_size):
        with as_named(recompute.named_as_logged(rows)):
            h = model.run(batch, read=[last], logits="none")[last]
        tokens = reading.scored(batch)
        tokens = tokens.where(tokens.in_span("answer"))
        for place, one in enumerate(batch.items):
            own = tokens.where(tokens.item == place)
            if masks is not None:
                own = own.where(_kept(masks[int(one.id)], own.item.device))
            if len(own.target):
                mean = gradients(model, own.rows(h), own.target).mean(0)
                yield int(one.id), mean.double().cpu().numpy(), len(own.target)


def _kept(mask: list[bool], device: Any) -> Tensor:
    return torch.tensor([bool(m) for m in mask], device=device)


def gradients(model: Model, resid: Tensor, targets: Tensor) -> Tensor:
    """grad_h log p(target | h) of every row, h behind the final norm: the head's own derivative, caps and scales too.

    Args:
        model: whose norm and head are used.
        resid: last residual states [row, d_model], before the final norm.
        targets: ids.
    """
    found: list[Tensor] = []
    for states, ids in zip(resid.split(64), targets.to(resid.device).split(64), strict=True):
        h = model.final_norm(states).detach().requires_grad_()
        logp = model.backend.head(h).float().log_softmax(-1).gather(-1, ids[:, None])
        (g,) = torch.autograd.grad(logp.sum(), h)
        found.append(g.float())
    return torch.cat(found)


def figures(result: Result) -> dict[str, Figure]:
    """Novelty and shares over steps; every response's shaped reward against its novelty."""
    rows = result.summary()
    extra = "step" if "step" in rows else None
    title = "Update directions of a group's responses"
    over = curve(rows, x="rollout_step", color="quantity", facet=extra, title=title, unit="1", y_title="share")
    by: dict[str, Any] = {
        "color": "reward",
        "hover": ["item", "sample"],
        "x_title": "novelty",
        "y_title": "reward, shaped",
    }
    return {"over_steps": over, "shaped": scatter(result.table, x="novelty", y="shaped", title="Shaped reward", **by)}
