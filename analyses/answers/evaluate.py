"""How often a checkpoint answers correctly, greedily and over samples.

Definition: each prompt is answered greedily, and by `samples` seeded draws; each response is graded against the
gold answer. accuracy = mean over items of correct among responses whose answer can be read; accuracy_strict counts
those without a readable answer as not correct. pass_at_k = 1 - C(n-c, k) / C(n, k) of n samples with c correct,
mean over items (at k = 1: avg@n); maj_at_k = chance that the most frequent answer of k samples is correct, exactly,
ties by their share (at k = 1: pass@1). Answers are one where the grader calls them equal; an unreadable one is alone.

Units: fractions of responses; n_tokens in tokens of the model.

Source: pass@k: arXiv 2107.03374; majority: arXiv 2203.11171; grading of mathematics: math-verify.

Does not show: why an answer is right. A response cut at the token limit has usually no answer: compare runs under
one limit, and read `truncated` beside accuracy. Kinds of gold answers are separate quantities: on items whose label
is not the truth, accuracy against the one is memory, against the other computation. A logged response is graded
again here, by the grader named, not by the program that logged it.

Control: the base checkpoint under the same template, decoding and grader; `accuracy_strict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.figures import curve, forest
from analyses.core.published import joined
from analyses.core.reading.answered import BY, covariates, from_log, graded, readable, said_of_golds
from analyses.core.reading.grading import Expected, grader
from analyses.core.reading.kept_responses import Decoding, question, responses
from analyses.core.reading.votes import majority, pass_at_k
from analyses.core.result import Result
from analyses.core.work import Case, Work, generation
from probe.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame as Table
    from plotly.graph_objects import Figure

    from probe import Item, Model, Prompts


def _finished(table: pd.DataFrame, options: Mapping[str, Any]) -> Result:
    """The result from the rows of all items."""
    at = ["step", "decoding"] if "step" in table else ["decoding"]
    table = table.sort_values(at, kind="stable", ignore_index=True)  # greedy first, items as in the prompts
    how = (options["ks"], options["seed"])
    if "step" not in table:
        return Result.of(table, _aggregates(table, *how), warnings=_warnings(table))
    members = {step: _aggregates(of.drop(columns="step"), *how) for step, of in table.groupby("step", sort=True)}
    placed = [data.expand_dims({"step": [step]}) for step, data in members.items()]
    data = xr.concat(placed, "step", data_vars="all", join="outer", combine_attrs="override")
    return Result.of(table, data, warnings=_warnings(table))


def _readable(prompts: Prompts, options: Mapping[str, Any]) -> None:
    """Refuses prompts with gold answers that cannot be read, before any of them is answered."""
    readable(prompts, grader(options["grade"], options["pattern"], options["abstain"]), options["skip_unreadable"])


def _work(case: Case) -> Work:
    """A greedy response, and the samples."""
    return generation(case, 1 + int(case.options["samples"]), prompts=1 + bool(case.options["samples"]))


@analysis(work=_work, by_item=_finished, check=_readable)
def evaluate(
    model: Model | None = None,
    prompts: Prompts | None = None,
    log: Table | None = None,
    *,
    grade: str = "auto",
    pattern: str | None = None,
    abstain: str | None = None,
    skip_unreadable: bool = False,
    samples: int = 0,
    temperature: float = 0.6,
    top_p: float = 1.0,
    max_new_tokens: int = 512,
    stop: tuple[str, ...] = (),
    template: Literal["none", "chat"] = "none",
    ks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64),
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    r"""Accuracy, pass@k and majority vote with intervals over items; one row per response.

    Args:
        model: the checkpoint; not needed with `log`.
        prompts: items with gold answers; with `log`, they replace its gold answers and groups.
        log: responses somebody else generated (see `docs/start/evaluate-a-log.md`); a folder of steps is a series.
        grade: `auto` reads letters, a number, mathematics or words.
        abstain: regular expression of an abstention, or `usual`: right on items without a gold answer, else wrong.
        skip_unreadable: leave items out whose gold answer the grader cannot read, and count them.
        top_p: nucleus of the samples.
        max_new_tokens: one that reaches it is marked `truncated`.
        stop: texts at which a response ends.
        ks: pass@k and maj@k; those above `samples` are left out.
        batch_size: of generation.
        seed: samples and the bootstrap.
    """
    if (log is None) == (model is None or prompts is None):
        raise InputError("evaluate needs either a model and prompts, or a log of responses (with prompts or without)")
    graded_by = grader(grade, pattern, abstain)
    if log is not None:
        answered = from_log(log, prompts)
    else:
        assert model is not None
        assert prompts is not None
        asked, left_out = readable(prompts, graded_by, skip_unreadable)
        how = {"max_new_tokens": max_new_tokens, "stop": stop, "template": template, "seed": seed}
        answered = _generated(model, asked, how, samples, temperature, top_p, batch_size)
        answered = pd.concat([answered, *_not_asked(left_out)], ignore_index=True)
    table = _with_norm(graded(answered, graded_by, skip_unreadable))
    return _finished(table, {"ks": ks, "seed": seed})


def _with_norm(table: pd.DataFrame) -> pd.DataFrame:
    """Choices by log-likelihood: one row an item, `correct_norm` beside `correct` for the choice per character."""
    is_norm = table["decoding"] == "loglikelihood_norm"
    if not is_norm.any():
        return table
    keys = [c for c in ("step", "item", "answer_kind") if c in table]
    norm = table.loc[is_norm, [*keys, "correct"]].rename(columns={"correct": "correct_norm"})
    return table[~is_norm].merge(norm, on=keys, how="left")


def _not_asked(items: Sequence[Item]) -> list[pd.DataFrame]:
    """A row for every item that is left out, so that the table says which; no number is made of it."""
    rows = [_row(i, "greedy") | {"sample": 0, "text": "", "n_tokens": np.nan, "truncated": None} for i in items]
    return [pd.DataFrame(rows)] if rows else []


def _row(item: Item, decoding: str) -> dict[str, object]:
    named = {"item": item.id, "group": item.group, "answer_kind": item.answer_kind, "decoding": decoding}
    return {**named, "expected": Expected.of(item), **covariates(item)}


def _generated(
    model: Model,
    items: Sequence[Item],
    how: dict[str, Any],
    samples: int,
    temperature: float,
    top_p: float,
    batch_size: int,
) -> pd.DataFrame:
    """One row per response and kind of gold answer; a prompt with several kinds is answered once."""

    asked = {item.id: question(item) for item in items}
    ways = {"greedy": Decoding(**how)}
    if samples:
        ways["sampled"] = Decoding(**how, temperature=temperature, top_p=top_p, n_samples=samples)
    rows: list[dict[str, object]] = []
    for name, decoding in ways.items():
        drawn = responses(model, list(asked.items()), decoding, batch_size=batch_size, what=f"evaluate ({name})")
        rows += [
            _row(i, name) | {"sample": number, "text": r.text, "n_tokens": r.n_tokens, "truncated": r.truncated}
            for i in items
            for number, r in enumerate(drawn[i.id])
        ]
    return pd.DataFrame(rows)


def _aggregates(table: pd.DataFrame, ks: tuple[int, ...], seed: int) -> xr.Dataset:
    """Rates of greedy responses (of samples where there are none), pass@k and maj@k of samples."""
    table = table[table["status"] != "gold_unparsed"]
    if table.empty:
        return xr.Dataset()
    greedy = table[table["decoding"] == "greedy"]
    rows = (greedy if len(greedy) else table).copy()
    rows["accuracy"] = rows["correct"]
    rows["accuracy_strict"] = (rows["status"] == "correct").astype(float)
    rows["unparsed"] = (rows["status"] == "unparsed").astype(float)
    wanted = {
        "accuracy": ("1", "accuracy"),
        "accuracy_strict": ("1", "accuracy, unreadable answers not correct"),
        "unparsed": ("1", "responses without a readable answer"),
        "truncated": ("1", "responses cut at the token limit"),
        "n_tokens": ("tokens", "response length"),
        "boxed": ("1", "responses that box an answer"),
        "code": ("1", "responses with code"),
    }
    parts = [
        stats.estimate(rows.astype({name: float}), name, BY, seed=seed, units=units, long_name=label)
        for name, (units, label) in wanted.items()
    ]
    if "correct_norm" in rows:
        label = "accuracy by log-likelihood per character"
        how: dict[str, Any] = {"name": "accuracy_norm", "seed": seed, "units": "1", "long_name": label}
        parts.append(stats.estimate(rows, "correct_norm", BY, **how))
    sampled = table[table["decoding"] == "sampled"]
    if len(sampled):
        parts += _over_samples(sampled, ks, seed)
    return xr.merge(parts, join="outer")


def _over_samples(sampled: pd.DataFrame, ks: tuple[int, ...], seed: int) -> list[xr.Dataset]:
    rows: list[dict[str, object]] = []
    for (item, group, kind), of in sampled.groupby(["item", *BY], sort=True):
        right = int((of["correct"] == 1.0).sum())
        answers, flags = of["answer"].tolist(), of["correct"].tolist()
        for k in (k for k in ks if k <= len(of)):
            voted = majority(answers, flags, k)
            shared = {"item": item, "group": group, "answer_kind": kind, "k": k}
            rows.append({**shared, "pass_at_k": pass_at_k(len(of), right, k), "maj_at_k": voted})
    if not rows:
        return []
    frame = pd.DataFrame(rows)
    labels = {"pass_at_k": "pass@k (unbiased)", "maj_at_k": "majority vote of k"}
    return [stats.estimate(frame, q, [*BY, "k"], seed=seed, units="1", long_name=v) for q, v in labels.items()]


def _warnings(table: pd.DataFrame) -> list[str]:
    found = said_of_golds(table)
    asked = table[table["status"] != "gold_unparsed"]
    rows = asked[asked["status"] == "unparsed"]
    if len(rows):
        share, items = len(rows) / len(asked), rows["item"].unique().tolist()
        named = ", ".join(map(str, items[:5]))
        found.append(f"{share:.1%} responses have no readable answer (left out of accuracy): items {named}")
    cut = table["truncated"] == 1.0
    if cut.any():
        found.append(
            f"{cut.mean():.1%} of responses reached the token limit: raise max_new_tokens to see their answers"
        )
    return found


def figures(result: Result) -> dict[str, Figure]:
    """Accuracy by group, over steps where there are any; pass@k against k."""

    rows = result.summary()
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    accuracy = rows[rows["quantity"] == "accuracy"]
    title = "Accuracy, 95 % interval over items"
    drawn = {
        "accuracy": curve(accuracy, x="step", color="series", title=title)
        if "step" in rows
        else forest(accuracy, label="series", reference=None, title=title)
    }
    code = rows[rows["quantity"] == "code"]
    code = code[code["step"] == code["step"].max()] if "step" in code else code
    title = "Responses with code, beside the published share of the same benchmark"
    drawn["code"] = forest(joined(code, "code"), label="series", color="source", reference=None, title=title)
    sampled = rows[rows["quantity"].isin(["pass_at_k", "maj_at_k"])]
    if len(sampled):
        last = sampled[sampled["step"] == sampled["step"].max()] if "step" in sampled else sampled
        drawn["pass_at_k"] = curve(last, x="k", color="series", dash="quantity", title="pass@k and maj@k")
    return drawn
