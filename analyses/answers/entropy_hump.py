"""Is accuracy best at a middle entropy? Accuracy against the entropy of answers over sampling temperatures.

Definition: at every temperature, H = mean over items of the entropy of the shares of sampled answers (each unreadable
one alone), accuracy = mean share of right samples. Accuracy is fitted as a + b (H - mean) + c (H - mean)^2 over
temperatures; curvature = c. As the fit is linear in the accuracies, every item has its own curvature, and their mean
is c: the interval is over items, with the temperatures' H as measured. best = H at the vertex, best_accuracy = the
fit there; NaN where c is not negative. A hump is there where c is below 0 and best lies between the least and the
largest H.

Units: nats; curvature in shares per nat squared.

Source: AEPO, arXiv 2510.08141 (performance against entropy).

Does not show: that a policy trained to that entropy would be as good: temperature changes what is sampled, not the
model. Four points or more are needed, and a vertex near the end of their range rests on the shape of the curve.

Control: accuracy that falls straight with H (curvature 0).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from analyses.answers import _judged
from analyses.answers._response_diversity import frequencies, semantic_entropy_nats
from analyses.answers._samples import BY, sampled
from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.claim import Claim, Fields
from analyses.core.figures import curve
from analyses.core.reading.votes import clusters
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LEAST = 4  # temperatures
WHAT = "accuracy is best at an entropy between the least and the largest"


@analysis
def entropy_hump(evaluate: Annotated[Result, "evaluate"], *, seed: int = 0) -> Result:
    """Accuracy and entropy of answers by temperature, the curvature of one against the other, and where it is best.

    Rows: step (where there are steps), item, group, answer_kind, temperature, n, right, entropy_nats, curvature (the
    item's own; the same in all of its rows).

    Args:
        evaluate: result of `evaluate` over a log with a column `temperature` and several samples at each of four.
    """
    rows = sampled(evaluate.table, "entropy_hump")
    if "temperature" not in rows or pd.to_numeric(rows["temperature"], errors="coerce").isna().any():
        raise InputError("entropy_hump needs a number in the column `temperature` of every response")
    rows = rows.assign(temperature=pd.to_numeric(rows["temperature"]))
    over = [*(["step"] if "step" in rows else []), *BY]
    table = _by_temperature(rows, [*over, "item"])
    parts = [_with_curvature(of) for _, of in table.groupby(over, sort=True)]
    table = pd.concat([rows for rows, _ in parts], ignore_index=True)
    how: dict[str, Any] = {"seed": seed}
    at = [*over, "temperature"]
    data = [
        stats.estimate(table, "right", at, units="1", long_name="right", **how),
        stats.estimate(table, "entropy_nats", at, units="nats", long_name="entropy of answers", **how),
    ]
    each = table.drop_duplicates([*over, "item"])
    label = "curvature of accuracy over entropy"
    data.append(stats.estimate(each, "curvature", over, units="1/nats^2", long_name=label, **how))
    return Result.of(
        table, xr.merge(data, join="outer"), claims=list(_claims(table, [best for _, best in parts], over))
    )


def _by_temperature(rows: pd.DataFrame, at: list[str]) -> pd.DataFrame:
    """One row an item and temperature, of items that have samples at all of them."""
    made: list[dict[str, Any]] = []
    for names, of in rows.groupby([*at, "temperature"], sort=True):
        shares = frequencies(clusters(of["answer"].tolist()))
        values = {"n": len(of), "right": float(of["right"].mean()), "entropy_nats": semantic_entropy_nats(shares)}
        made.append(dict(zip([*at, "temperature"], names, strict=True)) | values)
    table = pd.DataFrame(made)
    levels = table["temperature"].nunique()
    if levels < LEAST:
        raise InputError(f"{levels} temperatures: a hump needs at least {LEAST}")
    whole = table.groupby(at)["temperature"].transform("nunique") == levels
    if not whole.any():
        raise InputError("no item has samples at all temperatures")
    return table[whole].reset_index(drop=True)


def _with_curvature(of: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """The rows of one group with every item's curvature, and the entropy where the fit of the means is best."""
    wide = of.pivot_table("right", "item", "temperature")
    h = of.groupby("temperature")["entropy_nats"].mean().to_numpy()
    contrast = quadratic(h)
    own = pd.Series(wide.to_numpy() @ contrast[2], index=wide.index)
    _, b, c = contrast @ wide.to_numpy().mean(0)
    best = float(h.mean() - b / (2 * c)) if c < 0 else np.nan
    inside = h.min() < best < h.max()
    return of.assign(curvature=of["item"].map(own)), best if inside else np.nan


def quadratic(h: Float[np.ndarray, " level"]) -> Float[np.ndarray, "coefficient level"]:
    """Weights of accuracies at entropies h that give a, b and c of the least-squares a + b x + c x^2, x = h - mean.

    Raises:
        InputError: fewer than three entropies that differ.
    """
    if len(np.unique(np.round(h, 9))) < 3:
        raise InputError("entropies of answers hardly differ between temperatures: no curve can be fitted")
    return np.linalg.pinv(np.vander(h - h.mean(), 3, increasing=True))


def _claims(table: pd.DataFrame, best: list[float], over: list[str]) -> Iterator[Claim]:
    """Of every group and kind (at the last step): is there a hump?"""
    cells = list(zip(table.groupby(over, sort=True), best, strict=True))
    last = table["step"].max() if "step" in table else None
    cells = [(of, at) for (_, of), at in cells if last is None or of["step"].iloc[0] == last]
    for of, at in cells:
        found = _judged.mean(of.drop_duplicates("item"), "curvature", len(cells))
        group, kind = of["group"].iloc[0], of["answer_kind"].iloc[0]
        said: Fields = {
            "group": str(group) if table["answer_kind"].nunique() == 1 else f"{group}, {kind}",
            "family": f"{len(cells)} group(s)", "control": "a straight line", "unit": "per nat squared",
            "estimand": "curvature of accuracy over the entropy of answers",
            "place": "" if np.isnan(at) else f"{at:.2f} nats",
        }  # fmt: skip
        yield _judged.claim(found, found.is_below() and not np.isnan(at), "hump", WHAT, **said)


def figures(result: Result) -> dict[str, Figure]:
    """Accuracy and entropy of answers by temperature; with steps, one line a step."""
    rows = result.summary()
    rows = rows[rows["quantity"].isin(["right", "entropy_nats"])]
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    color, facet = ("step", ["quantity", "series"]) if "step" in rows else ("series", "quantity")
    return {"hump": curve(rows, x="temperature", color=color, facet=facet, title="Accuracy and entropy of answers")}
