"""Does training make more problems solvable, or only the solvable ones likelier? pass@k and maj@k against the start.

Definition: pass@k = 1 - C(n-c, k) / C(n, k) of n samples with c right, maj@k = chance that the most frequent answer of
k is right, both exact, mean over items; `_change` = value at a step minus that at the first, items paired. The run
narrows where pass@1 rose and pass@K fell (the curves cross), and broadens where pass@K rose; K is the largest k that
every item has samples for. crossing_k is the smallest k from which on the change of pass@k is negative.

Units: fractions; k in samples.

Source: base against tuned pass@k: arXiv 2504.13837; pass@k: 2107.03374; majority: 2203.11171.

Does not show: why. pass@K of many samples also rises where answers are guessed more evenly, and both depend on
temperature and token limit; an answer guessed from few possible ones counts as solved. A run that does both on
different problems can look like neither.

Control: the same checkpoint sampled anew (`seed` of evaluate): no change at any k; the base at a higher temperature.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.answers import _judged
from analyses.answers._samples import BY, counts, sampled, since_first
from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.reading.votes import majority, pass_at_k
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from plotly.graph_objects import Figure

    from analyses.core.claim import Claim

LABELS = {"pass_at_k": "pass@k (unbiased)", "maj_at_k": "majority vote of k"}
NARROWS = "problems are solved more often at once and fewer of them within all samples"
BROADENS = "more problems are solved within all samples"


@analysis
def pass_curves(
    evaluate: Annotated[Result, "evaluate"], *, ks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64), seed: int = 0
) -> Result:
    """pass@k and maj@k at every step with their paired change since the first, where they cross, and what that says.

    Rows: step, item, group, answer_kind, k, pass_at_k, maj_at_k, pass_at_k_change, maj_at_k_change.

    Args:
        evaluate: sweep of `evaluate` with samples, or a log of samples at several steps.
        ks: those that some item has too few samples for are left out, its most is added.
    """
    responses = sampled(evaluate.table, "pass_curves")
    since_first(counts(responses), "pass_curves")
    table = _with_changes(_curves(responses, _usable(responses, ks)))
    over = ["step", *BY, "k"]
    parts = [stats.estimate(table, q, over, seed=seed, units="1", long_name=v) for q, v in LABELS.items()]
    later = table[table["step"] > table["step"].min()]
    for quantity, label in LABELS.items():
        how: dict[str, Any] = {"seed": seed, "units": "1", "long_name": f"{label}, change since the first step"}
        parts.append(stats.estimate(later, f"{quantity}_change", over, **how))
    data = xr.merge(parts, join="outer")
    data["crossing_k"] = crossing(data["pass_at_k_change"])
    return Result.of(table, data, claims=list(_claims(later)))


def _usable(responses: pd.DataFrame, ks: Sequence[int]) -> list[int]:
    """The ks that every item has samples for, and the most that all have."""
    most = int(counts(responses)["n"].min())
    if any(k < 1 for k in ks):
        raise InputError(f"ks={tuple(ks)}: expected numbers of samples of at least 1")
    return sorted({1, most, *(k for k in ks if k <= most)})


def _curves(responses: pd.DataFrame, ks: Sequence[int]) -> pd.DataFrame:
    keys = ["step", "item", *BY, *(["cluster"] if "cluster" in responses else [])]
    rows: list[dict[str, object]] = []
    for at, of in responses.groupby(keys, sort=True, dropna=False):
        named = dict(zip(keys, at, strict=True))
        answers, flags = of["answer"].tolist(), of["right"].tolist()
        for k in ks:
            passed = pass_at_k(len(of), int(sum(flags)), k)
            rows.append({**named, "k": k, "pass_at_k": passed, "maj_at_k": majority(answers, flags, k)})
    return pd.DataFrame(rows)


def _with_changes(table: pd.DataFrame) -> pd.DataFrame:
    keys = ["item", *BY, "k"]
    first = table[table["step"] == table["step"].min()].set_index(keys)[list(LABELS)]
    before = first.reindex(pd.MultiIndex.from_frame(table[keys])).to_numpy()
    moved = table[list(LABELS)].to_numpy() - before
    return table.assign(**{f"{q}_change": moved[:, i] for i, q in enumerate(LABELS)})


def crossing(change: xr.DataArray) -> xr.DataArray:
    """Smallest k from which on the change is negative, where it was not so at the smallest; NaN where it never is."""

    def first_below(of: np.ndarray) -> float:
        below = of < 0
        stays = np.logical_and.accumulate(below[::-1])[::-1]
        return float("nan") if below[0] or not stays.any() else float(change["k"].to_numpy()[int(stays.argmax())])

    found = xr.apply_ufunc(first_below, change, input_core_dims=[["k"]], vectorize=True)
    return found.assign_attrs(units="samples", long_name="k from which on the first step solves more")


def _claims(later: pd.DataFrame) -> Iterator[Claim]:
    """Of every group and kind at the last step: does the run narrow, does it broaden?"""
    last = later[later["step"] == later["step"].max()]
    cells = list(last.groupby(BY, sort=True))
    most = int(last["k"].max())
    several = last["answer_kind"].nunique() > 1
    for (group, kind), rows in cells:
        looks = 2 * len(cells)
        once, many = (_judged.mean(rows[rows["k"] == k], "pass_at_k_change", looks) for k in (1, most))
        said: dict[str, object] = {
            "group": f"{group}, {kind}" if several else str(group), "control": "the first step",
            "family": f"{len(cells)} group(s), k = 1 and {most}",
            "estimand": f"change of pass@{most} since the first step",
            "assumptions": (f"change of pass@1: {once.value:+.3f} [{once.low:+.3f}, {once.high:+.3f}]",),
        }  # fmt: skip
        narrows = once.is_above() and many.is_below()
        yield _judged.claim(many, narrows, "narrower", NARROWS, **said)
        yield _judged.claim(many, many.is_above(), "broader", BROADENS, **said)


def figures(result: Result) -> dict[str, Figure]:
    """pass@k of the first and the last step against k, and the changes."""
    rows = result.summary()
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    ends = rows[rows["step"].isin([rows["step"].min(), rows["step"].max()])]
    levels = ends[ends["quantity"].isin(LABELS)]
    changes = rows[rows["quantity"] == "pass_at_k_change"]
    title = "pass@k and maj@k, first and last step"
    moved = "Change of pass@k since the first step, 95 % interval over items"
    return {
        "pass_at_k": curve(levels, x="k", color="step", dash="quantity", facet="series", title=title),
        "change": curve(changes, x="k", color="step", facet="series", title=moved, reference=0.0),
    }
