"""What a further text in the prompt tells a model about the answer: a hint, a thought, a reference, part by part.

Definition: every item has a further text in a column (`extra`). Its first `fractions` of words are put beside the
prompt, and the same answer tokens y are scored with it and without: gain = sum over t of log p(y_t | prompt, extra,
y_<t) - log p(y_t | prompt, y_<t), which is the pointwise mutual information; gain_token = its mean over tokens; gated =
mean of max(|gain of a token| - tau, 0); kl = mean over t of KL(with || without); top_moved = share of answer tokens
whose likeliest token is another. Arm `given` is the item's own text, `other` that of another item of its group,
`shuffled` its own words in another order (both whole). specific = gain of given minus gain of other, whole texts. An
answer at the end of the further text is cut off it, so that a rationale is not scored for stating the answer.

Units: nats, nats per token, shares.

Source: AMR-SD (gain of a hint per token), RLP (information gain of a thought), ATESD (mismatch against the share of a
reference that is shown), early answering of truncated rationales.

Does not show: that the model would use the text when it answers by itself: answers are teacher-forced. A text may help
by its format alone; `other` shows how much. RLP's baseline is an average model, `other` is another thought.

Control: `other` and `shuffled`; fraction 0 is 0 exactly; a model that ignores the text has gain and kl 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import curve
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Item, Model, Prompts

BY = ["group", "answer_kind"]
FEWEST = 8  # items
QUANTITIES = {
    "gain_nats": ("nats", "gain of the answer"),
    "gain_token_nats": ("nats per token", "gain per answer token"),
    "gated_nats": ("nats per token", "gain beyond tau per answer token"),
    "kl_nats": ("nats", "KL with against without, mean over answer tokens"),
    "top_moved": ("1", "answer tokens whose likeliest token is another"),
}
WHAT = "the further text tells the model about its own answer"
Place = Literal["before", "after"]


@dataclass(frozen=True)
class _Arm:
    """One way to put the further text beside the prompt."""

    name: str
    fraction: float
    text: str


def _finished(table: pd.DataFrame, options: Mapping[str, Any]) -> Result:
    """The result from the rows of all items."""
    table = table.sort_values(["item", "answer_kind", "arm", "fraction"], kind="stable", ignore_index=True)
    over = ["arm", "fraction", *BY]
    parts = [
        estimate(table, q, over, seed=options["seed"], units=u, long_name=label) for q, (u, label) in QUANTITIES.items()
    ]
    own = _specific(table)
    label = "gain of the item's own text minus that of another's"
    parts.append(estimate(own, "specific_nats", BY, seed=options["seed"], units="nats", long_name=label))
    data = xr.merge(parts, join="outer")
    return Result.of(table, data, claims=[_claim(data, of) for of in own.groupby(BY, sort=True).groups])


def _specific(table: pd.DataFrame) -> pd.DataFrame:
    """Gain of whole texts, own minus another item's, one row per item."""
    keys = [c for c in ("item", *BY, "cluster") if c in table]
    whole = table[table["fraction"] == table["fraction"].max()]
    wide = whole.pivot_table("gain_nats", keys, "arm", dropna=False).reset_index()
    return wide.assign(specific_nats=wide["given"] - wide.get("other", np.nan))


def _claim(data: xr.Dataset, of: Any) -> Claim:
    at = dict(zip(BY, of, strict=True))
    value, low, high, n = (float(data[f"specific_nats{s}"].sel(at)) for s in ("", "_ci_low", "_ci_high", "_n"))
    said: Fields = {
        "group": ", ".join(map(str, of)), "n": int(n), "control": "the text of another item",
        "estimand": "gain of the own text minus gain of another item's",
    }  # fmt: skip
    if n < FEWEST or np.isnan(low):
        why, needs = f"{int(n)} items have a text and another's beside it", f"at least {FEWEST} items that differ"
        return Claim("informs", UNJUDGED, WHAT, why=why, needs=needs, **said)
    return Claim("informs", FOUND if low > 0 else NONE, WHAT, effect=value, low=low, high=high, unit="nats", **said)


def _work(case: Case) -> Work:
    """A pass alone, under every share of the further text, and under two controls; its own tokens are not counted."""
    return passes(case, "answer", times=3 + len({*case.options["fractions"], 1.0}))


@analysis(work=_work)
def context_gain(
    model: Model,
    prompts: Prompts,
    *,
    extra: str = "hint",
    place: Place = "after",
    separator: str = " ",
    fractions: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0),
    tau: float = 0.1,
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Gain of the answer from a further text, by the share of it that is shown, against two controls.

    Rows: item, group, answer_kind, arm (given, other, shuffled), fraction, n_tokens, gain_nats, gain_token_nats,
    gated_nats, kl_nats, top_moved.

    Args:
        extra: column of the prompts that holds the further text.
        place: before or after the prompt.
        fractions: of the text's words that are shown; 1 is always among them.
        tau: nats of a token's gain that do not count as `gated`.
        seed: other items, the shuffling and the bootstrap over items.
    """
    shares = sorted({*fractions, 1.0})
    if shares[0] < 0 or shares[-1] > 1:
        raise InputError(f"fractions={tuple(fractions)}; expected shares between 0 and 1")
    told = _texts(prompts, extra)
    others = _others(prompts.items, told, seed)
    rows: list[dict[str, object]] = []
    for start in range(0, len(prompts.items), batch_size):
        items = prompts.items[start : start + batch_size]
        asked: list[tuple[Item, _Arm | None]] = []
        for item in items:
            asked.append((item, None))
            asked += [(item, arm) for arm in _arms(told[item.key], others.get(item.key), shares, seed)]
        rows += _scored(model, asked, (place, separator, template, tau), batch_size)
    table = pd.DataFrame(rows).merge(prompts.roles(), how="left")
    return _finished(table, {"seed": seed})


def _texts(prompts: Prompts, extra: str) -> dict[tuple[str, str], str]:
    """The further text of every item, an answer at its end cut off.

    Raises:
        InputError: a column that does not exist, or items without a text.
    """
    columns = sorted({c for i in prompts.items for c in i.meta})
    found: dict[tuple[str, str], str] = {}
    for item in prompts.items:
        text = str(item.meta.get(extra) or "").strip()
        found[item.key] = text.removesuffix(item.answer.strip()).rstrip() or text
    bare = [i.id for i in prompts.items if not found[i.key]]
    if bare:
        raise InputError(
            f"{len(bare)} item(s) have no text in the column {extra!r} ({', '.join(bare[:5])}); the prompts have the "
            f"columns {columns}: name one with --extra"
        )
    return found


def _others(items: tuple[Item, ...], told: Mapping[tuple[str, str], str], seed: int) -> dict[tuple[str, str], str]:
    """The text of another item of the same group and kind; none where all have the same."""
    rng = np.random.default_rng(seed)
    found: dict[tuple[str, str], str] = {}
    for cell in sorted({(i.group, i.answer_kind) for i in items}):
        own = [i for i in items if (i.group, i.answer_kind) == cell]
        order = rng.permutation(len(own))
        for place, index in enumerate(order):
            item = own[index]
            rest = (own[order[(place + k) % len(own)]] for k in range(1, len(own)))
            text = next((told[o.key] for o in rest if o.problem != item.problem and told[o.key] != told[item.key]), "")
            if text:
                found[item.key] = text
    return found


def _arms(text: str, other: str | None, shares: list[float], seed: int) -> list[_Arm]:
    words = text.split()
    given = [_Arm("given", share, " ".join(words[: round(share * len(words))])) for share in shares]
    mixed = [words[i] for i in np.random.default_rng([seed, len(words)]).permutation(len(words))]
    controls = [_Arm("shuffled", 1.0, " ".join(mixed))]
    return given + controls + ([_Arm("other", 1.0, other)] if other else [])


def _named(item: Item, arm: _Arm | None) -> str:
    """What errors call an item with its further text: its own id first."""
    return f"{item.id}, alone" if arm is None else f"{item.id}, {arm.name} {arm.fraction}"


def _scored(
    model: Model,
    asked: list[tuple[Item, _Arm | None]],
    how: tuple[Place, str, Literal["none", "chat"], float],
    batch_size: int,
) -> list[dict[str, Any]]:
    """Rows of some items: states at answer tokens are kept, distributions are read a few rows at a time."""
    place, separator, template, tau = how
    variants = [
        replace(
            item,
            id=_named(item, arm),
            prompt=_beside(item.prompt, arm, place, separator),
            variant="",
            cluster=None,
        )
        for item, arm in asked
    ]
    states: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
    last = str(model.last_state)
    plan = {"batch_size": batch_size, "template": template, "boundary": "concat"}
    for batch in reading.batches(model, probe.Prompts(tuple(variants)), "context gain", **plan):
        tokens = reading.scored(batch)
        tokens = tokens.where(tokens.in_span("rationale", "answer"))
        rows = tokens.rows(model.run(batch, read=[last], logits="none")[last])
        for n, item in enumerate(batch.items):
            own = tokens.item == n
            states[item.key] = rows[own.to(rows.device)], tokens.target[own]
    made: list[dict[str, object]] = []
    without: tuple[Tensor, Tensor] | None = None
    for (item, arm), variant in zip(asked, variants, strict=True):
        if arm is None:
            without = states[variant.key]
            continue
        assert without is not None
        named = {"item": item.id, "group": item.group, "answer_kind": item.answer_kind}
        values = compared(model, states[variant.key], without, tau)
        made.append({**named, "arm": arm.name, "fraction": arm.fraction, **values})
    return made


def _beside(prompt: str, arm: _Arm | None, place: Place, separator: str) -> str:
    if arm is None or not arm.text:
        return prompt
    return f"{arm.text}{separator}{prompt}" if place == "before" else f"{prompt}{separator}{arm.text}"


def compared(
    model: Model, context: tuple[Tensor, Tensor], without: tuple[Tensor, Tensor], tau: float
) -> dict[str, float]:
    """What the same answer tokens are like in one context and without it; logits are streamed over rows."""
    (rows, targets), (plain, again) = context, without
    if not torch.equal(targets.cpu(), again.cpu()):
        raise InputError(
            "an answer has other tokens behind the further text: this tokenizer joins them with the prompt"
        )
    gains, kls, moved = [], [], 0
    for chunk in reading.row_chunks(len(rows)):
        one, two = (model.logits_of(x[chunk]).float() for x in (rows, plain))
        ids = targets[chunk].to(one.device)[:, None]
        own = [reading.log_softmax(z).gather(-1, ids)[:, 0] for z in (one, two)]
        gains.append((own[0] - own[1]).double().cpu())
        kls.append(reading.divergences(one, two).kl_pq_nats.double().cpu())
        moved += int((one.argmax(-1) != two.argmax(-1)).sum())
    gain, kl = torch.cat(gains).numpy(), torch.cat(kls).numpy()
    return {
        "n_tokens": len(gain), "gain_nats": float(gain.sum()), "gain_token_nats": float(gain.mean()),
        "gated_nats": float(np.maximum(np.abs(gain) - tau, 0).mean()), "kl_nats": float(kl.mean()),
        "top_moved": moved / len(gain),
    }  # fmt: skip


def figures(result: Result) -> dict[str, Figure]:
    """Gain and KL against the share of the text that is shown; with steps, one line a step."""
    rows = result.summary()
    rows = rows[rows["quantity"].isin(["gain_token_nats", "kl_nats"])]
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    color, facet = ("step", ["quantity", "series"]) if "step" in rows else ("series", "quantity")
    title = "What the further text tells, by the share of it that is shown"
    return {"gain": curve(rows, x="fraction", color=color, dash="arm", facet=facet, title=title, reference=0.0)}
