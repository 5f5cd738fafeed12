"""Does the gradient of entropy explain what each optimizer step did to it? Per update, with what else claims to.

Definition: for each update theta -> theta + delta, over the masked-in tokens of the rollout batch sampled last before
    it: measured = mean of H(theta + delta) - H(theta) at the same states; gradient = mean of <grad H, delta>, the
    exact derivative along the true change of the weights (adjacent checkpoints, or rebuilt from Adam's state).
    Beside it, from the same tokens, without delta and so without its size: pooled = -mean (log p - mean)(A - mean),
    tabular = -mean r A (S - B), omega = -mean r A (1 - p)(log p + H). `_used`: the same three over the responses the
    update was computed from only (column update_steps). correlation = Pearson's r over the updates.
Units: measured and gradient in nats per token; the others are nats per unit of an unknown step size: only their sign
    and correlation mean anything.
Source: this toolkit's reference for the claims of arXiv 2505.22617 (pooled), 2602.03392 (tabular), 2510.10150 (omega).
Does not show: on-policy entropy, which also moves because other states are reached (see entropy_change, visitation).
    The gradient says how entropy moved, not which reward or token asked for it.
Control: pooled covariance beside it, with its real correlation; a run with a random reward; many updates, since r over
    few of them is worth little (both intervals are given: over items and over updates). A signal is said to follow the
    measured change only beyond a cubic trend of the run, in levels and in first differences.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve, forest, scatter
from analyses.core.progress import progress
from analyses.core.reading import rollout_tokens
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes
from analyses.entropy import _over_updates, _places, _step_claims
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from analyses.core.reading.tangent import Direction
    from probe import Checkpoint, Model, Rollouts

    Checkpoints = list[Checkpoint]
else:
    from analyses.core.analysis import Checkpoints

CLAIMED = ("pooled", "tabular", "omega")
PLACED = ("measured_nats", "gradient_nats")
SIGNALS = ("gradient_nats", "first_order_nats", *CLAIMED, *(f"{c}_used" for c in CLAIMED))


def _work(case: Case) -> Work:
    """A pass of two checkpoints over every response."""
    return passes(case, "answer", models=2)


@analysis(renamed={"direction": "update"}, work=_work)
def entropy_step(
    checkpoints: Checkpoints,
    rollouts: Rollouts,
    *,
    update: Literal["difference", "optimizer"] = "difference",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Measured and predicted change of mean entropy in nats for every update between adjacent checkpoints.

    Rows, one per update and item: step (updates made after it), rollout_step (of the states), item, group, n_tokens,
    n_used (tokens of responses the update used; 0 where the log does not say), measured_nats, gradient_nats,
    first_order_nats (-Cov_p(log p, dz) with the true dz), pooled, tabular, omega, pooled_used, tabular_used,
    omega_used: means over the item's tokens.

    Args:
        update: the change of weights: between adjacent checkpoints, or rebuilt from each one's optimizer.pt
            (then checkpoints need not be adjacent, and the first is used too).
    """
    parts: list[pd.DataFrame] = []
    places: dict[str, list[pd.DataFrame]] = {"pos": [], "token_class": []}
    for step, base, tuned, delta in _updates(checkpoints, update):
        at = _sampled_before(rollouts, step)
        log = rollouts.where(steps=[at])
        tokens = _with_used(_tokens(base, tuned, delta, log, batch_size), log, step)
        parts.append(_per_item(tokens).assign(step=step))
        for by, sums in _places.per_place(tokens, PLACED).items():
            places[by].append(sums)
    table = pd.concat(parts, ignore_index=True)
    order = ["step", "rollout_step", "item", "group", "n_tokens", "n_used", "measured_nats", *SIGNALS]
    off = rollouts.uncentred() if "advantage" in rollouts.columns else []
    notes = [f"advantages of {len(off)} group(s) were centred here: {', '.join(off[:5])}"] if off else []
    table = table[order].sort_values(["step", "item"], kind="stable")
    sums = {by: pd.concat(found, ignore_index=True) for by, found in places.items()}
    data = xr.merge([_aggregate(table, seed), _places.by_place(sums, PLACED, seed)])
    return Result.of(
        table, data, claims=_step_claims.claims(table, SIGNALS, _counted), warnings=[*rollouts.notes, *notes]
    )


def _updates(checkpoints: Checkpoints, direction: str) -> Iterator[tuple[int, Model, Model, Direction]]:
    """(step after the update, model before, model after, change of the weights) of each update, in order."""

    # Through a run, checkpoints know how this run loads models; a plain list is loaded as by default.
    load: Any = getattr(checkpoints, "load", probe.Model.load)
    if any(c.step is None for c in checkpoints):
        raise InputError("entropy_step needs checkpoints with steps (folders named checkpoint-N)")
    series = sorted(checkpoints, key=lambda c: int(c.step or 0))
    if direction == "optimizer":
        for after in progress([c for c in series if c.step], "entropy per update"):  # nothing made step 0
            base, tuned = load(after, check=False), load(after, check=False)
            delta = reading.optimizer_step(after.folder, tuned)
            before = next((c for c in series if c.step == int(after.step or 0) - 1), None)
            if before is not None:
                _check_rebuilt(after, before, reading.difference(tuned, load(before, check=False)), tuned, delta)
            _move_back(base, delta)
            yield int(after.step or 0), base, tuned, delta
        return
    gaps = {int(b.step or 0) - int(a.step or 0) for a, b in pairwise(series)}
    if gaps != {1}:
        raise InputError(
            f"checkpoints at steps {[c.step for c in series]} are not one update apart; give a folder with every "
            "update saved, or update='optimizer' with optimizer.pt in each"
        )
    base, spare = load(series[0]), load(series[1])
    reading.pair_warnings(base, spare)  # refuses another tokenizer; later checkpoints are refused by `swap`
    for number, after in enumerate(progress(series[1:], "entropy per update")):
        if number:
            base, spare = spare, base
            spare.swap(after, prove=False)
        yield int(after.step or 0), base, spare, reading.difference(spare, base)


def _check_rebuilt(after: Checkpoint, before: Checkpoint, true: Direction, tuned: Model, delta: Direction) -> None:
    """Raise if the rebuilt update does not lead from the checkpoint one update earlier.

    Allowed is what saving weights in 16 bits rounds away, and 2 % of the update.
    """
    off = sum(float((true[n] - delta[n]).square().sum()) for n in true) ** 0.5
    size = sum(float(d.square().sum()) for d in true.values()) ** 0.5
    weights = tuned.weights().values()
    coarse = all(bool((w == w.bfloat16()).all()) for w in weights)
    rounding = 2**-8 * sum(float(w.square().sum()) for w in weights) ** 0.5 if coarse else 0.0
    if off > 0.02 * size + rounding + 1e-12:
        raise InputError(
            f"{after.folder}: the update rebuilt from optimizer.pt is {off / max(size, 1e-12):.0%} away from the "
            f"change of the weights since {before.label} (a rate, a decay or an order of parameters that is not known "
            "here): use update='difference'"
        )


def _move_back(model: Model, delta: Direction) -> None:
    """Take the update off the weights of a model loaded for this alone; tied ones once."""
    done: set[int] = set()
    with torch.no_grad():
        for name, weight in model.weights().items():
            if id(weight) not in done:
                weight.sub_(delta[name])
                done.add(id(weight))


def _sampled_before(rollouts: Rollouts, step: int) -> int:
    """The step of the last rollout batch sampled before the update that made `step`."""
    before = [s for s in rollouts.steps if s < step]
    if not before:
        raise InputError(f"{rollouts.source}: nothing was sampled before update {step}; it has steps {rollouts.steps}")
    return before[-1]


def _tokens(base: Model, tuned: Model, delta: Direction, log: Rollouts, batch_size: int) -> pd.DataFrame:

    log = rollout_tokens.readable(log, base)
    logged = [c for c in ("advantage", "old_logp") if c in log.columns]
    frame = rollout_tokens.read([base, tuned], log, _signals, columns=logged, batch_size=batch_size, what="states")
    frame["gradient_nats"] = _along(base, delta, log, batch_size)
    if "advantage" not in frame:
        return frame.assign(pooled=np.nan, tabular=np.nan, omega=np.nan)
    advantage = frame["advantage"].astype(float)
    own = rollout_tokens.centred(frame.assign(advantage=advantage))
    # A log without log-probs of its sampling policy leaves the ratio at 1: on-policy.
    ratio = np.exp(frame["logp"] - frame["old_logp"]) if "old_logp" in frame else 1.0
    frame["pooled"] = -(frame["logp"] - frame["logp"].mean()) * (advantage - advantage.mean())
    frame["tabular"] = -ratio * own * frame["s_minus_b"]
    frame["omega"] = -ratio * own * frame["above"]
    return frame


def _signals(logits: tuple[Tensor, ...], targets: Tensor) -> dict[str, Tensor]:

    logp, logq = (reading.log_probs(z) for z in logits)
    own = logp.gather(-1, targets[:, None])[:, 0]
    found = reading.change(logp, logq)
    return {
        "measured_nats": found.exact,
        "first_order_nats": found.first_order,
        "logp": own,
        "s_minus_b": -reading.sampled_change(logp, targets, 1.0),
        "above": (1 - own.exp()) * (own + reading.entropy(logp)),
    }


def _along(base: Model, delta: Direction, log: Rollouts, batch_size: int) -> np.ndarray:
    """<grad H, delta> at every masked-in token, in the order of the log's tokens."""

    parts: list[np.ndarray] = []
    for rows, table in log.windows(["prompt_token_ids", "response_token_ids", "response_mask"]):
        found: dict[int, np.ndarray] = {}
        for batch in probe.recompute.response_batches(base, table, batch_size):
            item, pos = (batch.span == _ANSWER).nonzero(as_tuple=True)
            _, derivative = reading.along(base, batch, delta, lambda z, i=item, p=pos: _entropy_at(z, i, p))
            for place, one in enumerate(batch.items):
                found[int(one.id)] = derivative[item == place].cpu().numpy()
        masks = table["response_mask"].to_pylist() if "response_mask" in table.column_names else None
        for row in range(len(rows)):
            values = found.get(row, np.zeros(0))
            parts.append(values if masks is None else values[np.asarray(masks[row], bool)])
    return np.concatenate(parts)


_ANSWER = 4  # index of "answer" in probe.tokens.SPANS


def _entropy_at(logits: Tensor, item: Tensor, pos: Tensor) -> Tensor:

    return reading.entropy(logits[item, pos - 1].double().log_softmax(-1))


def _with_used(tokens: pd.DataFrame, log: Rollouts, step: int) -> pd.DataFrame:
    """The signals again over the responses that the update which made `step` was computed from; NaN elsewhere."""
    tokens = tokens.assign(used=False, **{f"{c}_used": np.nan for c in CLAIMED})
    if "update_steps" not in log.columns or "advantage" not in tokens:
        return tokens
    facts = log.scalars(["update_steps"])
    made = [s is not None and step - 1 in list(s) for s in facts["update_steps"]]
    keys = ["item", "group_uid", "sample"]
    chosen = pd.MultiIndex.from_frame(facts.loc[made, keys])
    used = pd.MultiIndex.from_frame(tokens[keys]).isin(chosen)
    own = tokens[used]
    tokens["used"] = used
    tokens.loc[used, ["tabular_used", "omega_used"]] = own[["tabular", "omega"]].to_numpy()
    # A pooled covariance is centred over what it is pooled over.
    advantage = own["advantage"].astype(float)
    tokens.loc[used, "pooled_used"] = -(own["logp"] - own["logp"].mean()) * (advantage - advantage.mean())
    return tokens


def _per_item(tokens: pd.DataFrame) -> pd.DataFrame:
    means = {c: (c, "mean") for c in ("measured_nats", *SIGNALS)}
    counts = {"n_tokens": ("pos", "size"), "n_used": ("used", "sum")}
    return tokens.groupby(["rollout_step", "item", "group"], sort=True).agg(**counts, **means).reset_index()


def _counted(name: str) -> str:
    """The column that says over how many tokens a mean was taken."""
    return "n_used" if name.endswith("_used") else "n_tokens"


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:

    rows = table.copy()
    found: list[xr.Dataset] = []
    for name in ("measured_nats", *SIGNALS):
        rows[name] = table[name] * table[_counted(name)]
        units = "nats" if name.endswith("_nats") else "nats per unit step"
        found.append(estimate(rows, name, ["step"], per=_counted(name), seed=seed, units=units))
    found.append(_over_updates.correlations(table, SIGNALS, _counted, seed))
    return xr.merge(found)


def figures(result: Result) -> dict[str, Figure]:
    """Measured and predicted change per update, prediction against measurement, and every signal's correlation."""

    rows = result.summary()
    per_update = rows[rows["quantity"].isin(["measured_nats", "gradient_nats"])]
    wide = rows[rows["quantity"].isin(["measured_nats", *SIGNALS])].pivot_table(
        index="step", columns="quantity", values="value"
    )
    title = "Change of entropy per update at the same states"
    both = rows[rows["quantity"].isin(["correlation", "correlation_over_updates"])]
    return {
        "per_update": curve(per_update, x="step", color="quantity", reference=0.0, title=title),
        "prediction": scatter(
            wide.reset_index(),
            x="gradient_nats",
            y="measured_nats",
            hover=["step"],
            diagonal=True,
            title="Measured change against <grad H, delta>",
            x_title="<grad H, delta> (nats)",
            y_title="measured change (nats)",
        ),
        "correlations": forest(both, label="signal", color="quantity", title="Correlation over updates"),
        **_by_place(rows),
    }


def _by_place(rows: pd.DataFrame) -> dict[str, Figure]:
    """Measured and predicted change per token and update by position in the response and by class of token."""
    by_pos, by_class = (
        rows[rows["quantity"].isin([f"{q}_by_{by}_nats" for q in ("measured", "gradient")])]
        for by in ("pos", "token_class")
    )
    return {
        "by_pos": curve(
            by_pos, x="pos", color="quantity", reference=0.0, title="Change of entropy per update, by position"
        ),
        "by_class": forest(
            by_class, label="token_class", color="quantity", title="Change per update by class of token"
        ),
    }
