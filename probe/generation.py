"""Generation with edits: which prompts are computed together. `probe.stream` lets them grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from probe.batches import padded, plan
from probe.completions import Completion, Completions
from probe.errors import InputError
from probe.prompts import Prompts
from probe.sampling import Sampling
from probe.stream import OnText, Stream
from probe.texts import Texts, asked
from probe.tokens import SPANS, Encoded, Template, TokenBatch, tokenize_prompts

if TYPE_CHECKING:
    from probe.handle import Handle
    from probe.interventions import Edit

MOST_ROWS = 256
MOST_BYTES = 2 * 2**30
"""What rows may take if their number is not given: fixed, so that they are the same on every machine."""


def generate(
    model: Handle,
    prompts: Texts,
    edits: Sequence[Edit],
    sampling: Sampling,
    batch_size: int | None,
    template: Template | None,
    on_text: OnText | None = None,
) -> Completions:
    """Every completion, in the order of the prompts, then by sample (see `Model.generate`).

    Args:
        model: the handle.
        prompts: texts, items or a batch.
        edits: edits open while it generates.
        sampling: temperature, top_p, samples, seed and lengths.
        batch_size: prompts computed together, None for what fits.
        template: whether prompts go through the chat template.
        on_text: is called with texts while they grow.
    """
    if isinstance(prompts, TokenBatch):
        (batch,) = prompt_batches(model, prompts, sampling, len(prompts), "none")
        return Completions(_done(model, [(encoded_of(batch), len(batch))], edits, sampling, on_text))
    if not isinstance(prompts, Prompts):
        of = asked(prompts)
        prompts, template = of.prompts, template or of.template
    encoded = _encoded(model, prompts, sampling, template or "none")
    at_once = model.at_once(batch_size or prompts_at_once(model, encoded, sampling))
    done = _done(model, _parts(model, encoded, sampling, at_once), edits, sampling, on_text)
    order = {item.key: n for n, item in enumerate(prompts.items)}
    return Completions(sorted(done, key=lambda c: (order[c.item.key], c.sample)))


def _done(
    model: Handle,
    parts: Sequence[tuple[list[Encoded], int]],
    edits: Sequence[Edit],
    sampling: Sampling,
    on_text: OnText | None,
) -> list[Completion]:
    """Completions of each part, by the model's server where it has one."""
    if model.server is None:
        return [c for part, together in parts for c in Stream(model, part, edits, sampling, together, on_text).run()]
    if edits:
        raise InputError(
            f"{model.server.url}: a server cannot edit activations; generate here, without --generate-with"
        )
    return model.server.generate(model, [one for part, _ in parts for one in part], sampling)


def prompts_at_once(model: Handle, encoded: Sequence[Encoded], sampling: Sampling) -> int:
    """Prompts to compute together if nobody says: up to `MOST_ROWS` rows that take at most `MOST_BYTES`.

    Args:
        model: the handle.
        encoded: the tokenized prompts.
        sampling: temperature, top_p, samples, seed and lengths.
    """
    shape = model.shape
    longest = max((len(e.ids) for e in encoded), default=1) + sampling.max_new_tokens
    row = 2 * shape.n_layers * shape.n_kv_heads * shape.d_head * longest * model.dtype.itemsize
    row += 8 * 4 * shape.d_vocab  # the logits of a token, and copies of them where it is drawn
    rows = min(MOST_ROWS, MOST_BYTES // row)
    return max(1, min(len(encoded), rows // sampling.n_samples))


def _encoded(model: Handle, prompts: Prompts, sampling: Sampling, template: Template) -> list[Encoded]:
    """The prompts' tokens, the shortest first; every prompt leaves room for the new tokens."""
    room = model.shape.n_ctx - sampling.max_new_tokens
    found = tokenize_prompts(model.tokenizer, prompts, template=template, max_length=room, **asdict(model.framing))
    return sorted(found, key=lambda e: len(e.ids))


def _parts(
    model: Handle, encoded: Sequence[Encoded], sampling: Sampling, at_once: int
) -> list[tuple[list[Encoded], int]]:
    """Prompts that may share a batch, and how many of them at once."""
    if not model.turn:
        return [(list(encoded), at_once)]
    # Prompts that pass the turn while they grow are alone: the others of a batch would turn with them.
    grown = [(len(e.ids) > model.turn, len(e.ids) + sampling.max_new_tokens > model.turn) for e in encoded]
    within, beyond = ([e for e, at in zip(encoded, grown, strict=True) if at == (far, far)] for far in (False, True))
    alone = [([e], 1) for e, at in zip(encoded, grown, strict=True) if at == (False, True)]
    return [*((part, at_once) for part in (within, beyond) if part), *alone]


def prompt_batches(
    model: Handle, prompts: Prompts | TokenBatch, sampling: Sampling, batch_size: int, template: Template
) -> list[TokenBatch]:
    """Left-padded batches of prompts alone; every prompt leaves room for the new tokens.

    Args:
        model: the handle.
        prompts: items or a batch.
        sampling: temperature, top_p, samples, seed and lengths.
        batch_size: prompts in a batch.
        template: whether prompts go through the chat template.
    """
    if isinstance(prompts, TokenBatch):
        batch = _without_answers(prompts, model.shape.n_ctx - sampling.max_new_tokens, model.pad_id)
        if model.turn is not None and len(batch) > 1 and _classes(batch.mask.sum(-1).tolist(), sampling, model.turn):
            raise InputError(
                f"a batch whose items pass {model.turn} tokens while they are generated: this model's rotary "
                "frequencies (longrope) change there for the whole batch. Give the prompts instead of a batch"
            )
        return [batch]
    encoded = _encoded(model, prompts, sampling, template)
    parts = _parts(model, encoded, sampling, model.at_once(batch_size))
    return [b for part, together in parts for b in plan(part, together, "left", model.pad_id)]


def encoded_of(batch: TokenBatch) -> list[Encoded]:
    """The rows of a batch without their padding."""
    rows = zip(batch.items, batch.ids, batch.span, batch.mask, strict=True)
    return [Encoded(item, tuple(ids[real].tolist()), tuple(span[real].tolist())) for item, ids, span, real in rows]


def _classes(lengths: Sequence[int], sampling: Sampling, turn: int) -> bool:
    """Whether some of these lengths are, or come to be, on another side of the turn than others."""
    return len({n > turn for n in lengths} | {n + sampling.max_new_tokens > turn for n in lengths}) > 1


def _without_answers(batch: TokenBatch, room: int, pad_id: int) -> TokenBatch:
    """The batch's prompts, in its own order."""
    kept = (batch.span == SPANS.index("prompt")) | (batch.span == SPANS.index("template"))
    rows = [
        Encoded(item, tuple(batch.ids[i][kept[i]].tolist()), tuple(batch.span[i][kept[i]].tolist()))
        for i, item in enumerate(batch.items)
    ]
    long = [e.item.id for e in rows if len(e.ids) > room]
    if long:
        raise InputError(f"prompts of item(s) {', '.join(long[:5])} leave no room for the new tokens")
    return padded(rows, "left", pad_id)
