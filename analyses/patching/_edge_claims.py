"""Which edges training changed, by their exact contributions. Never imports torch.

The edges that were replayed were picked by what they look like on the same items, so every interval is as wide as if
all edges of the graph had been looked at (Bonferroni). An edge is spoken of only if it is worth `LEAST` of what the
prompts' difference is worth: any training moves every edge a little.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.stats import clusters_of, mean_of_items, widened

CHECKPOINTS = ("base", "tuned")
FEWEST = 8  # items
LEAST = 0.1  # of the gap between clean and corrupt prompts
MOST = 3  # edges named
WHAT = "training changed an edge"


def claims(table: pd.DataFrame, n_edges: int) -> list[Claim]:
    """The edges that changed most (at most `MOST`), or that none did.

    Args:
        table: rows item, answer_kind, checkpoint, sender, receiver, exact, worth.
        n_edges: of the whole graph.
    """
    gaps = table.pivot_table(index="item", columns="checkpoint", values="worth")  # answers of one item averaged
    n = len(gaps)
    if n < FEWEST:
        needs = f"at least {FEWEST} items"
        return [Claim("edge", UNJUDGED, WHAT, why=f"{n} items are too few for so many edges", needs=needs, n=n)]
    size = max(abs(float(gaps[name].mean())) for name in CHECKPOINTS)
    told = [mean_of_items(gaps[name].to_numpy(float), clusters=clusters_of(gaps.index)) for name in CHECKPOINTS]
    if not any(float(t.ci_low) > 0 for t in told):
        why = "no checkpoint prefers the answer under the clean prompts"
        needs = "prompts whose corruption changes the answer"
        return [Claim("edge", UNJUDGED, WHAT, why=why, needs=needs, n=n)]
    rows = table[table["exact"].notna()]
    if rows.empty:
        return [Claim("edge", UNJUDGED, WHAT, why="no edge was replayed", needs="verify of at least 1", n=n)]
    return _judged(rows, n, size, n_edges)


def _judged(rows: pd.DataFrame, n: int, size: float, n_edges: int) -> list[Claim]:
    grid = rows.pivot_table(index="item", columns=["sender", "receiver", "checkpoint"], values="exact")
    tuned, base = (grid.xs(name, axis=1, level="checkpoint") for name in ("tuned", "base"))
    change = tuned - base
    found = mean_of_items(change.to_numpy(float), clusters=clusters_of(change.index))
    shown: Fields = {
        "estimand": "exact contribution in tuned minus in base, mean over items", "n": n, "unit": "nats/token",
        "family": f"{n_edges} edges", "control": "the same edge in base",
        "assumptions": (f"at least {LEAST:.0%} of what clean prompts are worth ({size:.2g} nats)",),
    }  # fmt: skip
    said: list[Claim] = []
    for k in np.argsort(-np.abs(found.value), kind="stable"):
        bounds = (float(x[k]) for x in (found.value, found.ci_low, found.ci_high))
        value, low, high = widened(*bounds, n=n, looks=n_edges)
        if (low > 0 or high < 0) and abs(value) >= LEAST * size:
            name = " -> ".join(map(str, change.columns[k]))
            before, after = (float(np.nanmean(side.to_numpy(float)[:, k])) for side in (base, tuned))
            clause = f"training {verb(before, after)} the edge {name}"
            parts = {"effect": value, "low": low, "high": high, "place": name}
            caveat = "later edges carry on what earlier ones do"
            said.append(Claim("edge", FOUND, clause, caveat=caveat, **parts, **shown))
    if said:
        return said[:MOST]
    return [Claim("edge", NONE, "an edge that training changed", **shown)]


def verb(before: float, after: float) -> str:
    """What happened to an edge between two mean contributions."""
    if abs(before) < abs(after) / 4:
        return "made"
    if abs(after) < abs(before) / 4:
        return "unmade"
    return "turned" if before * after < 0 else "strengthened" if abs(after) > abs(before) else "weakened"
