"""What several sampling temperatures are worth together: problems that only one of them solves, shared budgets, votes.

Definition: a log has samples of every item at several temperatures (column `temperature`). pass_at_1 and solved (any
sample right) at each. exclusive = items solved at this temperature and at no other; exclusive_null = the same in
expectation when the item's right responses are dealt to all its samples at random, C(n_T, c) / C(n, c) for c > 0.
shared_pass = pass@k of a budget k shared evenly by the temperatures (the remainder to the lowest), 1 - prod
C(n - c, k_T) / C(n, k_T); best_pass = that of the best single temperature at the same k, chosen on all items. vote =
the most frequent answer when every temperature votes with weight 1; weighted_vote = with weight 1 - H / ln n, H its
entropy of answers (ties shared).

Units: fractions.

Source: temperature in test-time scaling (multi-temperature pass@K, exclusive problems, entropy-weighted votes).

Does not show: which temperature to use for a new problem. The best single temperature is chosen on the same items, so
that `gain` (shared minus best) is on the low side.

Control: `exclusive_null`; one temperature twice under two names (no exclusive problems beyond it).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from math import comb, log
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.answers import _judged
from analyses.answers._samples import BY, sampled
from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.reading.votes import clusters, pass_at_k
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from plotly.graph_objects import Figure

    from analyses.core.claim import Claim

OWN = {"pass_at_1": "right", "solved": "solved by any sample", "exclusive": "solved at this temperature alone",
       "exclusive_null": "the same with right responses dealt at random"}  # fmt: skip
JOINT = {"shared_pass": "pass@k of a shared budget", "best_pass": "pass@k of the best single temperature",
         "gain": "shared minus best", "vote": "vote of all samples",
         "weighted_vote": "vote weighted by certainty"}  # fmt: skip
WHAT = "some problems are solved at one temperature alone"


@analysis
def temperatures(evaluate: Annotated[Result, "evaluate"], *, k: int = 0, seed: int = 0) -> Result:
    """Exclusive problems of every temperature with their null, pass@k of a shared budget, and weighted votes.

    Rows: step (where there are steps), item, group, answer_kind, temperature, n, c, pass_at_1, solved, exclusive,
    exclusive_null; and of the item (repeated): shared_pass, best_pass, gain, vote, weighted_vote.

    Args:
        evaluate: result of `evaluate` over a log with a column `temperature` and several samples at each.
        k: the shared budget; 0: as many as the least sampled temperature has.
    """
    rows = sampled(evaluate.table, "temperatures")
    if "temperature" not in rows or rows["temperature"].nunique() < 2:
        raise InputError(
            "temperatures compares samples of one log at several temperatures: give each of its rows a column "
            "`temperature`, at least two values"
        )
    rows = rows.assign(temperature=pd.to_numeric(rows["temperature"]))
    at = [*(["step"] if "step" in rows else []), "item", *BY]
    levels = sorted(rows["temperature"].unique().tolist())
    whole = rows.groupby(at)["temperature"].nunique() == len(levels)
    rows = rows[rows.set_index(at).index.isin(whole[whole].index)]
    if rows.empty:
        raise InputError(f"no item has samples at all temperatures ({', '.join(f'{t:g}' for t in levels)})")
    fewest = int(rows.groupby([*at, "temperature"]).size().min())
    budget = k or fewest
    if not 1 <= budget <= fewest:
        raise InputError(
            f"k={k}: the least sampled temperature has {fewest} samples of an item; expected 1 to {fewest}"
        )
    table = pd.DataFrame([row for names, of in rows.groupby(at, sort=True) for row in _of(of, at, names, budget)])
    table = _with_best(table, at, budget)
    return Result.of(table, _aggregates(table, seed), claims=list(_claims(table)))


def _of(of: pd.DataFrame, at: Sequence[str], names: Any, k: int) -> list[dict[str, Any]]:
    """Rows of one item, one a temperature."""
    cells = {float(str(t)): part for t, part in of.groupby("temperature", sort=True)}
    n = {t: len(part) for t, part in cells.items()}
    c = {t: int(part["right"].sum()) for t, part in cells.items()}
    total, right = sum(n.values()), sum(c.values())
    plain, weighted = (vote(of, cells, is_weighted=w) for w in (False, True))
    joint = {
        "shared_pass": shared_pass(list(n.values()), list(c.values()), k),
        "vote": plain,
        "weighted_vote": weighted,
    }
    made: list[dict[str, Any]] = []
    for t in cells:
        alone = comb(n[t], right) / comb(total, right) if right else 0.0
        own = {
            "n": n[t], "c": c[t], "pass_at_1": c[t] / n[t], "solved": float(c[t] > 0),
            "exclusive": float(c[t] > 0 and right == c[t]), "exclusive_null": alone,
        }  # fmt: skip
        made.append(dict(zip(at, names, strict=True)) | {"temperature": t, **own, **joint})
    return made


def shared_pass(n: Sequence[int], c: Sequence[int], k: int) -> float:
    """pass@k of k samples shared evenly by the temperatures, the remainder by the first ones.

    Args:
        n: samples at each temperature.
        c: right ones among them.
        k: samples of the shared budget.
    """
    each = [k // len(n) + (i < k % len(n)) for i in range(len(n))]
    missed = [1 - pass_at_k(size, right, own) if own else 1.0 for size, right, own in zip(n, c, each, strict=True)]
    return 1 - float(np.prod(missed))


def vote(of: pd.DataFrame, cells: dict[float, pd.DataFrame], *, is_weighted: bool) -> float:
    """Chance that the answer with most votes is right, ties shared; unreadable answers have no vote.

    Args:
        of: all of an item's samples, with answer and right.
        cells: temperature -> its samples.
        is_weighted: weigh a temperature by how much its samples agree.
    """
    votes: dict[Any, float] = defaultdict(float)
    right = {name for name, flag in zip(clusters(of["answer"].tolist()), of["right"], strict=True) if flag == 1}
    for part in cells.values():
        named = [name for name in clusters(part["answer"].tolist()) if name[0] == "read"]  # type: ignore[index]
        weight = certainty(Counter(named)) if is_weighted else 1.0
        for name in named:
            votes[name] += weight
    most = max(votes.values(), default=0.0)
    if most <= 0:
        return 0.0
    top = [name for name, count in votes.items() if count >= most - 1e-12]
    return sum(name in right for name in top) / len(top)


def certainty(counts: Counter[Any]) -> float:
    """1 - H / ln n of answers' shares, in [0, 1]: 1 where all agree, 0 where all differ; 1 for a lone one."""
    n = sum(counts.values())
    if n < 2:
        return float(n)
    shares = np.array(list(counts.values())) / n
    return max(0.0, 1 + float((shares * np.log(shares)).sum()) / log(n))


def _with_best(table: pd.DataFrame, at: Sequence[str], k: int) -> pd.DataFrame:
    """pass@k of the temperature that is best on all items of the step, beside each item."""
    own = [pass_at_k(int(n), int(c), k) for n, c in zip(table["n"], table["c"], strict=True)]
    table = table.assign(own_pass=own)
    over = [c for c in at if c == "step"]
    means = table.groupby([*over, "temperature"])["own_pass"].mean().reset_index()
    best = means.loc[means.groupby(over)["own_pass"].idxmax()] if over else means.loc[[means["own_pass"].idxmax()]]
    chosen = table.merge(best[[*over, "temperature"]], on=[*over, "temperature"])[[*at, "own_pass"]]
    found = table.drop(columns="own_pass").merge(chosen.rename(columns={"own_pass": "best_pass"}), on=list(at))
    return found.assign(gain=found["shared_pass"] - found["best_pass"])


def _aggregates(table: pd.DataFrame, seed: int) -> xr.Dataset:
    over = [*(["step"] if "step" in table else []), *BY]
    how: dict[str, Any] = {"seed": seed, "units": "1"}
    parts = [stats.estimate(table, q, [*over, "temperature"], long_name=v, **how) for q, v in OWN.items()]
    each = table.drop_duplicates([*over, "item"])
    parts += [stats.estimate(each, q, over, long_name=v, **how) for q, v in JOINT.items()]
    return xr.merge(parts, join="outer")


def _claims(table: pd.DataFrame) -> Iterator[Claim]:
    """Of every group and kind (at the last step): more exclusive problems than dealing right responses makes?"""
    last = table[table["step"] == table["step"].max()] if "step" in table else table
    cells = list(last.groupby(BY, sort=True))
    for (group, kind), rows in cells:
        each = rows.groupby("item")[["exclusive", "exclusive_null"]].sum().reset_index()
        excess = _judged.mean(each.assign(excess=each["exclusive"] - each["exclusive_null"]), "excess", len(cells))
        said: dict[str, object] = {
            "group": str(group) if last["answer_kind"].nunique() == 1 else f"{group}, {kind}",
            "family": f"{len(cells)} group(s)", "control": "right responses dealt to temperatures at random",
            "estimand": "share of exclusive problems beyond chance",
        }  # fmt: skip
        yield _judged.claim(excess, excess.is_above(), "exclusive", WHAT, **said)


def figures(result: Result) -> dict[str, Figure]:
    """Accuracy, solved and exclusive problems against temperature; with steps, one line a step."""
    rows = result.summary()
    rows = rows[rows["quantity"].isin(OWN)]
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    color, facet = ("step", ["quantity", "series"]) if "step" in rows else ("series", "quantity")
    title = "Sampling temperatures: right, solved, and solved at one alone"
    return {"temperatures": curve(rows, x="temperature", color=color, facet=facet, title=title)}
