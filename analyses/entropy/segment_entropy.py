"""Does a tool call change how certain the policy is, and does a fall of entropy go with success?

Definition: a call lies where a tool's segment stands between two segments of the policy. before and after are mean
    token entropies on its two sides: of the last and the first `window` tokens (no further than the neighbouring call),
    and of the whole logged segments next to it; delta = after - before. auroc: chance that a call of a successful
    response (or, where the log has it, a successful call) shows a larger fall of the window's entropy than one that
    fails, ties one half; rank_correlation: Spearman's of the fall with the outcome. slope: least squares of the entropy
    after a call on its number, per response. Null: as many boundaries, drawn anywhere in the same response.
Units: nats; auroc and correlation have none.
Source: arXiv 2602.02050 (its sign is after - before); the null is this toolkit's.
Does not show: that the tool's output caused the change: entropy also changes with position and with what is written.
Control: the permuted boundaries (p beside every number); calls whose output is replaced by nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.claim import Claim, Fields
from analyses.core.figures import curve
from analyses.core.reading import rollout_tokens as reading
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes
from analyses.entropy import _calls as sides
from probe.errors import InputError
from probe.readers.arrow import lengths, per_token
from probe.readers.segments import segment_numbers

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Model, Rollouts

SIDES = ("before", "after", "delta")
NAMES = ["rollout_step", "item", "group", "group_uid", "sample"]


def _work(case: Case) -> Work:
    """A pass over every response."""
    return passes(case, "answer")


@analysis(renamed={"pattern": "tag_pattern"}, work=_work)
def segment_entropy(
    model: Model | None,
    rollouts: Rollouts,
    *,
    segments: Literal["logged", "mask", "tags"] = "logged",
    tag_pattern: str = "",
    window: int = 8,
    draws: int = 199,
    success_above: float = 0.5,
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Entropy before and after every tool call, its change against random boundaries, and its relation to outcome.

    Without a model the entropies are those of the log (`H`). `tags` reads segments off the text with the model's
    tokenizer (`<think>`, `<search>`, `<information>`, `<answer>` ..., or `tag_pattern`).

    Rows, one per call: step (of the log; in a sweep, of the checkpoint), rollout_step, item, group, group_uid, sample,
    call (from 0), before_window_nats, after_window_nats, delta_window_nats, before_segment_nats, after_segment_nats,
    delta_segment_nats, outcome (NaN where the log has none).

    Args:
        segments: the log's own (else runs of its mask), runs of the mask, or tags in the text.
        tag_pattern: regular expression with groups named think, call, tool, answer or turn, in place of the known tags.
        window: on each side of a call.
        draws: sets of random boundaries of the null.
        seed: null and the bootstrap over items.
    """
    if window < 1 or draws < 19:
        raise InputError(f"window={window}, draws={draws}; expected 1 token or more, 19 draws or more")
    log = _segmented(model, rollouts, segments, tag_pattern)
    frame = _entropies(model, log, batch_size)
    frame["segment"], kinds = _segments(log)
    frame = frame[kinds != "tool"].reset_index(drop=True)
    table, extra, notes = _calls(frame, log, window, success_above)
    table.insert(0, "step", table["rollout_step"])  # a sweep puts the checkpoint's step here
    data = _aggregate(table, seed)
    if len(table):
        data = xr.merge([data, _against_null(table, frame, extra, window, draws, seed)])
    return Result.of(table, data, claims=_claims(data, table), warnings=[*log.notes, *notes])


def _segmented(model: Model | None, rollouts: Rollouts, how: str, pattern: str) -> Rollouts:
    if model is not None:
        rollouts = reading.readable(rollouts, model)
    rollouts.require("response_token_ids", by="segment_entropy")
    if how == "logged" and "segment_starts" in rollouts.columns:
        return rollouts
    if how in ("logged", "mask"):
        rollouts.require("response_mask", by="segment_entropy")
        return rollouts.segmented()
    if model is None:
        raise InputError("segment_entropy: tags are read off the text: give the model (its tokenizer)")
    return rollouts.segmented(model.tokenizer, pattern)


def _entropies(model: Model | None, log: Rollouts, batch_size: int) -> pd.DataFrame:
    """Masked-in tokens with `entropy_nats`, in the order of the log, `response` numbering the responses."""
    if model is None:
        log.require("H", by="segment_entropy")
        frame = pd.concat(list(log.tokens(["H"])), ignore_index=True)
        frame = frame.rename(columns={"H": "entropy_nats", "step": "rollout_step"})
    else:
        frame = reading.read([model], log, _entropy, batch_size=batch_size, what="entropy of segments")
    frame["response"] = frame.groupby(["rollout_step", "item", "group_uid", "sample"], sort=False).ngroup()
    return frame


def _entropy(logits: tuple[Tensor, ...], targets: Tensor) -> dict[str, Tensor]:
    from probe.recompute import statistics

    return {"entropy_nats": statistics(logits[0], targets)["H"]}


def _segments(log: Rollouts) -> tuple[np.ndarray, np.ndarray]:
    """Segment number and type ("" where unknown) of every masked-in token, in the order of the log."""
    numbers: list[np.ndarray] = []
    kinds: list[np.ndarray] = []
    for _, table in log.windows(["segment_starts", "segment_type", "response_token_ids", "response_mask"]):
        counts = lengths(table, "response_token_ids")
        own = segment_numbers(table, counts)
        marks = lengths(table, "segment_starts")
        if "segment_type" in table.column_names and (lengths(table, "segment_type") == marks).all():
            types = np.asarray(table["segment_type"].combine_chunks().flatten().to_pylist(), object)
            begin = np.repeat(np.cumsum(marks) - marks, counts)
            kind = types[begin + own]
        else:
            kind = np.full(len(own), "", object)
        if "response_mask" in table.column_names:
            inside = per_token(table, "response_mask", counts).astype(bool)
            own, kind = own[inside], kind[inside]
        numbers.append(own)
        kinds.append(kind)
    return np.concatenate(numbers), np.concatenate(kinds)


def _calls(
    frame: pd.DataFrame, log: Rollouts, window: int, above: float
) -> tuple[pd.DataFrame, dict[str, np.ndarray], list[str]]:
    """One row per call, what the null needs of it, and notes."""
    response, entropy = frame["response"].to_numpy(), frame["entropy_nats"].to_numpy(float)
    cuts, tools = sides.calls(response, frame["segment"].to_numpy())
    names, first, count = sides.spans(response)
    place = np.searchsorted(names, cuts.own)
    low, high = first[place], (first + count)[place]
    before, after = sides.around(entropy, cuts, low, high, window)
    whole = frame.groupby(["response", "segment"], sort=True)["entropy_nats"].mean()
    segment = frame["segment"].to_numpy()
    sides_of = [
        whole.reindex(pd.MultiIndex.from_arrays([cuts.own, segment[i]])).to_numpy() for i in (cuts.at - 1, cuts.at)
    ]
    number = pd.Series(cuts.own).groupby(cuts.own).cumcount().to_numpy()
    table = frame[NAMES].iloc[cuts.at].reset_index(drop=True).assign(
        call=number, before_window_nats=before, after_window_nats=after, delta_window_nats=after - before,
        before_segment_nats=sides_of[0], after_segment_nats=sides_of[1], delta_segment_nats=sides_of[1] - sides_of[0],
    )  # fmt: skip
    table["outcome"] = _outcomes(table, log, segment[cuts.at - 1] + 1 if tools else segment[cuts.at - 1], above)
    notes = (
        [] if tools or not len(table) else ["no segment is a tool's: every boundary between segments counts as a call"]
    )
    if not len(table):
        notes.append("no response has a boundary: there is no call to look at")
    return table, {"at": cuts.at, "own": cuts.own, "low": low, "high": high}, notes


def _outcomes(table: pd.DataFrame, log: Rollouts, segment: np.ndarray, above: float) -> np.ndarray:
    """Whether each call succeeded, else whether its response did; NaN where the log says neither."""
    keys = ["step", "item", "group_uid", "sample"]
    wanted = [c for c in ("reward", "segment_outcome") if c in log.columns]
    if not wanted or table.empty:
        return np.full(len(table), np.nan)
    facts = log.scalars(wanted).set_index(keys)
    rows = facts.reindex(pd.MultiIndex.from_frame(table[["rollout_step", *keys[1:]]]))
    if "segment_outcome" in wanted and facts["segment_outcome"].notna().any():
        lists = rows["segment_outcome"].tolist()
        return np.array([np.nan if v is None or v[s] is None else float(v[s] > 0) for v, s in zip(lists, segment)])
    reward = pd.to_numeric(rows["reward"]).to_numpy(float) if "reward" in wanted else np.full(len(table), np.nan)
    return np.where(np.isnan(reward), np.nan, reward > above)


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    if table.empty:
        return xr.Dataset()
    found = [
        estimate(table, f"{side}_{over}_nats", ["rollout_step"], seed=seed, units="nats")
        for over in ("window", "segment")
        for side in SIDES
    ]
    for side in SIDES:
        name = f"{side}_by_call_nats"
        found.append(estimate(table, f"{side}_window_nats", ["call"], seed=seed, name=name, units="nats"))
    return xr.merge(found)


def _against_null(
    table: pd.DataFrame, frame: pd.DataFrame, extra: dict[str, np.ndarray], window: int, draws: int, seed: int
) -> xr.Dataset:
    """The statistics over all calls, each with its mean and p under boundaries drawn at random."""
    entropy, item = frame["entropy_nats"].to_numpy(float), pd.factorize(table["item"], sort=True)[0]
    outcome, number = table["outcome"].to_numpy(float), table["call"].to_numpy(float)
    _, own = np.unique(extra["own"], return_inverse=True)
    owner = np.zeros(own.max() + 1, int)
    owner[own] = item

    def measured(before: np.ndarray, after: np.ndarray) -> list[float]:
        delta = after - before
        known = ~np.isnan(outcome) & ~np.isnan(delta)
        slope = sides.slopes(after, number, own, own.max() + 1)
        return [
            _macro(delta, item), sides.auroc(-delta[known], outcome[known]),
            sides.rank_correlation(-delta[known], outcome[known]), _macro(slope, owner),
        ]  # fmt: skip

    rng = np.random.default_rng(seed)
    cuts = sides.Cuts(extra["at"], extra["own"])
    own_values = measured(table["before_window_nats"].to_numpy(), table["after_window_nats"].to_numpy())
    drawn = np.full((draws, len(own_values)), np.nan)
    for draw in range(draws):
        made = sides.random_cuts(cuts, extra["low"], extra["high"], rng)
        drawn[draw] = measured(*sides.around(entropy, made, extra["low"], extra["high"], window))
    data = xr.Dataset()
    for place, name in enumerate(("delta", "auroc", "rank_correlation", "slope")):
        null = drawn[:, place][~np.isnan(drawn[:, place])]
        value = own_values[place]
        centre = float(null.mean()) if len(null) else float("nan")
        beyond = int((np.abs(null - centre) >= abs(value - centre) - 1e-12).sum())
        p = (1 + beyond) / (1 + len(null)) if len(null) and not np.isnan(value) else float("nan")
        units = "nats" if name == "delta" else "nats per call" if name == "slope" else "1"
        for suffix, one in (("", value), ("_null", centre), ("_p", p)):
            data[f"{name}{suffix}"] = one
        data[name].attrs.update(units=units)
    data.attrs["null_draws"] = draws
    return data


def _macro(values: np.ndarray, item: np.ndarray) -> float:
    """Mean over items of each one's mean; NaN values are left out."""
    seen = ~np.isnan(values)
    if not seen.any():
        return float("nan")
    count = np.bincount(item[seen])
    return float((np.bincount(item[seen], values[seen])[count > 0] / count[count > 0]).mean())


def _claims(data: xr.Dataset, table: pd.DataFrame) -> list[Claim]:
    """Whether entropy changes at calls as it does not at random boundaries of the same responses."""
    what = "entropy changes across tool calls more than at random boundaries"
    control = "as many boundaries drawn anywhere in the same responses"
    if table.empty:
        return [
            Claim(
                "calls", "cannot be judged", what, why="no response has a tool call", needs="responses with tool calls"
            )
        ]
    effect, p = float(data["delta"] - data["delta_null"]), float(data["delta_p"])
    n = int(table.loc[table["delta_window_nats"].notna(), "item"].nunique())
    estimand = "mean change of entropy across a call, minus that at random boundaries"
    if n < 5:
        why, needs = f"{n} items with calls of measured entropy", "calls of five items or more"
        return [Claim("calls", "cannot be judged", what, why=why, needs=needs, n=n, control=control)]
    said: Fields = {"estimand": estimand, "effect": effect, "unit": "nats", "p": p, "n": n, "control": control}
    if not p <= 0.05:
        return [Claim("calls", "none found", what, **said)]
    falls = "entropy falls across tool calls" if effect < 0 else "entropy rises across tool calls"
    return [Claim("calls", "found", falls, **said)]


def figures(result: Result) -> dict[str, Figure]:
    """Entropy before and after calls over steps and by the number of the call."""
    rows = result.summary()
    if rows.empty:
        return {}
    extra = "step" if "step" in rows else None
    names = [f"{side}_window_nats" for side in SIDES]
    over = rows[rows["quantity"].isin(names)]
    by_call = rows[rows["quantity"].isin([f"{side}_by_call_nats" for side in SIDES])]
    return {
        "by_step": curve(
            over, x="rollout_step", color="quantity", facet=extra, title="Entropy around tool calls, 95 % over items"
        ),
        "by_call": curve(by_call, x="call", color="quantity", facet=extra, title="Entropy around the n-th call"),
    }
