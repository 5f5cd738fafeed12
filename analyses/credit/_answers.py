"""Final answers of logged responses: a pattern's last match, else the last box, else the last number."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from probe.errors import InputError

if TYPE_CHECKING:
    from probe import Rollouts

NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?")


def with_answers(rows: pd.DataFrame, rollouts: Rollouts, answer: str, tokenizer: str, by: str) -> pd.DataFrame:
    """The responses with `answer` (text; None: unparsed) and `cluster`, a number per different answer of a group.

    Equal numbers are one answer however they are spelt; an unparsed response is a cluster of its own.

    Raises:
        InputError: no texts and no tokenizer, a pattern that is none, nothing that could be read.
    """
    cut = _pattern(answer)
    found = [final_answer(text, cut) for text in _texts(rollouts, tokenizer, by)]
    if not any(f is not None for f in found):
        raise InputError(f"{by}: no response has an answer that can be read; give answer='a pattern with (a group)'")
    rows = rows.assign(answer=pd.Series(found, dtype=object).to_numpy())
    keys = pd.Series([f"?{i}" if f is None else f"={f}" for i, f in enumerate(found)])
    return rows.assign(cluster=keys.groupby([rows["cell"].to_numpy(), keys.to_numpy()]).ngroup().to_numpy())


def unread(rows: pd.DataFrame) -> list[str]:
    """A note on the responses whose answer could not be read."""
    n = int(rows["answer"].isna().sum())
    return [f"{n} of {len(rows)} responses have no answer that can be read; each is a cluster of its own"] if n else []


def final_answer(text: str, cut: re.Pattern[str] | None) -> str | None:
    """The answer of a text in one spelling, or None."""
    if cut is not None:
        matches = cut.findall(text)
        last = matches[-1] if matches else None
        return _normal(last[0] if isinstance(last, tuple) else last) if last is not None else None
    boxed = _last_box(text)
    if boxed is not None:
        return _normal(boxed)
    numbers = NUMBER.findall(text)
    return _normal(numbers[-1]) if numbers else None


def _last_box(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for place in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : place]
    return None


def _normal(text: str) -> str | None:
    """One spelling of an answer: numbers as fractions, other texts without outer white space; None if empty."""
    plain = text.strip().strip("$").rstrip(".").strip()
    try:
        return str(Fraction(plain.replace(",", "").replace(" ", "")))
    except (ValueError, ZeroDivisionError):
        return plain or None


def _pattern(answer: str) -> re.Pattern[str] | None:
    if not answer:
        return None
    try:
        made = re.compile(answer)
    except re.error as error:
        raise InputError(f"answer={answer!r} is not a regular expression: {error}") from error
    if made.groups < 1:
        raise InputError(f"answer={answer!r} has no group; put the answer in parentheses")
    return made


def _texts(rollouts: Rollouts, tokenizer: str, by: str) -> list[str]:
    """Texts of the responses in the order of `index`: the log's own, else its ids decoded."""
    if "response_text" in rollouts.columns and not tokenizer:
        return [str(t) for _, table in rollouts.windows(["response_text"]) for t in table["response_text"].to_pylist()]
    if not tokenizer:
        raise InputError(f"{by}: {rollouts.source} has token ids only; give tokenizer='a folder with the tokenizer'")
    from transformers import AutoTokenizer

    from probe.readers.arrow import flat, lengths, per_token

    reader = AutoTokenizer.from_pretrained(tokenizer)
    out: list[str] = []
    for _, table in rollouts.windows(["response_token_ids", "response_mask"]):
        counts = lengths(table, "response_token_ids")
        ids = flat(table, "response_token_ids")
        inside = (
            per_token(table, "response_mask", counts).astype(bool) if "response_mask" in table.column_names else None
        )
        ends = np.cumsum(counts)[:-1]
        kept = np.split(np.ones(len(ids), bool) if inside is None else inside, ends)
        rows = [row[k].tolist() for row, k in zip(np.split(ids, ends), kept, strict=True)]
        out += reader.batch_decode(rows, skip_special_tokens=True)
    return out
