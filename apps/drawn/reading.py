"""Answers to be read: a list of items with a mark per checkpoint, and what two checkpoints wrote; without a page.

An item's mark at a checkpoint: right, wrong, cut off before an answer, or not measured; of several samples the share
that is right. Marks are told by sign as well as by colour.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from apps.drawn.look import markup, text
from probe.completions import changed

RIGHT, WRONG, CUT, NONE = "right", "wrong", "cut", "none"
SIGNS = {RIGHT: "✓", WRONG: "✗", CUT: "…", NONE: "·"}
ALL, TO_WRONG, TO_RIGHT, WRONG_NOW, RIGHT_NOW, ODD = "all", "to wrong", "to right", "wrong", "right", "odd"
FILTERS = {
    ALL: "all",
    TO_WRONG: "flipped to wrong",
    TO_RIGHT: "flipped to right",
    WRONG_NOW: "wrong at B",
    RIGHT_NOW: "right at B",
    ODD: "unlike its majority",
}
ITEM, STEP, SAMPLE, BREAK = "item", "step", "sample", "\n"
MOST = 300  # items listed; a filter finds the others
SMALL = ("step", "item", "group", "answer_kind", "decoding", "sample", "status", "correct", "answer", "truncated")
FACTS = ("answer", "graded_as", "status", "n_tokens", "reward", "advantage", "decoding")


@dataclass(frozen=True)
class Listed:
    """An item as the list shows it: marks by step, in order."""

    item: str
    group: str
    start: str
    marks: tuple[tuple[int, str, float], ...]  # step, mark, share right


def marks(rows: pd.DataFrame) -> pd.DataFrame:
    """One row an item and step: group, share right over its samples, mark, and whether its answer is unlike the most.

    Args:
        rows: item, correct (NaN: not graded), and what there is of step, group, truncated, answer.
    """
    rows = rows.assign(
        step=rows.get("step", 0),
        group=rows.get("group", ""),
        cut=rows["truncated"].astype(float) if "truncated" in rows else 0.0,
        said=rows["answer"].astype(object).fillna("") if "answer" in rows else "",
    )
    found = rows.groupby(["item", "step"], sort=False).agg(
        group=("group", "first"), share=("correct", "mean"), cut=("cut", "min"), said=("said", _most)
    )
    share, cut = found["share"].to_numpy(dtype=float), found["cut"].to_numpy(dtype=float)
    mark = np.where(np.isnan(share), NONE, np.where(share >= 0.5, RIGHT, np.where(cut == 1, CUT, WRONG)))
    found = found.assign(mark=mark).reset_index()
    usual = found.groupby("item")["said"].transform(_most)
    return found.assign(is_odd=(found["said"] != usual) & (found["said"] != ""))


def _most(values: pd.Series) -> str:
    """The text that is there most often; of several the one that comes first."""
    counts = values[values != ""].value_counts(sort=False)
    return str(counts.idxmax()) if len(counts) else ""


def kept(found: pd.DataFrame, how: str, a: int, b: int) -> list[str]:
    """Items that a filter keeps, in order.

    Args:
        found: what ``marks`` gives.
        how: one of `FILTERS`.
        a: the earlier step, from which an item flips.
        b: the step looked at.
    """
    at = {s: found[found["step"] == s].set_index("item") for s in (a, b)}
    items = list(dict.fromkeys(found["item"]))
    was, now = (at[s]["mark"].reindex(items).fillna(NONE) for s in (a, b))
    odd = at[b]["is_odd"].reindex(items).fillna(value=False).astype(bool)
    bad = {WRONG, CUT}
    wanted = {
        ALL: pd.Series(data=True, index=items),
        TO_WRONG: (was == RIGHT) & now.isin(bad),
        TO_RIGHT: was.isin(bad) & (now == RIGHT),
        WRONG_NOW: now.isin(bad),
        RIGHT_NOW: now == RIGHT,
        ODD: odd,
    }[how]
    return [str(i) for i in wanted.index[wanted.to_numpy(dtype=bool)]]


def listed(found: pd.DataFrame, items: Sequence[str], starts: dict[str, str]) -> list[Listed]:
    """The items as the list shows them; ``starts``: the first words of their prompts."""
    parts = dict(list(found[found["item"].isin(items)].sort_values("step").groupby("item", sort=False)))
    return [
        Listed(
            item,
            str(parts[item]["group"].iloc[0]),
            starts.get(item, ""),
            tuple(zip(parts[item]["step"].astype(int), parts[item]["mark"], parts[item]["share"], strict=True)),
        )
        for item in items
        if item in parts
    ]


def index(items: Sequence[Listed], chosen: str, a: int, b: int) -> str:
    """The list as markup; a click on a row opens its item, J and K go down and up.

    Args:
        items: in order.
        chosen: the item that is open.
        a: step of the left answer.
        b: step of the right answer.
    """
    names = [i.item for i in items]
    at = names.index(chosen) if chosen in names else 0
    keys = "".join(
        f'<button hidden data-key="{key}" data-pick="{text(ITEM + BREAK + names[place])}"></button>'
        for key, place in (("j", min(at + 1, len(names) - 1)), ("k", max(at - 1, 0)))
        if names
    )
    rows = "".join(_listed(i, i.item == chosen, a, b) for i in items[:MOST])
    return markup(f'{keys}<div class="items" data-keep="items" tabindex="0">{rows}</div>', "Items")


def _listed(one: Listed, is_chosen: bool, a: int, b: int) -> str:
    now = ' data-now="1" aria-current="true"' if is_chosen else ""
    return (
        f'<button class="item{" now" if is_chosen else ""}" data-pick="{text(ITEM + BREAK + one.item)}"{now}>'
        f"{entry(one, a, b)}</button>"
    )


def entry(one: Listed, a: int, b: int) -> str:
    """What the list says of an item: its name, group, first words and a mark a step; steps a and b underlined."""
    ticks = "".join(
        f'<i class="tick {mark}{" at" if step in (a, b) else ""}" title="step {step}: {_told(mark, share)}">'
        f"{SIGNS[mark]}</i>"
        for step, mark, share in one.marks
    )
    return (
        f'<span class="line"><b>{text(one.item)}</b> <span class="quiet">{text(one.group)}</span></span>'
        f'<span class="line quiet">{text(one.start)}</span><span class="ticks">{ticks}</span>'
    )


def _told(mark: str, share: float) -> str:
    return "not measured" if np.isnan(share) else f"{mark}{'' if share in (0, 1) else f', {share:.0%} of samples'}"


@dataclass(frozen=True)
class Written:
    """What a checkpoint wrote: its step, its text, and facts about it as (name, value)."""

    step: int
    text: str
    mark: str
    facts: tuple[tuple[str, str], ...]


def written(rows: pd.DataFrame) -> list[Written]:
    """The answers of one item at one step, one a sample."""
    return [
        Written(
            int(row.get("step", 0)),
            str(row.get("text", "")),
            _mark(row),
            tuple((name, _fact(row[name])) for name in FACTS if name in row and not pd.isna(row[name])),
        )
        for row in rows.to_dict("records")
    ]


def _mark(row: Mapping[Hashable, Any]) -> str:
    correct = float(row["correct"])
    if np.isnan(correct):
        return NONE
    return RIGHT if correct >= 0.5 else CUT if row.get("truncated") == 1 else WRONG


def _fact(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def page(prompt: str, gold: str, sides: Sequence[tuple[str, Sequence[Written]]], steps: Sequence[int]) -> str:
    """Prompt, gold and what each side wrote, as markup; what B has that A has not is marked, and the other way round.

    Args:
        prompt: of the item; "" where it is out of reach.
        gold: the right answer; "" where it is not known.
        sides: (A or B, what it wrote, one a sample).
        steps: of the sweep, for the keys [ and ].
    """
    texts = [s[0].text if s else "" for _, s in sides]
    others = [texts[1 - i] if len(texts) == 2 else texts[i] for i in range(len(texts))]
    columns = "".join(_side(*side, against) for side, against in zip(sides, others, strict=True))
    last = sides[-1][1][0].step if sides and sides[-1][1] else None
    head = f"<h4>Prompt</h4><pre>{text(prompt) or 'not within reach'}</pre>" if prompt or gold else ""
    head += f"<h4>Gold</h4><pre>{text(gold)}</pre>" if gold else ""
    return markup(f'{_keys(last, steps)}<div class="reader">{head}<div class="sides">{columns}</div></div>', "Answers")


def _keys(now: int | None, steps: Sequence[int]) -> str:
    if now is None or now not in steps:
        return ""
    at = list(steps).index(now)
    places = (("[", max(at - 1, 0)), ("]", min(at + 1, len(steps) - 1)))
    return "".join(
        f'<button hidden data-key="{key}" data-pick="{STEP}{BREAK}{steps[place]}"></button>' for key, place in places
    )


def _side(name: str, answers: Sequence[Written], against: str) -> str:
    if not answers:
        return f'<section><h4>{text(name)}</h4><p class="quiet">nothing written here</p></section>'
    told = "".join(
        f'<p class="facts"><i class="tick {a.mark}">{SIGNS[a.mark]}</i> '
        + " · ".join(f'<span class="quiet">{text(n.replace("_", " "))}</span> {text(v)}' for n, v in a.facts)
        + f"</p><pre>{differing(a.text, against)}</pre>"
        for a in answers
    )
    return f"<section><h4>{text(name)}</h4>{told}</section>"


def differing(own: str, against: str) -> str:
    """A text with the words marked that the other has not."""
    return "".join(
        f"<mark>{text(w)}</mark>" if is_new and w.strip() else text(w) for w, is_new in changed(own, against)
    )


def flips(found: pd.DataFrame) -> Iterator[tuple[str, int]]:
    """(filter, how many items it keeps) between the first and the last step."""
    steps = sorted(found["step"].unique())
    for how in (TO_WRONG, TO_RIGHT):
        yield how, len(kept(found, how, int(steps[0]), int(steps[-1])))
