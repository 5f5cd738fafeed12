"""Where a patch acts, and whether it acts more on one group of items: one place each, over everything looked at.

Intervals and p hold for all places, directions, kinds of answers and groups together (`stats.max_t`). Blocks
after the one that acts carry its effect on, so the place named is the earliest whose effect is not clearly smaller than
the largest; the others are counted, as downstream. A place whose own weights are the same in both checkpoints is
downstream whatever its effect, and is never named. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analyses.core import stats
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields, agreeing
from analyses.core.reading.roles import NEEDS_FRESH, OUTCOME_GROUPS
from analyses.core.stats.max_t import MaxT, group_max_t, mean_max_t
from analyses.core.stats.resampling import clusters_of

FEWEST = 8  # items of a group
CELL = ["answer_kind", "direction", "site", "layer", "head"]
WAYS = {"tuned_to_base": "from tuned into base", "base_to_tuned": "from base into tuned"}
SITES = {
    "attn_out": "attention output",
    "mlp_out": "MLP output",
    "mlp_post": "MLP neurons",
    "resid_pre": "residual stream before",
    "resid_mid": "residual stream in the middle",
    "resid_post": "residual stream after",
    "z": "attention values",
}
POSITIONS = {
    "all_prompt": "at every prompt position",
    "last_prompt": "at the last prompt position",
    "all": "at every token",
}
METRICS = {"answer_logprob": "the answer's log-probability", "accuracy": "accuracy"}
CAVEAT = "a causal effect, no proof of storage"


@dataclass(frozen=True)
class PlaceQuestion:
    """What was patched and measured: positions in words, unit and name of the metric, the bootstrap.

    `unchanged` are the (site, layer) whose own weights are the same in both checkpoints.
    """

    positions: str
    unit: str
    metric: str
    draws: int
    seed: int
    unchanged: frozenset[tuple[str, int]] = frozenset()


def claims(table: pd.DataFrame, groups: tuple[str, str] | None, asked: PlaceQuestion, selected: bool) -> list[Claim]:
    """What may be said of every group's largest effect, and of the difference between two groups.

    Args:
        table: rows item, group, answer_kind, direction, site, layer, head, effect, gap.
        groups: the two that are told apart, if any.
        asked: see `PlaceQuestion`.
        selected: the groups were made from outcomes.
    """
    rows = table.assign(layer=table["layer"].fillna(-1).astype(int), head=table["head"].fillna(-1).astype(int))
    rows, left_out = _changed(rows, asked.unchanged)
    names = [str(g) for g in sorted(rows["group"].unique())]
    grids = {g: rows[rows["group"] == g].pivot_table(index="item", columns=CELL, values="effect") for g in names}
    places: dict[str, tuple[Hashable, ...] | None] = {}
    said: list[Claim] = []
    for group, grid in grids.items():
        one, places[group] = _largest(rows[rows["group"] == group], grid, group, len(names), asked)
        said.append(one)
    said = agreeing(said)
    if groups is not None:
        said.append(_contrast([grids[g] for g in groups], groups, places[groups[0]], asked, selected))
    return [replace(c, assumptions=(*c.assumptions, *left_out)) for c in said]


def _changed(rows: pd.DataFrame, unchanged: frozenset[tuple[str, int]]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Rows of places that training changed, and what was left out; all rows where it changed none of them."""
    of = list(zip(rows["site"].astype(str), rows["layer"].astype(int), strict=True))
    there = set(of)
    if not unchanged & there or there <= unchanged:
        return rows, ()
    kept = rows[[at not in unchanged for at in of]]
    return kept, (
        f"{len(there & unchanged)} of {len(there)} parts have the same weights in both: downstream, not named",
    )


def _largest(
    rows: pd.DataFrame, grid: pd.DataFrame, group: str, n_groups: int, asked: PlaceQuestion
) -> tuple[Claim, tuple[Hashable, ...] | None]:
    labels, n = _units(grid)
    what = "a single patch moves the metric"
    if n < FEWEST:
        why = f"{n} items are too few for so many places"
        return Claim("place", UNJUDGED, what, group=group, why=why, needs=f"at least {FEWEST} items", n=n), None
    test = mean_max_t(grid.to_numpy(), clusters=labels, seed=asked.seed, draws=asked.draws, level=1 - 0.05 / n_groups)
    family = f"{grid.shape[1]} places, {n_groups} groups"
    found = (test.low > 0) | (test.high < 0)
    shown: Fields = {"group": group, "n": n, "family": family, "control": "no change (effect 0)"}
    shown["estimand"] = f"change of {asked.metric} by the patch, mean over items"
    if not found.any():
        p = min(1.0, test.p * n_groups)
        return Claim("place", NONE, f"a patch {asked.positions} that moves {asked.metric}", p=p, **shown), None
    at = _earliest(grid, test, found, labels)
    place = tuple(grid.columns[at])
    others = int(found.sum()) - 1
    caveat = CAVEAT + (
        f"; {others} other places act too, later ones may only carry it on (downstream)" if others else ""
    )
    return Claim(
        "place", FOUND, f"patching {_named(place, grid)} moves {asked.metric} of {group}", place=_named(place, grid),
        effect=float(test.value[at]), low=float(test.low[at]), high=float(test.high[at]), unit=asked.unit,
        p=min(1.0, float(test.p_cell[at]) * n_groups), share=_share(rows, place, float(test.value[at]), labels),
        assumptions=(f"patched {asked.positions}",), caveat=caveat, **shown,
    ), place  # fmt: skip


def _units(grid: pd.DataFrame) -> tuple[list[str] | None, int]:
    labels = clusters_of(grid.index)
    return labels, len(set(labels)) if labels is not None else len(grid)


def _earliest(grid: pd.DataFrame, test: MaxT, found: np.ndarray, labels: list[str] | None) -> int:
    """The first cell, by layer, whose effect is found and not clearly smaller than the largest one, items paired."""
    size = np.where(found, np.abs(np.nan_to_num(test.value)), -1.0)
    best = int(size.argmax())
    values = grid.to_numpy() * np.sign(np.nan_to_num(test.value))
    short = stats.mean_of_items(values[:, [best]] - values, clusters=labels)
    alike = found & ~(short.ci_low > 0)
    alike[best] = True
    layers = grid.columns.get_level_values("layer").to_numpy(int)
    same_way = (grid.columns.get_level_values("direction") == grid.columns[best][CELL.index("direction")]) & (
        grid.columns.get_level_values("answer_kind") == grid.columns[best][0]
    )
    able = np.flatnonzero(alike & np.asarray(same_way))
    return int(min(able, key=lambda i: (layers[i], -size[i])))


def _share(rows: pd.DataFrame, place: tuple[Hashable, ...], effect: float, labels: list[str] | None) -> float:
    """The effect as a share of the checkpoints' difference; NaN where the interval of that difference holds 0."""
    own = rows[(rows["answer_kind"] == place[0]) & (rows["direction"] == place[1])]
    gaps = own.drop_duplicates("item").set_index("item")["gap"].sort_index()
    gap = stats.mean_of_items(gaps.to_numpy(float), clusters=clusters_of(gaps.index) if labels else None)
    return effect / float(gap.value) if gap.ci_low > 0 or gap.ci_high < 0 else float("nan")


def _contrast(
    grids: Sequence[pd.DataFrame],
    groups: tuple[str, str],
    place: tuple[Hashable, ...] | None,
    asked: PlaceQuestion,
    selected: bool,
) -> Claim:
    what = f"patching acts more on {groups[0]} than on {groups[1]}"
    if selected or set(groups) & OUTCOME_GROUPS:
        why = "the groups were made from outcomes, and picking those makes a difference"
        return Claim("contrast", UNJUDGED, what, why=why, needs=NEEDS_FRESH)
    sizes = [_units(g)[1] for g in grids]
    if min(sizes) < FEWEST:
        why = f"there are {sizes[0]} and {sizes[1]} items"
        return Claim("contrast", UNJUDGED, what, why=why, needs=f"at least {FEWEST} items of each group")
    both = pd.concat([g.reindex(columns=grids[0].columns) for g in grids])
    first = np.arange(len(both)) < len(grids[0])
    test = group_max_t(both.to_numpy(), first, clusters=clusters_of(both.index), seed=asked.seed, draws=asked.draws)
    at = grids[0].columns.get_loc(place) if place is not None else test.argmax
    at = at if isinstance(at, int) else test.argmax
    if not test.p_cell[at] <= 0.05:
        at = test.argmax
    named = _named(tuple(both.columns[at]), both)
    is_found = bool(test.low[at] > 0 or test.high[at] < 0)
    word = "more" if test.value[at] > 0 else "less"
    return Claim(
        "contrast", FOUND if is_found else NONE,
        f"patching {named} acts {word} on {groups[0]} than on {groups[1]}" if is_found else what,
        place=named, estimand=f"effect on {groups[0]} minus effect on {groups[1]}", effect=float(test.value[at]),
        low=float(test.low[at]), high=float(test.high[at]), unit=asked.unit, p=float(test.p_cell[at]), n=min(sizes),
        family=f"{both.shape[1]} places", control=groups[1], assumptions=_spreads(both.to_numpy()[:, at], first),
        caveat=CAVEAT if is_found else "",
    )  # fmt: skip


def _spreads(values: np.ndarray, first: np.ndarray) -> tuple[str, ...]:
    """How unlike the groups are; the test does not assume that they are alike."""
    ratio = float(np.nanstd(values[first]) / max(np.nanstd(values[~first]), 1e-300))
    return (f"spread of the groups {ratio:.2g} : 1, sizes {int(first.sum())} and {int((~first).sum())}",)


def _named(place: tuple[Hashable, ...], grid: pd.DataFrame) -> str:
    """A cell in words: which part, of which head and layer, in which direction (and whose answer, of several)."""
    kind, way, site, layer, head = place
    several = grid.columns.get_level_values("answer_kind").nunique() > 1
    of = f" ({kind})" if several else ""
    if int(str(layer)) < 0:
        return f"the {site} {WAYS[str(way)]}{of}"
    whose = f" of head {head}" if int(str(head)) >= 0 else ""
    return f"the {SITES.get(str(site), str(site))}{whose} of layer {layer} {WAYS[str(way)]}{of}"
