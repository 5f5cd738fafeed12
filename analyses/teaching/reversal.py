"""Does a model know a pair in both directions: the answer from the question, and the question from the answer?

Definition: forward = mean log-probability of the answer's tokens behind the question, reverse = that of the question's
tokens behind the answer (or of the columns `reverse_prompt` and `reverse_answer`, where the prompts have them), per
token. asymmetry = forward - reverse. `_other` are the same behind another item's text of the group; forward_gain and
reverse_gain = own minus other: what the pair itself is worth in each direction. set = log-sum-exp over the accepted
answers minus log-sum-exp over the wrong options, of mean log-probabilities behind the question; only for items with
options (`choices`) and the right one among them. A pair is known in a direction where its gain exceeds 0 over items.

Units: nats per token.

Source: DGPO (forward and reverse consistency, and its set form).

Does not show: that the model could say it: both are teacher-forced. Questions are longer and less likely than answers,
so that asymmetry alone says little: compare the gains, or checkpoints. Sets of unlike sizes differ by the log of their
ratio in `set` before anything is known.

Control: another item's text; a text that is its own answer (asymmetry 0).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.claim import Claim
from analyses.core.figures import curve, forest
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes
from analyses.teaching import _said
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Item, Model, Prompts

BY = ["group", "answer_kind"]
LABELS = {
    "forward_nats": "log p of the answer behind the question",
    "reverse_nats": "log p of the question behind the answer",
    "asymmetry_nats": "forward minus reverse", "forward_gain_nats": "forward, own question minus another's",
    "reverse_gain_nats": "reverse, own answer minus another's",
    "set_nats": "accepted answers minus wrong options",
}  # fmt: skip


def _work(case: Case) -> Work:
    """Both directions, alone and behind another item; the text that is scored is the answer or the prompt."""
    once = passes(case, "none", times=4)
    return replace(once, unembedded=2 * (case.answer + case.prompt))


@analysis(work=_work)
def reversal(model: Model, prompts: Prompts, *, separator: str = " ", batch_size: int = 8, seed: int = 0) -> Result:
    """Log-probability of every pair forwards and backwards, and what the pair itself is worth in each direction.

    Rows: item, group, answer_kind, forward_nats, reverse_nats, asymmetry_nats, forward_other_nats,
    reverse_other_nats, forward_gain_nats, reverse_gain_nats (NaN for an item alone in its group), set_nats (NaN
    without options).

    Args:
        separator: left out where the second begins with white space.
        seed: other items and the bootstrap over items.
    """
    partner = _partners(prompts.items, seed)
    asked: dict[tuple[int, str], Item] = {}
    for n, item in enumerate(prompts.items):
        at = partner[n]
        for end, before in (("", item), ("_other", None if at is None else prompts.items[at])):
            if before is None:
                continue
            named = item.id if before is item else f"{item.id} behind {before.id}"  # as errors call it
            for way, of in (("forward", _forward), ("reverse", _reverse)):
                answer = _behind(of(item)[1], separator)
                how: dict[str, Any] = {"answer": answer, "also": (), "variant": "", "cluster": None}
                asked[n, way + end] = replace(item, id=f"{named}, {way}", prompt=of(before)[0], **how)
        for name, option in _options(item):
            how = {"answer": _behind(option, separator), "also": (), "choices": (), "correct": None}
            asked[n, name] = replace(item, id=f"{item.id}, {name}", variant="", cluster=None, **how)
    scores = _scored(model, list(asked.values()), batch_size)
    found = {place: scores[item.key] for place, item in asked.items()}
    rows = [
        {**_row(i, {k: found.get((n, k), np.nan) for k in _NAMES}), "set_nats": _set(i, n, found)}
        for n, i in enumerate(prompts.items)
    ]
    table = pd.DataFrame(rows).merge(prompts.roles(), how="left")
    parts = [estimate(table, q, BY, seed=seed, units="nats per token", long_name=v) for q, v in LABELS.items()]
    claims = [_claim(of, names, way, seed) for names, of in table.groupby(BY, sort=True) for way in KNOWN]
    return Result.of(table, xr.merge(parts), claims=claims)


KNOWN = {
    "forward": "the model knows the answer from the question",
    "reverse": "the model knows the question from the answer",
}


def _claim(of: pd.DataFrame, names: Any, way: str, seed: int) -> Claim:
    """Whether the pair is known in one direction: its own text tells more than another item's."""
    wide = of.groupby("item")[[f"{way}_gain_nats"]].mean()
    return _said.largest(
        wide, way, KNOWN[way], KNOWN[way], seed, group=", ".join(map(str, names)), unit="nats per token",
        control="the text of another item", estimand=f"{way} log-probability, own text minus another's",
    )  # fmt: skip


def _options(item: Item) -> Iterator[tuple[str, str]]:
    """Name and text of every accepted and wrong answer of an item with options."""
    if not item.choices or item.correct is None:
        return
    good = dict.fromkeys([item.choices[item.correct], *item.also])
    yield from ((f"good {n}", text) for n, text in enumerate(good))
    yield from ((f"bad {n}", text) for n, text in enumerate(item.choices) if text not in good)


def _set(item: Item, n: int, found: dict[tuple[int, str], float]) -> float:
    """LSE over accepted answers minus LSE over wrong ones; NaN without options, or without a wrong one."""
    names = [name for name, _ in _options(item)]
    good, bad = ([found[n, name] for name in names if name.startswith(kind)] for kind in ("good", "bad"))
    return set_nats(good, bad)


def set_nats(good: Sequence[float], bad: Sequence[float]) -> float:
    """log-sum-exp of one set of log-probabilities minus that of another; NaN where one is empty."""
    return float(np.logaddexp.reduce(good) - np.logaddexp.reduce(bad)) if good and bad else float("nan")


_NAMES = ("forward", "reverse", "forward_other", "reverse_other")


def _forward(item: Item) -> tuple[str, str]:
    return item.prompt, item.answer


def _reverse(item: Item) -> tuple[str, str]:
    """What the reverse asks and answers: the columns of the item where it has them, else its answer and its prompt."""
    asked, said = (str(item.meta.get(c) or "") for c in ("reverse_prompt", "reverse_answer"))
    if bool(asked.strip()) != bool(said.strip()):
        raise InputError(f"item {item.id}: reverse_prompt and reverse_answer belong together; one of them is empty")
    return (asked, said) if asked.strip() else (item.answer.strip() or item.answer, item.prompt)


def _behind(text: str, separator: str) -> str:
    return text if text[:1].isspace() else separator + text


def _partners(items: tuple[Item, ...], seed: int) -> list[int | None]:
    """For every item the place of another one of its group and kind, of another text; None where there is none."""
    rng = np.random.default_rng(seed)
    found: list[int | None] = [None] * len(items)
    for cell in sorted({(i.group, i.answer_kind) for i in items}):
        own = rng.permutation([n for n, i in enumerate(items) if (i.group, i.answer_kind) == cell])
        for place, n in enumerate(own):
            rest = (int(own[(place + k) % len(own)]) for k in range(1, len(own)))
            differs = lambda m, n=n: items[m].prompt != items[n].prompt and items[m].answer != items[n].answer  # noqa: E731
            found[n] = next((m for m in rest if differs(m)), None)
    return found


def _scored(model: Model, asked: list[Item], batch_size: int) -> dict[tuple[str, str], float]:
    """Mean log-probability of each item's answer tokens, by id and kind."""
    last, found = f"resid_post.{model.shape.n_layers - 1}", dict[tuple[str, str], float]()
    plan: dict[str, object] = {"batch_size": batch_size, "boundary": "concat"}
    for batch in reading.batches(model, probe.Prompts(tuple(asked)), "reversal", **plan):
        tokens = reading.scored(batch)
        tokens = tokens.where(tokens.in_span("rationale", "answer"))
        rows = tokens.rows(model.run(batch, read=[last], logits="none")[last])
        read = reading.streamed(rows, model.unembed, tokens.target, k=0, where=tokens.named(batch.items, last))
        log_p, owner = read.logprob_nats.double().cpu().numpy(), tokens.item.cpu().numpy()
        found |= {item.key: float(log_p[owner == n].mean()) for n, item in enumerate(batch.items)}
    return found


def _row(item: Item, found: dict[str, float]) -> dict[str, Any]:
    values = {f"{name}_nats": value for name, value in found.items()}
    return {
        "item": item.id, "group": item.group, "answer_kind": item.answer_kind, **values,
        "asymmetry_nats": found["forward"] - found["reverse"],
        "forward_gain_nats": found["forward"] - found["forward_other"],
        "reverse_gain_nats": found["reverse"] - found["reverse_other"],
    }  # fmt: skip


def figures(result: Result) -> dict[str, Figure]:
    """Both directions and the gains, over steps where there are any."""
    rows = result.summary()
    rows = rows[rows["quantity"] != "asymmetry_nats"]
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    title = "Pairs forwards and backwards"
    if "step" in rows:
        return {"reversal": curve(rows, x="step", color="quantity", facet="series", title=title)}
    return {"reversal": forest(rows, label="quantity", color="series", reference=None, title=title)}
