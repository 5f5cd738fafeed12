"""Responses and what they are held against, as rows: of a model's answers or of a log; and their grades.

A row is a response: `item, group, answer_kind, decoding, sample, text, n_tokens, truncated`, what is expected of it
(`expected`, an `Expected`), a `verdict` where a log brings one, and whatever else the prompts or the log say of an
item (covariates). Never imports torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.core.reading.grading import Expected, Grade, Grader, has_code, is_boxed
from probe.errors import InputError

if TYPE_CHECKING:
    from probe import Item, Prompts

BY = ["group", "answer_kind"]
COLUMNS = ["item", "group", "answer_kind", "decoding", "sample", "status", "correct", "answer", "graded_as",
           "n_tokens", "truncated", "boxed", "code", "gold", "text"]  # fmt: skip
INNER = ("expected", "verdict", "golds", "choices", "right_choice", "prompt")
LIMIT = 5


def covariates(item: Item) -> dict[str, object]:
    """What else is said of an item: the columns of its file, its wording, whether training may have shown it."""
    own: dict[str, object] = {"variant": item.variant, "problem": item.problem} if item.variant else {}
    own |= {} if item.seen is None else {"seen": item.seen}
    own |= {"cluster": item.cluster} if item.cluster else {}
    return {k: v for k, v in {**item.meta, **own}.items() if k not in (*COLUMNS, *INNER)}


def readable(prompts: Prompts, grader: Grader, skip: bool = False) -> tuple[list[Item], list[Item]]:
    """Items whose gold answer the grader reads, and those whose it does not.

    Args:
        prompts: items with gold answers.
        grader: what reads and compares answers.
        skip: leave out what cannot be read instead of refusing.

    Raises:
        InputError: unreadable ones (their ids), unless they are to be skipped.
    """
    kinds = grader.kinds([Expected.of(i) for i in prompts.items])
    out = [i for i, kind in zip(prompts.items, kinds, strict=True) if kind is None]
    refuse_unreadable([(i.id, i.answer) for i in out], len(prompts.items), grader, skip)
    return [i for i, kind in zip(prompts.items, kinds, strict=True) if kind is not None], out


def refuse_unreadable(bad: Sequence[tuple[str, str]], n: int, grader: Grader, skip: bool) -> None:
    """Raises: InputError naming items whose gold answer cannot be read, unless they are skipped.

    Args:
        bad: (id, gold) of items that cannot be read.
        n: items in all.
        grader: what reads and compares answers.
        skip: leave out what cannot be read instead of refusing.
    """
    if not bad or skip:
        return
    named = ", ".join(f"{name} ({gold[:30]!r})" for name, gold in bad[:LIMIT])
    more = f" and {len(bad) - LIMIT} more" if len(bad) > LIMIT else ""
    empty = " For unanswerable items say what an abstention is: --abstain usual." if any(not g for _, g in bad) else ""
    raise InputError(
        f"grader {grader.name!r} cannot read the gold answers of {len(bad)} of {n} item(s): {named}{more}. Give them "
        f"another grader (auto reads words, letters, numbers and mathematics), or leave them out: "
        f"--skip-unreadable.{empty}"
    )


def from_log(log: pd.DataFrame, prompts: Prompts | None) -> pd.DataFrame:
    """Logged responses as rows; one per item counts as greedy, several as samples.

    Raises:
        InputError: columns missing, items without a gold answer or with several contradictory ones.
    """
    missing = [c for c in ("item", "text") if c not in log.columns]
    if missing:
        raise InputError(f"the log has no column {missing}; it has {list(log.columns)}")
    rows = log.assign(item=log["item"].astype(str))
    at = ["item", *(c for c in ("step", "answer_kind", "decoding") if c in rows)]
    if "sample" not in rows or bool(rows["sample"].isna().any()):
        rows = rows.assign(sample=rows.groupby(at, sort=False).cumcount())
    rows = rows.assign(sample=rows["sample"].astype(int))
    rows = _with_expected(rows) if prompts is None else _as_prompts_say(rows, prompts)
    defaults = {"group": "all", "answer_kind": "given", "n_tokens": np.nan, "truncated": None}
    rows = rows.assign(**{k: v for k, v in defaults.items() if k not in rows.columns})
    _one_gold(rows)
    if "decoding" in rows:
        return rows
    return rows.assign(decoding="greedy" if (rows["sample"] == 0).all() else "sampled")


def _with_expected(rows: pd.DataFrame) -> pd.DataFrame:
    """What a log itself says is right: gold answers, the right choice, or a verdict."""
    given = rows.to_dict("records")
    expected = [_expected(r) for r in given]
    without = [str(r["item"]) for r, e in zip(given, expected, strict=True) if e is None and _verdict(r) is None]
    if without:
        names = list(dict.fromkeys(without))[:LIMIT]
        raise InputError(
            f"no gold answer for items {names}: give prompts with answers beside the log, or a column `verdict` "
            "(true, false) where a program judged"
        )
    return rows.assign(expected=pd.Series(expected, rows.index, dtype=object))


def _expected(row: Mapping[Hashable, object]) -> Expected | None:
    gold, choices, right = (_plain(row.get(n)) for n in ("gold", "choices", "right_choice"))
    listed = tuple(map(str, choices)) if isinstance(choices, list | tuple) else ()
    index = int(right) if isinstance(right, int | float) else None
    if gold is None:
        return None if index is None else Expected((), listed, index)
    golds = tuple(map(str, gold)) if isinstance(gold, list | tuple) else (str(gold),)
    return Expected(() if golds == ("",) else golds, listed, index)


def _plain(value: object) -> Any:
    """A cell without NaN and numpy: None, a scalar or a list."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    return None if value is None or (isinstance(value, float) and np.isnan(value)) else value


def _verdict(row: Mapping[Hashable, object]) -> bool | None:
    """A verdict in whatever way a program writes one; None where there is none."""
    value = _plain(row.get("verdict"))
    if value is None or value == "":
        return None
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    word = str(value).strip().lower()
    if word in ("true", "pass", "passed", "correct", "ok", "success", "resolved", "yes", "1", "c"):
        return True
    if word in ("false", "fail", "failed", "wrong", "incorrect", "error", "timeout", "unresolved", "no", "0", "i"):
        return False
    raise InputError(f"item {row.get('item')}: verdict {value!r}; expected true or false, passed or failed, 1 or 0")


def _as_prompts_say(rows: pd.DataFrame, prompts: Prompts) -> pd.DataFrame:
    """The rows with golds, groups and covariates of the prompts, once for every kind of answer of an item."""
    rows = _named_as(rows, prompts)
    told = pd.DataFrame(
        [{"item": i.id, "group": i.group, "answer_kind": i.answer_kind, **covariates(i)} for i in prompts.items]
    )
    told["expected"] = pd.Series([Expected.of(i) for i in prompts.items], dtype=object)
    drop = [c for c in rows.columns if c in told.columns and c != "item"]
    return rows.drop(columns=[*drop, "verdict", "gold"], errors="ignore").merge(told, on="item")


def _named_as(rows: pd.DataFrame, prompts: Prompts) -> pd.DataFrame:
    """The log's items under the prompts' ids; a log without ids of its own is matched by the text of its prompts."""
    ids = {i.id for i in prompts.items}
    unknown = sorted(set(rows["item"]) - ids)
    if not unknown:
        return rows
    by_text = {" ".join(i.prompt.split()): i.id for i in prompts.items}
    found: dict[str, str] = {}
    if "prompt" in rows:
        for text in rows["prompt"].dropna().astype(str).unique():
            flat = " ".join(text.split())
            inside = [flat] if flat in by_text else [t for t in by_text if t in flat]
            if inside:
                found[text] = by_text[max(inside, key=len)]
    named = rows["prompt"].map(found) if "prompt" in rows else pd.Series(np.nan, rows.index)
    lost = rows.loc[named.isna(), "item"].unique().tolist()
    if lost:
        raise InputError(f"the log answers items that the prompts do not hold, by id or text: {lost[:LIMIT]}")
    rows = rows.assign(item=named)
    at = ["item", *(["step"] if "step" in rows else [])]
    return rows.assign(sample=rows.groupby(at, sort=False).cumcount())


def _one_gold(rows: pd.DataFrame) -> None:
    of: dict[tuple[str, str], Expected | None] = {}
    for item, kind, expected in zip(rows["item"], rows["answer_kind"], rows["expected"], strict=True):
        if of.setdefault((item, kind), expected) != expected:
            raise InputError(
                f"items {[item]} have several gold answers in different rows of the log: correct it, or give prompts "
                "(several answers that all count are a list in each row)"
            )


def graded(rows: pd.DataFrame, grader: Grader, skip: bool = False) -> pd.DataFrame:
    """The rows with status, correct, answer (equal where the grader calls answers equal), graded_as, boxed, code.

    Args:
        rows: responses with item, text, expected (and verdict, where another program judged).
        grader: what reads and compares answers.
        skip: leave out what cannot be read instead of refusing.

    Raises:
        InputError: gold answers that cannot be read, unless they are to be skipped.
    """
    texts = [str(t) for t in rows["text"]]
    verdicts = [_verdict(r) for r in rows.to_dict("records")] if "verdict" in rows else [None] * len(rows)
    judged = [e is None for e in rows["expected"]]
    pairs = [(t, e) for t, e, j in zip(texts, rows["expected"], judged, strict=True) if not j]
    once = list(dict.fromkeys(e for _, e in pairs))
    kinds = dict(zip(once, grader.kinds(once), strict=True))
    bad = {
        str(i): (e.golds or ("",))[0]
        for i, e in zip(rows["item"], rows["expected"], strict=True)
        if e is not None and kinds[e] is None
    }
    refuse_unreadable(list(bad.items()), rows["item"].nunique(), grader, skip)
    results = iter(grader.many(pairs))
    grades = [
        Grade("correct" if v else "wrong", None) if j else next(results) for v, j in zip(verdicts, judged, strict=True)
    ]
    found = rows.assign(
        text=texts,
        status=[g.status for g in grades],
        correct=[g.correct for g in grades],
        answer=pd.Series(_shared(rows, grades), rows.index, dtype="str"),
        graded_as=["verdict" if e is None else kinds[e] or "not read" for e in rows["expected"]],
        boxed=[float(is_boxed(t)) for t in texts],
        code=[float(has_code(t)) for t in texts],
        gold=["" if e is None else _shown(e) for e in rows["expected"]],
        n_tokens=rows["n_tokens"].astype(float),
        truncated=rows["truncated"].astype("boolean").astype(float),  # NaN: the log does not say
    )
    extra = [c for c in rows.columns if c not in (*COLUMNS, *INNER)]
    tidy = found.assign(**{c: _column(found[c]) for c in extra})
    return tidy[[*(c for c in ("step",) if c in tidy), *COLUMNS, *(c for c in extra if c != "step")]].reset_index(
        drop=True
    )


def _shown(expected: Expected) -> str:
    return " | ".join(expected.golds) or (expected.letters or "")


def _shared(rows: pd.DataFrame, grades: Sequence[Grade]) -> list[str | None]:
    """The answers, those that are equal for the grader written alike: the shortest spelling, then the first."""
    at = [c for c in ("step", "item", "answer_kind") if c in rows]
    places = list(zip(*(rows[c] for c in at), strict=True))
    best: dict[Any, str] = {}
    for place, grade in zip(places, grades, strict=True):
        if grade.answer is not None:
            key = (place, grade.same or grade.answer)
            best[key] = min(best.get(key, grade.answer), grade.answer, key=lambda a: (len(a), a))
    return [
        None if g.answer is None else best[(place, g.same or g.answer)] for place, g in zip(places, grades, strict=True)
    ]


def _column(values: pd.Series) -> pd.Series:
    """A covariate as numbers where all of it is numbers, else as text: extras may be anything, files may not."""
    plain = [_plain(v) for v in values]
    if all(v is None or isinstance(v, bool | int | float) for v in plain):
        small = [np.nan if v is None else float(v) if abs(v) < 2**53 else None for v in plain]
        if None not in small:
            kind = "int64" if values.name == "step" else "float64"
            return pd.Series(small, values.index, dtype=kind)
    texts = [None if v is None else v if isinstance(v, str) else json.dumps(v, default=str) for v in plain]
    return pd.Series(texts, values.index, dtype="str")


def said_of_golds(table: pd.DataFrame) -> list[str]:
    """How many items were graded as what, and how many were left out, in words."""
    once = table.drop_duplicates(["item", "answer_kind"])
    out = once[once["status"] == "gold_unparsed"]
    counts = Counter(once.loc[once["status"] != "gold_unparsed", "graded_as"])
    found = [f"graded by their gold answers: {', '.join(f'{n} {kind}' for kind, n in counts.most_common())}"]
    return (found if len(counts) > 1 else []) + (
        [f"{len(out)} item(s) left out, their gold answers cannot be read: {', '.join(out['item'].head(LIMIT))}"]
        if len(out)
        else []
    )
