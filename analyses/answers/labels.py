"""Which gains look like recall: items the base gets wrong and the tuned checkpoint right, told from chance.

Definition: with c of n sampled responses correct per item and checkpoint, p = c / n. Rule `interval`: leak iff the
lower bound of p_tuned - p_base (Newcombe interval) is above 0 and p_tuned >= .5; stable iff both p >= .5 and the
interval covers 0; else unlabelled. Rule `fdr`: the same with Fisher's exact p, one-sided, Benjamini-Hochberg over
items, in place of the interval's lower bound. Rule `any_of_k` is the published one: correct if any response is; leak
iff base wrong and tuned right, stable iff both right.

Units: fractions of items.

Source: arXiv 2601.11061 (any-of-k); the interval and FDR rules are this toolkit's.

Does not show: memory. A label `leak` means "newly solved": removing a chat template alone gave most of the published
gain, and the untouched base solves 78 % of the published leak set under another template. Labels are also easier or
harder items: read the covariates, the base's accuracy under other templates, and the agreement across seeds. Groups
by design (leaked, unseen, planted) are truth and stay apart from labels, which are guesses.

Control: the same checkpoint twice (no leak items beyond the error rate); matched stable items (`match`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.figures import forest
from analyses.core.result import Result
from probe.errors import InputError
from probe.items import OUTCOMES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Prompts

LABELS = ("leak", "stable", "unlabelled")
ENOUGH = 8
DECODING = ("template", "temperature", "top_p", "max_new_tokens", "grade", "pattern", "stop")


@analysis
def labels(
    tuned: Annotated[Result, "evaluate"],
    base: Annotated[Result, "evaluate"] | None = None,
    other_template: Annotated[Result, "evaluate"] | None = None,
    *,
    rule: Literal["interval", "fdr", "any_of_k"] = "interval",
    alpha: float = 0.05,
    legacy: bool = False,
    seed: int = 0,
) -> Result:
    """A label per item with its counts, covariates and matched control; shares per design group with intervals.

    Args:
        tuned: evaluate result of the tuned checkpoint, or a sweep (its last step is tuned, its first the base).
        base: evaluate result of the base under the same template and decoding.
        other_template: evaluate result of the base under another template, for the validity check.
        rule: see the definition; `any_of_k` on one greedy response is the published rule.
        alpha: of the per-item interval, or the false discovery rate.
        legacy: as `legacy_label` and its shares, whatever `rule` is.
    """
    first, last, warnings = _pair(tuned, base)
    counts = _counts(first, "base").join(_counts(last, "tuned"), how="inner").reset_index()
    if counts.empty:
        raise InputError("base and tuned have no item in common: evaluate both on the same prompts")
    if len(counts) < max(first["item"].nunique(), last["item"].nunique()):
        warnings.append(f"{len(counts)} items were graded under both checkpoints; the others are not labelled")
    if rule != "any_of_k" and counts[["n_base", "n_tuned"]].min().min() < ENOUGH:
        warnings.append(f"fewer than {ENOUGH} samples per item: most items will stay unlabelled")
    table = counts.assign(label=_labels(counts, rule, alpha))
    table = table.merge(_covariates(first, last), on=["item", "answer_kind"], how="left")
    table["match"] = _matches(table)
    data = _shares(table, seed)
    if legacy:
        table["legacy_label"] = _labels(counts, "any_of_k", alpha)
        data = data.merge(_published_shares(table, seed), join="outer")
    if other_template is not None:
        table, part = _under_other_template(table, other_template.table, seed)
        data = data.merge(part, join="outer")
    return Result.of(table, data, warnings=warnings)


def _pair(tuned: Result, base: Result | None) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Tables of base and tuned, and what makes them hard to compare."""
    if base is None:
        if "step" not in tuned.table.columns or tuned.table["step"].nunique() < 2:
            raise InputError("labels compare two checkpoints: give `base` too, or a sweep of evaluate as `tuned`")
        steps = sorted(tuned.table["step"].unique())
        return (*(tuned.table[tuned.table["step"] == s] for s in (steps[0], steps[-1])), [])
    one, other = (r.record.get("options", {}) for r in (base, tuned))
    unlike = [o for o in DECODING if one.get(o) != other.get(o)]
    warnings = [
        f"base and tuned differ in {o} ({one.get(o)!r} and {other.get(o)!r}): labels are confounded" for o in unlike
    ]
    last = [r.table[r.table["step"] == r.table["step"].max()] if "step" in r.table else r.table for r in (base, tuned)]
    return last[0], last[1], warnings


def _counts(table: pd.DataFrame, which: str) -> pd.DataFrame:
    """Responses and correct ones per item; samples where there are any, else the greedy response.

    A response without a readable answer counts as a response that is not correct; items without a readable gold
    answer are left out.
    """
    sampled = table[table["decoding"] == "sampled"]
    rows = sampled if len(sampled) else table
    rows = rows[rows["status"] != "gold_unparsed"]
    keys = ["item", "group", "answer_kind"]
    found = rows.assign(right=(rows["status"] == "correct").astype(int)).groupby(keys)["right"].agg(["sum", "count"])
    return found.rename(columns={"sum": f"c_{which}", "count": f"n_{which}"})


def _labels(counts: pd.DataFrame, rule: str, alpha: float) -> list[str]:
    c0, n0, c1, n1 = (counts[c].to_numpy() for c in ("c_base", "n_base", "c_tuned", "n_tuned"))
    if rule == "any_of_k":
        return ["unlabelled" if not b else "stable" if a else "leak" for a, b in zip(c0 > 0, c1 > 0, strict=True)]
    bounds = np.array([_newcombe(*row, alpha) for row in zip(c1, n1, c0, n0, strict=True)])
    rises = bounds[:, 0] > 0 if rule == "interval" else _fisher(c0, n0, c1, n1) <= alpha
    high0, high1 = c0 / n0 >= 0.5, c1 / n1 >= 0.5
    covers = (bounds[:, 0] <= 0) & (bounds[:, 1] >= 0)
    return [
        "leak" if rise and b else "stable" if a and b and same else "unlabelled"
        for rise, a, b, same in zip(rises, high0, high1, covers, strict=True)
    ]


def _newcombe(c1: int, n1: int, c0: int, n0: int, alpha: float) -> tuple[float, float]:
    from statsmodels.stats.proportion import confint_proportions_2indep

    low, high = confint_proportions_2indep(c1, n1, c0, n0, method="newcomb", compare="diff", alpha=alpha)
    return float(low), float(high)


def _fisher(c0: Any, n0: Any, c1: Any, n1: Any) -> np.ndarray:
    """Benjamini-Hochberg adjusted one-sided p of "tuned is more often correct" per item."""
    from statsmodels.stats.multitest import multipletests

    tests: list[Any] = [
        scipy.stats.fisher_exact([[b, m - b], [a, n - a]], alternative="greater")
        for a, n, b, m in zip(c0, n0, c1, n1, strict=True)
    ]
    return np.asarray(multipletests([t.pvalue for t in tests], method="fdr_bh")[1])


def _covariates(first: pd.DataFrame, last: pd.DataFrame) -> pd.DataFrame:
    """Mean response length, boxed and code share under both, and the length of the gold answer in characters."""
    keys = ["item", "answer_kind"]
    parts = [last.assign(gold_chars=last["gold"].str.len().astype(float)).groupby(keys)[["gold_chars"]].mean()]
    for which, table in (("base", first), ("tuned", last)):
        named = {c: f"{c}_{which}" for c in ("n_tokens", "boxed", "code")}
        rows = table.astype(dict.fromkeys(named, float)).groupby(keys)[list(named)].mean()
        parts.append(rows.rename(columns=named))
    return pd.concat(parts, axis=1).reset_index()


def _matches(table: pd.DataFrame) -> pd.Series:
    """For every leak item the stable item nearest in tuned accuracy and response length, each used once."""

    out = pd.Series(np.nan, table.index, dtype="str")
    for _, of in table.groupby(["group", "answer_kind"], sort=True):
        leak, stable = (of[of["label"] == name] for name in ("leak", "stable"))
        if leak.empty or stable.empty:
            continue
        length = of["n_tokens_tuned"].fillna(of["n_tokens_tuned"].median()).fillna(0.0)
        scale = float(length.std()) or 1.0
        accuracy = of["c_tuned"] / of["n_tuned"]
        cost = np.abs(np.subtract.outer(accuracy[leak.index].to_numpy(), accuracy[stable.index].to_numpy()))
        cost = cost + np.abs(np.subtract.outer(length[leak.index].to_numpy(), length[stable.index].to_numpy())) / scale
        rows, columns = scipy.optimize.linear_sum_assignment(np.nan_to_num(cost))
        out[leak.index[rows]] = stable["item"].to_numpy()[columns]
    return out


def _shares(table: pd.DataFrame, seed: int) -> xr.Dataset:
    by = ["group", "answer_kind"]
    rows = table.assign(**{name: (table["label"] == name).astype(float) for name in LABELS})
    # An answer of one character is guessed easily: its share says how hard the labels are to earn.
    rows["one_character"] = (rows["gold_chars"] == 1).astype(float)
    rows["p_base"], rows["p_tuned"] = rows["c_base"] / rows["n_base"], rows["c_tuned"] / rows["n_tuned"]
    named = {**{n: f"share labelled {n}" for n in LABELS}, "p_base": "accuracy of base", "p_tuned": "accuracy of tuned",
             "one_character": "gold answers of one character"}  # fmt: skip
    return xr.merge([stats.estimate(rows, n, by, seed=seed, units="1", long_name=v) for n, v in named.items()])


def _published_shares(table: pd.DataFrame, seed: int) -> xr.Dataset:
    """Shares of the published labels, beside those of the rule asked for."""
    parts: list[xr.Dataset] = []
    for name in ("leak", "stable"):
        rows = table.assign(share=(table["legacy_label"] == name).astype(float))
        how: dict[str, Any] = {
            "name": f"legacy_{name}",
            "units": "1",
            "long_name": f"share labelled {name} by any of k",
        }
        parts.append(stats.estimate(rows, "share", ["group", "answer_kind"], seed=seed, **how))
    return xr.merge(parts)


def _under_other_template(table: pd.DataFrame, other: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, xr.Dataset]:
    """Accuracy of the base on its own leak items under another template: near 0 if labels were about memory."""
    counts = _counts(other, "other").reset_index()[["item", "answer_kind", "c_other", "n_other"]]
    joined = table.merge(counts, on=["item", "answer_kind"], how="left")
    leak = joined[(joined["label"] == "leak") & joined["n_other"].notna()]
    if leak.empty:
        return joined, xr.Dataset()
    rows = leak.assign(p_other=leak["c_other"] / leak["n_other"])
    label = "base under another template, on leak items"
    return joined, stats.estimate(rows, "p_other", ["group", "answer_kind"], seed=seed, units="1", long_name=label)


def agreement(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Overlap of the leak items of two label tables (seeds, templates): shared / union; NaN if neither has any."""
    a, b = (set(t.loc[t["label"] == "leak", "item"]) for t in (first, second))
    return len(a & b) / len(a | b) if a | b else float("nan")


def relabelled(prompts: Prompts, table: pd.DataFrame) -> Prompts:
    """The prompts with their labels as groups, for analyses that compare groups; items without a label are left out.

    The groups carry where they come from: a rule that compares them refuses to judge what the labels selected.
    """

    of = dict(zip(zip(table["item"], table["answer_kind"], strict=True), table["label"], strict=True))
    kept = tuple(
        replace(i, group=of[i.key], meta={**i.meta, "group_from": OUTCOMES}) for i in prompts.items if i.key in of
    )
    if not kept:
        raise InputError("no prompt carries a label: the label table is of other items")
    return replace(prompts, items=kept)


def figures(result: Result) -> dict[str, Figure]:
    """Share of each label by design group."""

    rows = result.summary()
    rows = rows[rows["quantity"].isin(LABELS)]
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    return {"labels": forest(rows, label="series", color="quantity", title="Labels by design group")}
