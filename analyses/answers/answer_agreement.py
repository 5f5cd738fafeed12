"""Do answers depend on how a problem is worded? Agreement and divergence of answers over the user's own wordings.

Definition: a problem has several wordings (`id` and `variant`). agreement = chance that responses to two different
wordings give the same answer, mean over pairs of wordings; within = the same for two responses to one wording. jsd =
Jensen-Shannon divergence of the wordings' distributions of answers, equal weights (at most ln of the number of
wordings); jsd_null = its mean when the problem's responses are dealt to its wordings anew; jsd_excess = jsd - jsd_null,
0 in expectation where wording does not matter. entropy_variance = variance over wordings of the entropy of answers.
Right answers are one answer; each unreadable one is alone.

Units: fractions; nats; nats squared.

Source: Information-consistent GRPO; paraphrase agreement.

Does not show: which wording is right or harder (`wordings` compares their accuracy). With one response a wording there
is no null, and agreement alone is told. Wordings that change numbers make other problems.

Control: `jsd_null`; a second wording that only repeats the first.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import combinations
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd
import xarray as xr

from analyses.answers import _judged
from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.claim import UNJUDGED, Claim, Fields
from analyses.core.figures import curve, forest
from analyses.core.reading.votes import clusters
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BY = ["group", "answer_kind"]
LABELS = {
    "agreement": ("1", "same answer to two wordings"), "within": ("1", "same answer to one wording twice"),
    "jsd_nats": ("nats", "divergence of answers over wordings"),
    "jsd_null_nats": ("nats", "the same, responses dealt anew"),
    "jsd_excess_nats": ("nats", "divergence beyond its null"),
    "entropy_variance": ("nats^2", "variance of the entropy of answers over wordings"),
}  # fmt: skip
WHAT = "answers depend on the wording"


@analysis
def answer_agreement(evaluate: Annotated[Result, "evaluate"], *, deals: int = 50, seed: int = 0) -> Result:
    """Agreement, divergence and variance of answers over the wordings of every problem, and whether wording matters.

    Rows: step (where there are steps), item (the problem), group, answer_kind, n_wordings, n (fewest responses to one),
    agreement, within, jsd_nats, jsd_null_nats, jsd_excess_nats, entropy_variance.

    Args:
        evaluate: result or sweep of `evaluate` over prompts with a column `variant`; samples where there are any.
        deals: to the wordings.
        seed: dealing and the bootstrap over problems.
    """
    table = evaluate.table
    if "variant" not in table or "problem" not in table:
        raise InputError("no item has a wording: give the prompts a column `variant` beside the problem's `id`")
    table = table[(table["status"] != "gold_unparsed") & table["problem"].notna()]
    sampled = table[table["decoding"] == "sampled"]
    rows = sampled if len(sampled) else table
    keys = [*(["step"] if "step" in rows else []), "problem", *BY]
    made: list[dict[str, object]] = []
    for at, of in rows.groupby(keys, sort=True):
        named = _named(of)
        wordings = [[named[i] for i in np.flatnonzero(of["variant"] == v)] for v in sorted(of["variant"].unique())]
        if len(wordings) > 1:
            found = {k: v for k, v in zip(keys, at, strict=True) if k != "problem"} | {
                "item": at[keys.index("problem")]
            }
            made.append({**found, **measures(wordings, deals, seed)})
    if not made:
        raise InputError("no problem has two wordings with responses: give several rows of one `id` a `variant` each")
    found = pd.DataFrame(made)
    over = [*keys[:-3], *BY]
    parts = [stats.estimate(found, q, over, seed=seed, units=u, long_name=v) for q, (u, v) in LABELS.items()]
    return Result.of(found, xr.merge(parts, join="outer"), claims=list(_claims(found)))


def _named(of: pd.DataFrame) -> list[Hashable]:
    """A name per response: right ones share one, equal texts share one, an unreadable one is alone."""
    right = of["status"].eq("correct").to_numpy()
    return ["right" if r else name for r, name in zip(right, clusters(of["answer"].tolist()), strict=True)]


def measures(wordings: list[list[Hashable]], deals: int, seed: int) -> dict[str, float]:
    """Every quantity of one problem from the answers to each of its wordings."""
    names = sorted({a for of in wordings for a in of}, key=repr)
    sizes = [len(of) for of in wordings]
    codes = np.array([names.index(a) for of in wordings for a in of])
    counts = _counts(codes, sizes, len(names))
    shares = counts / counts.sum(1, keepdims=True)
    pairs = [float(a @ b) for a, b in combinations(shares, 2)]
    twice = [float((c * (c - 1)).sum() / (c.sum() * (c.sum() - 1))) for c in counts if c.sum() > 1]
    jsd, null = divergence(shares), np.nan
    if min(sizes) > 1:
        rng = np.random.default_rng(seed)
        dealt = (_counts(rng.permutation(codes), sizes, len(names)) for _ in range(deals))
        null = float(np.mean([divergence(c / c.sum(1, keepdims=True)) for c in dealt]))
    entropies = [_entropy(p) for p in shares]
    return {
        "n_wordings": len(wordings), "n": min(sizes), "agreement": float(np.mean(pairs)),
        "within": float(np.mean(twice)) if twice else np.nan, "jsd_nats": jsd, "jsd_null_nats": null,
        "jsd_excess_nats": jsd - null, "entropy_variance": float(np.var(entropies)),
    }  # fmt: skip


def _counts(codes: np.ndarray, sizes: list[int], n_names: int) -> np.ndarray:
    """How often each wording [row] got each answer [column]."""
    wording = np.repeat(np.arange(len(sizes)), sizes)
    found = np.zeros((len(sizes), n_names))
    np.add.at(found, (wording, codes), 1.0)
    return found


def divergence(shares: np.ndarray) -> float:
    """Jensen-Shannon divergence of distributions [row] with equal weights, in [0, ln rows]; 0 for equal ones."""
    mean = shares.mean(0)
    ratio = np.divide(shares, mean, out=np.ones_like(shares), where=shares > 0)
    return max(0.0, float((shares * np.log(ratio)).sum(1).mean()))


def _entropy(p: np.ndarray) -> float:
    kept = p[p > 0]
    return float(-(kept * np.log(kept)).sum())


def _claims(found: pd.DataFrame) -> Iterator[Claim]:
    """Of every group and kind (at the last step): does the wording matter?"""
    last = found[found["step"] == found["step"].max()] if "step" in found else found
    cells = list(last.groupby(BY, sort=True))
    for (group, kind), rows in cells:
        said: Fields = {
            "group": str(group) if last["answer_kind"].nunique() == 1 else f"{group}, {kind}",
            "family": f"{len(cells)} group(s)", "control": "the same responses dealt to wordings anew",
            "estimand": "divergence of answers over wordings beyond its null",
        }  # fmt: skip
        if rows["jsd_excess_nats"].isna().all():
            why, needs = "each wording has one response", "several samples of each wording (evaluate --samples)"
            yield Claim("wording", UNJUDGED, WHAT, why=why, needs=needs, n=len(rows), **said)
            continue
        excess = _judged.mean(rows, "jsd_excess_nats", len(cells))
        yield _judged.claim(excess, excess.is_above(), "wording", WHAT, unit="nats", **said)


def figures(result: Result) -> dict[str, Figure]:
    """Agreement between and within wordings, and the divergence with its null; over steps where there are any."""
    rows = result.summary()
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    agreed = rows[rows["quantity"].isin(["agreement", "within"])]
    apart = rows[rows["quantity"].isin(["jsd_nats", "jsd_null_nats"])]
    titles = {
        "agreement": "Same answer to two wordings, and to one twice",
        "jsd": "Divergence of answers over wordings",
    }
    shown = {"agreement": agreed, "jsd": apart}
    if "step" in rows:
        return {k: curve(v, x="step", color="quantity", facet="series", title=titles[k]) for k, v in shown.items()}
    return {k: forest(v, label="quantity", color="series", reference=None, title=titles[k]) for k, v in shown.items()}
