"""Where a fine-tuning run starts to over-memorize, and which checkpoint to ship.

Definition: with best accuracy acc*, tolerance delta of accuracy, running minimum PPLmin_t and relative tolerance
rho of perplexity: under-trained before accuracy first reaches acc* - delta; then over-fit where it is lower again,
over-memorized where accuracy holds but PPL_t > (1 + rho) PPLmin_t, and good fit elsewhere. onset = step of the
first over-memorized checkpoint; ppl_rise = first step above that bound, whether or not accuracy still holds; area =
sum over over-memorized checkpoints of ln PPL_t - ln PPLmin_t; lag = step of the best accuracy minus step of the
smallest perplexity; recommended = most accurate checkpoint with PPL_t <= (1 + rho) min PPL, the earliest of ties.
With per-item results or a column n, delta is at least the fall below the best that a run of constant accuracy shows by
chance (95 % quantile over draws of items): the best of many checkpoints is best partly by luck. Without either, no
stage is assessed. Groups are judged apart. Stages describe; the claims `over-memorized` and `over-fit` ask besides that
the rise (or fall) lasts two checkpoints and exceeds what the run's own noise between checkpoints makes of a flat run in
95 of 100; `ship` says what accuracy is given up for it. Accuracy not above `floor` anywhere is not judged.

Units: accuracy is a fraction, log_ppl and om_index nats per token, area nats per token summed over checkpoints,
onset, lag and recommended optimizer steps (or whatever `step` counts in the curves).

Source: arXiv 2508.04117 describes the phenomenon and gives no rule; the rule is this toolkit's. The paper's
checkpoint rule (section 7.1) is highest validation accuracy within a bounded range of validation perplexity; its
bounds are not known, rho = .10 is ours.

Does not show: why perplexity rises. On rationales of another author than the training data's it may be style
shift: give `training_kind` and a pool of valid `rationales`, or say `style=foreign` and get "not assessable".
A checkpoint chosen on the test set is chosen optimistically: recommend on validation data. More checkpoints give
more area. Epochs of one run confound memorization with amount of training: give several runs (column `run`) and
read the comparison at matched accuracy and matched training NLL.

Control: a run of small learning rate, monotone or flat curves (no over-memorization), and the sensitivity grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.claim import UNJUDGED, Claim
from analyses.core.figures import curve, explained
from analyses.core.result import NOT_ASSESSABLE, STAGES, Result
from analyses.memory import _stage_claims as stage_claims
from analyses.memory._curves import Curves, banded, comparisons, from_items, from_table
from analyses.memory._stage_rule import Staged, stage_rule
from analyses.memory._style_control import answer_grids, style_control
from probe.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame as Table
    from plotly.graph_objects import Figure

DELTAS, RHOS = (0.005, 0.01, 0.02), (0.05, 0.1, 0.2)
NATS = "nats per token"


@analysis
def over_memorization(
    curves: Table | None = None,
    perplexity: Annotated[Result, "perplexity"] | None = None,
    evaluate: Annotated[Result, "evaluate"] | None = None,
    *,
    delta: float = 0.01,
    rho: float = 0.10,
    mask: str = "answer",
    answer_kind: str | None = None,
    training_kind: str | None = None,
    rationales: tuple[str, ...] = (),
    style: Literal["unstated", "training", "foreign"] = "unstated",
    unparsed: Literal["missing", "wrong"] = "missing",
    floor: float = 0.0,
    seed: int = 0,
) -> Result:
    """Stage of every checkpoint, onset, area, lag and recommended checkpoint.

    Args:
        curves: columns `step, accuracy, perplexity` (one row per checkpoint; optional `run`, `train_nll`, and `n`, the
            number of items, without which no stage is assessed).
        perplexity: a sweep of `perplexity` over the run, for bands; needs `evaluate` too.
        evaluate: a sweep of `evaluate` over the same checkpoints.
        delta: tolerance of accuracy, as a fraction (.01 = one point).
        rho: relative tolerance of perplexity; the bound the recommendation is made under.
        training_kind: answer kind written by the generator of the training data, for the style control.
        rationales: at least 4 answer kinds, valid rationales of each item, for the style control.
        style: whose style perplexity is of; `foreign` to the training data is not assessable.
        unparsed: what is left out is reported apart.
        floor: accuracy of guessing.
    """
    if not 0 <= delta <= 1 or not rho > 0:
        raise InputError(f"delta={delta}, rho={rho}; expected 0 <= delta <= 1 (a fraction) and rho > 0")
    warnings: list[str] = []
    runs = _runs(curves, perplexity, evaluate, (mask, answer_kind, unparsed, seed), warnings)
    found = [(c, stage_rule(c.accuracy, c.log_ppl, delta=c.tolerance(delta), rho=rho)) for c in runs]
    table = pd.concat([_rows(c, s, delta) for c, s in found], ignore_index=True)
    each = [_estimates(c, s, delta, rho) for c, s in found]
    dim = "run" if perplexity is None else "group"
    table = table.rename(columns={"run": dim})
    data = each[0] if len(each) == 1 else xr.concat(each, pd.Index([c.run for c in runs], name=dim), join="outer")
    if len(runs) > 1 and perplexity is None:
        data = data.merge(comparisons(runs), join="outer")
    if perplexity is not None and (training_kind or rationales):
        control = style_control(perplexity.table, mask, answer_kind, training_kind, rationales)
        data = data.merge(control, join="outer").assign_attrs(control.attrs)
    if style == "foreign":
        return _not_assessable(table, data, warnings)
    several = len(runs) > 1
    claims = [c for of, s in found for c in stage_claims.claims(of, s, rho, floor, of.run if several else None)]
    return Result.of(table, data, claims=claims, warnings=warnings)


def _runs(
    curves: pd.DataFrame | None,
    perplexity: Result | None,
    evaluate: Result | None,
    how: tuple[str, str | None, str, int],
    warnings: list[str],
) -> list[Curves]:
    if curves is not None and perplexity is None and evaluate is None:
        return from_table(curves)
    if curves is not None or perplexity is None or evaluate is None:
        raise InputError(
            "over_memorization needs either curves (CSV with step, accuracy, perplexity), or both a perplexity "
            "and an evaluate sweep over the same checkpoints"
        )
    mask, answer_kind, unparsed, seed = how
    marks = _graded(evaluate.table, unparsed, warnings)
    shared = sorted(set(perplexity.table["group"].astype(str)) & set(marks["group"].astype(str)))
    if len(shared) < 2:
        return [_of_items(perplexity.table, marks, mask, answer_kind, seed, "run", warnings)]
    scores = perplexity.table
    by_group = [(g, scores["group"].astype(str) == g, marks["group"].astype(str) == g) for g in shared]
    return [_of_items(scores[a], marks[b], mask, answer_kind, seed, g, warnings) for g, a, b in by_group]


def _of_items(
    scores: pd.DataFrame, marks: pd.DataFrame, mask: str, kind: str | None, seed: int, name: str, warnings: list[str]
) -> Curves:
    nll, tokens = answer_grids(scores, mask, kind)
    correct = marks.pivot_table(index="item", columns="step", values="correct", aggfunc="mean")
    steps = [s for s in nll.columns if s in correct.columns]
    if len(steps) < 2:
        given = f"perplexity has steps {list(nll.columns)}, evaluate {list(correct.columns)}"
        raise InputError(f"{given}; stages need at least 2 checkpoints measured by both")
    left = sorted(set(nll.columns) ^ set(correct.columns))
    said = []
    if left:
        said.append(f"steps measured by only one of perplexity and evaluate are left out: {left}")
    if not set(nll.index) & set(correct.index):
        said.append("accuracy and perplexity are of different items")
    warnings += [w for w in said if w not in warnings]
    known: dict[Any, str] = {}
    if "cluster" in marks:
        known = marks.dropna(subset=["cluster"]).drop_duplicates("item").set_index("item")["cluster"].to_dict()
    return from_items(nll[steps], tokens[steps], correct[steps], seed=seed, run=name, clusters=known)


def _graded(table: pd.DataFrame, unparsed: str, warnings: list[str]) -> pd.DataFrame:
    """Rows with `correct` as a number; of greedy responses where there are any."""
    if "step" not in table.columns:
        raise InputError("the evaluate result is of one checkpoint; sweep evaluate over the series first")
    greedy = table[table["decoding"] == "greedy"]
    rows = greedy if len(greedy) else table
    is_unparsed = rows["status"] == "unparsed"
    lost = is_unparsed.groupby(rows["step"]).mean()
    if lost.max() > 0.01:
        what = "left out" if unparsed == "missing" else "counted as not correct"
        listed = ", ".join(f"{s}: {v:.1%}" for s, v in lost.items() if v > 0)
        warnings.append(f"responses without a readable answer are {what}; their share by step: {listed}")
    value = rows["correct"].astype(float)
    if unparsed == "wrong":
        value = value.mask(is_unparsed, 0.0)
    return rows.assign(correct=value)


def _rows(c: Curves, s: Staged, delta: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run": c.run,
            "step": c.step,
            "stage": [STAGES[i] if c.n else NOT_ASSESSABLE for i in s.stage],
            "accuracy": c.accuracy,
            "perplexity": np.exp(c.log_ppl),
            "perplexity_min": np.exp(np.minimum.accumulate(c.log_ppl)),
            "om_index": s.om_index,
            "delta": c.tolerance(delta),
            "early_ppl_rise": s.early_rise,
            "feasible": s.feasible,
            "recommended": np.arange(len(c.step)) == s.recommended,
        }
    )


def _estimates(c: Curves, s: Staged, delta: float, rho: float) -> xr.Dataset:
    """Point values with bootstrap bands; bands are NaN on bare curves, which have no items."""
    d = None
    if c.accuracy_draws is not None and c.log_ppl_draws is not None:
        d = stage_rule(c.accuracy_draws, c.log_ppl_draws, delta=c.tolerance(delta), rho=rho)
    n = min(c.n.values(), default=0)
    if not c.n:
        return _bare(c, s)
    per_step: dict[str, Any] = {"dims": ("step",), "units": NATS}
    shares = np.stack([((s if d is None else d).stage == i).reshape(-1, len(c.step)).mean(0) for i in range(4)])
    if d is None:
        shares = np.where(shares > 0, shares, np.nan)  # bare curves have no draws: only the stage itself is told
    n_accuracy, n_ppl = c.n.get("accuracy", 0), c.n.get("log_ppl", 0)
    parts = [
        *_headline(c, s, d, n),
        banded("accuracy", c.accuracy, c.accuracy_draws, n=n_accuracy, dims=("step",), units="1", long_name="accuracy"),
        banded("log_ppl", c.log_ppl, c.log_ppl_draws, n=n_ppl, **per_step, long_name="ln perplexity"),
        banded("om_index", s.om_index, d and d.om_index, n=n, **per_step, long_name="over-memorization index"),
        banded(
            "stage_share", shares, None, n=n, dims=("stage", "step"), units="1", long_name="share of draws in stage"
        ),
        *_sensitivity(c, n),
    ]
    return xr.merge(parts).assign_coords(step=c.step, stage=list(STAGES))


def _bare(c: Curves, s: Staged) -> xr.Dataset:
    """Curves of nobody knows how many items, with what is a matter of perplexity alone."""
    named: dict[str, Any] = {"dims": ("step",)}
    parts = [
        banded("accuracy", c.accuracy, None, units="1", long_name="accuracy", **named),
        banded("log_ppl", c.log_ppl, None, units=NATS, long_name="ln perplexity", **named),
        *[q for q in _headline(c, s, None, 0) if not {"onset", "onset_share", "area", "recommended"} & set(q)],
    ]
    return xr.merge(parts).assign_coords(step=c.step)


def _headline(c: Curves, s: Staged, d: Staged | None, n: int) -> list[xr.Dataset]:
    """onset, area, lag, recommended: the summary row."""

    def at(index: Any) -> Any:
        return np.where(index >= 0, c.step[index].astype(float), np.nan)

    def lag(staged: Staged) -> Any:
        return at(staged.best_accuracy) - at(staged.least_ppl)

    share = np.nan if d is None else np.mean(d.onset >= 0)
    step: dict[str, Any] = {"n": n, "units": "step", "is_observed": True}
    shipped = d and at(d.recommended)
    return [
        banded("onset", at(s.onset), d and at(d.onset), **step, long_name="first over-memorized checkpoint"),
        banded(
            "ppl_rise", at(s.rise), d and at(d.rise), **step, long_name="first checkpoint above the perplexity bound"
        ),
        banded("onset_share", share, None, n=n, units="1", long_name="share of draws with an onset"),
        banded("area", s.area, d and d.area, n=n, units=NATS, long_name="area of over-memorization"),
        banded("lag", lag(s), d and lag(d), **step, long_name="best accuracy minus smallest perplexity"),
        banded("recommended", at(s.recommended), shipped, **step, long_name="checkpoint to ship"),
    ]


def _sensitivity(c: Curves, n: int) -> list[xr.Dataset]:
    """Onset and recommendation under other tolerances: a claim that changes with them is not a finding."""
    names, rows = [], []
    for delta in DELTAS:
        for rho in RHOS:
            s = stage_rule(c.accuracy, c.log_ppl, delta=delta, rho=rho)
            onset = c.step[s.onset] if s.onset >= 0 else np.nan
            names.append(f"delta={delta:g} rho={rho:g}")
            rows.append((onset, s.area, c.step[s.recommended]))
    values = np.array(rows, float).T
    named = [("onset_at", "step"), ("area_at", NATS), ("recommended_at", "step")]
    return [
        banded(name, row, None, n=n, dims=("variant",), units=units, long_name=name.replace("_", " "))
        .assign_coords(variant=names)
        for (name, units), row in zip(named, values, strict=True)
    ]  # fmt: skip


def _not_assessable(table: pd.DataFrame, data: xr.Dataset, warnings: list[str]) -> Result:
    """Curves are kept, every claim made from them is withdrawn."""
    kept = [str(v) for v in data.data_vars if str(v).startswith(("accuracy", "log_ppl", "style_"))]
    table = table.assign(stage=NOT_ASSESSABLE, om_index=np.nan, feasible=False, recommended=False)
    why = Claim(
        "over-memorized",
        UNJUDGED,
        stage_claims.MEMORIZED,
        why="perplexity is only of a foreign style, so style may have shifted instead",
        needs="perplexity of answers in the style of the training data, or a pool of valid rationales",
    )
    return Result.of(table, data[kept], claims=[why], warnings=warnings)


def figures(result: Result) -> dict[str, Figure]:
    """Accuracy and ln perplexity by step with the bounds of the rule, stages shaded, the checkpoint to ship starred."""

    rows = result.summary()
    color = next((d for d in ("run", "group") if d in rows), None)
    rho = float(result.record.get("options", {}).get("rho", 0.10))
    drawn: dict[str, Figure] = {}
    for quantity, title, axis in (
        ("accuracy", "Accuracy", "accuracy (share of items)"),
        ("log_ppl", "ln perplexity", f"ln perplexity ({NATS})"),
        ("om_index", "Over-memorization index", f"index ({NATS})"),
    ):
        part = rows[rows["quantity"] == quantity]
        if part.empty:
            continue
        figure = curve(part, x="step", color=color, title=title, y_title=axis)
        drawn[quantity] = figure if color else explained(figure, result.table, quantity, rho)
    return drawn
