"""Token ids for logs of text: the context that the policy saw, rebuilt, or refused.

verl decodes its prompts without special tokens, so the logged text is no context: it is rebuilt from the tokenizer's
chat template by finding the user's text between the words the template leaves behind, rendering it again and asking
that the rendering, decoded the same way, is the logged text. TRL tokenizes a prompt of plain text with the special
tokens the tokenizer adds; other logs of plain text are taken as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jinja2
import pyarrow as pa

from probe.errors import InputError
from probe.readers.messages import MessageTrace, is_trace, traced

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SENTINELS = ("\ue000S\ue001", "\ue000U\ue001")  # characters that no prompt holds
THINKING = ({}, {"enable_thinking": False}, {"enable_thinking": True})
MORE = 5  # texts named in an error


def with_ids(table: pa.Table, tokenizer: PreTrainedTokenizerBase, source: str) -> tuple[pa.Table, str]:
    """The table with token ids (and masks and segments, where responses have several turns), and the note on it.

    Raises:
        InputError: texts that their ids do not decode to, prompts whose context cannot be rebuilt (by prompt id), or
            no texts.
    """
    gone = [c for c in ("prompt_text", "response_text") if c not in table.column_names]
    if gone:
        raise InputError(f"{source}: no token ids and no {', '.join(gone)} to make them from")
    prompts = _prompt_ids(table, tokenizer, source)
    traces = _traces(table, tokenizer, source)
    texts = table["response_text"].to_pylist()
    responses = [_encode(tokenizer, t) if trace is None else trace.ids for t, trace in zip(texts, traces, strict=True)]
    bad = [
        i
        for i, (text, ids, trace) in enumerate(zip(texts, responses, traces, strict=True))
        if ids is None or (trace is None and decode(tokenizer, ids) != text) or prompts[i] is None
    ]
    if bad:
        raise InputError(
            f"{source}: no token ids, and {len(bad)} text(s) do not come back from this tokenizer unchanged, so "
            f"their tokens are unknown: {_named(table, bad)}. Record ids with probe.training.recording"
        )
    _refuse_unmasked_turns(table, texts, traces, tokenizer, source)
    for name, ids in (("prompt_token_ids", prompts), ("response_token_ids", responses)):
        table = table.append_column(name, pa.array(ids, pa.list_(pa.int32())))
    if any(t is not None for t in traces):
        table = _with_turns(table, traces, [len(ids or []) for ids in responses])
    note = (
        f"{source} has text only: {len(texts)} responses were re-tokenized (exact round trip); the policy may have "
        "sampled other pieces of the same text, and special tokens that the log stripped (end, turns) are absent"
    )
    if _stripped(table, tokenizer) and "prompt_messages" not in table.column_names:
        trace = "" if _further_turn(tokenizer) else " and, as it leaves no trace of further turns, as one user's text"
        note += f"; prompts were rebuilt from the chat template{trace}"
    return table, note


def _named(table: pa.Table, rows: Sequence[int]) -> str:
    column = "prompt_id" if "prompt_id" in table.column_names else "prompt_text"
    names = table[column].to_pylist()
    return ", ".join(f"row {i} ({str(names[i])[:40]})" for i in rows[:MORE])


def _traces(table: pa.Table, tokenizer: PreTrainedTokenizerBase, source: str) -> list[MessageTrace | None]:
    """Responses of several turns as tokens; None for the rest."""
    if "response_messages" not in table.column_names:
        return [None] * table.num_rows
    prompts = (
        table["prompt_messages"].to_pylist() if "prompt_messages" in table.column_names else [None] * table.num_rows
    )
    out: list[MessageTrace | None] = []
    for row, (before, after) in enumerate(zip(prompts, table["response_messages"].to_pylist(), strict=True)):
        turns = json.loads(after) if after else []
        if not turns or not is_trace(turns):
            out.append(None)
            continue
        out.append(traced(json.loads(before) if before else None, turns, tokenizer, f"{source}, row {row}"))
    return out


def _with_turns(table: pa.Table, traces: Sequence[MessageTrace | None], counts: Sequence[int]) -> pa.Table:
    """Masks and segments of the traces; a response of one turn is one segment, all of it the policy's."""
    whole = [
        t or MessageTrace([], [True] * n, [0] * (n > 0), ["turn"] * (n > 0))
        for t, n in zip(traces, counts, strict=True)
    ]
    columns = {
        "response_mask": pa.array([t.mask for t in whole], pa.list_(pa.bool_())),
        "segment_starts": pa.array([t.starts for t in whole], pa.list_(pa.int32())),
        "segment_type": pa.array([t.types for t in whole], pa.list_(pa.string())),
    }
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


def _refuse_unmasked_turns(
    table: pa.Table,
    texts: Sequence[str],
    traces: Sequence[MessageTrace | None],
    tokenizer: PreTrainedTokenizerBase,
    source: str,
) -> None:
    """Raise if a stripped response holds the header of a further turn: then a tool's text is in it, unmarked."""
    if not _stripped(table, tokenizer):
        return
    header = _further_turn(tokenizer)
    bad = [i for i, (t, trace) in enumerate(zip(texts, traces)) if header and trace is None and header in t]
    if bad:
        raise InputError(
            f"{source}: {len(bad)} response(s) hold the header of a further turn ({header!r}: {_named(table, bad)}), "
            "and nothing says which of their tokens are a tool's: the log stripped the marks. Record ids and masks "
            "(docs/record-with-verl.md)"
        )


def _stripped(table: pa.Table, tokenizer: PreTrainedTokenizerBase) -> bool:
    """True for logs whose writer decodes without special tokens, read with a tokenizer that has a template.

    verl does; and whoever wrote it, where every prompt begins and ends with what the template leaves when its special
    tokens are gone ("user" ... "assistant").
    """
    if not getattr(tokenizer, "chat_template", None) or "prompt_text" not in table.column_names:
        return False
    writers = set(table["log_writer"].to_pylist()) if "log_writer" in table.column_names else set[str]()
    if writers & {"verl", "trl"}:
        return "verl" in writers
    ends = [(b, a) for b, _, a in _shapes(tokenizer, {}) if b.strip() and a.strip()]
    texts = set(table["prompt_text"].to_pylist())
    return bool(ends) and all(t and any(t.startswith(b) and t.endswith(a) for b, a in ends) for t in texts)


def _prompt_ids(table: pa.Table, tokenizer: PreTrainedTokenizerBase, source: str) -> list[list[int] | None]:
    if "prompt_messages" in table.column_names:
        return _rendered_prompts(table, tokenizer)
    make = _rebuilding(tokenizer) if _stripped(table, tokenizer) else _taking(table, tokenizer)
    made: dict[str, list[int] | None] = {}
    texts = table["prompt_text"].to_pylist()
    for text in texts:
        if text is not None and text not in made:
            made[text] = make(text)
    prompts = [made.get(t) if t is not None else None for t in texts]
    bad = [i for i, ids in enumerate(prompts) if ids is None]
    if bad and _stripped(table, tokenizer):
        raise InputError(
            f"{source}: prompts are logged without their special tokens (as verl does), and "
            f"{len({texts[i] for i in bad})} of them cannot be rebuilt from this tokenizer's chat template "
            f"({_named(table, bad)}): what the policy saw is unknown. Record ids "
            "(docs/record-with-verl.md), or give the prompts as a column of messages"
        )
    _check_counts(table, prompts, source)
    return prompts


def _rendered_prompts(table: pa.Table, tokenizer: PreTrainedTokenizerBase) -> list[list[int] | None]:
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("the log's prompts are chat messages, but this tokenizer has no chat template")
    turns = [json.loads(t) for t in table["prompt_messages"].to_pylist()]
    rendered = [tokenizer.apply_chat_template(t, add_generation_prompt=True, tokenize=False) for t in turns]
    return [_encode(tokenizer, str(t)) for t in rendered]


def _taking(table: pa.Table, tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int] | None]:
    """Plain text as it is; with the tokenizer's own special tokens where the trainer is TRL, which adds them."""
    own = "log_writer" in table.column_names and set(table["log_writer"].to_pylist()) == {"trl"}

    def ids(text: str) -> list[int] | None:
        bare = _encode(tokenizer, text)
        if bare is None or decode(tokenizer, bare) != text:
            return None
        return list(tokenizer(text)["input_ids"]) if own else bare

    return ids


def _check_counts(table: pa.Table, prompts: Sequence[list[int] | None], source: str) -> None:
    """Raise where the log says how many tokens a prompt had and the rebuilt one has another number."""
    if "n_prompt_tokens" not in table.column_names:
        return
    said = table["n_prompt_tokens"].to_pylist()
    off = [i for i, (n, ids) in enumerate(zip(said, prompts)) if n is not None and ids is not None and n != len(ids)]
    if off:
        first = off[0]
        raise InputError(
            f"{source}: the log counts {said[first]} prompt tokens where its text gives {len(prompts[first] or [])} "
            f"({_named(table, off)}): this is not what the policy saw. Record ids with probe.training.recording"
        )


def _rebuilding(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int] | None]:
    """Ids of the one rendering of the template whose stripped text is the logged one; None if none or several are."""

    header = _further_turn(tokenizer)

    def ids(text: str) -> list[int] | None:
        found: list[list[int]] = []
        for options in THINKING:
            for messages in _conversations(tokenizer, text, options):
                if header and any(header in m["content"] for m in messages):
                    return None  # earlier turns, or a user who writes like the template: two contexts, one text
                made = _render(tokenizer, messages, options)
                if made is not None and made not in found and _strip(tokenizer, made) == text:
                    found.append(made)
        return found[0] if len(found) == 1 else None

    return ids


def _further_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template leaves between a user's text and an answer that follows it; empty if it leaves no trace."""
    user, answer = SENTINELS
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    text = _stripped_rendering(tokenizer, [*turns, {"role": "user", "content": "x"}], {})
    header = text.partition(user)[2].partition(answer)[0].strip(" ") if text and answer in text else ""
    return header if header.strip() else ""


def _conversations(
    tokenizer: PreTrainedTokenizerBase, text: str, options: Mapping[str, object]
) -> Iterator[list[dict[str, str]]]:
    """Conversations that could have left this text: a user's, or a system's and a user's."""
    for before, between, after in _shapes(tokenizer, options):
        if not (text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after)):
            continue
        inside = text[len(before) : len(text) - len(after) if after else None]
        if between is None:
            yield [{"role": "user", "content": inside}]
            continue
        cuts = [m.start() for m in re.finditer(re.escape(between), inside)] if between else []
        for cut in cuts:
            system, user = inside[:cut], inside[cut + len(between) :]
            yield [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _shapes(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, object]) -> Iterator[tuple[str, Any, str]]:
    """What the template leaves before, between and after the texts of a conversation, decoded as verl decodes."""
    system, user = SENTINELS
    alone = _stripped_rendering(tokenizer, [{"role": "user", "content": user}], options)
    if alone is not None and alone.count(user) == 1:
        before, _, after = alone.partition(user)
        yield before, None, after
    both = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    text = _stripped_rendering(tokenizer, both, options)
    if text is not None and text.count(user) == 1 and text.count(system) == 1 and text.find(system) < text.find(user):
        before, _, rest = text.partition(system)
        between, _, after = rest.partition(user)
        yield before, between, after


def _stripped_rendering(tokenizer: Any, messages: list[dict[str, str]], options: Mapping[str, object]) -> str | None:
    """The rendering without special tokens, sentinels kept whatever the tokenizer makes of them."""

    try:
        text = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **options))
    except (jinja2.TemplateError, TypeError):  # a template that takes no system turn says so by raising
        return None
    pieces = re.split(f"({'|'.join(map(re.escape, SENTINELS))})", text)
    return "".join(p if p in SENTINELS else _strip(tokenizer, _encode(tokenizer, p) or []) for p in pieces)


def _render(tokenizer: Any, messages: list[dict[str, str]], options: Mapping[str, object]) -> list[int] | None:

    try:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **options)
    except jinja2.TemplateError:
        return None
    return _encode(tokenizer, str(text))


def _strip(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str | None) -> list[int] | None:
    return None if text is None else list(tokenizer(text, add_special_tokens=False)["input_ids"])


def decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The text of ids, special tokens included and nothing tidied."""
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
