"""Is a gain memory? What seen items gained over a run against what unseen items gained, on scales no ceiling can fake.

Definition: gain of an item = its share of correct responses at a step minus that at the first step; difference = mean
gain of seen items - mean gain of unseen items. Three scales: the share itself; log odds of each group's share; and the
odds of gaining to losing among items that changed, (sum of (1 - a0) a1) / (sum of a0 (1 - a1)), which under one shift
of every item's log odds is exp(shift) whatever the items' difficulty (Rasch). A gain is called memory only if seen
items gained, and more than unseen ones on all three scales: equal shifts from unequal starts differ on the first, equal
shifts of groups of unequal spread on the first two. Where only the first differs, "seen items gained more" is all that
is said. Each scale is tested one-sided at .05 and all must hold, so a false "memory" stays near .05 where any one of
them tells the truth; the interval of the difference is of 90 %, as its test is one-sided. Since = the first step from
which on the difference stays above 0, simultaneously over all steps.

Units: accuracy and its changes are fractions; the other two are natural log odds ratios.

Source: difference in differences; Rasch's conditional odds, McNemar's for 0/1; the rule is this toolkit's. Given how
many items changed, the third test is Fisher's, the most powerful unbiased one where items may be of any difficulty: no
rule immune to difficulty finds much more (on 128 + 128 items it alone finds +.15 in .70 and +.20 in .86).

Does not show: that the model recalls a text. Items differ in more than having been seen, and what makes an item easier
to learn does not show on any scale of outcomes. Where unseen items are at a ceiling throughout, nothing can be said.

Control: unseen items of the same kind; a run with a random reward; benchmarks/nulls, where equal gains, ceilings,
spreads, few items and trends are called memory in at most 7 % of data sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import curve
from analyses.core.reading.roles import NEEDS_FRESH, NEEDS_ROLES, SEEN, UNSEEN, from_outcomes, roles
from analyses.core.result import Result
from analyses.core.stats import Labels
from analyses.memory._paired_odds import OddsScale, changed_odds, marginal_odds
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FEWEST = 8  # items of each kind (clusters where there are clusters)
ALPHA = 0.05  # one-sided, of each of the three tests; all three must hold
ESTIMAND = "gain in share correct of seen items minus that of unseen items, first to last step"
MEMORY = "answers come from memory: seen items gained more than unseen ones"
SHARE = "seen items gained more than unseen ones"


@dataclass(frozen=True)
class _Paired:
    """Share right [item, step], which items were seen, and the cluster of each where they come in clusters."""

    accuracy: np.ndarray
    steps: np.ndarray
    is_seen: np.ndarray
    units: np.ndarray | None

    def of(self, side: np.ndarray) -> np.ndarray | None:
        """Clusters of some items."""
        return None if self.units is None else self.units[side]

    @property
    def sizes(self) -> tuple[int, int]:
        """Seen and unseen units."""
        sides = (self.is_seen, ~self.is_seen)
        seen, unseen = (int(s.sum()) if self.units is None else len(np.unique(self.units[s])) for s in sides)
        return seen, unseen

    def ends(self, step: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray | None]]:
        """Seen and unseen items [item, first and this step] with their clusters."""
        sides = (self.is_seen, ~self.is_seen)
        seen, unseen = (self.accuracy[side][:, [0, step]] for side in sides)
        return seen, unseen, [self.of(side) for side in sides]


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
        draws: of the bootstrap over items, for intervals that hold for all steps together.
    """
    table = gained(evaluate.table)
    table["role"] = roles(table, seen, unseen)
    claims: list[Claim] = []
    parts: list[xr.Dataset] = [_by_group(table)]
    is_selected = from_outcomes(table)
    for kind, rows in table.groupby("answer_kind", sort=True):
        named = str(kind) if table["answer_kind"].nunique() > 1 else None
        paired = _paired(rows)
        why = _cannot(paired, is_selected)
        if why:
            claims.append(Claim("memory", UNJUDGED, "the gain is memory", group=named, why=why[0], needs=why[1]))
            continue
        data, said = _judged(paired, named, draws, seed)
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


def _paired(rows: pd.DataFrame) -> _Paired:
    """Items of either role that were measured at every step."""
    kept = rows[rows["role"].notna()]
    wide = kept.pivot_table(index=["item", "role"], columns="step", values="accuracy").dropna()
    items, role = (wide.index.get_level_values(level) for level in ("item", "role"))
    labels: Labels | None = stats.clusters_of(items)
    if "cluster" in kept:
        named = kept.dropna(subset=["cluster"]).drop_duplicates("item").set_index("item")["cluster"]
        labels = [str(named.get(i, i)) for i in items]
    is_seen = np.asarray(role == SEEN)
    units = None if labels is None else np.asarray(labels)
    return _Paired(wide.to_numpy(float), np.asarray(wide.columns), is_seen, units)


def _cannot(paired: _Paired, is_selected: bool) -> tuple[str, str] | None:
    """Why nothing can be said of these items, and what would let it be said."""
    seen, unseen = paired.sizes
    if is_selected:
        return "its groups were made from outcomes, and picking those makes the gain", NEEDS_FRESH
    if not seen and not unseen:
        return "nothing says which items were seen", NEEDS_ROLES
    if min(seen, unseen) < FEWEST:
        unit = "items" if paired.units is None else "clusters of items"
        given = f"{seen} seen and {unseen} unseen {unit}"
        return f"there are {given} with all steps", f"at least {FEWEST} {unit} of each, graded at every step"
    return None


def _judged(paired: _Paired, named: str | None, draws: int, seed: int) -> tuple[xr.Dataset, list[Claim]]:
    accuracy, is_seen, steps = paired.accuracy, paired.is_seen, paired.steps[1:]
    gain, n = accuracy[:, 1:] - accuracy[:, :1], min(paired.sizes)
    compare: dict[str, Any] = {"draws": draws, "seed": seed, "alternative": "greater", "level": 1 - 2 * ALPHA}
    test = stats.group_max_t(gain, is_seen, clusters=paired.units, **compare)
    marginal, changed = (
        [scale(*paired.ends(s)) for s in range(1, len(steps) + 1)] for scale in (marginal_odds, changed_odds)
    )
    data = _data(steps, test, marginal, changed, n)
    own = stats.paired_difference(
        accuracy[is_seen, -1], accuracy[is_seen, 0], clusters=paired.of(is_seen), level=1 - 2 * ALPHA
    )
    family = f"{len(steps)} step{'s' * (len(steps) > 1)}; 90 % interval, as the test is one-sided"
    shown: Fields = {"n": n, "family": family, "control": "unseen items", "group": named}
    is_more = bool(test.low[-1] > 0)
    if is_more and not (own.ci_low > 0 or (np.isnan(own.ci_low) and own.value > 0)):  # NaN: all gained alike
        ends = {"effect": float(own.value), "low": float(own.ci_low), "high": float(own.ci_high)}
        lost = "unseen items lost more: seen ones are compared with themselves here"
        return data, [Claim("gain", NONE, "seen items gained", "gain of seen items", **ends, **shown, caveat=lost)]
    shown |= {"effect": float(test.value[-1]), "low": float(test.low[-1]), "high": float(test.high[-1])}
    shown |= {"estimand": ESTIMAND, "p": float(test.p_cell[-1]), "step": _since(steps, test.low > 0)}
    shown["assumptions"] = (
        f"log odds of the shares: one-sided p {marginal[-1].p:.2g}",
        f"odds of gaining among items that changed: one-sided p {changed[-1].p:.2g}",
    )
    if is_more and max(marginal[-1].p, changed[-1].p) <= ALPHA:
        return data, [Claim("memory", FOUND, MEMORY, **shown)]
    caveat = "unequal starts or spreads can make this difference: it is not called memory" if is_more else ""
    return data, [Claim("gain", FOUND if is_more else NONE, SHARE, **shown, caveat=caveat)]


def _since(steps: np.ndarray, up: np.ndarray) -> float | None:
    """The first step from which on it holds to the end."""
    held = int(np.logical_and.accumulate(up[::-1]).sum())
    return float(steps[-held]) if held else None


def _data(steps: np.ndarray, test: stats.MaxT, odds: list[OddsScale], changed: list[OddsScale], n: int) -> xr.Dataset:
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
    rows = result.summary()
    accuracy = rows[rows["quantity"] == "accuracy"]
    several = ["answer_kind"] if accuracy["answer_kind"].nunique() > 1 else None
    drawn = {"accuracy": curve(accuracy, x="step", color="group", facet=several, title="Accuracy by group")}
    gaps = rows[rows["quantity"].str.endswith("difference")]
    if len(gaps):
        title = "Gain of seen minus gain of unseen items"
        drawn["difference"] = curve(gaps, x="step", color="quantity", facet=several, title=title, reference=0.0)
    return drawn
