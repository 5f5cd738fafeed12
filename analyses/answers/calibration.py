"""Does the checkpoint know when it is wrong? Confidence of its own greedy answers against their correctness.

Definition: each prompt is answered greedily; confidence `answer` is the probability of the answer's tokens given
everything before them, `response` the geometric mean probability of all response tokens. ece = sum over bins of
equal mass (items of one confidence in one bin) of (n_b / N) |accuracy_b - confidence_b|; ece_squared = the same of
the squared gap less its sampling variance, on average 0 where nothing is amiss; brier = mean (confidence -
correct)^2; confidence_wrong = mean confidence of wrong answers; entropy_nats = mean entropy of the next-token
distribution along the response.

Units: probabilities and their squares; nats for entropy.

Source: equal-mass ECE, and the square freed of bias: arXiv 1909.10155; over-memorization and calibration: 2508.04117.

Does not show: calibration of samples: confidence is of greedy answers. ece is biased upwards by few items per bin, so
it has no interval and is compared only at equal n and bins; ece_squared is not biased, and has one.
Responses without a readable answer are left out.

Control: the base checkpoint at equal accuracy.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scipy
import xarray as xr
from jaxtyping import Float, Int

import probe
from analyses.core import reading, stats
from analyses.core.analysis import analysis
from analyses.core.figures import curve, forest
from analyses.core.reading.answered import readable
from analyses.core.reading.answers import find
from analyses.core.reading.exact_numbers import NUMBER
from analyses.core.reading.grading import grader
from analyses.core.reading.kept_responses import Decoding, asked_as, question, responses
from analyses.core.result import Result
from analyses.core.stats import clusters_of, subsample_interval, subsamples
from analyses.core.work import Case, Work, generation, together
from probe.errors import InputError
from probe.tokens import SPANS, Encoded, plan, tokenize_prompts

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from transformers import PreTrainedTokenizerBase

    from probe import Item, Model, Prompts

BY = ["group", "answer_kind"]


def _work(case: Case) -> Work:
    """A response, and one pass over it."""
    said = case.new_tokens
    return together(generation(case), Work(block_rows=(case.prompt + said) * case.n_layers, unembedded=said))


@analysis(work=_work)
def calibration(
    model: Model,
    prompts: Prompts,
    *,
    confidence: Literal["answer", "response"] = "answer",
    bins: int = 10,
    grade: str = "auto",
    pattern: str | None = None,
    max_new_tokens: int = 512,
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Confidence, correctness and token entropy per item; calibration error with intervals over items.

    Args:
        confidence: of the answer's own tokens, or of the whole response.
        pattern: by default what the response marks, else its last number.
        seed: subsamples for the interval of ece_squared.
    """

    if bins < 1:
        raise InputError(f"bins={bins}; expected at least 1")
    asked = list({i.id: question(i) for i in prompts.items}.items())
    how = Decoding(max_new_tokens, template=template)
    drawn = {k: r[0] for k, r in responses(model, asked, how, batch_size=batch_size, what="calibration").items()}
    scored = _scored(model, asked, drawn, template, batch_size)
    graded_by = grader(grade, pattern)
    readable(prompts, graded_by)
    rows = []
    for item in prompts.items:
        response = drawn[item.id]
        result = graded_by(response.text, item)
        logprob, entropy = scored.get(item.id, (np.empty(0), np.empty(0)))
        chosen = slice(None) if confidence == "response" else answer_tokens(model.tokenizer, response, pattern)
        own = logprob[chosen] if chosen is not None else np.empty(0)
        value = np.nan if not len(own) else float(np.exp(own.mean() if confidence == "response" else own.sum()))
        rows.append(
            {
                "item": item.id,
                "group": item.group,
                "answer_kind": item.answer_kind,
                "status": result.status,
                "correct": result.correct,
                "confidence": value,
                "entropy_nats": float(entropy.mean()) if len(entropy) else np.nan,
                "truncated": response.truncated,
            }
        )
    table = pd.DataFrame(rows)
    without = int((table["confidence"].isna() | table["correct"].isna()).sum())
    warnings = [f"{without} of {len(table)} responses have no readable answer and are left out"] if without else []
    return Result.of(table, _aggregates(table, bins, seed), warnings=warnings)


def _scored(
    model: Model, asked: list[tuple[str, str | Item]], drawn: dict[str, Any], template: Any, batch_size: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Log-probability and entropy at every response token, under the very ids that were drawn."""

    items = probe.Prompts(tuple(asked_as(name, said) for name, said in asked if drawn[name].ids))
    how: dict[str, Any] = {"template": template, "max_length": model.shape.n_ctx, **asdict(model.framing)}
    starts = tokenize_prompts(model.tokenizer, items, **how)
    answer = SPANS.index("answer")
    whole = [
        Encoded(e.item, (*e.ids, *drawn[e.item.id].ids), (*e.span, *[answer] * len(drawn[e.item.id].ids)))
        for e in starts
    ]
    last = str(model.last_state)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for batch in plan(whole, batch_size, pad_id=model.pad_id, turn=model.turn):
        tokens = reading.scored(batch)
        tokens = tokens.where(tokens.in_span("answer"))
        batch = batch.to(model.device)
        rows = tokens.rows(model.run(batch, read=[last], logits="none")[last])
        named = tokens.named(batch.items, last)
        read = reading.streamed(rows, model.logits_of, tokens.target, k=0, where=named)
        owner = tokens.item.cpu().numpy()
        for i, item in enumerate(batch.items):
            mine = owner == i
            numbers = (read.logprob_nats, read.entropy_nats)
            found[item.id] = tuple(n.cpu().double().numpy()[mine] for n in numbers)  # type: ignore[assignment]
    return found


def answer_tokens(tokenizer: PreTrainedTokenizerBase, response: Any, pattern: str | None) -> slice | None:
    """The response tokens that write the answer; None where it has none.

    Args:
        tokenizer: decodes the ids.
        response: text and ids of a response.
        pattern: where the answer stands, None for what the response marks.
    """
    span = answer_span(response.text, pattern)
    if span is None:
        return None
    ends = [len(tokenizer.decode(response.ids[: n + 1], skip_special_tokens=True)) for n in range(len(response.ids))]
    starts = [0, *ends[:-1]]
    inside = [n for n, (a, b) in enumerate(zip(starts, ends, strict=True)) if a < span[1] and b > span[0]]
    return slice(inside[0], inside[-1] + 1) if inside else None


def answer_span(text: str, pattern: str | None) -> tuple[int, int] | None:
    """Where the answer stands: the pattern's last match, else what the response marks, else its last number."""
    if pattern:
        found = list(re.finditer(pattern, text, re.MULTILINE))
        return found[-1].span(1) if found else None
    said = find(text)
    if said.marked:
        return said.start, said.start + len(said.text)
    numbers = list(NUMBER.finditer(text))
    return numbers[-1].span() if numbers else None


def calibration_error(confidence: Float[np.ndarray, " item"], correct: Float[np.ndarray, " item"], bins: int) -> float:
    """Equal-mass ECE in [0, 1]: mean over items of |bin accuracy - bin confidence|; NaN for no items.

    Args:
        confidence: in [0, 1].
        correct: 1 right, 0 wrong.
        bins: bins of equal mass.
    """
    if not len(confidence):
        return float("nan")
    return float(np.abs(np.bincount(equal_mass(confidence, bins), correct - confidence)).sum() / len(confidence))


def equal_mass(confidence: Float[np.ndarray, " item"], bins: int) -> Int[np.ndarray, " item"]:
    """Bin of every item: bins of equal mass by rank, items of one confidence in one bin whatever their order."""
    middle = (scipy.stats.rankdata(confidence) - 0.5) / max(len(confidence), 1)
    return np.minimum((middle * bins).astype(int), bins - 1)


def squared_error(gap: Float[np.ndarray, " item"], bin_of: Int[np.ndarray, " item"]) -> float:
    """Unbiased mean over bins of (accuracy - confidence)^2; may be negative, NaN without a bin of two items.

    Args:
        gap: correct minus confidence.
        bin_of: bin of each item; bins of one item are left out.
    """
    n, total, squares = (np.bincount(bin_of, w) for w in (None, gap, gap**2))
    n, total, squares = (x[n > 1] for x in (n, total, squares))
    mean = total / n
    noise = (squares - n * mean**2) / (n - 1) / n
    return float((n * (mean**2 - noise)).sum() / n.sum()) if len(n) else float("nan")


def _aggregates(table: pd.DataFrame, bins: int, seed: int) -> xr.Dataset:
    kept = table.dropna(subset=["confidence", "correct"]).assign(brier=lambda t: (t["confidence"] - t["correct"]) ** 2)
    kept["confidence_wrong"] = kept["confidence"].where(kept["correct"] == 0.0)
    labels = {
        "correct": ("accuracy", "1", "accuracy"),
        "brier": ("brier", "1", "Brier score"),
        "confidence": ("confidence", "1", "mean confidence"),
        "confidence_wrong": ("confidence_wrong", "1", "confidence of wrong answers"),
    }
    if kept.empty:
        return stats.estimate(table, "entropy_nats", BY, seed=seed, units="nats")
    parts = [stats.estimate(kept, c, BY, seed=seed, name=n, units=u, long_name=v) for c, (n, u, v) in labels.items()]
    parts.append(stats.estimate(table, "entropy_nats", BY, seed=seed, units="nats", long_name="token entropy"))
    parts.append(_errors(kept, bins, seed))
    return xr.merge(parts, join="outer")


def _errors(kept: pd.DataFrame, bins: int, seed: int, draws: int = 400) -> xr.Dataset:
    """ece, which few items raise and which has no interval, and its unbiased square with one."""
    rows: dict[Any, dict[str, float]] = {}
    for at, of in kept.groupby(BY, sort=True):
        confidence, correct = of["confidence"].to_numpy(), of["correct"].to_numpy()
        gap, bin_of, n = correct - confidence, equal_mass(confidence, bins), len(of)
        some = subsamples(n, draws, seed, bin_of, clusters=clusters_of(of["item"]))
        drawn = np.asarray([squared_error(gap[w], bin_of[w]) for w in (np.ones(n, bool), *some)])
        low, high = subsample_interval(drawn[:, None], some)[:, 0]
        rows[at] = {"ece": calibration_error(confidence, correct, bins), "ece_n": n, "ece_squared": drawn[0],
                    "ece_squared_ci_low": low, "ece_squared_ci_high": high, "ece_squared_n": n}  # fmt: skip
    table = pd.DataFrame(rows.values(), pd.MultiIndex.from_tuples(list(rows), names=BY))
    data = table.assign(ece_ci_low=np.nan, ece_ci_high=np.nan).to_xarray()
    data["ece"].attrs.update(units="1", long_name="expected calibration error")
    data["ece_squared"].attrs.update(units="1", long_name="squared calibration error, unbiased")
    return data


def figures(result: Result) -> dict[str, Figure]:
    """Calibration error, Brier score and confidence of wrong answers, over steps where there are any."""

    rows = result.summary()
    rows = rows[rows["quantity"].isin(["ece", "ece_squared", "brier", "confidence_wrong", "confidence"])]
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    title = "Calibration of greedy answers"
    if "step" in rows:
        return {"calibration": curve(rows, x="step", color="series", facet="quantity", title=title, unit="1")}
    return {"calibration": forest(rows, label="quantity", color="series", title=title, reference=None)}
