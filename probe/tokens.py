"""Tokens: the only place that decides special tokens, templates, spans and where prompt and answer meet."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from probe import chat
from probe.batches import ANSWER, PROMPT, SPANS, TEMPLATE, Encoded, Padding, TokenBatch, plan
from probe.ends import own_ends, special
from probe.errors import InputError
from probe.spans import Parts, ids_of, offsets, spanned, with_starts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from probe.items import Item
    from probe.prompts import Prompts

__all__ = [
    "SPANS", "Boundary", "Encoded", "Framing", "Padding", "Template", "TokenBatch", "plan", "tokenised", "tokenize",
    "tokenize_prompts",
]  # fmt: skip

Template = Literal["none", "chat"]
Boundary = Literal["joint", "concat", "offsets"]


@dataclass(frozen=True)
class Framing:
    """What is put around every text: a property of how a model is used, so it travels with the model.

    Attributes:
        bos: True or False forces BOS on or off; None follows the tokenizer. A chat template decides for itself.
        template_options: variables of the chat template (`enable_thinking`, a date ...).
    """

    bos: bool | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def identity(self) -> list[str]:
        """What of it can change a number; [] where tokenizer and template decide."""
        return [] if self == Framing() else [repr((self.bos, sorted(self.template_options.items(), key=str)))]

    def ends(self, tokenizer: PreTrainedTokenizerBase, template: Template) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids before every text and after every answered one."""
        if template != "none":
            return (), ()
        lead, tail = own_ends(tokenizer)
        return (lead if self.bos is None else special(tokenizer, "bos") if self.bos else ()), tail


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Prompts,
    *,
    template: Template = "none",
    boundary: Boundary = "joint",
    bos: bool | None = None,
    template_options: Mapping[str, object] | None = None,
    include_eos: bool = False,
    max_length: int,
) -> list[Encoded]:
    """Each item's ids and spans, in the order of the prompts.

    Args:
        tokenizer: a Hugging Face tokenizer.
        prompts: the items.
        template: `chat` puts the prompt (a conversation, or one user's turn) through the tokenizer's chat template,
            the answer as the assistant's turn.
        boundary: `joint` tokenises prompt and answer as one text, as training and generation meet it; the answer's
            tokens are those from the first one on where the ids of the prompt alone and of the whole part, one that
            straddles the boundary included. `concat` tokenises the two apart and joins the ids. `offsets` is joint
            and leaves tokens with characters of both out of prompt and answer (span `straddle`).
        bos: True or False forces BOS on or off; None follows the tokenizer. A text that begins with BOS gets no
            second one, and a chat template decides for itself.
        template_options: variables of the chat template (`enable_thinking`, a date ...).
        include_eos: end the answer with EOS, or with the template's end of turn (span `answer`).
        max_length: the model's context. A longer item is an error, never cut.

    Raises:
        InputError: over-length items (their ids), no chat template, no BOS/EOS where one is asked for, a
            conversation without a template, `offsets` or `chat` without a fast tokenizer, an empty answer, an answer
            that has no token of its own.
    """
    _check_boundary(boundary)
    empty = [i.id for i in prompts.items if i.abstain]
    if empty:
        raise InputError(
            f"an empty answer in item(s) {', '.join(empty[:5])}: nothing to score; leave unanswerable items out"
        )
    how = Framing(bos, template_options or {})
    encode = partial(
        _encode, tokenizer, template=template, how=how, ends=how.ends(tokenizer, template), eos=include_eos
    )
    encoded = [encode(item, boundary=boundary) for item in prompts.items]
    _tell(tokenizer, encoded, boundary, partial(encode, boundary="joint"))
    _refuse_long(encoded, max_length)
    bare = [e.item.id for e in encoded if ANSWER not in e.span]
    if bare:
        raise InputError(f"answer without a token of its own in item(s) {', '.join(bare[:5])} (boundary={boundary})")
    return encoded


def tokenize_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Prompts,
    *,
    template: Template = "none",
    bos: bool | None = None,
    template_options: Mapping[str, object] | None = None,
    max_length: int,
) -> list[Encoded]:
    """Each item's prompt alone (no answer), as generation meets it.

    Args:
        tokenizer: gives the ids.
        prompts: the items.
        template: whether prompts go through the chat template.
        bos: put BOS before, or not; None as the tokenizer does.
        template_options: variables of the template.
        max_length: most tokens.

    Raises:
        InputError: prompts longer than `max_length` (their ids), a conversation without a template.
    """
    how = Framing(bos, template_options or {})
    lead, _ = how.ends(tokenizer, template)
    encoded: list[Encoded] = []
    for item in prompts.items:
        parts = _asked(tokenizer, item, template, how)
        ids, span = spanned(tokenizer, parts)
        encoded.append(_led(Encoded(item, tuple(ids), tuple(span)), lead))
    _refuse_long(encoded, max_length)
    return encoded


_TOLD: ContextVar[dict[tuple[str, str], frozenset[str]] | None] = ContextVar("tokenised", default=None)


@contextmanager
def tokenised() -> Generator[dict[tuple[str, str], frozenset[str]]]:
    """How prompt and answer met in every item tokenised within the block, by the item's key.

    `straddle`: the answer's first token begins with characters of the prompt. `other_ids`: tokenised apart, they are
    not the joint text's. `other_text`: tokenised apart, they spell another text.
    """
    told: dict[tuple[str, str], frozenset[str]] = {}
    before = _TOLD.set(told)
    try:
        yield told
    finally:
        _TOLD.reset(before)


def _tell(
    tokenizer: PreTrainedTokenizerBase, encoded: Sequence[Encoded], boundary: Boundary, joint: Callable[[Item], Encoded]
) -> None:
    told = _TOLD.get()
    if told is None:
        return
    for one in encoded:
        kinds = {"straddle"} if one.straddle else set[str]()
        if boundary == "concat" and (other := joint(one.item)).ids != one.ids:
            kinds.add("other_ids")
            if tokenizer.decode(list(other.ids)) != tokenizer.decode(list(one.ids)):
                kinds.add("other_text")
        told[one.item.key] = frozenset(kinds)


def _encode(
    tokenizer: PreTrainedTokenizerBase,
    item: Item,
    *,
    template: Template,
    boundary: Boundary,
    how: Framing,
    ends: tuple[tuple[int, ...], tuple[int, ...]],
    eos: bool,
) -> Encoded:
    lead, tail = ends
    before, answer, end = _answered(tokenizer, item, template, how)
    straddle = 0
    if boundary == "concat":
        ids, span = spanned(tokenizer, before)
        apart = ids_of(tokenizer, answer)
        ids, span = [*ids, *apart], [*span, *[ANSWER] * len(apart)]
    elif boundary == "offsets":
        ids, span = offsets(tokenizer, [*before, (answer, ANSWER)])
    else:
        ids, span, straddle = _joint(tokenizer, before, answer)
    if eos:
        tail = _end_of_turn(tokenizer, end) or special(tokenizer, "eos")
    closing = () if not tail or tuple(ids[-len(tail) :]) == tuple(tail) else tail
    whole = Encoded(item, (*ids, *closing), (*span, *[ANSWER] * len(closing)), straddle)
    return _led(whole, lead)


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, end: str) -> tuple[int, ...]:
    """The special token with which the template ends the answer's turn, if it does."""
    first = ids_of(tokenizer, end)[:1] if end else []
    return tuple(i for i in first if i in tokenizer.added_tokens_decoder)


def _asked(tokenizer: PreTrainedTokenizerBase, item: Item, template: Template, how: Framing) -> Parts:
    """The prompt, cut into the template's and the turns' own text."""
    if template == "none":
        _refuse_conversation(item)
        return [(item.prompt, PROMPT)]
    written = chat.asked(tokenizer, item, how.template_options)
    return _cut(written.text, written.own)


def _answered(
    tokenizer: PreTrainedTokenizerBase, item: Item, template: Template, how: Framing
) -> tuple[Parts, str, str]:
    """The prompt's parts up to the answer, the answer, and what the template writes after it."""
    if template == "none":
        return _asked(tokenizer, item, template, how), item.answer, ""
    written = chat.answered(tokenizer, item, how.template_options)
    return _cut(written.text[: written.start], written.own), written.text[written.start :], written.end


def _cut(text: str, own: Sequence[tuple[int, int]]) -> Parts:
    parts: Parts = []
    at = 0
    for start, stop in own:
        parts += [(text[at:start], TEMPLATE), (text[start:stop], PROMPT)]
        at = stop
    return [*parts, (text[at:], TEMPLATE)]


def _joint(tokenizer: PreTrainedTokenizerBase, before: Parts, answer: str) -> tuple[list[int], list[int], int]:
    """Ids of the whole text, their spans, and how many tokens of the answer begin in the prompt."""
    alone, span = spanned(tokenizer, before)
    length = sum(len(text) for text, _ in before)
    ids, starts = with_starts(tokenizer, "".join(text for text, _ in before) + answer)
    pairs = enumerate(zip(alone, ids, strict=False))
    first = next((n for n, (a, b) in pairs if a != b), min(len(alone), len(ids)))
    straddle = 0
    if first < len(alone) and first < len(ids):  # the prompt's own end is not in the whole: a token holds both
        inside = [s < length for s in starts[first:]] if starts else [True]
        straddle = max(1, sum(inside))
    return ids, [*span[:first], *[ANSWER] * (len(ids) - first)], straddle


def _led(of: Encoded, lead: tuple[int, ...]) -> Encoded:
    """With the ids that begin every text, unless the text begins with them already."""
    if not lead:
        return of
    n = len(lead)
    if of.ids[:n] == lead:
        return replace(of, span=(*[TEMPLATE] * n, *of.span[n:]))
    return replace(of, ids=(*lead, *of.ids), span=(*[TEMPLATE] * n, *of.span))


def _refuse_conversation(item: Item) -> None:
    if item.chat and (item.chat.before or item.chat.tools or item.chat.last.get("role") != "user"):
        raise InputError(f"item {item.id} is a conversation of {len(item.messages)} turns: give --template chat")


def _check_boundary(boundary: str) -> None:
    if boundary not in get_args(Boundary):
        raise InputError(f"boundary={boundary!r}; expected one of {', '.join(get_args(Boundary))}")


def _refuse_long(encoded: Sequence[Encoded], max_length: int) -> None:
    long = [f"{e.item.id} ({len(e.ids)} tokens)" for e in encoded if len(e.ids) > max_length]
    if long:
        raise InputError(
            f"{len(long)} item(s) longer than the context of {max_length} tokens: {', '.join(long[:5])}; "
            "remove them (items are never cut)"
        )
