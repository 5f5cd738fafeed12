"""Is a gain new problems solved, or known ones solved more often? The split of pass@1's change, with its null.

Definition: per problem d = share right at a step minus share right at the first step. self_distillation = sum of
positive d over problems that the first step solved, capability_gain = sum of d over those it did not, forgetting = sum
of negative d, each over the number of problems; they sum to the change of pass@1. Classes and d both come from half of
the first step's samples, in expectation over all halves, and d from as many samples of the later step as the other half
has. `_null` is the same split of the first step against itself: one half before, the other half after. `_excess` =
split minus null, 0 in expectation where nothing changed. `_all` is the split as published, from all samples.

Units: fractions of problems (changes of pass@1).

Source: Guide, arXiv 2506.13923 (no null there; with no change the published gain is p (1 - p)^n > 0).

Does not show: that an unsolved problem was beyond the model: one with success rate p stays unsolved in n samples with
chance (1 - p)^n, and `rate_bound` = 1 - .05^(1/n) is the largest rate that n failures leave possible at 95 %.

Control: `_null`; the same checkpoint under another seed as the later step.
"""

from __future__ import annotations

from functools import cache
from math import comb
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.answers import _judged
from analyses.answers._samples import BY, counts, sampled, since_first
from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plotly.graph_objects import Figure

    from analyses.core.claim import Claim

PARTS = {
    "self_distillation": "solved problems solved more often",
    "capability_gain": "unsolved problems solved",
    "forgetting": "problems solved less often",
}
VARIANTS = {"": "", "_null": ", null", "_excess": ", beyond its null", "_all": ", as published"}
SAID = {
    "self_distillation": "problems that the first step solves are solved more often",
    "capability_gain": "problems that the first step does not solve are solved",
    "forgetting": "problems are solved less often than at the first step",
}


@analysis
def capability(evaluate: Annotated[Result, "evaluate"], *, seed: int = 0) -> Result:
    """Self-distillation, capability gain and forgetting since the first step, each with its null and excess.

    Rows: step, item, group, answer_kind, n_before, c_before, n, c, change, the three parts (as defined, `_null`,
    `_excess`, `_all`), rate_bound (where the first step solved nothing).

    Args:
        evaluate: sweep of `evaluate` with at least 2 samples, or a log of samples at several steps.
    """
    table = since_first(counts(sampled(evaluate.table, "capability")), "capability")
    if table.empty or int(table["n_before"].min()) < 2:
        raise InputError("capability needs at least 2 samples of every item at the first step: run evaluate with more")
    split = [_of(*row) for row in table[["n_before", "c_before", "n", "c"]].itertuples(index=False)]
    table = pd.concat([table.reset_index(drop=True), pd.DataFrame(split)], axis=1)
    table["unsolved"] = (table["c_before"] == 0).astype(float)
    named = {"change": "change of pass@1", "unsolved": "problems that the first step did not solve"}
    named |= {name + kind: label + words for name, label in PARTS.items() for kind, words in VARIANTS.items()}
    how: dict[str, Any] = {"seed": seed, "units": "1"}
    parts = [stats.estimate(table, q, ["step", *BY], long_name=label, **how) for q, label in named.items()]
    return Result.of(table, xr.merge(parts, join="outer"), claims=list(_claims(table)))


def _of(n_before: int, c_before: int, n: int, c: int) -> dict[str, float]:
    """The split of one problem, its null and its excess."""
    half = n_before // 2
    measured = min(n_before - half, n)
    before, after = _draws(n_before, c_before, half), _draws(n, c, measured)
    own = expected(np.outer(before, after))
    joint = np.zeros((half + 1, n_before - half + 1))
    for right in range(half + 1):
        if 0 <= c_before - right <= n_before - half:
            joint[right, c_before - right] = before[right]
    null = expected(joint)
    whole = parts_of(c_before / n_before, c / n, c_before == 0)
    found: dict[str, float] = {"change": c / n - c_before / n_before}
    for name in PARTS:
        found |= {name: own[name], f"{name}_null": null[name], f"{name}_excess": own[name] - null[name]}
        found[f"{name}_all"] = whole[name]
    found["rate_bound"] = 1 - 0.05 ** (1 / n_before) if c_before == 0 else np.nan
    return found


@cache
def _draws(n: int, c: int, m: int) -> np.ndarray:
    """Chance of 0..m right ones among m of n samples of which c are right."""
    return np.array([comb(c, x) * comb(n - c, m - x) if x <= c else 0 for x in range(m + 1)]) / comb(n, m)


def parts_of(before: float, after: float, is_unsolved: bool) -> dict[str, float]:
    """The three parts of one change; they sum to it."""
    change = after - before
    gain = change if is_unsolved else 0.0
    return {
        "self_distillation": 0.0 if is_unsolved else max(change, 0.0),
        "capability_gain": gain,
        "forgetting": min(change, 0.0),
    }


def expected(chance: np.ndarray) -> dict[str, float]:
    """The three parts in expectation over (right before, right after), whose chances are [before, after]."""
    before, after = (np.arange(size) / max(size - 1, 1) for size in chance.shape)
    total = dict.fromkeys(PARTS, 0.0)
    for i, j in zip(*np.nonzero(chance), strict=True):
        for name, value in parts_of(float(before[i]), float(after[j]), bool(i == 0)).items():
            total[name] += float(chance[i, j]) * value
    return total


def _claims(table: pd.DataFrame) -> Iterator[Claim]:
    """Of every group and kind at the last step, each part against its null."""
    last = table[table["step"] == table["step"].max()]
    cells = list(last.groupby(BY, sort=True))
    several = last["answer_kind"].nunique() > 1
    for (group, kind), rows in cells:
        for name, what in SAID.items():
            excess = _judged.mean(rows, f"{name}_excess", len(PARTS) * len(cells), "1")
            is_found = excess.is_below() if name == "forgetting" else excess.is_above()
            said: dict[str, object] = {
                "group": f"{group}, {kind}" if several else str(group), "control": "the first step against itself",
                "estimand": f"{name.replace('_', ' ')} per problem beyond its null",
                "family": f"{len(PARTS)} parts, {len(cells)} group(s)",
            }  # fmt: skip
            yield _judged.claim(excess, is_found, name.replace("_", " "), what, **said)


def figures(result: Result) -> dict[str, Figure]:
    """The three parts over steps, with their nulls and beyond them."""
    rows = result.summary()
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    for suffix, told in (("_null", "null"), ("_excess", "beyond its null"), ("", "split")):
        named = rows["quantity"].isin([name + suffix for name in PARTS])
        rows.loc[named, "shown"] = told
        rows.loc[named, "part"] = rows.loc[named, "quantity"].str.removesuffix(suffix)
    rows = rows.dropna(subset=["shown"])
    title = "Change of pass@1 since the first step, split"
    return {"split": curve(rows, x="step", color="part", dash="shown", facet="series", title=title, reference=0.0)}
