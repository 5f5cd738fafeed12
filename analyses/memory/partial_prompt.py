"""Can the model finish a question it was shown only in part, and answer it? A sign that it has seen the question.

Definition: the first floor(r * length) units of the question are continued greedily, without template. The
continuation is compared with what was left out: ROUGE-L F1 = 2PR/(P+R), P = LCS / |hypothesis|, R = LCS / |reference|
over words and single symbols, the hypothesis cut to the reference's length; exact match of its first characters,
white space normalised; and the final answer of the whole continuation against the gold answer.

Units: fractions (rouge_l, exact_match, accuracy); `fraction` is the share of the question shown.

Source: arXiv 2507.10532. The code of arXiv 2601.11061 shows r = .2 to .8 by characters, samples at T = .7 and cuts
the hypothesis to 1.1 x the reference: another variant, with other numbers.

Does not show: exposure to the question itself. Questions of a template are guessed by any model of the domain, and
short remainders are easy: compare with questions written after the training data were collected.

Control: RandomCalculation items (`controls`), which cannot have been seen; unseen groups; the base checkpoint.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.published import beside
from analyses.core.reading.answered import readable
from analyses.core.reading.grading import Grader, grader
from analyses.core.reading.kept_responses import Decoding, responses
from analyses.core.result import Result
from analyses.core.work import ROOM, Case, Work, generation
from analyses.memory._random_calculation import random_calculation
from probe.errors import InputError
from probe.tokens import tokenize_prompts

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Model, Prompts

WORD = re.compile(r"\w+|[^\w\s]")
BY = ["group", "answer_kind", "fraction"]


def _work(case: Case) -> Work:
    """A continuation for each share that is shown."""
    return generation(case, sum(f < 1 for f in case.options["fractions"]))


@analysis(work=_work)
def partial_prompt(
    model: Model,
    prompts: Prompts,
    *,
    fractions: tuple[float, ...] = (0.8, 0.6, 0.4),
    unit: Literal["char", "word", "token"] = "char",
    max_new_tokens: int | None = None,
    grade: str = "auto",
    pattern: str | None = None,
    controls: int = 0,
    legacy: bool = False,
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """ROUGE-L, exact match and answer accuracy per share of the question shown, by group.

    Args:
        fractions: of the question that is shown; 1 is skipped (nothing would be left to complete).
        unit: what the share is counted in.
        max_new_tokens: longer remainders are marked `truncated`; by default 256, or what the context leaves behind the
            longest question.
        controls: RandomCalculation items per number of steps (5 and 10) added as groups of their own.
        legacy: ROUGE-L of stemmed words as `legacy_rouge_l` (needs the package rouge-score).
        batch_size: of generation.
        seed: controls and the bootstrap.
    """
    shown = tuple(f for f in fractions if f < 1)
    if not shown or not all(0 < f <= 1 for f in fractions):
        raise InputError(f"fractions {fractions}; expected some in (0, 1)")
    items = list(prompts.items)
    if controls:
        items += random_calculation(n=controls, seed=seed).items
    graded_by = grader(grade, pattern)
    readable(prompts, graded_by)
    table = _completed(model, items, shown, unit, max_new_tokens, batch_size, graded_by)
    data = _aggregates(table, seed)
    if legacy:
        table["legacy_rouge_l"] = _published_rouge(table)
        label = "ROUGE-L of stemmed words, cut to 1.1 times the remainder"
        again = stats.estimate(table, "legacy_rouge_l", BY, seed=seed, units="1", long_name=label)
        data = xr.merge([data, again], join="outer")
    return Result.of(table, data, warnings=_warnings(table))


def _published_rouge(table: pd.DataFrame) -> list[float]:
    """ROUGE-L F1 of stemmed words, as the code of arXiv 2601.11061 has it.

    Raises:
        InputError: the package that computes it is not installed.
    """
    if importlib.util.find_spec("rouge_score") is None:
        raise InputError("legacy=True computes ROUGE with the package of the published code: pip install rouge-score")
    scorer = importlib.import_module("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=True)
    cut = (text[: int(1.1 * len(rest))] for text, rest in zip(table["text"], table["rest"], strict=True))
    return [float(scorer.score(rest, text)["rougeL"].fmeasure) for rest, text in zip(table["rest"], cut, strict=True)]


def _completed(
    model: Model,
    items: list[Any],
    shown: tuple[float, ...],
    unit: str,
    max_new_tokens: int | None,
    batch_size: int,
    graded_by: Grader,
) -> pd.DataFrame:

    cut = {(i.id, f): split(i.prompt, f, unit, model.tokenizer) for i in items for f in shown}
    asked = [(f"{name}@{f:g}", start) for (name, f), (start, rest) in cut.items() if start.strip() and rest.strip()]
    most = _room(model, [start for _, start in asked]) if max_new_tokens is None else max_new_tokens
    drawn = responses(model, asked, Decoding(most), batch_size=batch_size, what="partial_prompt")
    rows: list[dict[str, object]] = []
    for item in items:
        for fraction in shown:
            found = drawn.get(f"{item.id}@{fraction:g}")
            if found is None:
                continue
            text, (_, rest) = found[0].text, cut[item.id, fraction]
            grade = graded_by(text, item)
            rows.append(
                {
                    "item": item.id,
                    "group": item.group,
                    "answer_kind": item.answer_kind,
                    "fraction": fraction,
                    "unit": unit,
                    "rouge_l": rouge_l(text, rest),
                    "exact_match": exact_match(text, rest),
                    "status": grade.status,
                    "accuracy": float(grade.status == "correct") if grade.status != "gold_unparsed" else np.nan,
                    "truncated": found[0].truncated and len(words(text)) < len(words(rest)),
                    "rest": rest,
                    "text": text,
                }
            )
    if not rows:
        raise InputError(f"no question is long enough to be cut at {list(shown)} in units of {unit}")
    return pd.DataFrame(rows)


def _room(model: Model, texts: list[str]) -> int:
    """New tokens that every question has room for, at most `ROOM` and at least 1."""
    asked = probe.Prompts(tuple(probe.Item(str(n), text, "-") for n, text in enumerate(texts)))
    encoded = tokenize_prompts(model.tokenizer, asked, max_length=model.shape.n_ctx, **asdict(model.framing))
    return max(1, min(ROOM, model.shape.n_ctx - max((len(one.ids) for one in encoded), default=0)))


def split(question: str, fraction: float, unit: str, tokenizer: Any = None) -> tuple[str, str]:
    """The first floor(fraction * length) units of a question, and the rest."""
    if unit == "char":
        at = int(fraction * len(question))
        return question[:at], question[at:]
    if unit == "word":
        pieces = re.findall(r"\s*\S+", question)
        at = int(fraction * len(pieces))
        return "".join(pieces[:at]), "".join(pieces[at:])
    ids = list(tokenizer(question, add_special_tokens=False)["input_ids"])
    at = int(fraction * len(ids))
    return tokenizer.decode(ids[:at]), tokenizer.decode(ids[at:])


def words(text: str) -> list[str]:
    """Words and single symbols of a text: mathematics is made of both."""
    return WORD.findall(text)


def rouge_l(hypothesis: str, reference: str) -> float:
    """ROUGE-L F1 over words and symbols in [0, 1], the hypothesis cut to as many as the reference has."""
    wanted = words(reference)
    found = words(hypothesis)[: len(wanted)]
    if not wanted or not found:
        return float("nan") if not wanted else 0.0
    common = longest_common_subsequence(found, wanted)
    if common == 0:
        return 0.0
    precision, recall = common / len(found), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def longest_common_subsequence(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence."""
    codes = {w: i for i, w in enumerate(dict.fromkeys([*a, *b]))}
    other = np.array([codes[w] for w in b])
    row = np.zeros(len(b) + 1, dtype=int)
    for word in a:
        hit = np.concatenate([[0], row[:-1] + (other == codes[word])])
        row = np.maximum.accumulate(np.maximum(row, hit))
    return int(row[-1])


def exact_match(hypothesis: str, reference: str) -> float:
    """1 where the continuation begins with exactly what was left out, white space normalised; else 0."""
    found, wanted = " ".join(hypothesis.split()), " ".join(reference.split())
    return float(found.startswith(wanted)) if wanted else float("nan")


def _aggregates(table: pd.DataFrame, seed: int) -> xr.Dataset:
    rouge = stats.estimate(table, "rouge_l", BY, seed=seed, units="1", long_name="ROUGE-L F1 of the remainder")
    labels = {"exact_match": "exact match of the remainder", "accuracy": "answer accuracy of the continuation"}
    return xr.merge([rouge, *(_proportion(table, q, v) for q, v in labels.items())], join="outer")


def _proportion(table: pd.DataFrame, quantity: str, label: str) -> xr.Dataset:
    """Mean of a 0/1 column per cell with Wilson intervals."""
    found = table.dropna(subset=[quantity]).groupby(BY)[quantity].agg(["sum", "count"])
    cells = [stats.wilson(int(s), int(n)) for s, n in found.to_numpy()]
    parts = {"": "value", "_ci_low": "ci_low", "_ci_high": "ci_high", "_n": "n"}
    frame = pd.DataFrame(
        {quantity + suffix: [float(getattr(c, name)) for c in cells] for suffix, name in parts.items()},
        index=found.index,
    )
    data = frame.to_xarray()
    data[quantity].attrs.update(units="1", long_name=label)
    return data


def _warnings(table: pd.DataFrame) -> list[str]:
    cut = table["truncated"].mean()
    return [f"{cut:.1%} of continuations ended before the remainder did: raise max_new_tokens"] if cut > 0 else []


def figures(result: Result) -> dict[str, Figure]:
    """Each measure against the share shown, a panel a group; published values of its benchmark dotted or beside it."""
    rows = result.summary()
    rows = rows.assign(series=rows["answer_kind"].astype(str), source="this run")
    if "step" in rows:
        rows = rows.assign(series=rows["series"] + ", step " + rows["step"].astype(str))
    published = pd.concat([beside([str(g)]).assign(group=g) for g in rows["group"].unique()])
    other = published["model"] + ", " + published["benchmark"]  # where the group has another name
    series = published["model"].where(published["benchmark"] == published["group"], other)
    published = published.assign(series=series, source="published, " + published["published"])
    titles = {
        "rouge_l": "ROUGE-L of the remainder",
        "exact_match": "Exact match of the remainder",
        "accuracy": "Answer accuracy",
    }
    columns = ["quantity", "group", "series", "source", "fraction", "value"]
    drawn: dict[str, Figure] = {}
    for quantity, title in titles.items():
        own, theirs = rows[rows["quantity"] == quantity], published[published["quantity"] == quantity]
        both = pd.concat([own, theirs[columns]], ignore_index=True)
        drawn[quantity] = curve(both, x="fraction", color="series", dash="source", facet="group", title=title, unit="1")
    return drawn
