"""How far a checkpoint moved on the new task, and what it lost on old ones: one point of the forgetting law.

Definition: on the prompts of the new task kl_nats = KL(base, tuned) = sum over the vocabulary of p_base x (log p_base
    - log p_tuned), mean over the positions that predict the answer's tokens; on old tasks forgotten_nats = the
    answer's mean negative log-likelihood under tuned minus under base. Both over the answers as given, not over
    samples.
Units: nats per token.
Source: arXiv 2509.04259 (forward KL on the new task predicts forgetting, over SFT and RL runs alike; there on
    samples).
Does not show: that moving less would have kept more: see forgetting_law over a run, or two. On answers base would
    never give, its KL says little about what it does by itself.
Control: the same checkpoint twice (0, 0); old tasks with a column of their own as groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import forest
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes

if TYPE_CHECKING:
    from jaxtyping import Float
    from plotly.graph_objects import Figure

    from analyses.core.reading.teacher_forced import Scored
    from probe import Model, Prompts, TokenBatch

TOLD = {"kl_nats": "KL(base, tuned) on the new task", "forgotten_nats": "loss on old tasks, tuned minus base"}
TASKS = ("new", "old")
ROWS_AT_ONCE = 64  # of logits of each model


def _work(case: Case) -> Work:
    """A pass of each checkpoint; the old items are not counted."""
    return passes(case, "answer")


@analysis(work=_work)
def forgetting(
    base: Model,
    tuned: Model,
    prompts: Prompts,
    old: Prompts,
    *,
    template: Literal["none", "chat"] = "none",
    boundary: Literal["joint", "concat", "offsets"] = "joint",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """KL(base, tuned) on the new task's items and change of loss on old ones, with intervals over items.

    Rows: item, group, answer_kind, variant (new or old task), kl_nats, nll_base, nll_tuned, forgotten_nats (of new
    items too, where it is what was learnt, with the sign turned), n_tokens.
    """
    warnings = reading.pair_warnings(base, tuned)
    plan: dict[str, object] = {"batch_size": batch_size, "template": template, "boundary": boundary}
    rows = [
        {"variant": task, **row}
        for task, items in zip(TASKS, (prompts, old), strict=True)
        for row in _rows(base, tuned, items, plan)
    ]
    table = pd.DataFrame(rows).sort_values(["variant", "item", "answer_kind"], kind="stable", ignore_index=True)
    return Result.of(table, _aggregate(table, seed), warnings=warnings)


def _rows(base: Model, tuned: Model, prompts: Prompts, plan: dict[str, object]) -> Iterator[dict[str, object]]:
    reading.same_ids(base, tuned, prompts, **plan)
    for batch in reading.batches(base, prompts, "forgetting", **plan):
        tokens = reading.scored(batch)
        tokens = tokens.where(tokens.in_span("rationale", "answer"))
        kl, *nll = _measured(base, tuned, batch, tokens)
        for number, item in enumerate(batch.items):
            own = (tokens.item == number).cpu().numpy()
            before, after = (float(side[own].mean()) for side in nll)
            named = {"item": item.id, "group": item.group, "answer_kind": item.answer_kind}
            measured = {"nll_base": before, "nll_tuned": after, "forgotten_nats": after - before}
            yield {
                **named,
                "kl_nats": float(kl[own].mean()),
                **measured,
                "n_tokens": int(own.sum()),
            }


def _measured(base: Model, tuned: Model, batch: TokenBatch, tokens: Scored) -> Float[np.ndarray, "3 token"]:
    """KL(base, tuned) and both losses of every token; a few rows of logits are there at once."""
    models, target = (base, tuned), tokens.target.cpu()
    last = [str(model.last_state) for model in models]
    states = [tokens.rows(m.run(batch, read=[name], logits="none")[name]) for m, name in zip(models, last, strict=True)]
    found = np.empty((3, len(target)))
    for c in reading.row_chunks(len(target), ROWS_AT_ONCE):
        p, q = (model.logits_of(state[c]).float() for model, state in zip(models, states, strict=True))
        found[0, c] = reading.divergences(p, q).kl_pq_nats.cpu()
        for number, side in enumerate((p, q), start=1):
            found[number, c] = -reading.log_softmax(side).gather(-1, target[c, None].to(side.device))[:, 0].cpu()
    return found


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    by = ["variant", "group", "answer_kind"]
    return xr.merge([estimate(table, q, by, seed=seed, units="nats/token", long_name=t) for q, t in TOLD.items()])


def figures(result: Result) -> dict[str, Figure]:
    """Both quantities of both tasks, a dot a group."""
    rows = result.summary()
    facet = [d for d in ("step", "answer_kind") if d in rows and rows[d].nunique() > 1] or None
    return {
        name: forest(rows[rows["quantity"] == name], label=["variant", "group"], facet=facet, title=text)
        for name, text in TOLD.items()
    }
