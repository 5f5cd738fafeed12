"""How surprised the model is by the prompt and by a given answer, apart.

Definition: nll_t = -log softmax(logits[t-1])[ids_t] for t = 1..P+T-1 of P prompt and T answer tokens; a mask is
    a set of t. `prompt` is t = 1..P-1 (position 0 is never scored), split into `template` and `prompt_content`;
    `answer` is t = P..P+T-1; `full` is their union plus, under boundary `offsets`, tokens that straddle both.
    `answer:first` is the first answer token (the choice of a mode), `answer:number` and so on are classes of
    answer tokens. The variant `micro` is sum of nll over sum of tokens, `macro` the mean over items of the
    mean nll; ppl = exp of it. `legacy_arith` is the mean of per-item perplexities, as some published code has it.
    Kinds of answers are separate quantities and never pooled.
Units: nats per token; perplexity has none and lies in [1, inf).
Source: arXiv 2601.11061 (perplexity paradox), masks and aggregation made explicit.
Does not show: whether a fall comes from recall or from sharpening. On texts sampled from the tuned model its
    perplexity falls by construction (the expected drop is a KL divergence).
Control: the same checkpoints on unseen items of the same distribution; the prompt's own perplexity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve, forest
from analyses.core.result import COMPANIONS, Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work
from probe.prompts import SPANS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from analyses.core.reading.teacher_forced import Scored
    from probe import Model, Prompts

MASKS = ("template", "prompt_content", "prompt", "answer", "full", "answer:first")
BY = ["group", "mask", "answer_kind"]


def _work(case: Case) -> Work:
    """One pass, every scored token unembedded once; a row for each mask that has tokens, 8 or 5 an item."""
    scored, masks = (case.answer, 5) if case.options["score"] == "answer" else (case.tokens - 1, 8)
    return Work(block_rows=case.full_pass, unembedded=scored, rows=masks, row_bytes=7)


def _finished(table: pd.DataFrame, options: Mapping[str, Any]) -> Result:
    """The result from the rows of all items."""
    table = table.sort_values(["item", "answer_kind"], kind="stable")
    return Result.of(table, _aggregate(table, options["seed"]))


@analysis(work=_work, by_item=_finished, reads=lambda _: ("last_state",))
def perplexity(
    model: Model,
    prompts: Prompts,
    *,
    template: Literal["none", "chat"] = "none",
    boundary: Literal["joint", "concat", "offsets"] = "joint",
    include_eos: bool = False,
    score: Literal["all", "answer"] = "all",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Negative log-likelihood of prompt and answer under one checkpoint, per item and mask.

    Rows: item, group, mask, answer_kind, nll_nats (sum over the mask), n_tokens; seen, variant and cluster where the
    prompts say so. A mask without tokens has no row.

    Args:
        boundary: those count in `full` only.
        include_eos: score the end-of-sequence token as part of the answer.
        score: every token, or the answer's alone (less work, no perplexity of the prompt and none of the full text).
    """

    last = str(model.last_state)
    options: dict[str, object] = {"template": template, "boundary": boundary, "include_eos": include_eos}
    tables: list[pd.DataFrame] = []
    for batch in reading.batches(model, prompts, "perplexity", batch_size=batch_size, **options):
        tokens = reading.scored(batch)
        if score == "answer":
            tokens = tokens.where(tokens.in_span("rationale", "answer"))
        residual = model.run(batch, read=[last], logits="none")[last]
        named = tokens.named(batch.items, last)
        nll = -reading.streamed(tokens.rows(residual), model.logits_of, tokens.target, k=0, where=named).logprob_nats
        tables.append(_token_table(model, batch.items, tokens, nll.cpu().numpy()))
    table = _by_mask(pd.concat(tables, ignore_index=True)).merge(prompts.roles(), how="left")
    if score == "answer":
        table = table[table["mask"] != "full"]
    return _finished(table, {"seed": seed})


def _token_table(model: Model, items: Any, tokens: Scored, nll: np.ndarray) -> pd.DataFrame:

    spans = np.asarray(SPANS, dtype=object)[tokens.span.cpu().numpy()]
    classes = reading.token_classes(model.tokenizer, tokens.target)
    named = reading.columns(items, tokens.item)
    return pd.DataFrame({**named, "pos": tokens.pos.cpu().numpy(), "span": spans, "token_class": classes, "nll": nll})


def _by_mask(tokens: pd.DataFrame) -> pd.DataFrame:
    in_answer = tokens["span"].isin(["answer", "rationale"])
    first = tokens[in_answer].groupby(["item", "answer_kind"])["pos"].transform("min")
    parts = {
        "template": tokens["span"] == "template",
        "prompt_content": tokens["span"] == "prompt",
        "prompt": tokens["span"].isin(["template", "prompt"]),
        "answer": in_answer,
        "full": pd.Series(True, index=tokens.index),
        "answer:first": in_answer & (tokens["pos"] == first.reindex(tokens.index)),
    }
    for name in sorted(tokens.loc[in_answer, "token_class"].unique()):
        parts[f"answer:{name}"] = in_answer & (tokens["token_class"] == name)
    keys = ["item", "group", "answer_kind"]
    sums = [tokens[at].groupby(keys, sort=False)["nll"].agg(["sum", "count"]).assign(mask=m) for m, at in parts.items()]
    table = pd.concat(sums).reset_index().rename(columns={"sum": "nll_nats", "count": "n_tokens"})
    table = table.sort_values(["item", "answer_kind"], kind="stable")
    return table[["item", "group", "mask", "answer_kind", "nll_nats", "n_tokens"]].reset_index(drop=True)


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    """Micro and macro log-perplexity with intervals over items, and their exponentials."""

    per_item = table.assign(mean=table["nll_nats"] / table["n_tokens"])
    per_item["ppl"] = np.exp(per_item["mean"])
    label: dict[str, Any] = {"units": "nats/token", "name": "nll_nats", "long_name": "negative log-likelihood"}
    micro = estimate(per_item, "nll_nats", BY, per="n_tokens", seed=seed, **label)
    macro = estimate(per_item, "mean", BY, seed=seed, **label)
    nll = _variants(micro=micro, macro=macro)
    arithmetic = estimate(per_item, "ppl", BY, seed=seed, name="ppl", units="1", long_name="perplexity")
    ppl = _variants(micro=_exponential(micro), macro=_exponential(macro), legacy_arith=arithmetic)
    ppl["ppl"].attrs.update(units="1", long_name="perplexity")
    return xr.merge([nll, ppl], join="outer")


def _variants(**parts: xr.Dataset) -> xr.Dataset:
    named = [part.expand_dims(variant=[name]) for name, part in parts.items()]
    return xr.concat(named, "variant", combine_attrs="override")


def _exponential(nll: xr.Dataset) -> xr.Dataset:
    """exp keeps order, so the bounds of an interval stay its bounds."""
    bounds = {f"ppl_{s}": nll[f"nll_nats_{s}"] for s in COMPANIONS}
    bounds = {k: v if k.endswith("_n") else np.exp(v) for k, v in bounds.items()}
    return xr.Dataset({"ppl": np.exp(nll["nll_nats"]), **bounds})


def figures(result: Result) -> dict[str, Figure]:
    """Perplexity by mask: over steps where there are any, else side by side."""

    rows = result.summary()
    rows = rows[(rows["quantity"] == "ppl") & (rows["variant"] == "micro") & rows["mask"].isin(["prompt", "answer"])]
    title = "Perplexity (micro), 95 % interval over items"
    if "step" in rows:
        return {"perplexity": curve(rows, x="step", color="group", facet=["mask", "answer_kind"], title=title)}
    return {"perplexity": forest(rows, label=["mask", "group", "answer_kind"], title=title)}
