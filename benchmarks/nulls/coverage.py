"""How often 95 % intervals hold the truth, how wide they are beside Student's, and how often there is one.

Two thousand data sets are the cells of one call; of statistics that are drawn, four hundred (`coverage_drawn`).
`python -m benchmarks.nulls.coverage` rewrites the table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from analyses.core import stats
from benchmarks.nulls import coverage_drawn
from benchmarks.nulls.zoo import Rng

TABLE = Path(__file__).with_name("coverage.json")
SETS = 2000
SIZES = (6, 8, 16, 32, 64, 128)
Draw = Callable[[Rng, tuple[int, int]], np.ndarray]
MEANS: dict[str, tuple[Draw, float]] = {
    "mean, normal": (lambda r, s: r.normal(size=s), 0.0),
    "mean, exponential": (lambda r, s: r.exponential(size=s), 1.0),
    "mean, log-normal": (lambda r, s: r.lognormal(size=s), float(np.exp(0.5))),
    "mean, t with 3 degrees": (lambda r, s: r.standard_t(3, size=s), 0.0),
    "mean, 9 of 10 are 0, rest exponential": (lambda r, s: (r.random(s) < 0.1) * r.exponential(size=s), 0.1),
    "accuracy .9": (lambda r, s: (r.random(s) < 0.9) * 1.0, 0.9),
    "accuracy .97": (lambda r, s: (r.random(s) < 0.97) * 1.0, 0.97),
    "share right of 4 samples": (lambda r, s: r.binomial(4, r.beta(0.5, 0.5, size=s)) / 4, 0.5),
    "paired change of accuracy .2": (lambda r, s: r.choice([-1.0, 0.0, 1.0], size=s, p=[0.1, 0.6, 0.3]), 0.2),
}


def row(what: str, n: int, found: stats.Estimate, truth: float, usual: np.ndarray) -> dict[str, Any]:
    """Coverage and width among the data sets that had an interval."""
    told = ~np.isnan(found.ci_low)
    inside = (found.ci_low <= truth) & (truth <= found.ci_high)
    width = (found.ci_high - found.ci_low)[told & (usual > 0)] / usual[told & (usual > 0)]
    covers = float(inside[told].mean()) if told.any() else float("nan")
    return {"what": what, "n": n, "covers": round(covers, 4), "told": float(told.mean()),
            "width": round(float(np.median(width)), 3) if len(width) else 0.0}  # fmt: skip


def student(x: np.ndarray) -> np.ndarray:
    """Width of Student's interval of the mean of every data set."""
    n = len(x)
    return 2 * float(scipy_stats.t.ppf(0.975, n - 1)) * x.std(0, ddof=1) / np.sqrt(n)


def table(sets: int = SETS) -> Iterator[dict[str, Any]]:
    for n in SIZES:
        rng = np.random.default_rng(n)
        for what, (draw, truth) in MEANS.items():
            x = draw(rng, (n, sets))
            yield row(what, n, stats.mean_of_items(x), truth, student(x))
        length = np.maximum(1, np.round(rng.lognormal(3.5, 0.8, size=(n, sets))))
        top = rng.gamma(2, 0.5, size=length.shape) * length
        left = (top - top.sum(0) / length.sum(0) * length) / length.mean(0)
        yield row("ratio of sums (nats per token)", n, stats.ratio_of_sums(top, length), 1.0, student(left))
        yield from _groups(rng, n, sets)
        if n <= 32:
            items = (rng.normal(size=(n, 1, sets)) + rng.normal(size=(n, 4, sets))).reshape(4 * n, sets)
            found = stats.mean_of_items(items, clusters=np.repeat(np.arange(n), 4))
            yield row("mean, templates of 4 items", n, found, 0.0, student(items.reshape(n, 4, sets).mean(1)))


def _groups(rng: Rng, n: int, sets: int) -> Iterator[dict[str, Any]]:
    shape = (n, sets)
    cases: dict[str, tuple[np.ndarray, np.ndarray, float]] = {
        "difference, normal": (rng.normal(size=shape), rng.normal(size=shape), 0.0),
        "difference, exponential, first x 3": (3 * rng.exponential(size=shape), rng.exponential(size=shape), 2.0),
        "difference of accuracies .9 and .5": (1.0 * (rng.random(shape) < 0.9), 1.0 * (rng.random(shape) < 0.5), 0.4),
    }
    for what, (a, b, truth) in cases.items():
        found = stats.group_difference(np.concatenate([a, b]), np.arange(2 * n) < n)
        va, vb = a.var(0, ddof=1) / n, b.var(0, ddof=1) / n
        with np.errstate(all="ignore"):
            freedom = np.nan_to_num((va + vb) ** 2 / (va**2 + vb**2) * (n - 1), nan=1.0)
        yield row(what, n, found, truth, 2 * scipy_stats.t.ppf(0.975, np.maximum(freedom, 1)) * np.sqrt(va + vb))


if __name__ == "__main__":
    rows = sorted([*table(), *coverage_drawn.table()], key=lambda r: (r["what"], r["n"]))
    TABLE.write_text("[\n" + ",\n".join(" " + json.dumps(r) for r in rows) + "\n]\n")
