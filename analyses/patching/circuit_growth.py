"""When in training an edge of the circuit appeared: a swept circuit, edge by edge.

Definition: of every edge that has rows at each step, change = score in tuned minus score in base (the first one),
    mean over items, with an interval as wide as for all edges and steps together. An edge has appeared since the
    first step from which on its change leaves out 0 and is at least half of its last one, at every step. It is spoken
    of where its exact change at the last step leaves out 0, has the same sign, and is worth a tenth of the gap
    between clean and corrupt prompts.
Units: nats per token.
Source: arXiv 2502.11812 (circuits over finetuning); scores: 2310.10348.
Does not show: when what an edge carries was learnt: an edge appears when both its ends work. What lies between
    checkpoints is not seen. Scores are first-order estimates; only the last step is held against exact values.
Control: edges of a run on unrelated data; the first step against itself (0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd

from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import curve
from analyses.core.result import Result
from analyses.core.stats import clusters_of, mean_of_items, widened
from analyses.patching._edge_claims import CHECKPOINTS, FEWEST, LEAST, MOST, verb
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CELL = ["edge", "step"]
WHAT = "an edge appeared in training"


@analysis
def circuit_growth(circuit: Annotated[Result, "circuit"], *, shown: int = 6) -> Result:
    """Change of every edge since the first checkpoint at every step, and the step since which it is there.

    Rows: sender, receiver, edge, step, change, ci_low, ci_high, n, exact_change (missing where not replayed), since
    (missing: never).

    Args:
        shown: those of largest change at the last step.
    """
    if shown < 1:
        raise InputError(f"shown={shown}; expected at least one edge")
    table = circuit.table
    if "step" not in table or table["step"].nunique() < 2:
        raise InputError("this circuit is of one pair; expected a sweep: `probe sweep circuit --checkpoints DIR`")
    edges = table[table["receiver"] != "all"].assign(edge=lambda t: t["sender"] + " -> " + t["receiver"])
    grown = _changes(edges, "score").merge(_exact(edges), on=CELL, how="left")
    grown = grown.merge(_since(grown), on="edge", how="left")
    parts = grown["edge"].str.split(" -> ", n=1, expand=True)
    grown = grown.assign(sender=parts[0], receiver=parts[1]).sort_values(CELL, kind="stable", ignore_index=True)
    last = grown[grown["step"] == grown["step"].max()]
    largest = last.iloc[np.argsort(-last["change"].abs().to_numpy(), kind="stable")[:shown]]["edge"]
    grown["shown"] = grown["edge"].isin(largest)
    return Result.of(grown, claims=_claims(edges, grown))


def _grid(edges: pd.DataFrame, column: str) -> pd.DataFrame:
    """Tuned minus base by item, over edge and step; edges with rows at every step only."""
    steps = edges["step"].nunique()
    grid = edges.pivot_table(index="item", columns=["checkpoint", *CELL], values=column)
    change = grid["tuned"] - grid["base"]
    counts = change.columns.get_level_values("edge").value_counts()
    whole = counts.index[counts == steps] if column == "score" else counts.index
    return pd.DataFrame(change.loc[:, change.columns.get_level_values("edge").isin(whole)])


def _changes(edges: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean change with the interval that holds for all of them."""
    grid = _grid(edges, column)
    found = mean_of_items(grid.to_numpy(float), clusters=clusters_of(grid.index))
    n, looks = len(grid), grid.shape[1]
    rows: list[dict[str, object]] = []
    for k, (edge, step) in enumerate(grid.columns):
        value, low, high = widened(*(float(x[k]) for x in (found.value, found.ci_low, found.ci_high)), n=n, looks=looks)
        rows.append({"edge": edge, "step": step, "change": value, "ci_low": low, "ci_high": high, "n": n})
    return pd.DataFrame(rows)


def _exact(edges: pd.DataFrame) -> pd.DataFrame:
    rows = edges[edges["exact"].notna()]
    if rows.empty:
        return pd.DataFrame({"edge": [], "step": [], "exact_change": [], "exact_low": [], "exact_high": []})
    named = {"change": "exact_change", "ci_low": "exact_low", "ci_high": "exact_high"}
    return _changes(rows, "exact").rename(columns=named).drop(columns="n")


def _since(grown: pd.DataFrame) -> pd.DataFrame:
    """The first step from which on an edge's change is there at every step."""
    rows: list[dict[str, object]] = []
    for edge, own in grown.sort_values("step").groupby("edge", sort=False):
        last = float(own["change"].iloc[-1])
        there = ((own["ci_low"] > 0) | (own["ci_high"] < 0)) & (own["change"] * np.sign(last) >= abs(last) / 2)
        stays = there[::-1].cummin()[::-1].astype(bool).to_numpy()
        rows.append({"edge": edge, "since": float(own["step"].to_numpy()[stays][0]) if stays.any() else np.nan})
    return pd.DataFrame(rows)


def _claims(edges: pd.DataFrame, grown: pd.DataFrame) -> list[Claim]:
    n = int(grown["n"].max())
    if n < FEWEST:
        return [Claim("edge", UNJUDGED, WHAT, why=f"{n} items are too few", needs=f"at least {FEWEST} items", n=n)]
    end = edges[edges["step"] == edges["step"].max()]
    gaps = end.groupby(["checkpoint", "item"])["worth"].first().groupby("checkpoint").mean()
    size = float(gaps.abs().max())
    last = grown[(grown["step"] == grown["step"].max()) & grown["since"].notna()]
    sure = ((last["exact_low"] > 0) | (last["exact_high"] < 0)) & (last["exact_change"] * last["change"] > 0)
    last = last[sure & (last["exact_change"].abs() >= LEAST * size)]
    said: Fields = {
        "n": n, "unit": "nats/token", "family": f"{len(grown)} edges and steps", "control": "the first checkpoint",
        "estimand": "exact contribution at the last step minus at the first, mean over items",
        "assumptions": (f"at least {LEAST:.0%} of what clean prompts are worth ({size:.2g} nats)",),
    }  # fmt: skip
    found: list[Claim] = []
    for row in last.iloc[np.argsort(-last["exact_change"].abs().to_numpy(), kind="stable")[:MOST]].to_dict("records"):
        mean = end[end["edge"] == row["edge"]].groupby("checkpoint")["exact"].mean()
        clause = f"training {verb(*(float(mean[name]) for name in CHECKPOINTS))} the edge {row['edge']}"
        numbers = {k: float(row[f"exact_{v}"]) for k, v in (("effect", "change"), ("low", "low"), ("high", "high"))}
        found.append(Claim("edge", FOUND, clause, place=str(row["edge"]), step=float(row["since"]), **numbers, **said))
    return found or [Claim("edge", NONE, "an edge that appeared in training", **said)]


def figures(result: Result) -> dict[str, Figure]:
    """Change of the largest edges over steps."""
    rows = result.table[result.table["shown"]].rename(columns={"change": "value"}).assign(unit="nats/token")
    title = "Edges over training: change since the first checkpoint"
    return {"growth": curve(rows, x="step", facet="edge", title=title, reference=0.0, y_title="change (nats/token)")}
