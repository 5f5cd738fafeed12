"""How often something is found where nothing is: each test, interval and verdict on many null data sets.

A null data set has no difference to find, by construction: `share` is how often one is claimed at .05 (or how often a
95 % interval leaves the truth out). Tests by permutation are exact and have a bound, and so have verdicts; percentile
intervals are approximate, too short for few or skewed items, and only told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from analyses.core import stats
from analyses.core.stats import significance
from tests.planted import ar1

RUNS, DRAWS, FEW = 1000, 400, 200
TABLE = Path(__file__).with_suffix(".json")
Rng = np.random.Generator


def exact() -> Iterator[tuple[str, str, Callable[[Rng, int], bool]]]:
    """What is tested, on what null, and whether one data set is called a finding."""
    first = np.arange(24) < 12
    options: dict[str, Any] = {"draws": DRAWS}
    yield (
        "largest of 28 layers, labels permuted (max t)",
        "24 items, layers correlated .7",
        lambda rng, seed: significance.permutation_max_t(ar1(rng, (24, 28)), first, seed=seed, **options).p <= 0.05,
    )
    yield (
        "largest of 28 layers, signs flipped (max t)",
        "24 items, layers correlated .7",
        lambda rng, seed: significance.sign_flip_max_t(ar1(rng, (24, 28)), seed=seed, **options).p <= 0.05,
    )
    yield (
        "one paired mean, signs flipped",
        "24 items, heavy tails (t with 3 degrees)",
        lambda rng, seed: significance.sign_flip(rng.standard_t(3, size=24), seed=seed, **options) <= 0.05,
    )


def intervals() -> Iterator[tuple[str, str, Callable[[Rng, int], bool]]]:
    """What the interval is of, the data, and whether one interval leaves the truth out."""
    draws: dict[str, Any] = {"draws": DRAWS}
    shapes: dict[str, Callable[[Rng, Any], np.ndarray]] = {
        "normal": lambda rng, size: rng.normal(size=size),
        "skewed (exponential)": lambda rng, size: rng.exponential(size=size) - 1.0,
    }
    for n in (16, 64, 256):
        for shape, draw in shapes.items():
            yield (
                "paired mean, bootstrap over items",
                f"{n} items, {shape}",
                lambda rng, seed, n=n, draw=draw: outside(stats.bootstrap_mean(draw(rng, n), seed=seed, **draws)),
            )
        yield (
            "difference of two groups, bootstrap within",
            f"{n} + {n} items, normal",
            lambda rng, seed, n=n: outside(
                stats.group_difference(rng.normal(size=2 * n), np.arange(2 * n) < n, seed=seed, **draws)
            ),
        )
        yield (
            "ratio of sums (nats per token), bootstrap over items",
            f"{n} items of 5 to 40 tokens, 1.5 nats each on average",
            lambda rng, seed, n=n: outside(per_token(rng, n, seed), 1.5),
        )


def per_token(rng: Rng, n: int, seed: int) -> stats.Estimate:
    """Mean nats per token of n items whose tokens are exponential with mean 1.5."""
    lengths = rng.integers(5, 41, n)
    return stats.bootstrap_ratio(rng.gamma(lengths, 1.5), lengths, seed=seed, draws=DRAWS)


def outside(found: stats.Estimate, truth: float = 0.0) -> bool:
    """True if the interval leaves the truth out."""
    return not float(found.ci_low) <= truth <= float(found.ci_high)


def verdicts() -> Iterator[tuple[str, str, Callable[[Rng, int], bool]]]:
    """What an analysis says of a null run, and whether that is its claim."""
    from analyses.core import analysis as registry
    from tests import tiny
    from tests.analyses.test_cross_patching import findings
    from tests.analyses.test_over_memorization import planted
    from tests.analyses.test_perplexity_paradox import STEPS, sweep

    def paradox(seed: int) -> str:
        result = registry.get("perplexity_paradox")(sweep({"unseen": {}}, seed=seed, noise=0.3), floor=0.0)
        at = result.table.set_index(["answer_kind", "group", "step"]).sort_index()
        return str(at.loc[("gold_final", "unseen", STEPS[-1]), "verdict"])

    def memorized(seed: int) -> bool:
        flat = planted([0.5, 0.8, 0.8, 0.8], [0.6, 0.4, 0.4, 0.4], n=64, seed=seed)
        found = registry.get("over_memorization")(None, *flat)
        return "over-memorized" in set(found.table["stage"])

    data = "40 items, three steps, no floor"
    yield "perplexity_paradox says paradox", data, lambda _, seed: paradox(seed) == "paradox"
    yield "perplexity_paradox says anything", data, lambda _, seed: paradox(seed) != "none"
    yield (
        "over_memorization calls a step over-memorized",
        "64 items, four steps, flat perplexity",
        lambda _, seed: memorized(seed),
    )
    words = tiny.word_tokenizer()
    models = "two random checkpoints, 16 items in two exchangeable groups"
    yield "cross_patching: any layer differs between groups", models, lambda _, seed: bool(findings([seed], words))


def share(found: Callable[[Rng, int], bool], runs: int) -> float:
    """Share of null data sets on which something is found; data and resampling draw from streams of their own."""
    return sum(bool(found(np.random.default_rng((seed, 1)), seed)) for seed in range(runs)) / runs


def table(runs: int = RUNS, few: int = FEW) -> list[dict[str, Any]]:
    """Rows of kind, what, null, runs and share."""
    kinds = (("test", exact(), runs), ("interval", intervals(), runs), ("verdict", verdicts(), few))
    return [
        {"kind": kind, "what": what, "null": null, "runs": n, "share": share(found, n)}
        for kind, rows, n in kinds
        for what, null, found in rows
    ]


def measure() -> list[dict[str, Any]]:
    """Rows of the benchmark; tests and verdicts have a bound of .05 and three standard errors."""
    found = table()
    TABLE.write_text(json.dumps(found, indent=1) + "\n")
    return rows_of(found)


def rows_of(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table's rows as a benchmark's."""
    rows: list[dict[str, Any]] = []
    for row in found:
        limit = 0.05 + 3 * np.sqrt(0.05 * 0.95 / row["runs"])
        bound = {} if row["kind"] == "interval" else {"bound": f"<= {limit:.3f}", "holds": bool(row["share"] <= limit)}
        name = f"{row['what']}: found in nulls"
        rows.append({"name": name, "ratio": row["share"], "note": f"{row['null']}; {row['runs']} runs", **bound})
    return rows


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
