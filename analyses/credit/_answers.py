"""Final answers of logged responses, read as everywhere: `analyses.core.reading.grading.read`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analyses.core.reading.grading import read
from analyses.core.reading.votes import clusters
from probe.errors import InputError
from probe.readers.arrow import flat, lengths, per_token

if TYPE_CHECKING:
    from probe import Rollouts


def with_answers(rows: pd.DataFrame, rollouts: Rollouts, pattern: str | None, tokenizer: str, by: str) -> pd.DataFrame:
    """The responses with `answer` (text; None: unparsed) and `cluster`, a number per different answer of a group.

    Equal answers are one however they are spelt; an unparsed response is a cluster of its own.

    Args:
        rows: of `_log.responses`.
        rollouts: the log they are of.
        pattern: regular expression whose last match's first group is the answer; none: what a response marks as its
            answer (a box, a statement), else its last formula or number.
        tokenizer: folder of the tokenizer, for a log of ids alone; "": the log has texts.
        by: the analysis, for messages.

    Raises:
        InputError: no texts and no tokenizer, a pattern that is none, nothing that could be read.
    """
    texts = _texts(rollouts, tokenizer, by)
    different = list(dict.fromkeys(texts))
    read_of = dict(zip(different, read(different, pattern or None), strict=True))
    found = [read_of[text] for text in texts]
    if not any(f.answer is not None for f in found):
        raise InputError(f"{by}: no response has an answer that can be read; give pattern='a pattern with (a group)'")
    rows = rows.assign(answer=pd.Series([f.answer for f in found], dtype=object).to_numpy())
    named = pd.Series(pd.factorize(pd.Series(clusters([f.same for f in found]), dtype=object))[0])
    return rows.assign(cluster=named.groupby([rows["cell"].to_numpy(), named.to_numpy()]).ngroup().to_numpy())


def unread(rows: pd.DataFrame) -> list[str]:
    """A note on the responses whose answer could not be read."""
    n = int(rows["answer"].isna().sum())
    return [f"{n} of {len(rows)} responses have no answer that can be read; each is a cluster of its own"] if n else []


def _texts(rollouts: Rollouts, tokenizer: str, by: str) -> list[str]:
    """Texts of the responses in the order of `index`: the log's own, else its ids decoded."""
    if "response_text" in rollouts.columns and not tokenizer:
        return [str(t) for _, table in rollouts.windows(["response_text"]) for t in table["response_text"].to_pylist()]
    if not tokenizer:
        raise InputError(f"{by}: {rollouts.source} has token ids only; give tokenizer='a folder with the tokenizer'")
    from transformers import AutoTokenizer

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
