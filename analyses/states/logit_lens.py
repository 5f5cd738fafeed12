"""At which layer the answer's tokens become readable from the residual stream.

Definition: lens(x) = softmax(N(x) W_U + b) with the final norm N recomputed on x, read at position p-1 for the
    answer token at p, on `resid_post` of every layer (or another residual site). rank counts the tokens with a
    larger logit (0 = top).
Units: log-probability in nats (<= 0); rank from 0; entropy in nats, in [0, ln V].
Source: logit lens (nostalgebraist 2020); tuned forms: arXiv 2303.08112. Read on answers: arXiv 2601.11061.
Does not show: that a layer where the answer is readable computes or causes it; early layers are read in a basis
    they were not trained for. A component's own output read through the norm is scale-free and not additive.
Control: unseen items of the same kind; the answer's prior, that is the same curve on other prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Model, Prompts, TokenBatch

BY = ["layer", "group", "answer_kind"]
CURVES = {
    "logprob_nats": ("nats", "log-probability of the answer's tokens"),
    "top1": ("fraction", "share of answer tokens that are the top prediction"),
    "entropy_nats": ("nats", "entropy of the lens distribution"),
}


def _work(case: Case) -> Work:
    """One pass, every layer's states of the tokens before the answer's unembedded."""
    cells = case.answer * case.n_layers
    row = 13 + 7 * int(case.options["top_k"])
    return Work(block_rows=case.full_pass, unembedded=cells, rows=cells, row_bytes=row, sites=case.n_layers)


def _finished(table: pd.DataFrame, options: Mapping[str, Any]) -> Result:
    """The result from the rows of all items."""
    table = table.sort_values(["item", "answer_kind", "pos", "layer"], kind="stable")
    return Result.of(table, _aggregate(table, options["seed"]))


@analysis(work=_work, by_item=_finished)
def logit_lens(
    model: Model,
    prompts: Prompts,
    *,
    site: Literal["resid_post", "resid_pre", "resid_mid"] = "resid_post",
    top_k: int = 5,
    template: Literal["none", "chat"] = "none",
    boundary: Literal["joint", "concat", "offsets"] = "joint",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Log-probability, rank, entropy and top tokens for every answer token at every layer of one checkpoint.

    Rows: item, group, answer_kind, layer, pos (the position read, one before the token), target (its id),
    logprob_nats, rank, entropy_nats, top_ids, top_logprob_nats. At the last layer of `resid_post` they are the
    model's own.

    Args:
        site: which residual stream is read.
        top_k: how many of the most likely tokens to keep per row (0: none).
        template: put prompts through the tokenizer's chat template, or not.
        boundary: tokens of the joint text, of both apart (concat), or joint without straddling ones (offsets).
        batch_size: items per forward pass.
        seed: of the bootstrap over items.
    """

    planned = reading.batches(model, prompts, "logit lens", batch_size=batch_size, template=template, boundary=boundary)
    table = pd.concat([_lens(model, batch, site, top_k) for batch in planned], ignore_index=True)
    return _finished(table, {"seed": seed})


def _lens(model: Model, batch: TokenBatch, site: str, top_k: int) -> pd.DataFrame:
    import torch

    tokens = reading.scored(batch)
    tokens = tokens.where(tokens.in_span("answer", "rationale"))
    sites = [f"{site}.{layer}" for layer in range(model.shape.n_layers)]
    trace = model.run(batch, read=sites, logits="none")
    rows = torch.cat([tokens.rows(trace[s]) for s in sites])
    named = tokens.named(batch.items, *sites)
    found = reading.streamed(rows, model.unembed, tokens.target.repeat(len(sites)), k=top_k, where=named)
    layers = np.repeat(np.arange(len(sites)), len(tokens.target))
    again = {k: np.tile(v, len(sites)) for k, v in reading.columns(batch.items, tokens.item).items()}
    table = pd.DataFrame({**again, "layer": layers, "pos": np.tile(tokens.pos.cpu().numpy(), len(sites))})
    table["target"] = np.tile(tokens.target.cpu().numpy(), len(sites))
    for name in ("logprob_nats", "rank", "entropy_nats"):
        table[name] = getattr(found, name).cpu().numpy()
    if top_k:
        table["top_ids"] = list(found.top_ids.cpu().numpy())
        table["top_logprob_nats"] = list(found.top_logprob_nats.cpu().numpy())
    return table


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    """Curves over layers: tokens are averaged within an item, then items, with intervals over items."""

    top = table.assign(top1=(table["rank"] == 0).astype(float))
    return xr.merge([estimate(top, q, BY, seed=seed, units=u, long_name=n) for q, (u, n) in CURVES.items()])


def figures(result: Result) -> dict[str, Figure]:
    """Curves over layers by group; with steps, one line a step."""

    rows = result.summary()
    facet = ["group", "answer_kind"] if "step" in rows else ["answer_kind"]
    color = "step" if "step" in rows else "group"
    return {
        quantity: curve(
            rows[rows["quantity"] == quantity], x="layer", color=color, facet=facet, title=f"Logit lens: {meaning}"
        )
        for quantity, (_, meaning) in CURVES.items()
    }
