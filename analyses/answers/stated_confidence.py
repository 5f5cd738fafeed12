"""Does a model know when it is right? The confidence its responses state, against whether they are right.

Definition: confidence = what the response says of itself ("90 % sure", "confidence: 0.9", "8/10"), or a column
`confidence` of the log, or the share of the item's other samples that give the same answer (`agreement`). brier = mean
(confidence - right)^2; over_confidence = mean (confidence - right); ece in bins of equal mass; auroc = P(a right
response is more confident than a wrong one), ties 1/2; aurc = mean over coverages of the error rate among the most
confident (the error rate, where confidence says nothing). A response asserts where it holds no hedge; asymmetry =
P(asserts | right) - P(asserts | wrong). Greedy responses where there are any, else samples.

Units: fractions.

Source: ReFIne and abstention in temporal QA (stated confidence, over-confidence); Disposition Distillation (assertion
asymmetry).

Does not show: belief. A stated number may be a habit of style; hedges are patterns of English words, and an unhedged
text is no certainty. Responses without a readable confidence or answer are left out; `told` says how many state one.
ece is biased upwards by few responses: it has no interval; compare it only at equal n.

Control: a confidence equal to the base rate (ece 0, auroc .5, aurc the error rate); the base checkpoint.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.answers import _judged
from analyses.answers._confidence import aurc, auroc, auroc_interval
from analyses.answers._judged import Mean
from analyses.answers.calibration import calibration_error
from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.figures import curve, forest
from analyses.core.reading.votes import clusters
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plotly.graph_objects import Figure

    from analyses.core.claim import Claim

BY = ["group", "answer_kind"]
STATED = re.compile(
    r"(?:confiden\w*|certain\w*|sure|probability)\b[\s:=*_]*(?:(?:is|of|level|score|about|at|that|this|in|my|answer)\b"
    r"[\s:=*_]*){0,4}(?P<a>\d+(?:\.\d+)?)\s*(?P<au>%|/\s*10\b|percent)?"
    r"|(?P<b>\d+(?:\.\d+)?)\s*(?P<bu>%|percent)\s*(?:confiden|certain|sure)",
    re.IGNORECASE,
)
HEDGE = re.compile(
    r"\b(?:maybe|perhaps|might|not (?:entirely |completely )?sure|unsure|i think|i guess|i believe|probably|possibly|"
    r"could be|likely|seems?|roughly|uncertain)\b",
    re.IGNORECASE,
)
LABELS = {
    "accuracy": "right", "confidence": "mean confidence", "over_confidence": "confidence minus accuracy",
    "brier": "Brier score",
}  # fmt: skip

CURVES = {
    "ece": "calibration error", "aurc": "area under risk and coverage", "auroc": "AUROC of confidence",
    "asymmetry": "asserted when right minus when wrong",
}  # fmt: skip


@analysis(renamed={"pattern": "confidence_pattern"})
def stated_confidence(
    evaluate: Annotated[Result, "evaluate"],
    *,
    source: Literal["text", "column", "agreement"] = "text",
    confidence_pattern: str | None = None,
    hedge: str | None = None,
    bins: int = 10,
    seed: int = 0,
) -> Result:
    """Calibration of stated confidence, whether it tells right from wrong, and who is asserted.

    Rows: step (where there are steps), item, group, answer_kind, sample, right, confidence, asserts (1 or 0).

    Args:
        evaluate: result or sweep of `evaluate`, of a model or a log.
        source: the response's own words, the log's column `confidence`, or agreement of the item's samples.
        confidence_pattern: regular expression whose last match's group is the confidence (a fraction, or a percentage
            above 1).
        hedge: regular expression of a hedge, in place of the usual English ones.
    """
    rows = _responses(evaluate.table, source)
    rows["confidence"] = _confidences(rows, source, _compiled(confidence_pattern))
    hedged = _compiled(hedge) or HEDGE
    rows["asserts"] = [float(hedged.search(str(t)) is None) for t in rows["text"]]
    over = [*(["step"] if "step" in rows else []), *BY]
    kept = rows.dropna(subset=["confidence", "right"])
    if kept.empty:
        raise InputError(
            "no response states a confidence that can be read: give confidence_pattern='(...)', or source='agreement' "
            "(several samples) or 'column' (a log with a column `confidence`)"
        )
    data = xr.merge([_means(rows, kept, over, seed), _curves(kept, rows, over, bins, seed)], join="outer")
    columns = [*over[:-2], "item", *BY, "sample", "right", "confidence", "asserts"]
    return Result.of(rows[columns], data, claims=list(_claims(kept, rows)))


def _responses(table: pd.DataFrame, source: str) -> pd.DataFrame:
    table = table[table["status"] != "gold_unparsed"]
    rows = table if source == "agreement" else table[table["decoding"] == "greedy"]
    rows = rows[rows["decoding"] == "sampled"] if source == "agreement" else rows
    rows = rows if len(rows) else table
    return rows.assign(right=rows["correct"].astype(float)).reset_index(drop=True)


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise InputError(f"pattern {pattern!r} is not a regular expression: {error}") from error


def _confidences(rows: pd.DataFrame, source: str, pattern: re.Pattern[str] | None) -> np.ndarray:
    if source == "agreement":
        return _agreement(rows)
    if source == "column":
        if "confidence" not in rows:
            raise InputError("the log has no column `confidence`; read the text (source='text') or use agreement")
        return np.array([_as_share(v, "") for v in rows["confidence"]])
    if pattern is not None and pattern.groups < 1:
        raise InputError(f"pattern {pattern.pattern!r} has no group; put the confidence in parentheses")
    return np.array([stated(str(text), pattern) for text in rows["text"]])


def stated(text: str, pattern: re.Pattern[str] | None = None) -> float:
    """The last confidence that a text states, as a fraction; NaN where it states none that is one."""
    found = list((pattern or STATED).finditer(text))
    if not found:
        return float("nan")
    last = found[-1]
    if pattern is not None:
        return _as_share(last[1], "")
    return _as_share(last["a"] or last["b"], (last["au"] or last["bu"] or "").lower())


def _as_share(value: object, unit: str) -> float:
    """A number as a fraction; above 1 it is a percentage. NaN outside of 0 to 1."""
    try:
        number = float(str(value).strip().rstrip("%"))
    except ValueError:
        return float("nan")
    percent = unit in ("%", "percent") or str(value).strip().endswith("%") or (not unit and number > 1)
    share = number / 100 if percent else number / 10 if unit else number
    return share if 0 <= share <= 1 else float("nan")


def _agreement(rows: pd.DataFrame) -> np.ndarray:
    """Share of the item's other samples with the same answer; NaN for an unreadable answer or a lone sample."""
    found = np.full(len(rows), np.nan)
    for _, of in rows.groupby([*(["step"] if "step" in rows else []), "item", *BY], sort=False):
        named = pd.Series(clusters(of["answer"].tolist()))
        same = named.map(named.value_counts()).to_numpy(float)
        read = of["answer"].map(lambda a: isinstance(a, str)).to_numpy()
        if len(of) > 1:
            found[of.index] = np.where(read, (same - 1) / (len(of) - 1), np.nan)
    return found


def _means(rows: pd.DataFrame, kept: pd.DataFrame, over: list[str], seed: int) -> xr.Dataset:
    gap = kept["confidence"] - kept["right"]
    values = kept.assign(accuracy=kept["right"], over_confidence=gap, brier=gap**2)
    parts = [stats.estimate(values, q, over, seed=seed, units="1", long_name=v) for q, v in LABELS.items()]
    told = rows.assign(told=rows["confidence"].notna().astype(float))
    parts.append(stats.estimate(told, "told", over, seed=seed, units="1", long_name="responses with a confidence"))
    for flag, name in ((1.0, "asserts_right"), (0.0, "asserts_wrong")):
        part = rows[rows["right"] == flag]
        if len(part):
            parts.append(stats.estimate(part, "asserts", over, seed=seed, name=name, units="1"))
    return xr.merge(parts, join="outer")


def _curves(kept: pd.DataFrame, rows: pd.DataFrame, over: list[str], bins: int, seed: int) -> xr.Dataset:
    """ece, auroc, aurc and asymmetry of every cell with intervals over items."""
    found: dict[Any, dict[str, float]] = {}
    for at, of in kept.groupby(over, sort=True):
        named = at if isinstance(at, tuple) else (at,)
        score, right, item = (of[c].to_numpy() for c in ("confidence", "right", "item"))
        cell: dict[str, Mean] = {
            "ece": Mean(calibration_error(score, right, bins), float("nan"), float("nan"), len(np.unique(item))),
            "aurc": _drawn(aurc, score, right, item, seed),
            "auroc": Mean(auroc(score, right), *auroc_interval(score, right, item), of["item"].nunique()),
            "asymmetry": asymmetry(rows[(rows[over] == list(named)).all(axis=1)]),
        }
        found[named] = {
            f"{q}{suffix}": value
            for q, m in cell.items()
            for suffix, value in (("", m.value), ("_ci_low", m.low), ("_ci_high", m.high), ("_n", m.n))
        }
    data = pd.DataFrame(found.values(), pd.MultiIndex.from_tuples(list(found), names=over)).to_xarray()
    for name, label in CURVES.items():
        data[name].attrs.update(units="1", long_name=label)
    return data


def _drawn(of: Any, score: np.ndarray, right: np.ndarray, item: np.ndarray, seed: int, draws: int = 300) -> Mean:
    """A statistic with its bootstrap interval over items; none below six items."""
    codes = np.unique(item.astype(str), return_inverse=True)[1].ravel()
    n, value = int(codes.max()) + 1, of(score, right)
    if n < 6:
        return Mean(value, float("nan"), float("nan"), n)
    members = [np.flatnonzero(codes == c) for c in range(n)]
    drawn = []
    for counts in stats.resample_counts(n, draws, seed):
        chosen = np.concatenate([np.tile(members[c], int(k)) for c, k in enumerate(counts) if k])
        drawn.append(of(score[chosen], right[chosen]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Mean(value, min(float(low), value), max(float(high), value), n)


def asymmetry(rows: pd.DataFrame) -> Mean:
    """P(asserts | right) - P(asserts | wrong) with an interval over items; NaN where one of the two is missing."""
    sides = [_judged.mean(rows[rows["right"] == flag], "asserts", 1, "1") for flag in (1.0, 0.0)]
    low, high = _judged.difference(*sides)
    return Mean(sides[0].value - sides[1].value, low, high, min(s.n for s in sides))


def _claims(kept: pd.DataFrame, rows: pd.DataFrame) -> Iterator[Claim]:
    """Of every group and kind (at the last step): over-confident or not, and does confidence tell right from wrong?"""
    last = kept[kept["step"] == kept["step"].max()] if "step" in kept else kept
    whole = rows[rows["step"] == rows["step"].max()] if "step" in rows else rows
    cells = list(last.groupby(BY, sort=True))
    for (group, kind), of in cells:
        shown: dict[str, object] = {
            "group": str(group) if last["answer_kind"].nunique() == 1 else f"{group}, {kind}",
            "family": f"{len(cells)} group(s)",
        }
        gap = _judged.mean(of.assign(gap=of["confidence"] - of["right"]), "gap", len(cells))
        what = "responses are more confident than they are right"
        more = {"estimand": "confidence minus accuracy", "control": "accuracy of the same responses", **shown}
        yield _judged.claim(gap, gap.is_above(), "over-confident", what, **more)
        score, right, item = (of[c].to_numpy() for c in ("confidence", "right", "item"))
        area = Mean(auroc(score, right), *auroc_interval(score, right, item), of["item"].nunique())
        what = "confidence tells right responses from wrong ones"
        more = {"estimand": "AUROC", "control": "chance, .5", "is_change": False, **shown}
        yield _judged.claim(area, area.is_above(0.5), "discerning", what, **more)
        said = asymmetry(whole[(whole[BY] == [group, kind]).all(axis=1)])
        what = "right responses are asserted more often than wrong ones"
        more = {"estimand": "P(asserts | right) - P(asserts | wrong)", "control": "wrong responses", **shown}
        yield _judged.claim(said, said.is_above(), "asserting", what, **more)


def figures(result: Result) -> dict[str, Figure]:
    """All measures by group, over steps where there are any."""
    rows = result.summary()
    rows = rows[rows["quantity"].isin(["over_confidence", "ece", "auroc", "aurc", "brier", "asymmetry", "told"])]
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    title = "Stated confidence against being right"
    if "step" in rows:
        return {"confidence": curve(rows, x="step", color="series", facet="quantity", title=title, unit="1")}
    return {"confidence": forest(rows, label="quantity", color="series", reference=None, title=title)}
