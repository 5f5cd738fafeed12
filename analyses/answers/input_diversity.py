"""How many inputs would give this output? Diversity of a problem's wordings given the answers to them.

Definition: a problem has n wordings (`id` and `variant`), their text in a column. S_x = similarity of two wordings
(cosine of TF-IDF weights of words, or 1 for the same wording alone), S_y = similarity of two answers, one a wording (1
for the same answer, 0 else; right answers are one, each unreadable one is alone); P_x and P_y are S_x and S_y with rows
divided by their sums. P(x | y) = P_y P_x, d = its diagonal, inverse = - sum of d ln d; bound = n / e, which it never
exceeds. semantic = entropy of the shares of the same n answers. alignment = mean of d; alignment_null = its mean over
all deals of the answers to the wordings (exact); excess = alignment - alignment_null. With several responses a
wording, every quantity is a mean over rounds of one response each.

Units: nats; shares.

Source: Inv-Entropy (wordings are the user's own, embeddings are words).

Does not show: uncertainty by itself: d is no distribution and the inverse entropy is not monotone. A constant answer to
unlike wordings has ln n, answers in a few clusters more, answers that all differ 0: read it beside semantic, which is 0
for the constant answer.

Control: `alignment_null`: where answers do not follow the wording, excess is 0 in expectation.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from analyses.answers import _judged
from analyses.answers._response_diversity import frequencies, semantic_entropy_nats
from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.claim import UNJUDGED, Claim, Fields
from analyses.core.figures import curve, forest
from analyses.core.reading.votes import clusters
from analyses.core.result import Result
from probe.errors import InputError
from probe.lazily import sklearn

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BY = ["group", "answer_kind"]
LABELS = {
    "inverse_nats": ("nats", "entropy of wordings given the answers"), "bound_nats": ("nats", "its bound, n / e"),
    "semantic_nats": ("nats", "entropy of the answers"), "alignment": ("1", "like wordings, like answers"),
    "alignment_null": ("1", "the same, answers dealt anew"), "excess": ("1", "alignment beyond its null"),
}  # fmt: skip
WHAT = "wordings that are alike get answers that are alike"
Square = Float[np.ndarray, "wording wording"]


@analysis
def input_diversity(
    evaluate: Annotated[Result, "evaluate"],
    *,
    text: str = "wording",
    inputs: Literal["words", "apart"] = "words",
    seed: int = 0,
) -> Result:
    """Inverse entropy of every problem's wordings with its bound, beside the semantic entropy of the same answers.

    Rows: step (where there are steps), item (the problem), group, answer_kind, n_wordings, n (rounds), inverse_nats,
    bound_nats, semantic_nats, alignment, alignment_null, excess.

    Args:
        evaluate: result or sweep of `evaluate` over prompts or a log with a column `variant`; samples where there are.
        text: column with the text of the wording.
        inputs: similarity of wordings: of their words, or `apart` (each is like itself alone; needs no text).
        seed: the bootstrap over problems.
    """
    rows = _worded(evaluate.table, text if inputs == "words" else "variant")
    keys = [*(["step"] if "step" in rows else []), "problem", *BY]
    made: list[dict[str, object]] = []
    for at, of in rows.groupby(keys, sort=True):
        if of["variant"].nunique() > 1:
            named = {"item" if k == "problem" else k: v for k, v in zip(keys, at, strict=True)}
            made.append({**named, **_of(of, text if inputs == "words" else "")})
    if not made:
        raise InputError("no problem has two wordings with responses: give several rows of one `id` a `variant` each")
    table = pd.DataFrame(made)
    over = [*keys[:-3], *BY]
    parts = [stats.estimate(table, q, over, seed=seed, units=u, long_name=v) for q, (u, v) in LABELS.items()]
    return Result.of(table, xr.merge(parts, join="outer"), claims=list(_claims(table)))


def _worded(table: pd.DataFrame, text: str) -> pd.DataFrame:
    """Responses to problems that have wordings; samples where there are any.

    Raises:
        InputError: no wordings, or wordings without text.
    """
    if "variant" not in table or "problem" not in table:
        raise InputError("no item has a wording: give the prompts a column `variant` beside the problem's `id`")
    table = table[(table["status"] != "gold_unparsed") & table["problem"].notna()]
    if text not in table or table[text].isna().any():
        raise InputError(
            f"wordings have no text in the column {text!r}: name the one that holds it with --text, or compare "
            "without it (--inputs apart)"
        )
    sampled = table[table["decoding"] == "sampled"]
    return sampled if len(sampled) else table


def _of(of: pd.DataFrame, text: str) -> dict[str, float]:
    """Every quantity of one problem, means over rounds of one response to each wording."""
    parts = [part for _, part in of.groupby("variant", sort=True)]
    like = alike([str(p[text].iloc[0]) for p in parts]) if text else np.eye(len(parts))
    named = [_named(part) for part in parts]
    rounds = min(map(len, named))
    each = [measures(like, [names[r] for names in named]) for r in range(rounds)]
    return {"n_wordings": len(parts), "n": rounds, **{k: float(np.mean([m[k] for m in each])) for k in LABELS}}


def _named(of: pd.DataFrame) -> list[Hashable]:
    """A name per response: right ones share one, equal ones share one, an unreadable one has one of its own."""
    right, variant = of["status"].eq("correct").to_numpy(), of["variant"].iloc[0]
    names = clusters(of["answer"].tolist())
    return ["right" if r else (variant, n) if n[0] == "unread" else n for r, n in zip(right, names, strict=True)]  # type: ignore[index]


def alike(texts: Sequence[str]) -> Square:
    """Cosine of TF-IDF weights of the texts' words, in [0, 1]; the diagonal is 1."""
    weights = sklearn.feature_extraction.text.TfidfVectorizer(token_pattern=r"\S+").fit_transform(texts)
    found = np.clip((weights @ weights.T).toarray(), 0.0, 1.0)
    np.fill_diagonal(found, 1.0)
    return found


def measures(like: Square, answers: Sequence[Hashable]) -> dict[str, float]:
    """Every quantity of one round: similarity of the wordings, and the name of the answer to each."""
    names = list(dict.fromkeys(answers))
    codes = np.array([names.index(a) for a in answers])
    d = diagonal(like, codes)
    null = dealt(like, len(names)) if len(codes) > 2 and 1 < len(names) < len(codes) else float(d.mean())
    return {
        "inverse_nats": inverse_nats(d), "bound_nats": len(codes) / np.e,
        "semantic_nats": semantic_entropy_nats(frequencies(answers)), "alignment": float(d.mean()),
        "alignment_null": null, "excess": float(d.mean()) - null,
    }  # fmt: skip


def diagonal(like: Square, codes: np.ndarray) -> Float[np.ndarray, " wording"]:
    """Diagonal of P_y P_x for wordings of this similarity and answers of these codes."""
    same = (codes[:, None] == codes).astype(float)
    of_y, of_x = (s / s.sum(1, keepdims=True) for s in (same, like))
    return (of_y * of_x.T).sum(1)


def dealt(like: Square, n_names: int) -> float:
    """Mean of the diagonal over all deals of answers with so many names to the wordings: their counts do not matter.

    A deal gives a wording its own answer's weight n_names / n on average, and that of another one the rest, evenly.
    """
    n = len(like)
    own = float((np.diag(like) / like.sum(1)).sum())
    return (n_names * own + (n - n_names) * (n - own) / (n - 1)) / n**2


def inverse_nats(d: Float[np.ndarray, " wording"]) -> float:
    """- sum of d ln d, in [0, n / e]."""
    return float(-(d * np.log(np.where(d > 0, d, 1.0))).sum()) + 0.0


def _claims(found: pd.DataFrame) -> Iterator[Claim]:
    """Of every group and kind (at the last step): do answers follow how alike the wordings are?"""
    last = found[found["step"] == found["step"].max()] if "step" in found else found
    cells = list(last.groupby(BY, sort=True))
    for (group, kind), rows in cells:
        said: Fields = {
            "group": str(group) if last["answer_kind"].nunique() == 1 else f"{group}, {kind}",
            "family": f"{len(cells)} group(s)", "control": "the same answers dealt to wordings anew",
            "estimand": "mean diagonal of P(x | y) beyond its null",
        }  # fmt: skip
        if (rows["n_wordings"] < 3).all():
            why, needs = "no problem has three wordings", "three wordings or more of each problem"
            yield Claim("alike", UNJUDGED, WHAT, why=why, needs=needs, n=len(rows), **said)
            continue
        excess = _judged.mean(rows, "excess", len(cells))
        yield _judged.claim(excess, excess.is_above(), "alike", WHAT, **said)


def figures(result: Result) -> dict[str, Figure]:
    """Inverse entropy, its bound and the semantic entropy; with steps, over them."""
    rows = result.summary()
    rows = rows[rows["quantity"].isin(["inverse_nats", "bound_nats", "semantic_nats"])]
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    title = "Diversity of inputs given the answers, beside the entropy of answers"
    if "step" in rows:
        return {"diversity": curve(rows, x="step", color="quantity", facet="series", title=title)}
    return {"diversity": forest(rows, label="quantity", color="series", reference=None, title=title)}
