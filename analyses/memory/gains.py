"""Is a gain memory? What seen items gained over a run against what unseen items gained, on scales no ceiling can fake.

Definition: gain of an item = its share of correct responses at a step minus that at the first step; difference = mean
gain of seen items - mean gain of unseen items. Three scales: the share itself; log odds of each group's share; and the
odds of gaining to losing among items that changed, (sum of (1 - a0) a1) / (sum of a0 (1 - a1)), which under one shift
of every item's log odds is exp(shift) whatever the items' difficulty (Rasch). A gain is called memory only if seen
items gained, and more than unseen ones on all three scales: equal shifts from unequal starts differ on the first, equal
shifts of groups of unequal spread on the first two. Where only the first differs, "seen items gained more" is all that
is said. Since = the first step from which on the difference stays above 0, simultaneously over all steps.

Units: accuracy and its changes are fractions; the other two are natural log odds ratios.

Source: difference in differences; Rasch's conditional odds, McNemar's for 0/1; the rule is this toolkit's.

Does not show: that the model recalls a text. Items differ in more than having been seen, and what makes an item easier
to learn does not show on any scale of outcomes. Where unseen items are at a ceiling throughout, nothing can be said.

Control: unseen items of the same kind; a run with a random reward; benchmarks/nulls, where equal gains, ceilings,
spreads, few items and trends are called memory in at most 7 % of data sets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim
from analyses.core.reading.roles import NEEDS_FRESH, NEEDS_ROLES, SEEN, UNSEEN, from_outcomes, roles
from analyses.core.result import Result
from analyses.core.stats.paired_odds import Scale, changed_odds, marginal_odds
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FEWEST = 8  # items of each kind
ALPHA = 0.05
ESTIMAND = "gain in share correct of seen items minus that of unseen items, first to last step"
MEMORY = "answers come from memory: seen items gained more than unseen ones"
SHARE = "seen items gained more than unseen ones"


@analysis
def gains(
    evaluate: Annotated[Result, "evaluate"],
    *,
    seen: tuple[str, ...] = (),
    unseen: tuple[str, ...] = (),
    draws: int = 2000,
    seed: int = 0,
) -> Result:
    """Gains of seen and unseen items by step, their difference on three scales, and whether that is memory.

    Rows: item, group, answer_kind, seen (True, False or missing), step, accuracy, gain.

    Args:
        evaluate: a sweep of `evaluate` over the run.
        seen: groups that training may have shown; by default the prompt file's column `seen` says which items are.
        unseen: groups that it has not shown.
        draws: of the bootstrap over items, for intervals that hold for all steps together.
        seed: of the same.
    """
    table = gained(evaluate.table)
    table["role"] = roles(table, seen, unseen)
    claims: list[Claim] = []
    parts: list[xr.Dataset] = [_by_group(table)]
    is_selected = from_outcomes(table)
    for kind, rows in table.groupby("answer_kind", sort=True):
        named = str(kind) if table["answer_kind"].nunique() > 1 else None
        why = _cannot(rows, is_selected)
        if why:
            claims.append(Claim("memory", UNJUDGED, "the gain is memory", group=named, why=why[0], needs=why[1]))
            continue
        data, said = _judged(rows, named, draws, seed)
        claims += said
        parts.append(data.expand_dims(answer_kind=[kind]))
    rows = table.assign(seen=table["role"].map({SEEN: True, UNSEEN: False})).drop(columns="role")
    return Result.of(rows, xr.merge(parts, join="outer", compat="no_conflicts"), claims=claims)


def gained(table: pd.DataFrame) -> pd.DataFrame:
    """Share of correct responses per item, kind of answer and step, and its change since the first step.

    Greedy responses where there are any, else samples; one without a readable answer is not correct, one whose gold
    answer cannot be read does not count.
    """
    if "step" not in table or table["step"].nunique() < 2:
        raise InputError("gains need at least two checkpoints: sweep evaluate over the series first")
    greedy = table[table["decoding"] == "greedy"]
    rows = greedy if len(greedy) else table
    rows = rows[rows["status"] != "gold_unparsed"]
    keys = ["item", "group", "answer_kind", *(c for c in ("seen", "cluster", "group_from") if c in rows)]
    right = rows.assign(accuracy=(rows["status"] == "correct").astype(float))
    means = right.groupby([*keys, "step"], dropna=False)["accuracy"].mean().reset_index()
    first = means[means["step"] == means["step"].min()].set_index(["item", "answer_kind"])["accuracy"]
    start = first.reindex(pd.MultiIndex.from_frame(means[["item", "answer_kind"]])).to_numpy()
    return means.assign(gain=means["accuracy"].to_numpy() - start)


def _by_group(table: pd.DataFrame) -> xr.Dataset:
    by = ["group", "answer_kind", "step"]
    named = {"accuracy": "accuracy", "gain": "gain since the first step"}
    return xr.merge([stats.estimate(table, n, by, units="1", long_name=label) for n, label in named.items()])


def _cannot(rows: pd.DataFrame, is_selected: bool) -> tuple[str, str] | None:
    """Why nothing can be said of these rows, and what would let it be said."""
    n = {role: int(rows.loc[rows["role"] == role, "item"].nunique()) for role in (SEEN, UNSEEN)}
    if is_selected:
        return "its groups were made from outcomes, and picking those makes the gain", NEEDS_FRESH
    if not n[SEEN] and not n[UNSEEN]:
        return "nothing says which items were seen", NEEDS_ROLES
    if min(n.values()) < FEWEST:
        given = f"{n[SEEN]} seen and {n[UNSEEN]} unseen items"
        return f"there are {given}", f"at least {FEWEST} items of each, graded at every step"
    return None


def _judged(rows: pd.DataFrame, named: str | None, draws: int, seed: int) -> tuple[xr.Dataset, list[Claim]]:
    rows = rows[rows["role"].notna()]
    wide = rows.pivot_table(index=["item", "role"], columns="step", values="accuracy").dropna()
    is_seen = np.asarray(wide.index.get_level_values("role") == SEEN)
    accuracy, steps = wide.to_numpy(float), wide.columns.to_numpy()
    items = wide.index.get_level_values("item")
    clusters = rows.drop_duplicates("item").set_index("item")["cluster"] if "cluster" in rows else None
    labels = stats.clusters_of(items) if clusters is None else [str(clusters[i] or i) for i in items]
    gain = accuracy[:, 1:] - accuracy[:, :1]
    test = stats.group_max_t(gain, is_seen, clusters=labels, draws=draws, seed=seed)
    own = stats.mean_of_items(gain[is_seen, -1], clusters=None if labels is None else np.asarray(labels)[is_seen])
    pairs = [(accuracy[is_seen][:, [0, s]], accuracy[~is_seen][:, [0, s]]) for s in range(1, len(steps))]
    units = [None if labels is None else np.asarray(labels)[side] for side in (is_seen, ~is_seen)]
    odds = [marginal_odds(*pair, units) for pair in pairs]
    changed = [changed_odds(*pair, units) for pair in pairs]
    data = _data(steps[1:], test, odds, changed, int(min(is_seen.sum(), (~is_seen).sum())))
    is_more = bool(test.low[-1] > 0 and own.ci_low > 0)
    is_memory = is_more and max(odds[-1].p, changed[-1].p) <= ALPHA / 2
    up = [bool(x) for x in test.low > 0]
    since = (
        float(steps[1:][len(up) - next((i for i, u in enumerate(reversed(up)) if not u), len(up))]) if is_more else None
    )
    shown: dict[str, Any] = {
        "estimand": ESTIMAND, "effect": float(test.value[-1]), "low": float(test.low[-1]), "high": float(test.high[-1]),
        "p": float(test.p_cell[-1]), "n": int(data["difference_n"][-1]), "family": f"{len(steps) - 1} steps",
        "control": "unseen items", "group": named, "step": since,
        "assumptions": (
            f"log odds of the shares: p {odds[-1].p:.2g}",
            f"odds of gaining among items that changed: p {changed[-1].p:.2g}",
        ),
    }  # fmt: skip
    if is_memory:
        return data, [Claim("memory", FOUND, MEMORY, **shown)]
    caveat = "unequal starts or spreads can make this difference: it is not called memory" if is_more else ""
    answer = FOUND if is_more else NONE
    return data, [Claim("gain", answer, SHARE, **shown, caveat=caveat)]


def _data(steps: np.ndarray, test: stats.MaxT, odds: list[Scale], changed: list[Scale], n: int) -> xr.Dataset:
    data = xr.Dataset(coords={"step": steps})
    columns: dict[str, list[np.ndarray]] = {"difference": [test.value, test.low, test.high]}
    for name, found in (("log_odds_difference", odds), ("changed_log_odds_difference", changed)):
        columns[name] = [np.array([getattr(s, part) for s in found]) for part in ("value", "low", "high")]
        data[f"{name}_p"] = ("step", np.array([s.p for s in found]), {"long_name": "one-sided p"})
    for name, parts in columns.items():
        for suffix, part in zip(("", "_ci_low", "_ci_high"), parts, strict=True):
            data[name + suffix] = ("step", part)
        data[name + "_n"] = ("step", np.full(len(steps), n))
        data[name].attrs.update(units="1", long_name=name.replace("_", " ") + ", seen minus unseen")
    data["difference_p"] = ("step", test.p_cell, {"long_name": "p over all steps"})
    return data


def figures(result: Result) -> dict[str, Figure]:
    """Accuracy by group, and the difference of the gains on its three scales."""
    from analyses.core.figures import curve

    rows = result.summary()
    accuracy = rows[rows["quantity"] == "accuracy"]
    several = ["answer_kind"] if accuracy["answer_kind"].nunique() > 1 else None
    drawn = {"accuracy": curve(accuracy, x="step", color="group", facet=several, title="Accuracy by group")}
    gaps = rows[rows["quantity"].str.endswith("difference")]
    if len(gaps):
        title = "Gain of seen minus gain of unseen items"
        drawn["difference"] = curve(gaps, x="step", color="quantity", facet=several, title=title, reference=0.0)
    return drawn
