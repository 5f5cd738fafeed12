"""How often a checkpoint answers correctly, greedily and over samples.

Definition: each prompt is answered greedily, and by `samples` seeded draws; each response is graded against the
gold answer. accuracy = mean over items of correct among responses whose answer can be read; accuracy_strict counts
those without a readable answer as not correct. pass_at_k = 1 - C(n-c, k) / C(n, k) of n samples with c correct,
mean over items (at k = 1: avg@n); maj_at_k = chance that the most frequent answer of k samples is correct.

Units: fractions of responses; n_tokens in tokens of the model.

Source: pass@k: arXiv 2107.03374; majority: arXiv 2203.11171; grading of mathematics: math-verify.

Does not show: why an answer is right. A response cut at the token limit has usually no answer: compare runs under
one limit, and read `truncated` beside accuracy. Kinds of gold answers are separate quantities: on items whose label
is not the truth, accuracy against the one is memory, against the other computation. A logged response is graded
again here, by the grader named, not by the program that logged it.

Control: the base checkpoint under the same template, decoding and grader; `accuracy_strict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.reading.grading import Grader, grader, has_code, is_boxed, majority, pass_at_k
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame as Table
    from plotly.graph_objects import Figure

    from probe import Model, Prompts

BY = ["group", "answer_kind"]
COLUMNS = ["item", "group", "answer_kind", "decoding", "sample", "status", "correct", "answer", "n_tokens",
           "truncated", "boxed", "code", "gold", "text"]  # fmt: skip


def _finished(table: pd.DataFrame, options: Mapping[str, Any]) -> Result:
    """The result from the rows of all items."""
    table = table.sort_values("decoding", kind="stable", ignore_index=True)  # greedy first, items as in the prompts
    return Result.of(table, _aggregates(table, options["ks"], options["seed"]), warnings=_warnings(table))


@analysis(by_item=_finished)
def evaluate(
    model: Model | None = None,
    prompts: Prompts | None = None,
    log: Table | None = None,
    *,
    grade: str = "math",
    pattern: str | None = None,
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
        log: responses somebody else generated: lm-evaluation-harness samples, an inspect log, or plain JSONL.
        grade: `math` (math-verify), `number` (last number), `exact`, or `module:function`.
        pattern: regular expression whose last match's group is the answer, for example `ans (\d+)$`.
        samples: sampled responses per item, beside the greedy one.
        temperature: of the samples.
        top_p: nucleus of the samples.
        max_new_tokens: limit of every response; one that reaches it is marked `truncated`.
        stop: texts at which a response ends.
        template: put prompts through the tokenizer's chat template, or not.
        ks: numbers of samples of pass@k and maj@k; those above `samples` are left out.
        batch_size: items per generation batch.
        seed: of the samples and of the bootstrap.
    """
    if (log is None) == (model is None or prompts is None):
        raise InputError("evaluate needs either a model and prompts, or a log of responses (with prompts or without)")
    graded_by = grader(grade, pattern)
    if log is not None:
        answered = _from_log(log, prompts)
    else:
        assert model is not None
        assert prompts is not None
        how = {"max_new_tokens": max_new_tokens, "stop": stop, "template": template, "seed": seed}
        answered = _generated(model, prompts, how, samples, temperature, top_p, batch_size)
    return _finished(_graded(answered, graded_by), {"ks": ks, "seed": seed})


def _generated(
    model: Model,
    prompts: Prompts,
    how: dict[str, Any],
    samples: int,
    temperature: float,
    top_p: float,
    batch_size: int,
) -> pd.DataFrame:
    """One row per response and kind of gold answer; a prompt with several kinds is answered once."""
    from analyses.core.reading.kept_responses import Decoding, question, responses

    asked = {item.id: question(item) for item in prompts.items}
    ways = {"greedy": Decoding(**how)}
    if samples:
        ways["sampled"] = Decoding(**how, temperature=temperature, top_p=top_p, n_samples=samples)
    rows: list[dict[str, Any]] = []
    for name, decoding in ways.items():
        drawn = responses(model, list(asked.items()), decoding, batch_size=batch_size, what=f"evaluate ({name})")
        rows += [
            {"item": i.id, "group": i.group, "answer_kind": i.answer_kind, "gold": i.answer, "decoding": name,
             "sample": number, "text": r.text, "n_tokens": r.n_tokens, "truncated": r.truncated}
            for i in prompts.items
            for number, r in enumerate(drawn[i.id])
        ]  # fmt: skip
    return pd.DataFrame(rows)


def _from_log(log: pd.DataFrame, prompts: Prompts | None) -> pd.DataFrame:
    """Logged responses as rows; one per item counts as greedy, several as samples."""
    missing = [c for c in ("item", "sample", "text") if c not in log.columns]
    if missing:
        raise InputError(f"the log has no column {missing}; it has {list(log.columns)}")
    rows = log.assign(item=log["item"].astype(str))
    if prompts is not None:
        gold = prompts.frame().rename(columns={"id": "item", "answer": "gold"})
        unknown = sorted(set(rows["item"]) - set(gold["item"]))
        if unknown:
            raise InputError(f"the log answers items that the prompts do not hold: {unknown[:5]}")
        rows = rows.drop(columns=["gold", "group"], errors="ignore").merge(gold[["item", "gold", *BY]], on="item")
    without = rows.loc[rows["gold"].isna(), "item"].unique().tolist() if "gold" in rows else ["all"]
    if without:
        raise InputError(f"no gold answer for items {without[:5]}: give prompts with answers beside the log")
    golds = rows.groupby(["item", "answer_kind"] if "answer_kind" in rows else "item")["gold"].nunique()
    if (golds > 1).any():
        named = golds.index[golds > 1].tolist()[:5]
        raise InputError(f"items {named} have several gold answers in the log: correct it, or give prompts")
    defaults = {"group": "all", "answer_kind": "given", "n_tokens": np.nan, "truncated": None}
    rows = rows.assign(**{k: v for k, v in defaults.items() if k not in rows.columns})
    return rows.assign(decoding="greedy" if (rows["sample"] == 0).all() else "sampled")


def _graded(rows: pd.DataFrame, graded_by: Grader) -> pd.DataFrame:
    texts = [str(t) for t in rows["text"]]
    grades = [graded_by(text, str(gold)) for text, gold in zip(texts, rows["gold"], strict=True)]
    found = rows.assign(
        text=texts,
        status=[g.status for g in grades],
        correct=[g.correct for g in grades],
        answer=pd.Series([g.answer for g in grades], rows.index, dtype="str"),
        boxed=[is_boxed(t) for t in texts],
        code=[has_code(t) for t in texts],
    )
    found["gold"] = found["gold"].astype(str)
    found["n_tokens"] = found["n_tokens"].astype(float)
    found["truncated"] = found["truncated"].astype("boolean").astype(float)  # NaN: the log does not say
    return found[COLUMNS].reset_index(drop=True)


def _aggregates(table: pd.DataFrame, ks: tuple[int, ...], seed: int) -> xr.Dataset:
    """Rates of greedy responses (of samples where there are none), pass@k and maj@k of samples."""
    greedy = table[table["decoding"] == "greedy"]
    rows = (greedy if len(greedy) else table).copy()
    rows["accuracy"] = rows["correct"]
    can_be_graded = rows["status"] != "gold_unparsed"
    rows["accuracy_strict"] = (rows["status"] == "correct").astype(float).where(can_be_graded)
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
    sampled = table[table["decoding"] == "sampled"]
    if len(sampled):
        parts += _over_samples(sampled, ks, seed)
    return xr.merge(parts, join="outer")


def _over_samples(sampled: pd.DataFrame, ks: tuple[int, ...], seed: int) -> list[xr.Dataset]:
    rows: list[dict[str, Any]] = []
    for (item, group, kind), of in sampled.groupby(["item", *BY], sort=True):
        if (of["status"] == "gold_unparsed").any():
            continue
        right = int((of["correct"] == 1.0).sum())
        answers, flags = of["answer"].tolist(), of["correct"].tolist()
        for k in (k for k in ks if k <= len(of)):
            voted = majority([a if isinstance(a, str) else None for a in answers], flags, k, seed)
            shared = {"item": item, "group": group, "answer_kind": kind, "k": k}
            rows.append({**shared, "pass_at_k": pass_at_k(len(of), right, k), "maj_at_k": voted})
    if not rows:
        return []
    frame = pd.DataFrame(rows)
    labels = {"pass_at_k": "pass@k (unbiased)", "maj_at_k": "majority vote of k"}
    return [stats.estimate(frame, q, [*BY, "k"], seed=seed, units="1", long_name=v) for q, v in labels.items()]


def _warnings(table: pd.DataFrame) -> list[str]:
    found: list[str] = []
    for status, what in (
        ("unparsed", "responses have no readable answer"),
        ("gold_unparsed", "gold answers cannot be read"),
    ):
        rows = table[table["status"] == status]
        if len(rows):
            share, items = len(rows) / len(table), rows["item"].unique().tolist()
            found.append(f"{share:.1%} {what} (left out of accuracy): items {', '.join(map(str, items[:5]))}")
    cut = table["truncated"] == 1.0
    if cut.any():
        found.append(
            f"{cut.mean():.1%} of responses reached the token limit: raise max_new_tokens to see their answers"
        )
    return found


def figures(result: Result) -> dict[str, Figure]:
    """Accuracy by group, over steps where there are any; pass@k against k."""
    from analyses.core.figures import curve, forest
    from analyses.core.published import joined

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
