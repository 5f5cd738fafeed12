"""How many different ways and answers a checkpoint has for one prompt, and what more samples buy.

Definition: per item over its sampled responses: distinct_1, distinct_2 = distinct n-grams / n-grams; self_bleu = mean
BLEU-4 of a response against the others; n_answers = distinct answers (equal for the grader of `evaluate`; each response
without a readable one is alone, `unparsed` is their share); semantic_entropy_nats = -sum f ln f and
modes = 1 / sum f^2 over answers of share f (inverse Simpson; e^entropy is another count of modes); pass_slope =
pass@n minus pass@1; best_of_n and maj_of_n at all n samples. `<q>_change` = paired change since the first step.

Units: fractions, counts, nats.

Source: distinct-n: arXiv 1510.03055; self-BLEU: 1802.01886; semantic entropy: 2302.09664 (clusters here are equal
answers, not entailment).

Does not show: diversity of reasoning where answers agree: read distinct_n and self_bleu for that. All depend on
temperature, token limit and number of samples: compare only like with like. Few samples bound modes from above.

Control: the same checkpoint with other seeds; the base; identical checkpoints change nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import pandas as pd
import xarray as xr

from analyses.answers import _response_diversity
from analyses.answers._since_a_step import has_series, since
from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.figures import curve, forest
from analyses.core.reading.votes import clusters, majority, pass_at_k
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

QUANTITIES: dict[str, tuple[str, str]] = {
    "distinct_1": ("1", "distinct words / words"),
    "distinct_2": ("1", "distinct 2-grams / 2-grams"),
    "self_bleu": ("1", "self-BLEU"),
    "n_answers": ("answers", "distinct answers"),
    "unparsed": ("1", "responses without a readable answer, each an answer of its own"),
    "semantic_entropy_nats": ("nats", "entropy over answers"),
    "modes": ("1", "effective number of answers"),
    "best_of_n": ("1", "pass@n at all samples"),
    "maj_of_n": ("1", "majority vote of all samples"),
    "pass_slope": ("1", "pass@n minus pass@1"),
}


@analysis
def diversity(
    evaluate: Annotated[Result, "evaluate"],
    *,
    max_words: int = 512,
    seed: int = 0,
) -> Result:
    """Variety of the sampled responses per item, with intervals, and its paired change over steps.

    Args:
        evaluate: result or sweep of `evaluate` with samples.
        max_words: words of a response that are looked at, so that long ones do not dominate.
    """
    sampled = evaluate.table[evaluate.table["decoding"] == "sampled"]
    if sampled.empty or sampled["sample"].max() < 1:
        raise InputError("diversity needs at least 2 sampled responses per item: run evaluate with --samples")
    by = ["group", "answer_kind"]
    keys = ["item", *by, *(["step"] if "step" in sampled else [])]
    rows = [
        {**dict(zip(keys, at, strict=True)), **_of(responses, max_words)}
        for at, responses in sampled.groupby(keys, sort=True)
    ]
    table = pd.DataFrame(rows)
    over = [*by, *(["step"] if "step" in table else [])]
    parts = [stats.estimate(table, q, over, seed=seed, units=u, long_name=v) for q, (u, v) in QUANTITIES.items()]
    if has_series(table):
        parts.append(since(table, QUANTITIES, by, seed=seed))
    return Result.of(table, xr.merge(parts, join="outer"))


def _of(responses: pd.DataFrame, max_words: int) -> dict[str, object]:
    texts = [str(t).split()[:max_words] for t in responses["text"]]
    flags = responses["correct"].tolist()
    answers = responses["answer"].tolist()
    f = _response_diversity.frequencies(clusters(answers))
    n, right = len(texts), sum(c == 1.0 for c in flags)
    return {
        "n_samples": n,
        "distinct_1": _response_diversity.distinct_n(texts, 1),
        "distinct_2": _response_diversity.distinct_n(texts, 2),
        "self_bleu": _response_diversity.self_bleu(texts),
        "n_answers": float(len(f)),
        "unparsed": float(sum(not isinstance(a, str) for a in answers)) / n,
        "semantic_entropy_nats": _response_diversity.semantic_entropy_nats(f),
        "modes": _response_diversity.modes(f),
        "best_of_n": pass_at_k(n, right, n),
        "maj_of_n": majority(answers, flags, n),
        "pass_slope": pass_at_k(n, right, n) - pass_at_k(n, right, 1),
    }


def figures(result: Result) -> dict[str, Figure]:
    """Effective answers and distinct n-grams by group, over steps where there are any."""

    rows = result.summary()
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    titles = {
        "modes": "Effective number of answers",
        "distinct_2": "Distinct 2-grams",
        "pass_slope": "What samples buy",
    }
    drawn: dict[str, Figure] = {}
    for quantity, title in titles.items():
        part = rows[rows["quantity"] == quantity]
        if part.empty:
            continue
        with_steps = "step" in part and part["step"].notna().all()
        drawn[quantity] = (
            curve(part, x="step", color="series", title=title)
            if with_steps
            else forest(part, label="series", title=title, reference=None)
        )
    return drawn
