"""How many answers a model must be allowed so that the right one is among them as often as promised.

Definition: split conformal prediction. p(y) = share of an item's samples with answer y, or of a multiple-choice item
the softmax of the options' log-likelihoods; score = 1 - p(right answer). Half of the items calibrate: q = the
ceil((n + 1)(1 - alpha))-th smallest score; an item of the other half gets the set {y: 1 - p(y) <= q}, all answers
where that number exceeds n. Averaged over `splits` halvings. covered = the right answer is in the set, in expectation
at least 1 - alpha of items. Of sampled answers the set of all has no size: `unbounded` counts it, and set_size leaves
it out. log_set_size may be held against an entropy. Whether sets shrank is tested by exchanging items between steps.

Units: answers; fractions; nats (log_set_size).

Source: Conformal Information Pursuit (set sizes as uncertainty); split conformal prediction is standard.

Does not show: that an item's own set holds the right answer with that chance: coverage is over items, and only as good
as items are exchangeable. A right answer that was never sampled has p = 0.

Control: a sharp model (size 1); equal p over K options (K, or with random ties about (1 - alpha) K).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.answers import _judged
from analyses.answers._samples import BY, sampled
from analyses.answers._since_a_step import has_series
from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import curve, forest
from analyses.core.reading.votes import clusters
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plotly.graph_objects import Figure

LABELS = {
    "set_size": ("answers", "answers in the set"), "log_set_size": ("nats", "ln of the answers in the set"),
    "covered": ("1", "sets that hold the right answer"), "unbounded": ("1", "sets of all answers"),
}  # fmt: skip
WHAT = "fewer answers are needed to hold the right one than at the first step"
JITTER = 1e-9
ALPHA = 0.05


@analysis
def conformal_sets(
    evaluate: Annotated[Result, "evaluate"] | None = None,
    multiple_choice: Annotated[Result, "multiple_choice"] | None = None,
    *,
    alpha: float = 0.1,
    ties: Literal["keep", "random"] = "keep",
    splits: int = 20,
    seed: int = 0,
) -> Result:
    """Sizes and coverage of conformal sets per item, and whether sets shrank over the steps.

    Rows: step (where there are steps), item, group, answer_kind, p_right, set_size, log_set_size, covered, unbounded.

    Args:
        evaluate: result or sweep of `evaluate` with samples, of a model or a log.
        multiple_choice: result or sweep of `multiple_choice`, in place of it.
        alpha: the share of items whose right answer may be missed.
        ties: keep answers that tie with the bound, or break ties at random.
        splits: into calibration and test.
        seed: halvings, the ties and the bootstrap over items.
    """
    if (evaluate is None) == (multiple_choice is None):
        raise InputError("conformal_sets needs a result of evaluate (with samples) or of multiple_choice, one of them")
    if not 0 < alpha < 1:
        raise InputError(f"alpha={alpha}; expected a share between 0 and 1")
    shares = _of_samples(evaluate.table) if evaluate is not None else _of_choices(_table(multiple_choice))
    at = ["step"] if "step" in shares else []
    cells = [of for _, of in shares.groupby(at)] if at else [shares]
    how = (alpha, ties, evaluate is None)
    table = pd.concat([_cell(of, how, splits, seed) for of in cells], ignore_index=True)
    parts = [stats.estimate(table, q, [*at, *BY], seed=seed, units=u, long_name=v) for q, (u, v) in LABELS.items()]
    fewest, wanted = min(of.groupby(["item", "answer_kind"]).ngroups for of in cells) // 2, math.ceil(1 / alpha - 1)
    few = f"{fewest} items calibrate: alpha={alpha:g} needs {wanted}, with fewer every set is of all answers"
    warnings = [few] if fewest < wanted else []
    return Result.of(table, xr.merge(parts, join="outer"), claims=list(_claims(shares, how, seed)), warnings=warnings)


def _table(result: Result | None) -> pd.DataFrame:
    assert result is not None
    return result.table


def _of_samples(table: pd.DataFrame) -> pd.DataFrame:
    """One row per item and answer: its share of the samples and whether it is the right one (always there)."""
    rows = sampled(table, "conformal_sets")
    keys = [*(["step"] if "step" in rows else []), "item", *BY]
    made: list[dict[str, Any]] = []
    for at, of in rows.groupby(keys, sort=True):
        named = dict(zip(keys, at, strict=True))
        right = float(of["right"].mean())
        wrong = pd.Series(clusters(of.loc[of["right"] == 0, "answer"].tolist()), dtype=object).value_counts()
        made.append({**named, "p": right, "is_right": True})
        made += [{**named, "p": count / len(of), "is_right": False} for count in wrong]
    return pd.DataFrame(made)


def _of_choices(table: pd.DataFrame) -> pd.DataFrame:
    keys = [*(["step"] if "step" in table else []), "item", *BY]
    best = table.groupby(keys)["ll_nats"].transform("max")
    likely = (table["ll_nats"] - best).map(math.exp)
    shares = likely / likely.groupby([table[c] for c in keys]).transform("sum")
    return table[[*keys, "is_right"]].assign(p=shares)


def bound(scores: np.ndarray, alpha: float) -> float:
    """The calibrated bound of scores; infinite where too few items calibrate (n < 1 / alpha - 1)."""
    place = math.ceil((len(scores) + 1) * (1 - alpha) - 1e-12)
    return math.inf if place > len(scores) else float(np.sort(scores)[place - 1])


@dataclass(frozen=True)
class _Shares:
    """Answers of one step as arrays: item number, share, whether it is the right one; and how sets are made."""

    code: np.ndarray
    p: np.ndarray
    right: np.ndarray
    alpha: float
    ties: str
    bounded: bool

    def sets(self, n: int, splits: int, seed: int) -> dict[str, np.ndarray]:
        """Each item's set, averaged over the halvings in which it is tested; NaN: never tested, or without a size."""
        rng = np.random.default_rng(seed)
        known = np.zeros(n, bool)
        known[self.code[self.right]] = True
        total = {name: np.zeros(n) for name in LABELS}
        tested, sized = np.zeros(n), np.zeros(n)
        sampled_at_all = (self.p > 0) | self.bounded  # a right answer nobody sampled has no size
        for _ in range(splits):
            noise = JITTER * rng.random(len(self.p)) if self.ties == "random" else 0.0
            score = 1 - self.p + noise
            calibrates = (rng.permutation(n) < n // 2) & known
            q = bound(score[self.right & calibrates[self.code]], self.alpha)
            inside = score <= q + (0.0 if self.ties == "random" else JITTER)
            everything = math.isinf(q) or (not self.bounded and q >= 1 - JITTER)
            size = np.bincount(self.code, inside & sampled_at_all, n)
            holds = (np.bincount(self.code, inside & self.right, n) > 0) | everything
            tests = ~calibrates & known
            tested += tests
            total["unbounded"] += tests * everything
            total["covered"] += tests * holds
            if self.bounded or not everything:
                sized += tests
                total["set_size"] += tests * size
                total["log_set_size"] += tests * np.log(np.maximum(size, 1))
        return {q: stats.divide(t, sized if q.endswith("size") else tested) for q, t in total.items()}


def _cell(shares: pd.DataFrame, how: tuple[float, str, bool], splits: int, seed: int) -> pd.DataFrame:
    """Rows of one step."""
    codes = shares.groupby(["item", "answer_kind"], sort=True).ngroup().to_numpy()
    of = _Shares(codes, shares["p"].to_numpy(float), shares["is_right"].to_numpy(bool), *how)
    first = shares.assign(code=codes).drop_duplicates("code").sort_values("code")
    keys = [c for c in ("step", "item", *BY) if c in first]
    p_right = np.full(int(codes.max()) + 1, np.nan)
    p_right[codes[of.right]] = of.p[of.right]
    found = first[keys].reset_index(drop=True).assign(p_right=p_right)
    return found.assign(**of.sets(len(found), splits, seed))


def change(shares: pd.DataFrame, how: tuple[float, str, bool], seed: int, swaps: int = 199) -> tuple[float, float, int]:
    """Change of the mean ln set size from the first step to the last, p that it fell (one-sided), and the items.

    The bound is shared by all items, so they are not independent: items are exchanged between the two steps at random
    and everything, bound included, is made anew.
    """
    ends = [shares[shares["step"] == step] for step in (shares["step"].min(), shares["step"].max())]
    common = sorted(set.intersection(*(set(of["item"]) for of in ends)))
    if len(common) < 2:
        return math.nan, math.nan, len(common)
    ends = [of[of["item"].isin(common)] for of in ends]
    codes = [pd.Categorical(of["item"], common).codes.astype(int) for of in ends]
    arrays = [(c, of["p"].to_numpy(float), of["is_right"].to_numpy(bool)) for c, of in zip(codes, ends, strict=True)]
    rng, n = np.random.default_rng(seed), len(common)

    def moved(swapped: np.ndarray) -> float:
        sizes: list[float] = []
        for own, other in (arrays, arrays[::-1]):
            kept, taken = ~swapped[own[0]], swapped[other[0]]
            code, p, right = (np.concatenate([x[kept], y[taken]]) for x, y in zip(own, other, strict=True))
            size = _Shares(code, p, right, *how).sets(n, 3, seed)["log_set_size"]
            sizes.append(float(np.nanmean(size)) if not np.isnan(size).all() else math.nan)
        return sizes[1] - sizes[0]

    value = moved(np.zeros(n, bool))
    drawn = [moved(rng.random(n) < 0.5) for _ in range(swaps)]
    as_low = sum(not d > value + 1e-12 for d in drawn)  # what has no size is no evidence of a fall
    return value, math.nan if math.isnan(value) else (1 + as_low) / (1 + swaps), n


def _claims(shares: pd.DataFrame, how: tuple[float, str, bool], seed: int) -> Iterator[Claim]:
    """Of every group and kind: did sets shrink from the first step to the last?"""
    if not has_series(shares):
        return
    cells = list(shares.groupby(BY, sort=True))
    for (group, kind), rows in cells:
        value, p, n = change(rows, how, seed)
        said: Fields = {
            "group": str(group) if shares["answer_kind"].nunique() == 1 else f"{group}, {kind}", "n": n,
            "family": f"{len(cells)} group(s)", "control": "items exchanged between the first and the last step",
            "estimand": "change of ln set size",
        }  # fmt: skip
        if math.isnan(value) or n < 2 * _judged.FEWEST:
            why = (
                f"{n} items were measured at both steps"
                if n < 2 * _judged.FEWEST
                else "sets of all answers have no size"
            )
            needs = f"at least {2 * _judged.FEWEST} items, right answers among their samples"
            yield Claim("sharper", UNJUDGED, WHAT, why=why, needs=needs, **said)
            continue
        answer = FOUND if p * len(cells) <= ALPHA and value < 0 else NONE
        yield Claim("sharper", answer, WHAT, effect=value, unit="nats", p=min(1.0, p * len(cells)), **said)


def figures(result: Result) -> dict[str, Figure]:
    """Set sizes and coverage, over steps where there are any."""
    rows = result.summary()
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    rows = rows[rows["quantity"].isin(["set_size", "covered"])]
    title = "Conformal sets: size, and how often they hold the right answer"
    if "step" in rows:
        return {"sets": curve(rows, x="step", color="series", facet="quantity", title=title)}
    sized = rows[rows["quantity"] == "set_size"]
    return {"sets": forest(sized, label="series", reference=1.0, title="Answers in the conformal set")}
