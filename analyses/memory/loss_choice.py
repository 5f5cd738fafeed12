"""What is given up when a checkpoint is chosen by its loss instead of by what it is for.

Definition: over the checkpoints of a run, lag = step of the least loss minus step of the best accuracy (> 0: accuracy
peaks first); rank_correlation = Spearman's, of minus loss and accuracy (1: loss orders checkpoints as accuracy does);
regret = best accuracy minus accuracy at the least loss; ties go to the earliest step. The best of many checkpoints is
best partly by luck, so regret >= 0 always. regret_cross_fitted picks the best checkpoint on one half of the items and
measures on the other, averaged over `splits` halvings: 0 in expectation where accuracy is flat.

Units: optimizer steps; correlation; fractions.

Source: Mecellem (sign of the lag as there: loss minus metric).

Does not show: what another metric would give up, or that accuracy on these items is what matters. With few checkpoints
a rank correlation is coarse; loss of another author's texts may rise by style alone.

Control: flat accuracy (cross-fitted regret 0); over_memorization, which says what the two do together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import scatter
from analyses.core.result import Result
from analyses.memory._curves import Array, Curves, banded, from_items, from_table
from probe.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame as Table
    from plotly.graph_objects import Figure

FEWEST = 8  # items
WHAT = "choosing the checkpoint by its loss gives up accuracy"
SCORES = {"correct": 1.0, "wrong": 0.0, "unparsed": 0.0}


@analysis
def loss_choice(
    curves: Table | None = None,
    perplexity: Annotated[Result, "perplexity"] | None = None,
    evaluate: Annotated[Result, "evaluate"] | None = None,
    *,
    mask: str = "answer",
    answer_kind: str | None = None,
    splits: int = 50,
    seed: int = 0,
) -> Result:
    """Lag, rank correlation and regret of choosing by loss, and whether the regret is more than luck.

    Rows, one per checkpoint: run, step, accuracy, log_ppl, best (by accuracy), least_loss.

    Args:
        curves: columns `step, accuracy, perplexity` (one row per checkpoint; optional `run`).
        perplexity: a sweep of `perplexity` over the run; needs `evaluate` too, and gives intervals.
        evaluate: a sweep of `evaluate` over the same checkpoints.
        splits: of the cross-fitted regret.
        seed: halvings and the bootstrap over items.
    """
    if (curves is None) == (perplexity is None or evaluate is None):
        raise InputError(
            "loss_choice needs either curves (step, accuracy, perplexity), or a perplexity and an evaluate sweep"
        )
    if perplexity is not None and evaluate is not None:
        runs = [_of_items(perplexity.table, evaluate.table, mask, answer_kind, seed)]
    else:
        runs = from_table(pd.DataFrame(curves))
    each = [_estimates(run, splits, seed) for run in runs]
    data = each[0] if len(each) == 1 else xr.concat(each, pd.Index([r.run for r in runs], name="run"), join="outer")
    claims = [_claim(run, found, runs) for run, found in zip(runs, each, strict=True)]
    return Result.of(pd.concat([_rows(r) for r in runs], ignore_index=True), data, claims=claims)


def _of_items(scores: pd.DataFrame, marks: pd.DataFrame, mask: str, kind: str | None, seed: int) -> Curves:
    """The run of two sweeps, on the steps of both."""
    for name, table in (("perplexity", scores), ("evaluate", marks)):
        if "step" not in table:
            raise InputError(f"{name} is of one checkpoint: sweep it over the run")
    kinds = sorted(scores["answer_kind"].astype(str).unique())
    if kind is None and len(kinds) > 1:
        raise InputError(f"perplexity is of several kinds of answers: choose one, answer_kind={kinds}")
    scores = scores[(scores["mask"] == mask) & (scores["answer_kind"].astype(str) == (kind or kinds[0]))]
    greedy = marks[marks["decoding"] == "greedy"]
    rows = (greedy if len(greedy) else marks).assign(score=lambda t: t["status"].map(SCORES).astype(float))
    steps = sorted(set(scores["step"]) & set(rows["step"]))
    if len(steps) < 2 or scores.empty:
        raise InputError(f"perplexity (mask {mask!r}) and evaluate share steps {steps}; at least two are needed")
    grids = [scores.pivot_table(q, "item", "step", "sum")[steps] for q in ("nll_nats", "n_tokens")]
    return from_items(grids[0], grids[1], rows.pivot_table("score", "item", "step", "mean")[steps], seed=seed)


def measures(step: Array, accuracy: Array, log_ppl: Array) -> tuple[Array, Array, Array]:
    """Lag, rank correlation and regret along the last axis, for any number of draws; NaN where one curve is flat.

    Args:
        step: step of each checkpoint.
        accuracy: of each checkpoint [... step].
        log_ppl: mean of ln PPL of each checkpoint [... step], nats per token.
    """
    best, least = accuracy.argmax(-1), log_ppl.argmin(-1)
    at_least = np.take_along_axis(accuracy, np.expand_dims(least, -1), -1)[..., 0]
    return step[least] - step[best], _spearman(-log_ppl, accuracy), accuracy.max(-1) - at_least


def _spearman(first: Array, second: Array) -> Array:
    ranks = [scipy.stats.rankdata(x, axis=-1) for x in (first, second)]
    centred = [r - r.mean(-1, keepdims=True) for r in ranks]
    scale = np.sqrt((centred[0] ** 2).sum(-1) * (centred[1] ** 2).sum(-1))
    return stats.divide((centred[0] * centred[1]).sum(-1), scale)


def cross_fitted(correct: Array, least: int, splits: int, seed: int) -> Array:
    """Regret of every item at the checkpoint that the other half of the items prefers [item]; NaN: never measured.

    Args:
        correct: [item step]; NaN is not measured.
        least: number of the checkpoint of least loss.
        splits: random halvings.
        seed: of the halvings.
    """
    rng, n = np.random.default_rng(seed), len(correct)
    seen = ~np.isnan(correct)
    total, count = np.zeros(n), np.zeros(n)
    for _ in range(splits):
        picks = rng.permutation(n) < n // 2
        half = stats.divide(np.where(seen, correct, 0.0)[picks].sum(0), seen[picks].sum(0))
        if np.isnan(half).all():
            continue
        regret = correct[~picks, int(np.nanargmax(half))] - correct[~picks, least]
        total[~picks] += np.nan_to_num(regret)
        count[~picks] += ~np.isnan(regret)
    return stats.divide(total, count)


def _estimates(run: Curves, splits: int, seed: int) -> xr.Dataset:
    values = measures(run.step, run.accuracy, run.log_ppl)
    drawn: tuple[Any, ...] = (None, None, None)
    if run.accuracy_draws is not None and run.log_ppl_draws is not None:
        drawn = measures(run.step, run.accuracy_draws, run.log_ppl_draws)
    n = run.n.get("accuracy", 0)
    named = (("lag", "steps", "step of least loss minus step of best accuracy"),
             ("rank_correlation", "1", "rank correlation of minus loss and accuracy"),
             ("regret", "1", "accuracy given up by choosing by loss"))  # fmt: skip
    parts = [
        banded(name, value, draws, n=n, units=units, long_name=label, is_observed=name == "lag")
        for (name, units, label), value, draws in zip(named, values, drawn, strict=True)
    ]
    if run.correct is not None:
        regret = cross_fitted(run.correct, int(run.log_ppl.argmin()), splits, seed)
        found = stats.mean_of_items(regret, clusters=run.clusters)
        suffixes = {"": found.value, "_ci_low": found.ci_low, "_ci_high": found.ci_high, "_n": found.n}
        parts.append(xr.Dataset({f"regret_cross_fitted{s}": ((), v) for s, v in suffixes.items()}))
        parts[-1]["regret_cross_fitted"].attrs.update(units="1", long_name="regret at a checkpoint others prefer")
    return xr.merge(parts)


def _rows(run: Curves) -> pd.DataFrame:
    at = np.arange(len(run.step))
    rows = {"run": run.run, "step": run.step, "accuracy": run.accuracy, "log_ppl": run.log_ppl}
    return pd.DataFrame({**rows, "best": at == run.accuracy.argmax(), "least_loss": at == run.log_ppl.argmin()})


def _claim(run: Curves, data: xr.Dataset, runs: list[Curves]) -> Claim:
    said: Fields = {
        "group": run.run if len(runs) > 1 else None, "control": "a checkpoint that other items prefer",
        "estimand": "accuracy at the checkpoint that half of the items prefers minus that at the least loss",
        "family": f"{len(run.step)} checkpoints",
        "assumptions": (f"lag {float(data['lag']):g} steps, rank correlation {float(data['rank_correlation']):.2f}",),
    }  # fmt: skip
    if "regret_cross_fitted" not in data:
        needs = "sweeps of perplexity and evaluate, which hold every item"
        return Claim("regret", UNJUDGED, WHAT, why="curves alone do not say what is luck", needs=needs, **said)
    value, low, high, n = (float(data[f"regret_cross_fitted{s}"]) for s in ("", "_ci_low", "_ci_high", "_n"))
    if n < FEWEST or (np.isnan(low) and value != 0):
        why = "too few items, or too few that differ"
        return Claim("regret", UNJUDGED, WHAT, why=why, needs="more items", n=int(n), **said)
    answer = FOUND if low > 0 else NONE
    return Claim("regret", answer, WHAT, effect=value, low=low, high=high, n=int(n), **said)


def figures(result: Result) -> dict[str, Figure]:
    """Accuracy against loss, one point a checkpoint: the farther apart best and least loss, the worse the choice."""
    kind = np.select([result.table["best"], result.table["least_loss"]], ["most accurate", "least loss"], "other")
    title = "Accuracy against loss, one point a checkpoint"
    return {
        "checkpoints": scatter(
            result.table.assign(checkpoint=kind), x="log_ppl", y="accuracy", color="checkpoint",
            hover=["run", "step"], title=title, x_title="ln perplexity (nats per token)", y_title="accuracy",
        )
    }  # fmt: skip
