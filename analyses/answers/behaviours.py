"""Do behaviours in responses (backtracking, checking, subgoals) go with being right, and with more varied answers?

Definition: a response shows a behaviour where its pattern is found in the text. rate = share of responses that show
it; right_with and right_without = shares right of the two kinds; contrast = the mean over items that have both of
right_with - right_without, so that harder items do not pose as an effect. `length_with` and `length_without` are words.
Exploration of an item is the number of distinct answers per sample; interaction = exploration of items whose samples
mostly show the behaviour minus that of the others, among items mostly right, minus the same among items mostly wrong.

Units: fractions; words; answers per sample.

Source: Behavior Priming (do behaviours, and not correctness, raise exploration?).

Does not show: cause. A model may check itself because a problem is hard; words of a pattern may be a habit without the
act. Patterns are English; give your own (`NAME=REGEX`).

Control: contrast within items; a pattern of words that mean nothing (no contrast).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd
import xarray as xr

from analyses.answers import _judged
from analyses.answers._samples import BY, sampled
from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.figures import curve, forest
from analyses.core.reading.votes import clusters
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from analyses.core.claim import Claim

USUAL = {
    "backtracking": r"(?i)\b(?:wait|hold on|no,|that's (?:not right|wrong)|let me (?:re|try again)|i made a mistake)",
    "verification": r"(?i)\b(?:let me (?:check|verify|double)|check(?:ing)?:|verif(?:y|ying)|to confirm)",
    "subgoals": r"(?i)\b(?:first(?:ly)?,|step \d|next,|then we|(?:we|i) need to|let's (?:first|start))",
}
LABELS = {
    "rate": ("1", "responses that show it"), "right_with": ("1", "right, of those that show it"),
    "right_without": ("1", "right, of the others"), "contrast": ("1", "right with minus without, within items"),
    "length_with": ("words", "length of those that show it"), "length_without": ("words", "length of the others"),
}  # fmt: skip


@analysis
def behaviours(evaluate: Annotated[Result, "evaluate"], *, patterns: tuple[str, ...] = (), seed: int = 0) -> Result:
    """Rates of behaviours, whether responses that show them are right more often, and the 2 x 2 of exploration.

    Rows: step (where there are steps), item, group, answer_kind, variant (the behaviour), n, rate, right_with,
    right_without, contrast, length_with, length_without, right (share), exploration.

    Args:
        evaluate: result or sweep of `evaluate` with samples, of a model or a log.
        patterns: behaviours as NAME=REGEX, in place of backtracking, verification and subgoals.
    """
    named = _patterns(patterns)
    rows = sampled(evaluate.table, "behaviours")
    keys = [*(["step"] if "step" in rows else []), "item", *BY, *(["cluster"] if "cluster" in rows else [])]
    words = rows.assign(length=[len(str(t).split()) for t in rows["text"]])
    made: list[dict[str, object]] = []
    for at, of in words.groupby(keys, sort=True, dropna=False):
        texts = [str(t) for t in of["text"]]
        shared = dict(zip(keys, at, strict=True)) | {
            "n": len(of), "right": float(of["right"].mean()),
            "exploration": len(set(clusters(of["answer"].tolist()))) / len(of),
        }  # fmt: skip
        for name, pattern in named.items():
            shows = np.array([pattern.search(t) is not None for t in texts])
            made.append({**shared, "variant": name, **_of(of, shows)})
    table = pd.DataFrame(made)
    over = [*(["step"] if "step" in table else []), *BY, "variant"]
    parts = [stats.estimate(table, q, over, seed=seed, units=u, long_name=v) for q, (u, v) in LABELS.items()]
    data = xr.merge([*parts, _interactions(table, over)], join="outer")
    return Result.of(table, data, claims=list(_claims(table)))


def _patterns(given: tuple[str, ...]) -> dict[str, re.Pattern[str]]:
    found: dict[str, str] = dict(p.split("=", 1) for p in given) if all("=" in p for p in given) else {}
    if given and (not found or len(found) < len(given)):
        raise InputError(f"patterns={given}: expected NAME=REGEX, each name once, e.g. checking='let me check'")
    try:
        return {name: re.compile(text) for name, text in (found or USUAL).items()}
    except re.error as error:
        raise InputError(f"patterns={given}: not a regular expression: {error}") from error


def _of(of: pd.DataFrame, shows: np.ndarray) -> dict[str, float]:
    sides = {}
    for name, kept in (("with", shows), ("without", ~shows)):
        part = of[kept]
        sides[f"right_{name}"] = float(part["right"].mean()) if len(part) else np.nan
        sides[f"length_{name}"] = float(part["length"].mean()) if len(part) else np.nan
    return {"rate": float(shows.mean()), **sides, "contrast": sides["right_with"] - sides["right_without"]}


def interaction(rows: pd.DataFrame) -> Mapping[str, float]:
    """The 2 x 2 of exploration: behaviour (mostly or not) by right (mostly or not); NaN where a cell is empty."""
    cells = {
        (shown, right): rows[((rows["rate"] > 0.5) == shown) & ((rows["right"] > 0.5) == right)]["exploration"]
        for shown in (True, False)
        for right in (True, False)
    }
    means = {at: float(of.mean()) if len(of) else np.nan for at, of in cells.items()}
    among = {right: means[True, right] - means[False, right] for right in (True, False)}
    return {"interaction": among[True] - among[False], "exploration_when_right": among[True],
            "exploration_when_wrong": among[False]}  # fmt: skip


def _interactions(table: pd.DataFrame, over: list[str]) -> xr.Dataset:
    found = {at: interaction(of) for at, of in table.groupby(over, sort=True)}
    data = pd.DataFrame(list(found.values()), pd.MultiIndex.from_tuples(list(found), names=over)).to_xarray()
    return data


def _claims(table: pd.DataFrame) -> Iterator[Claim]:
    """Of every group, kind and behaviour (at the last step): do responses that show it differ in being right?"""
    last = table[table["step"] == table["step"].max()] if "step" in table else table
    cells = list(last.groupby([*BY, "variant"], sort=True))
    for (group, kind, name), rows in cells:
        contrast = _judged.mean(rows.dropna(subset=["contrast"]), "contrast", len(cells))
        said: dict[str, object] = {
            "group": str(group) if last["answer_kind"].nunique() == 1 else f"{group}, {kind}",
            "family": f"{len(cells)} behaviours and groups", "control": "other responses to the same item",
            "estimand": "right with minus right without, within items", "caveat": "what goes together need not cause",
        }  # fmt: skip
        less = contrast.is_below()
        what = f"responses with {name} are right {'less' if less else 'more'} often, within items"
        yield _judged.claim(contrast, contrast.is_above() or less, "behaviour", what, **said)


def figures(result: Result) -> dict[str, Figure]:
    """Rates and contrasts by behaviour, over steps where there are any."""
    rows = result.summary()
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    rows = rows[rows["quantity"].isin(["rate", "contrast"])]
    title = "Behaviours: how often, and right with minus without (within items)"
    if "step" in rows:
        return {"behaviours": curve(rows, x="step", color="variant", facet=["quantity", "series"], title=title)}
    return {"behaviours": forest(rows, label="variant", color="series", facet="quantity", title=title)}
