"""Entropy of planning and of execution tokens, and what a planning bonus would do to advantages.

Definition: a planning token lies inside a match of one of the given grams (words and phrases such as "let me check");
    all others execute. Mean entropy of both, per response and step. gram_entropy = -sum f ln f over the grams' share of
    all matches of a step (ln M for M equally frequent ones). bonus = A + bonus_size |A| on planning tokens: the
    change of a response's mean advantage per token.
Units: nats.
Source: HICRA, arXiv 2509.03646 (its grams are found by clustering embeddings; here they are given).
Does not show: that these tokens plan: a gram is a text. Entropy falls at planning tokens also because grams repeat.
Control: random grams of the same frequency; bonus_size = 0.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.credit import _log
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Rollouts

GRAMS = (
    "let me", "let's", "wait", "alternatively", "on the other hand", "first", "then", "next", "finally", "therefore",
    "we need to", "we can", "so that", "to check", "double-check", "another way", "step by step", "hmm", "actually",
)  # fmt: skip


@analysis(renamed={"alpha": "bonus_size"})
def planning_entropy(
    rollouts: Rollouts, *, tokenizer: str = "", grams: tuple[str, ...] = GRAMS, bonus_size: float = 0.2, seed: int = 0
) -> Result:
    """Mean entropy of planning and execution tokens, entropy of the grams themselves, over steps.

    Needs entropies per token (`H`) and a tokenizer; without entropies everything is NaN and a warning says why.

    Rows, one per response: rollout_step, item, group, group_uid, sample, n_tokens, n_planning, planning_nats,
    execution_nats, bonus (change of the mean advantage; NaN without advantages).

    Args:
        grams: words and phrases that mark planning, in any case.
        bonus_size: times |A|, the bonus on planning tokens.
    """
    if not grams:
        raise InputError("planning_entropy: no grams; give at least one word or phrase that marks planning")
    has_advantage = "advantage" in rollouts.columns
    rows = _log.responses(rollouts, ["advantage"] if has_advantage else [], "planning_entropy")
    table = rows[[*_log.KEYS, "n_tokens"]]
    why = _log.measured(rollouts, "H")
    if why:
        blank = table.assign(n_planning=np.nan, planning_nats=np.nan, execution_nats=np.nan, bonus=np.nan)
        return Result.of(blank, xr.Dataset(), warnings=[*rollouts.notes, why])
    if not tokenizer:
        raise InputError("planning_entropy: which tokens are planning is read off their text: give tokenizer=FOLDER")
    rollouts.require("H", by="planning_entropy")
    tokens = _log.tokens(rollouts, ["response_token_ids", "H"])
    own, n = tokens["response"].to_numpy(), len(rows)
    plan, counts = marked(tokens["response_token_ids"].to_numpy(np.int64), own, tokenizer, grams, rows["rollout_step"])
    entropy = tokens["H"].to_numpy(float)
    n_planning = np.bincount(own, plan, n)
    share = np.divide(n_planning, rows["n_tokens"], out=np.zeros(n), where=rows["n_tokens"].to_numpy() > 0)
    size = np.abs(rows["advantage"].to_numpy(float)) if has_advantage else np.full(n, np.nan)
    table = table.assign(
        n_planning=n_planning, planning_nats=_log.means_of(np.where(plan, entropy, np.nan), own, n),
        execution_nats=_log.means_of(np.where(plan, np.nan, entropy), own, n), bonus=bonus_size * size * share,
    )  # fmt: skip
    none = [f"none of the {len(grams)} grams occurs in this log"] if not counts.size else []
    return Result.of(table, _aggregate(table, counts, seed), warnings=[*rollouts.notes, *none])


def marked(
    ids: np.ndarray, own: np.ndarray, tokenizer: str, grams: tuple[str, ...], steps: pd.Series
) -> tuple[np.ndarray, pd.Series]:
    """Which tokens lie in a gram (by their first character), and the matches by (step, gram)."""
    from transformers import AutoTokenizer

    reader: Any = AutoTokenizer.from_pretrained(tokenizer)
    kinds, where = np.unique(ids, return_inverse=True)
    texts = np.array(
        [reader.decode([int(i)], skip_special_tokens=False, clean_up_tokenization_spaces=False) for i in kinds], object
    )
    words = texts[where]
    if not any(" " in t for t in texts):  # a tokenizer of whole words: they are joined by spaces
        words = np.array([f" {w}" for w in texts], object)[where]
    search = re.compile("|".join(rf"\b{re.escape(g)}\b" for g in sorted(grams, key=len, reverse=True)), re.IGNORECASE)
    plan = np.zeros(len(ids), bool)
    found: list[tuple[int, str]] = []
    ends = np.flatnonzero(np.diff(own)) + 1 if len(own) else np.zeros(0, int)
    step = steps.to_numpy()
    for places in np.split(np.arange(len(ids)), ends):
        if not len(places):
            continue
        pieces = words[places]
        at = np.cumsum([0, *map(len, pieces)])
        for match in search.finditer("".join(pieces)):
            first, last = np.searchsorted(at, match.start(), "right") - 1, np.searchsorted(at, match.end(), "left")
            plan[places[first:last]] = True
            found.append((int(step[own[places[0]]]), match[0].lower()))
    return plan, pd.Series(found).value_counts() if found else pd.Series(dtype=int)


def gram_entropy(counts: np.ndarray) -> float:
    """-sum f ln f of the grams' shares; NaN without any."""
    return float(scipy.special.entr(counts / counts.sum()).sum()) if counts.sum() > 0 else float("nan")


def _aggregate(table: pd.DataFrame, counts: pd.Series, seed: int) -> xr.Dataset:
    rows = table.assign(planning_share=np.divide(table["n_planning"], table["n_tokens"].where(table["n_tokens"] > 0)))
    units = {"planning_nats": "nats", "execution_nats": "nats", "planning_share": "1", "bonus": "1"}
    data = xr.merge([estimate(rows, q, ["rollout_step"], seed=seed, units=u) for q, u in units.items()])
    steps = data["rollout_step"].values.tolist()
    pairs: list[Any] = list(counts.items())
    of_step = {s: np.array([n for key, n in pairs if key[0] == s], float) for s in steps}
    values = [gram_entropy(of_step[s]) for s in steps]
    data["gram_entropy_nats"] = ("rollout_step", values, {"units": "nats", "long_name": "entropy of the grams used"})
    return data


def figures(result: Result) -> dict[str, Figure]:
    """Entropy of planning and of execution tokens over steps."""
    rows = result.summary()
    if rows.empty:
        return {}
    said = rows[rows["quantity"].isin(["planning_nats", "execution_nats"])]
    extra = "step" if "step" in rows else None
    title = "Entropy of planning and execution tokens, 95 % over items"
    return {"entropy": curve(said, x="rollout_step", color="quantity", facet=extra, title=title)}
