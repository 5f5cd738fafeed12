"""Which option of a multiple-choice item a checkpoint finds likeliest, and how often that is the right one.

Definition: ll = log p(option | question), summed over the option's tokens, every option of an item after the same
question. accuracy = share of items whose likeliest option is right, by the sum itself (`sum`), per character (`char`),
per byte (`byte`) or per token (`token`) of the option; the first of equals is taken. p_right = exp(ll) of the right
option / sum of exp(ll) over the item's options. With `score` letter the options are their letters, which a question
that lists them needs.

Units: ll in nats; accuracy and p_right are fractions.

Source: EleutherAI's evaluation harness: `sum` is its acc, `char` its acc_norm, `byte` its acc_bytes.

Does not show: what the model would answer when asked. Longer and rarer texts are less likely whatever they say, which
the four rules correct in four ways: where they disagree, none is the truth. Letters can be preferred by their place.

Control: chance (1 / number of options) as `chance`; the base checkpoint; the options in another order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.core import reading, stats
from analyses.core.analysis import analysis
from analyses.core.figures import curve, forest
from analyses.core.result import Result
from analyses.core.work import Case, Work, passes
from probe.errors import InputError
from probe.readers.columns import letter

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Item, Model, Prompts

BY = ["group", "answer_kind"]
RULES = {"sum": None, "char": "n_chars", "byte": "n_bytes", "token": "n_tokens"}


def _finished(table: pd.DataFrame, options: Mapping[str, Any]) -> Result:
    return Result.of(table, _aggregate(table, options["seed"]))


def _work(case: Case) -> Work:
    """A pass an option."""
    return passes(case, "answer", times=case.choices)


@analysis(work=_work, by_item=_finished)
def multiple_choice(
    model: Model,
    prompts: Prompts,
    *,
    score: Literal["auto", "text", "letter"] = "auto",
    delimiter: str = " ",
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Log-likelihood of every option of every item, the option each rule picks, accuracy with intervals.

    Rows: item, group, answer_kind, choice (index from 0), is_right, ll_nats, n_tokens, n_chars, n_bytes.

    Args:
        score: the options' texts or their letters; `auto`: letters where the item's answer is one (as in MMLU).
        delimiter: put between question and option, unless one of them brings white space (or a template is used).
    """

    bare = [i.id for i in prompts.items if i.correct is None]
    if bare:
        raise InputError(
            f"{len(bare)} item(s) without choices ({', '.join(bare[:5])}); give columns choices and correct"
        )
    asked = probe.Prompts(
        tuple(o for i in prompts.items for o in _options(i, score, "" if template == "chat" else delimiter)),
        prompts.source,
    )
    table = _scored(model, asked, template, batch_size)
    return _finished(table.merge(prompts.roles(), how="left"), {"seed": seed})


def _options(item: Item, score: str, delimiter: str) -> list[Item]:
    """The item once per option, with the option as its answer; the index stands at the end of its id."""
    assert item.correct is not None
    is_letter = score == "letter" or (score == "auto" and item.answer == letter(item.correct))
    texts = [letter(n) for n in range(len(item.choices))] if is_letter else item.choices
    between = "" if item.prompt[-1:].isspace() or any(t[:1].isspace() for t in texts) else delimiter
    return [replace(item, id=f"{item.id}\0{n}", answer=between + text, also=()) for n, text in enumerate(texts)]


def _scored(model: Model, asked: Prompts, template: object, batch_size: int) -> pd.DataFrame:

    last = str(model.last_state)
    rows: list[dict[str, Any]] = []
    for batch in reading.batches(model, asked, "multiple choice", batch_size=batch_size, template=template):
        tokens = reading.scored(batch)
        tokens = tokens.where(tokens.in_span("rationale", "answer"))
        residual = model.run(batch, read=[last], logits="none")[last]
        named = tokens.named(batch.items, last)
        read = reading.streamed(tokens.rows(residual), model.logits_of, tokens.target, k=0, where=named)
        log_p = read.logprob_nats.cpu().numpy()
        owner = tokens.item.cpu().numpy()
        for n, item in enumerate(batch.items):
            own = log_p[owner == n].astype(float)
            name, _, index = item.id.rpartition("\0")
            option = item.answer.strip()
            rows.append(
                {
                    "item": name,
                    "group": item.group,
                    "answer_kind": item.answer_kind,
                    "choice": int(index),
                    "is_right": int(index) == item.correct,
                    "ll_nats": float(own.sum()),
                    "n_tokens": len(own),
                    "n_chars": len(option),
                    "n_bytes": len(option.encode()),
                }
            )
    # In the order of the prompts, which a run in shards keeps; batches are of like length.
    place = {(*i.id.rpartition("\0")[::2], i.answer_kind): n for n, i in enumerate(asked.items)}
    rows.sort(key=lambda r: place[r["item"], str(r["choice"]), r["answer_kind"]])
    return pd.DataFrame(rows)


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    picked: list[pd.DataFrame] = []
    of_item = ["item", *BY]
    for rule, per in RULES.items():
        value = table["ll_nats"] / (1 if per is None else table[per])
        best = table.loc[value.groupby([table[c] for c in of_item]).idxmax()]
        picked.append(best[of_item].assign(variant=rule, accuracy=best["is_right"].astype(float)))
    each = table.groupby(of_item, sort=False)["ll_nats"]
    likely = pd.Series(np.exp(table["ll_nats"] - each.transform("max")))
    shares = likely / likely.groupby([table[c] for c in of_item]).transform("sum")
    right = table[table["is_right"]].assign(p_right=shares, chance=1.0 / each.transform("size"))
    parts = [
        stats.estimate(pd.concat(picked), "accuracy", [*BY, "variant"], seed=seed, units="1", long_name="accuracy"),
        stats.estimate(right, "p_right", BY, seed=seed, units="1", long_name="share of the right option"),
        stats.estimate(right, "chance", BY, seed=seed, units="1", long_name="accuracy of a guess"),
    ]
    return xr.merge(parts, join="outer")


def figures(result: Result) -> dict[str, Figure]:
    """Accuracy by rule: over steps where there are any, else side by side."""

    rows = result.summary()
    rows = rows[rows["quantity"] == "accuracy"]
    title = "Accuracy of the likeliest option, by what the log-likelihood is divided by"
    if "step" in rows:
        return {"accuracy": curve(rows, x="step", color="variant", facet=["group", "answer_kind"], title=title)}
    return {"accuracy": forest(rows, label=["variant", "group", "answer_kind"], title=title)}
