"""The answers of a prompt file read as responses: an SFT set is a log of one step that nobody sampled."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from probe.batches import ANSWER
from probe.errors import InputError
from probe.prompts import Prompts
from probe.readers import tables
from probe.readers.columns import is_missing
from probe.tokens import tokenize

SAMPLED = ("step", "reward", "score", "scores", "advantage", "old_logp", "response_token_ids", "gts", "acc")
"""Columns of logs that a policy wrote: a file that has one is no prompt file."""


def is_prompt_file(path: str | Path) -> bool:
    """True for a file of items with answers that nothing says were sampled."""
    file = Path(path)
    if file.suffix not in (".jsonl", ".json", ".csv", ".tsv", ".parquet") or not file.is_file():
        return False
    first = next(iter(tables.file_rows(file)), {})
    return not any(name in first and not is_missing(first[name]) for name in SAMPLED)


def table_of(prompts: Prompts) -> pa.Table:
    """One row per item: its prompt and its answer, in the words of a rollout log.

    Raises:
        InputError: items without an answer (their ids).
    """
    empty = [i.id for i in prompts.items if i.abstain]
    if empty:
        raise InputError(f"{prompts.source}: no answer in item(s) {', '.join(empty[:5])}; leave them out")
    shared = [{"step": 0, "prompt_id": i.id, "group": i.group, "answer_kind": i.answer_kind} for i in prompts.items]
    texts = [{"prompt_text": _shown(i.messages, i.prompt), "response_text": i.answer} for i in prompts.items]
    return pa.Table.from_pylist([{**s, **t} for s, t in zip(shared, texts, strict=True)])


def _shown(messages: Sequence[Mapping[str, object]], prompt: str) -> str:
    return prompt if len(messages) == 1 else json.dumps(messages, ensure_ascii=False)


def with_ids(table: pa.Table, prompts: Prompts, tokenizer: Any, framing: Mapping[str, object]) -> pa.Table:
    """The table with token ids: those of prompt and answer as one text, chats through the tokenizer's template."""
    is_chat = any(i.chat for i in prompts.items)
    how: dict[str, Any] = {"template": "chat" if is_chat else "none", "max_length": sys.maxsize, **framing}
    encoded = tokenize(tokenizer, prompts, **how)
    firsts = [e.span.index(ANSWER) for e in encoded]
    columns = {
        "prompt_token_ids": [list(e.ids[:n]) for e, n in zip(encoded, firsts, strict=True)],
        "response_token_ids": [list(e.ids[n:]) for e, n in zip(encoded, firsts, strict=True)],
    }
    for name, ids in columns.items():
        table = table.append_column(name, pa.array(ids, pa.list_(pa.int32())))
    return table
