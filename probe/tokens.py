"""Tokens: the only place that decides special tokens, templates, spans, padding and the batch plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from probe.errors import InputError

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool, Int
    from torch import Tensor

    from probe.prompts import Item, Prompts

SPANS = ("pad", "template", "prompt", "rationale", "answer", "straddle")
"""What a token belongs to. `template`: BOS and chat-template tokens. `straddle`: under
`boundary="offsets"`, a token that holds characters of the prompt and of the answer."""

_PAD, _TEMPLATE, _PROMPT, _RATIONALE, _ANSWER, _STRADDLE = range(6)
_LEADING_SPACE = ("Ġ", "▁", " ")
_MARK = "\ue000"  # private use: stands for the user's text while a template is taken apart

Template = Literal["none", "chat"]
Boundary = Literal["concat", "offsets"]
Padding = Literal["left", "right"]


@dataclass(frozen=True)
class Encoded:
    """One item's token ids and, for each, the index of its span in `SPANS`."""

    item: Item
    ids: tuple[int, ...]
    span: tuple[int, ...]


@dataclass(frozen=True)
class TokenBatch:
    """Padded items: ids, mask (True = real token) and spans (index in `SPANS`), each [item pos]."""

    ids: Int[Tensor, "item pos"]
    mask: Bool[Tensor, "item pos"]
    span: Int[Tensor, "item pos"]
    items: tuple[Item, ...]
    padding: Padding = "left"

    @property
    def offsets(self) -> Int[Tensor, " item"]:
        """Index of each item's first real token."""
        return self.mask.int().argmax(-1)

    @property
    def position_ids(self) -> Int[Tensor, "item pos"]:
        """Position of each token within its item, from 0 (0 on padding).

        Families with learned or rotary positions read left-padded text wrongly without these.
        """
        return (self.mask.long().cumsum(-1) - 1).clamp(min=0)

    @property
    def last_prompt(self) -> Int[Tensor, " item"]:
        """Index of each item's last token of the prompt or its template, before any answer token."""
        in_prompt = (self.span == _PROMPT) | (self.span == _TEMPLATE)
        return in_prompt.shape[1] - 1 - in_prompt.flip(-1).int().argmax(-1)

    def to(self, device: str | torch.device) -> TokenBatch:
        """The same batch on a device."""
        tensors = {n: getattr(self, n).to(device) for n in ("ids", "mask", "span")}
        return replace(self, **tensors)

    def __len__(self) -> int:
        return len(self.items)


def tokenize(
    tokenizer: Any,
    prompts: Prompts,
    *,
    template: Template = "none",
    boundary: Boundary = "concat",
    bos: bool | None = None,
    include_eos: bool = False,
    max_length: int,
) -> list[Encoded]:
    """Each item's ids and spans, in the order of the prompts.

    Args:
        tokenizer: a Hugging Face tokenizer.
        prompts: the items.
        template: `chat` puts the prompt through the tokenizer's chat template as a user's turn.
        boundary: `concat` tokenises prompt and answer apart and joins the ids; `offsets` tokenises the
            joined text and marks a token with characters of both as `straddle`.
        bos: True or False forces BOS on or off; None follows the tokenizer. A chat template decides
            for itself.
        include_eos: append EOS to the answer (span `answer`).
        max_length: the model's context. A longer item is an error, never cut.

    Raises:
        InputError: over-length items (their ids), no chat template, no BOS/EOS where one is asked for,
            `offsets` without a fast tokenizer, an answer that has no token of its own.
    """
    eos = _special(tokenizer, "eos") if include_eos else ()
    lead = _lead(tokenizer, bos) if template == "none" else ()
    encoded = [_encode(tokenizer, item, template, boundary, lead, eos) for item in prompts.items]
    _refuse_long(encoded, max_length)
    bare = [e.item.id for e in encoded if _ANSWER not in e.span]
    if bare:
        raise InputError(f"answer without a token of its own in item(s) {', '.join(bare[:5])} (boundary={boundary})")
    return encoded


def tokenize_prompts(
    tokenizer: Any, prompts: Prompts, *, template: Template = "none", bos: bool | None = None, max_length: int
) -> list[Encoded]:
    """Each item's prompt alone (no answer), as `tokenize` gives it; for generation.

    Raises:
        InputError: prompts longer than `max_length` (their ids).
    """
    lead = _lead(tokenizer, bos) if template == "none" else ()
    encoded = [_encode_prompt(tokenizer, item, template, lead) for item in prompts.items]
    _refuse_long(encoded, max_length)
    return encoded


def plan(encoded: Sequence[Encoded], batch_size: int, padding: Padding = "left", pad_id: int = 0) -> list[TokenBatch]:
    """The batches: sorted by length (stable), every item exactly once; fixed by the inputs alone."""
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}; expected at least 1")
    if padding not in ("left", "right"):
        raise InputError(f"padding={padding!r}; expected 'left' or 'right'")
    ordered = sorted(encoded, key=lambda e: len(e.ids))
    chunks = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
    return [_pad(chunk, padding, pad_id) for chunk in chunks]


def _pad(chunk: Sequence[Encoded], padding: Padding, pad_id: int) -> TokenBatch:
    import torch

    width = max(len(e.ids) for e in chunk)

    def rows(values: Sequence[Sequence[int]], fill: int, dtype: torch.dtype) -> Tensor:
        gaps = [[fill] * (width - len(v)) for v in values]
        joined = [[*g, *v] if padding == "left" else [*v, *g] for g, v in zip(gaps, values, strict=True)]
        return torch.tensor(joined, dtype=dtype)

    span = rows([e.span for e in chunk], _PAD, torch.int8)
    ids = rows([e.ids for e in chunk], pad_id, torch.int64)
    return TokenBatch(ids, span != _PAD, span, tuple(e.item for e in chunk), padding)


def _encode(
    tokenizer: Any, item: Item, template: Template, boundary: Boundary, lead: tuple[int, ...], eos: tuple[int, ...]
) -> Encoded:
    if boundary == "concat":
        start = _encode_prompt(tokenizer, item, template, lead)
        answer = _ids(tokenizer, item.answer)
        ids, span = (*start.ids, *answer), (*start.span, *[_ANSWER] * len(answer))
    else:
        joint, spans = _joint(tokenizer, [*_prompt_parts(tokenizer, item, template), (item.answer, _ANSWER)])
        ids, span = (*lead, *joint), (*[_TEMPLATE] * len(lead), *spans)
    return Encoded(item, (*ids, *eos), (*span, *[_ANSWER] * len(eos)))


def _encode_prompt(tokenizer: Any, item: Item, template: Template, lead: tuple[int, ...]) -> Encoded:
    if template == "none":
        ids = _ids(tokenizer, item.prompt)
        span = [_PROMPT] * len(ids)
    else:
        ids, span = _joint(tokenizer, _prompt_parts(tokenizer, item, template))
    return Encoded(item, (*lead, *ids), (*[_TEMPLATE] * len(lead), *span))


def _prompt_parts(tokenizer: Any, item: Item, template: Template) -> list[tuple[str, int]]:
    before, after = _template(tokenizer, item) if template == "chat" else ("", "")
    return [(before, _TEMPLATE), (item.prompt, _PROMPT), (after, _TEMPLATE)]


def _refuse_long(encoded: Sequence[Encoded], max_length: int) -> None:
    long = [f"{e.item.id} ({len(e.ids)} tokens)" for e in encoded if len(e.ids) > max_length]
    if long:
        raise InputError(
            f"{len(long)} item(s) longer than the context of {max_length} tokens: {', '.join(long[:5])}; "
            "remove them (items are never cut)"
        )


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _joint(tokenizer: Any, parts: Sequence[tuple[str, int]]) -> tuple[list[int], list[int]]:
    """Ids of the joined text and the span of each by its characters."""
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} gives no character offsets (a slow tokenizer), which chat templates "
            "and boundary='offsets' need; use boundary='concat' without a template, or save a tokenizer.json"
        )
    enc = tokenizer("".join(t for t, _ in parts), add_special_tokens=False, return_offsets_mapping=True)
    tokens = tokenizer.convert_ids_to_tokens(enc["input_ids"])
    spans: list[int] = []
    previous_end = 0
    for token, (start, end) in zip(tokens, enc["offset_mapping"], strict=True):
        # Some tokenizers trim the space a token holds from its offsets; it is part of the token.
        first = min(start, previous_end) if str(token).startswith(_LEADING_SPACE) else start
        spans.append(_span(first, end, parts))
        previous_end = end
    return list(enc["input_ids"]), spans


def _span(start: int, end: int, parts: Sequence[tuple[str, int]]) -> int:
    edge = 0
    touched: list[int] = []
    for text, kind in parts:
        if start < edge + len(text) and end > edge:
            touched.append(kind)
        edge += len(text)
    if _ANSWER in touched and len(touched) > 1:
        return _STRADDLE
    # A token of template and prompt is no token of the prompt's own.
    return touched[0] if len(touched) == 1 else _TEMPLATE


def _template(tokenizer: Any, item: Item) -> tuple[str, str]:
    """What the chat template puts before and after the user's text."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("template='chat', but this tokenizer has no chat template; use template='none'")

    def rendered(text: str) -> str:
        turns = [{"role": "user", "content": text}]
        return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))

    before, found, after = rendered(_MARK).partition(_MARK)
    if not found or rendered(item.prompt) != before + item.prompt + after:
        raise InputError(
            f"item {item.id}: the chat template changes the prompt's text (e.g. strips it), so its tokens "
            "cannot be told from the template's; strip the prompt, or use template='none'"
        )
    return before, after


def _lead(tokenizer: Any, bos: bool | None) -> tuple[int, ...]:
    """Ids put before every text."""
    if bos is not None:
        return _special(tokenizer, "bos") if bos else ()
    plain, full = _ids(tokenizer, "a"), list(tokenizer("a")["input_ids"])
    if not plain:
        return ()
    starts = [i for i in range(len(full)) if full[i : i + len(plain)] == plain]
    return tuple(full[: starts[0]]) if starts else ()


def _special(tokenizer: Any, name: str) -> tuple[int, ...]:
    value = getattr(tokenizer, f"{name}_token_id")
    if value is None:
        raise InputError(f"this tokenizer has no {name.upper()} token; leave {name} off")
    return (int(value),)
