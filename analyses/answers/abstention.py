"""Does a model abstain where there is no answer, and only there? And what does abstaining cost elsewhere?

Definition: items without a gold answer are unanswerable. abstains_unanswerable and abstains_answerable = shares of
responses that abstain, of each kind of item; difference = the first minus the second (always abstaining gives 1, 1, 0).
answered_accuracy = right among responses to answerable items that do not abstain; fabricates = share of responses to
unanswerable items that give an answer. Greedy responses where there are any, else samples.

Units: fractions of responses, items counting alike.

Source: abstention in temporal QA; MASH and AdaSearch (rates of abstention).

Does not show: that an abstention is a judgement: a pattern of words is read (`--abstain` of evaluate). Unanswerable
items may be told from others by their style alone.

Control: answerable items of the same style; the base checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import numpy as np
import pandas as pd
import xarray as xr

from analyses.answers import _judged
from analyses.answers._judged import Mean
from analyses.answers._since_a_step import has_series
from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.figures import curve, forest
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plotly.graph_objects import Figure

    from analyses.core.claim import Claim

ABSTAINS = "(abstains)"  # what the grader writes as the answer of an abstention
WHAT = "the model abstains more often where there is no answer"
RARER = "the model abstains less where there is no answer than at the first step"
LABELS = {
    "abstains_unanswerable": "abstentions on items without an answer",
    "abstains_answerable": "abstentions on items with an answer",
    "answered_accuracy": "right, of answers to items that have one",
    "fabricates": "answers to items that have none",
}


@analysis
def abstention(evaluate: Annotated[Result, "evaluate"], *, seed: int = 0) -> Result:
    """Rates of abstention on answerable and unanswerable items, their difference, and its change over steps.

    Rows: step (where there are steps), item, group, answer_kind, answerable (1 or 0), abstains, right, answered.

    Args:
        evaluate: result or sweep of `evaluate` with `abstain`, over items of which some have no gold answer.
    """
    table = _responses(evaluate.table)
    over = ["step"] if "step" in table else []
    sides = {"abstains_unanswerable": ("abstains", 0.0), "abstains_answerable": ("abstains", 1.0),
             "answered_accuracy": ("right", 1.0), "fabricates": ("answers", 0.0)}  # fmt: skip
    parts = []
    for name, (column, answerable) in sides.items():
        rows = table[table["answerable"] == answerable]
        parts.append(stats.estimate(rows, column, over, name=name, seed=seed, units="1", long_name=LABELS[name]))
    cells = [(at, rows) for at, rows in table.groupby("step")] if over else [(None, table)]
    differences = [difference(rows) for _, rows in cells]
    for suffix, values in zip(("", "_ci_low", "_ci_high", "_n"), zip(*map(_parts, differences), strict=True)):
        data = xr.Dataset({f"difference{suffix}": (over, np.array(values) if over else np.array(values)[0])})
        parts.append(data.assign_coords({"step": [at for at, _ in cells]} if over else {}))
    merged = cast("xr.Dataset", xr.merge(parts, join="outer"))
    merged["difference"].attrs.update(units="1", long_name="abstentions, unanswerable minus answerable")
    return Result.of(table, merged, claims=list(_claims(table, differences[-1])))


def _parts(of: Mean) -> tuple[float, float, float, int]:
    return of.value, of.low, of.high, of.n


def _responses(table: pd.DataFrame) -> pd.DataFrame:
    """Responses with what they are to abstention.

    Raises:
        InputError: no unanswerable items, or no answerable ones, or nothing that says what an abstention is.
    """
    asked = table[table["status"] != "gold_unparsed"]
    greedy = asked[asked["decoding"] == "greedy"]
    rows = greedy if len(greedy) else asked
    answerable = rows["gold"].fillna("").astype(str).str.strip() != ""
    if not (~answerable).any() or not answerable.any():
        kind = "without" if answerable.any() else "with"
        raise InputError(
            f"abstention compares items with an answer and items without: there is none {kind} one (give the latter an "
            "empty answer, and evaluate --abstain usual or a pattern)"
        )
    abstains = rows["answer"].eq(ABSTAINS).fillna(False).astype(float)
    keys = [c for c in ("step", "item", "group", "answer_kind", "sample", "cluster") if c in rows]
    found = rows[keys].assign(answerable=answerable.astype(float), abstains=abstains, answers=1 - abstains)
    right = (rows["status"] == "correct").astype(float)
    found["right"] = right.where(abstains == 0)
    return found.reset_index(drop=True)


def difference(rows: pd.DataFrame) -> Mean:
    """Share of abstentions of unanswerable minus answerable items, with its interval."""
    sides = [_judged.mean(rows[rows["answerable"] == flag], "abstains", 1, "1") for flag in (0.0, 1.0)]
    low, high = _judged.difference(*sides)
    return Mean(sides[0].value - sides[1].value, low, high, min(s.n for s in sides))


def _claims(table: pd.DataFrame, last: Mean) -> Iterator[Claim]:
    """At the last step: does it discriminate? Since the first: does it abstain less where it should?"""
    said: dict[str, object] = {"control": "items with an answer", "family": "the last step"}
    yield _judged.claim(
        last, last.is_above(), "abstains", WHAT, estimand="abstentions, unanswerable minus answerable", **said
    )
    if not has_series(table):
        return
    wide = table[table["answerable"] == 0].pivot_table("abstains", "item", "step", "mean").dropna()
    moved = pd.DataFrame({"item": wide.index, "change": wide.iloc[:, -1].to_numpy() - wide.iloc[:, 0].to_numpy()})
    change = _judged.mean(moved, "change", 1)
    more: dict[str, object] = {"control": "the first step", "family": "first and last step"}
    what = "change of abstentions on unanswerable items"
    yield _judged.claim(change, change.is_below(), "fabricates", RARER, estimand=what, **more)


def figures(result: Result) -> dict[str, Figure]:
    """Rates over steps where there are any."""
    rows = result.summary()
    rows = rows[rows["quantity"].isin([*LABELS, "difference"])]
    title = "Abstentions on items with and without an answer"
    if "step" in rows:
        return {"abstention": curve(rows, x="step", facet="quantity", title=title, unit="1")}
    return {"abstention": forest(rows, label="quantity", reference=None, title=title)}
