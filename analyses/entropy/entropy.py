"""Entropy of a checkpoint's next-token distributions at the states of a rollout log.

Definition: H = -sum_v p_v log p_v over the whole vocabulary, at every state that precedes a masked-in response token
    of the log; a response's entropy is the mean over its masked-in tokens, an item's the mean over its responses.
    `entropy_nats` is this checkpoint's at the logged states (same states, whoever sampled them);
    `logged_entropy_nats` is what the log says of the policy that sampled (on-policy). surprisal = -log p(token).
Units: nats, in [0, ln V].
Source: arXiv 2505.22617 (mean token entropy of rollouts). verl logs the same on temperature-scaled logits
    (`actor/entropy`); the paper's Eq. 5 is the mean surprisal of sampled tokens: same expectation, other variance.
Does not show: why entropy differs between two checkpoints, nor the entropy of other states the checkpoint would visit
    itself: same-state and on-policy entropy can move in opposite directions.
Control: the checkpoint that sampled (there both agree, up to precision), and a run with a random reward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.core.analysis import analysis
from analyses.core.figures import curve, forest, tokens
from analyses.core.reading import rollout_tokens
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Model, Prompts, Rollouts

SHOWN = ("entropy_nats", "logged_entropy_nats", "surprisal_nats")
LAST_POS = 64  # positions shown as a curve; later ones are in the token rows


def _work(case: Case) -> Work:
    """A pass over every response."""
    return passes(case, "answer")


@analysis(work=_work)
def entropy(
    model: Model,
    rollouts: Rollouts,
    prompts: Prompts | None,
    *,
    level: Literal["response", "token"] = "response",
    at_temperature: bool = False,
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Entropy in nats of every logged response under a checkpoint, beside what the log says of its own policy.

    `prompts`, if given, names the design group of each item.

    Rows: step (of the log; in a sweep, of the checkpoint), rollout_step, item, group, group_uid, sample,
    entropy_nats, surprisal_nats, logged_entropy_nats (NaN where the log has none), n_tokens; with level token also
    pos (in the response, from 0), token, text and token_class, one row per token.

    Args:
        level: one row per response, or one per token.
        at_temperature: as trainers log it.
    """

    rollouts = rollout_tokens.readable(rollouts, model)
    logged = "H" in rollouts.columns
    if logged:
        rollouts.require("H", by="entropy")
    frame = rollout_tokens.read(
        [model],
        rollouts,
        _entropies,
        columns=["H"] if logged else [],
        batch_size=batch_size,
        at_temperature=at_temperature,
        what="entropy",
    )
    frame = rollout_tokens.regrouped(frame, prompts).rename(columns={"H": "logged_entropy_nats"})
    frame["logged_entropy_nats"] = frame.get("logged_entropy_nats", np.nan)
    responses = rollout_tokens.per_response(frame, SHOWN)
    table = responses if level == "response" else _token_rows(frame, model)
    table.insert(0, "step", table["rollout_step"])  # a sweep puts the checkpoint's step here
    data = _aggregate(
        responses,
        frame.assign(segment=rollout_tokens.segments(rollouts)),
        rollouts.has_groups or prompts is not None,
        seed,
    )
    return Result.of(table, data, warnings=[*rollouts.notes, *_unread(rollouts)])


def _entropies(logits: tuple[Tensor, ...], targets: Tensor) -> dict[str, Tensor]:

    found = probe.recompute.statistics(logits[0], targets)
    return {"entropy_nats": found["H"], "surprisal_nats": -found["logp"]}


def _token_rows(frame: pd.DataFrame, model: Model) -> pd.DataFrame:
    texts = {i: model.tokenizer.decode([i]) for i in frame["token"].unique().tolist()}
    return frame.assign(text=frame["token"].map(texts), n_tokens=1)


def _unread(rollouts: Rollouts) -> list[str]:
    gone = int((rollouts.index["n_tokens"] == 0).sum())
    return [f"{gone} response(s) have no masked-in token and no row"] if gone else []


def _aggregate(responses: pd.DataFrame, frame: pd.DataFrame, has_groups: bool, seed: int) -> xr.Dataset:

    over = ["rollout_step", "group"] if has_groups else ["rollout_step"]
    names = {
        "entropy_nats": "entropy at the logged states",
        "logged_entropy_nats": "entropy of the sampling policy",
        "surprisal_nats": "surprisal of the sampled token",
    }
    found = [estimate(responses, q, over, seed=seed, units="nats", long_name=n) for q, n in names.items()]
    near = frame[frame["pos"] < LAST_POS]
    for by, rows in (("pos", near), ("token_class", frame), ("segment", frame)):
        if rows[by].notna().any():
            name = f"entropy_by_{by}_nats"
            found.append(estimate(rows, "entropy_nats", [by], seed=seed, name=name, units="nats"))
    return xr.merge(found)


def figures(result: Result) -> dict[str, Figure]:
    """Entropy over the rollouts' steps (same states and on-policy), by position and by class; a strip of tokens."""

    rows = result.summary()
    extra = [c for c in ("step", "group") if c in rows]
    steps = rows[rows["quantity"].isin(SHOWN)]
    drawn = {
        "by_step": curve(
            steps, x="rollout_step", color="quantity", facet=extra or None, title="Entropy of rollouts, 95 % over items"
        )
    }
    for by, draw in (("pos", curve), ("token_class", forest), ("segment", forest)):
        part = rows[rows["quantity"] == f"entropy_by_{by}_nats"]
        how: dict[str, Any] = {"x": by} if draw is curve else {"label": by, "reference": None}
        if len(part):
            drawn[f"by_{by}"] = draw(part, color="step" if "step" in part else None, title=f"Entropy by {by}", **how)
    if "text" in result.table:
        first = result.table.iloc[0]
        same = ["step", "rollout_step", "item", "sample"]
        part = result.table[(result.table[same] == first[same]).all(axis=1)]
        title = f"Entropy before each token: {first['item']}, sample {first['sample']}"
        drawn["tokens"] = tokens(part["text"].tolist(), part["entropy_nats"].tolist(), title=title, unit="nats")
    return drawn
