"""Accuracy and perplexity of a run per checkpoint: from a table of curves, or from per-item results with draws.

The draws are of items, one resample for accuracy, perplexity and every checkpoint, so that whatever is computed
from a draw (a stage, an onset) sees curves that belong together. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.stats.intervals import percentiles
from analyses.core.stats.resampling import Array, clusters_of, divide, resample_counts
from analyses.memory._stage_rule import matched
from probe.errors import InputError

LEVEL = 0.95
DRAWS = 2000


@dataclass(frozen=True)
class Curves:
    """One run: accuracy (fraction) and ln PPL [step], with per-item results also their draws [draw, step].

    `n` counts items (clusters) per quantity, {} where nothing says how many; `train_nll` is nats per token on the
    training data, `correct` the share of right responses [item, step] and `clusters` a label per item, where known.
    """

    run: str
    step: Array
    accuracy: Array
    log_ppl: Array
    accuracy_draws: Array | None = None
    log_ppl_draws: Array | None = None
    n: dict[str, int] = field(default_factory=dict[str, int])
    train_nll: Array | None = None
    correct: Array | None = None
    clusters: list[str] | None = None

    def tolerance(self, delta: float) -> float:
        """delta, or where larger the fall below the best that chance alone makes in a run of constant accuracy.

        The best of many checkpoints is best partly by luck, so the fall is the 95 % quantile of best minus worst
        over draws centred on their own checkpoint: a run that stays flat keeps all its checkpoints within it 19
        times in 20. One standard error of acc_t - acc* does not: of 11 checkpoints of a flat run it calls half
        fallen.
        """
        if self.accuracy_draws is not None:
            return max(delta, float(np.quantile(np.ptp(self.accuracy_draws - self.accuracy, axis=1), LEVEL)))
        if not self.n:
            return delta
        drawn = np.random.default_rng(0).binomial(self.n["accuracy"], self.accuracy, (DRAWS, len(self.step)))
        return max(delta, float(np.quantile(np.ptp(drawn / self.n["accuracy"] - self.accuracy, axis=1), LEVEL)))


def from_table(curves: pd.DataFrame) -> list[Curves]:
    """The runs of a table with columns `step, accuracy, perplexity` (maybe `run`, `train_nll`, `n`), steps in order.

    Raises:
        InputError: a missing column, a cell that is not a number, an accuracy outside 0..1, a perplexity not
            above 0, a step twice, fewer than two checkpoints.
    """
    needed = ["step", "accuracy", "perplexity"]
    missing = [c for c in needed if c not in curves.columns]
    if missing:
        raise InputError(f"curves have no column {missing}; expected {needed}, got {list(curves.columns)}")
    curves = curves.reset_index(drop=True)
    numbers = curves[needed].apply(pd.to_numeric, errors="coerce")
    finite: Array = np.all(np.isfinite(numbers.to_numpy(float)), axis=1)
    bad = numbers.index[~finite]
    if len(bad):
        listed = curves.loc[bad, needed].head(3).to_dict("records")
        raise InputError(
            f"curves: rows without a finite step, accuracy and perplexity: {listed}; complete or drop them"
        )
    frame = numbers.join(curves[[c for c in ("run", "train_nll", "n") if c in curves.columns]])
    names = frame["run"].astype(str) if "run" in frame else pd.Series("run", frame.index)
    return [_run_of(str(name), rows.sort_values("step")) for name, rows in frame.groupby(names, sort=True)]


def _run_of(name: str, rows: pd.DataFrame) -> Curves:
    twice = rows.loc[rows["step"].duplicated(), "step"].tolist()
    if twice:
        raise InputError(f"curves ({name}): step(s) {twice} twice; name runs apart with a column `run`")
    if len(rows) < 2:
        raise InputError(f"curves ({name}): {len(rows)} checkpoint; stages need a series of at least 2")
    if not rows["accuracy"].between(0, 1).all():
        raise InputError(
            f"curves ({name}): accuracy {rows['accuracy'].max():g}; expected fractions in 0..1, not percent"
        )
    if not (rows["perplexity"] > 0).all():
        raise InputError(f"curves ({name}): perplexity {rows['perplexity'].min():g}; expected values above 0")
    n: dict[str, int] = {}
    if "n" in rows:
        if not (rows["n"] >= 1).all():
            raise InputError(f"curves ({name}): n {rows['n'].min():g}; expected numbers of items, at least 1")
        n = {"accuracy": int(rows["n"].min())}
    train = rows["train_nll"].to_numpy(float) if "train_nll" in rows else None
    log_ppl = np.log(rows["perplexity"].to_numpy(float))
    return Curves(name, rows["step"].to_numpy(), rows["accuracy"].to_numpy(float), log_ppl, n=n, train_nll=train)


def from_items(
    nll: pd.DataFrame,
    tokens: pd.DataFrame,
    correct: pd.DataFrame,
    *,
    seed: int,
    draws: int = DRAWS,
    run: str = "run",
    clusters: Mapping[object, str] | None = None,
) -> Curves:
    """The run of per-item grids [item, step] on the same steps: micro ln PPL and mean accuracy, with draws.

    Args:
        nll: summed NLL in nats.
        tokens: numbers of scored tokens.
        correct: 0..1, NaN where not measured; its items may be others than those of `nll`.
        seed: of the resampling.
        draws: number of draws.
        run: its name.
        clusters: item -> what is resampled as one.
    """
    items = sorted(set(nll.index) | set(correct.index))
    known = clusters or {}
    labels = [str(known.get(i, i)) for i in items] if known else clusters_of(items)
    grids = [frame.reindex(index=items).to_numpy(float) for frame in (correct, nll, tokens)]
    right, top, bottom = (np.nan_to_num(g) for g in grids)
    seen = (~np.isnan(grids[0])).astype(float)
    counts = np.concatenate([np.ones((1, len(items))), resample_counts(len(items), draws, seed, None, labels)])
    accuracy, log_ppl = divide(counts @ right, counts @ seen), divide(counts @ top, counts @ bottom)
    whole: Array = np.all(np.isfinite(accuracy) & np.isfinite(log_ppl), axis=1)
    if not whole[0]:
        raise InputError("some checkpoint has no item with a readable answer, or no scored token: leave it out")
    accuracy, log_ppl = accuracy[whole], log_ppl[whole]
    unit = dict(zip(items, labels or items, strict=True))
    n = {"accuracy": len({unit[i] for i in correct.index}), "log_ppl": len({unit[i] for i in nll.index})}
    return Curves(
        run, np.asarray(nll.columns), accuracy[0], log_ppl[0], accuracy[1:], log_ppl[1:], n, None, grids[0], labels
    )


def banded(
    name: str,
    value: Any,
    draws: Any,
    *,
    n: Any = 0,
    dims: tuple[str, ...] = (),
    units: str = "",
    long_name: str = "",
    is_observed: bool = False,
) -> xr.Dataset:
    """`name` with `_ci_low`, `_ci_high`, `_n`: percentiles over the draws in which it is defined (NaN: none).

    The percentiles are those that suit `n` units (see `intervals.percentiles`); none below six,
    plain ones where n is not given.

    With `is_observed` the bounds are values that occurred: between two checkpoints there is no checkpoint.
    """
    value = np.asarray(value, float)
    bounds = np.full((2, *value.shape), np.nan)
    if draws is not None:
        drawn = np.asarray(draws, float)
        defined = ~np.isnan(drawn).all(0)
        method = "inverted_cdf" if is_observed else "linear"
        counted = np.broadcast_to(n, value.shape)
        for size in np.unique(counted[defined]):
            own = defined & (counted == size)
            bounds[:, own] = percentiles(drawn[:, own], int(size), LEVEL, method)
        bounds = np.stack([np.fmin(bounds[0], value), np.fmax(bounds[1], value)])
        bounds[:, np.isnan(np.where(defined, 0.0, np.nan))] = np.nan
    parts = {"": value, "_ci_low": bounds[0], "_ci_high": bounds[1], "_n": np.broadcast_to(n, value.shape)}
    data = xr.Dataset({name + suffix: (dims, part) for suffix, part in parts.items()})
    data[name].attrs.update(units=units, long_name=long_name)
    return data


def comparisons(runs: list[Curves]) -> xr.Dataset:
    """ln PPL of one run minus another's at equal accuracy and at equal training NLL, averaged over levels."""
    rows: dict[str, float] = {}
    for a, b in combinations(runs, 2):
        pairs = [("accuracy", a.accuracy, b.accuracy)]
        if a.train_nll is not None and b.train_nll is not None:
            pairs.append(("training NLL", a.train_nll, b.train_nll))
        for what, of_a, of_b in pairs:
            levels = matched(of_a, a.log_ppl, of_b, b.log_ppl)
            rows[f"{a.run} - {b.run} at equal {what}"] = (
                float(np.mean(levels[:, 1] - levels[:, 2])) if len(levels) else np.nan
            )
    label = "ln PPL difference at matched level"
    named = banded(
        "matched_log_ppl_difference", list(rows.values()), None, dims=("arm",), units="nats per token", long_name=label
    )
    return named.assign_coords(arm=list(rows))
