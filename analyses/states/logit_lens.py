"""At which layer the answer's tokens become readable from the residual stream, or from one component alone.

Definition: lens(x) = softmax(N(x) W_U + b) with the final norm N recomputed on x, read at position p-1 for the
    answer token at p, on `resid_post` of every layer (or another residual site). rank counts the tokens with a
    larger logit (0 = top); rank_log10 is log10(1 + rank). Of one component (mlp_out, attn_out, or a head: its z
    through its columns of W_O) N is taken of that alone, so its size does not matter and components do not add up.
    `scaled` sites are multiplied before anything is read: the answer along layers under an intervention.
Units: log-probability in nats (<= 0); rank from 0; entropy in nats, in [0, ln V].
Source: logit lens (nostalgebraist 2020); tuned forms: arXiv 2303.08112. Read on answers: arXiv 2601.11061.
Does not show: that a layer where the answer is readable computes or causes it; early layers are read in a basis
    they were not trained for. A component's own output read through the norm is scale-free and not additive.
Control: unseen items of the same kind; the answer's prior, that is the same curve on other prompts; nothing scaled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve, heatmap
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work
from probe import families, scale
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Edit, Model, Prompts, TokenBatch

BY = ["layer", "group", "answer_kind"]
LEGACY = "legacy_logprob_nats"
SCALED = re.compile(r"([\w.]+?)(?:\[(\d+(?:,\d+)*)\])?=([-+.\deE]+)")
CURVES = {
    "logprob_nats": ("nats", "log-probability of the answer's tokens"),
    "top1": ("fraction", "share of answer tokens that are the top prediction"),
    "entropy_nats": ("nats", "entropy of the lens distribution"),
    "rank_log10": ("log10(1 + rank)", "rank of the answer's tokens"),
}


def _work(case: Case) -> Work:
    """One pass, every layer's states of the tokens before the answer's unembedded."""
    cells = case.answer * case.n_layers * (case.size.shape.n_heads if case.options["site"] == "head" else 1)
    row = 13 + 7 * int(case.options["top_k"])
    return Work(block_rows=case.full_pass, unembedded=cells, rows=cells, row_bytes=row, sites=case.n_layers)


def _reads(options: Mapping[str, Any]) -> tuple[str, ...]:
    """One site of every block; under an edit, passes of its own."""
    return () if options["scaled"] else ("z" if options["site"] == "head" else options["site"],)


def _finished(table: pd.DataFrame, options: Mapping[str, Any]) -> Result:
    """The result from the rows of all items."""
    table = table.sort_values(["item", "answer_kind", "pos", "layer"], kind="stable")
    return Result.of(table, _aggregate(table, options["seed"]))


@analysis(work=_work, by_item=_finished, reads=_reads)
def logit_lens(
    model: Model,
    prompts: Prompts,
    *,
    site: Literal["resid_post", "resid_pre", "resid_mid", "mlp_out", "attn_out", "head"] = "resid_post",
    scaled: tuple[str, ...] = (),
    top_k: int = 5,
    legacy: bool = False,
    template: Literal["none", "chat"] = "none",
    boundary: Literal["joint", "concat", "offsets"] = "joint",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Log-probability, rank, entropy and top tokens for every answer token at every layer of one checkpoint.

    Rows: item, group, answer_kind, layer (and head), pos (the position read, one before the token), target (its id),
    logprob_nats, rank, entropy_nats, top_ids, top_logprob_nats. At the last layer of `resid_post` they are the
    model's own. A layer without that component has no rows.

    Args:
        site: a residual stream, or one component alone.
        scaled: sites multiplied at every position, SITE=FACTOR or SITE[NEURON,...]=FACTOR: mlp_post.3[17,40]=0.5.
        top_k: per row; 0 for none.
        legacy: read at the answer's own token, as `legacy_logprob_nats`.
    """

    planned = reading.batches(model, prompts, "logit lens", batch_size=batch_size, template=template, boundary=boundary)
    edits = scalings(scaled)
    table = pd.concat([_lens(model, batch, site, edits, top_k, legacy) for batch in planned], ignore_index=True)
    return _finished(table, {"seed": seed})


def scalings(texts: Sequence[str]) -> list[Edit]:
    """Edits from `SITE=FACTOR` and `SITE[NEURON,...]=FACTOR`.

    Raises:
        InputError: a text of another form.
    """
    found: list[Edit] = []
    for text in _whole(texts):
        match = SCALED.fullmatch(text.strip())
        try:
            factor = float(match[3]) if match else math.nan
        except ValueError:
            factor = math.nan
        if match is None or not math.isfinite(factor):
            raise InputError(f"scaled={text!r}; expected SITE=FACTOR or SITE[NEURON,...]=FACTOR, as mlp_post.3[17]=0.5")
        neurons = [int(n) for n in match[2].split(",")] if match[2] else None
        found.append(scale(match[1], factor, neurons))
    return found


def _whole(texts: Sequence[str]) -> list[str]:
    """The texts with lists of neurons put together again, which a comma on the command line takes apart."""
    out: list[str] = []
    for text in texts:
        is_open = bool(out) and out[-1].count("[") > out[-1].count("]")
        out[-1:] = [f"{out[-1]},{text}"] if is_open else [*out[-1:], text]
    return out


def _lens(model: Model, batch: TokenBatch, site: str, edits: Sequence[Edit], top_k: int, legacy: bool) -> pd.DataFrame:
    tokens = reading.scored(batch)
    tokens = tokens.where(tokens.in_span("answer", "rationale"))
    kind = "z" if site == "head" else site
    sites = model.sites(kind)
    if not sites:
        model.site(f"{kind}.0")  # says why there is none
    trace = model.run(batch, read=sites, edits=edits, logits="none")
    rows, heads = _stacked(model, trace, sites, tokens, site == "head")
    several = len(sites) * heads
    named = tokens.named(batch.items, *(f"{s}" for s in sites for _ in range(heads)))
    found = reading.streamed(rows, model.unembed, tokens.target.repeat(several), k=top_k, where=named)
    again = {k: np.tile(v, several) for k, v in reading.columns(batch.items, tokens.item).items()}
    n = len(tokens.target)
    table = pd.DataFrame({**again, "layer": np.repeat([int(s.layer or 0) for s in sites], heads * n)})
    if site == "head":
        table["head"] = np.tile(np.repeat(np.arange(heads), n), len(sites))
    table["pos"] = np.tile(tokens.pos.cpu().numpy(), several)
    table["target"] = np.tile(tokens.target.cpu().numpy(), several)
    for name in ("logprob_nats", "rank", "entropy_nats"):
        table[name] = getattr(found, name).cpu().numpy()
    if legacy:
        at_it, _ = _stacked(model, trace, sites, replace(tokens, column=tokens.column + 1), site == "head")
        again_read = reading.streamed(at_it, model.unembed, tokens.target.repeat(several), k=0, where=named)
        table[LEGACY] = again_read.logprob_nats.cpu().numpy()
    if top_k:
        table["top_ids"] = list(found.top_ids.cpu().numpy())
        table["top_logprob_nats"] = list(found.top_logprob_nats.cpu().numpy())
    return table


def _stacked(model: Model, trace: Any, sites: Sequence[Any], tokens: Any, by_head: bool) -> tuple[Tensor, int]:
    """Rows read at the tokens' columns, site by site (head by head), and how many there are a site and token."""
    states = [_alone(model, int(s.layer or 0), tokens.rows(trace[s])) if by_head else tokens.rows(trace[s])[None]
              for s in sites]  # fmt: skip
    return torch.cat([x.flatten(0, 1) for x in states]), len(states[0])


def _alone(model: Model, layer: int, z: Tensor) -> Tensor:
    """What each head of a block writes [head, token, d_model]: its z through its own columns of W_O, no bias."""
    from probe.weights import Place, places

    found = [s for s in places(model).get(Place("attn.o", layer), ()) if s.kind == "weight"]
    if len(found) != 1 or found[0].index is not None:
        raise InputError(
            f"block {layer} of this {model.shape.family} model has no one matrix W_O with columns of heads"
        )
    weight = model.weights()[found[0].name].detach()
    rows = weight if families.is_conv1d(model.backend.config, found[0].name) else weight.T
    n_heads, width = z.shape[-2:]
    if rows.shape[0] != n_heads * width:
        raise InputError(f"block {layer}: W_O has {rows.shape[0]} inputs for {n_heads} heads of {width}")
    by_head = rows.reshape(n_heads, width, -1).to(z)
    return torch.einsum("thd,hdm->htm", z, by_head)


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    """Curves over layers: tokens are averaged within an item, then items, with intervals over items."""

    top = table.assign(top1=(table["rank"] == 0).astype(float), rank_log10=np.log10(1 + table["rank"]))
    by = [*BY, "head"] if "head" in table else BY
    curves = CURVES | ({LEGACY: ("nats", "log-probability read at the token itself")} if LEGACY in table else {})
    return xr.merge([estimate(top, q, by, seed=seed, units=u, long_name=n) for q, (u, n) in curves.items()])


def figures(result: Result) -> dict[str, Figure]:
    """Curves over layers by group (of heads, maps); with steps, one line (one panel) a step."""

    rows = result.summary()
    if "head" in rows:
        panels = ["group", "answer_kind", *(["step"] if "step" in rows else [])]
        return {
            quantity: heatmap(
                rows[rows["quantity"] == quantity], x="layer", y="head", facet=panels, title=f"Heads alone: {meaning}"
            )
            for quantity, (_, meaning) in CURVES.items()
        }
    facet = ["group", "answer_kind"] if "step" in rows else ["answer_kind"]
    color = "step" if "step" in rows else "group"
    return {
        quantity: curve(
            rows[rows["quantity"] == quantity], x="layer", color=color, facet=facet, title=f"Logit lens: {meaning}"
        )
        for quantity, (_, meaning) in CURVES.items()
    }
