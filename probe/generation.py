"""Generation with edits: batched, left-padded, with a key-value cache and one random stream per sample."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from probe import backends, finite
from probe.backends.visits import Visitor, check_passed, visitors
from probe.batches import padded
from probe.completions import Completion, Completions, Finish
from probe.errors import InputError
from probe.prompts import Item, Prompts
from probe.sites import Site
from probe.texts import Texts, asked
from probe.tokens import SPANS, Encoded, Template, TokenBatch, plan, tokenize_prompts

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from probe.handle import Handle
    from probe.interventions import Edit


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: greedily at temperature 0, else from the top-p mass of the softmax."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    n_samples: int = 1

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.n_samples < 1:
            raise InputError(f"max_new_tokens={self.max_new_tokens}, n_samples={self.n_samples}; expected at least 1")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise InputError(f"temperature={self.temperature}, top_p={self.top_p}; expected >= 0 and in (0, 1]")
        if self.temperature == 0 and self.n_samples > 1:
            raise InputError(f"n_samples={self.n_samples} at temperature 0 would be the same text each time")
        if "" in self.stop:
            raise InputError("an empty stop string stops at once; leave it out")


def generate(
    model: Handle,
    prompts: Texts,
    edits: Sequence[Edit],
    sampling: Sampling,
    batch_size: int,
    template: Template | None,
) -> Completions:
    """Every completion, in the order of the prompts, then by sample (see `Model.generate`)."""
    if not isinstance(prompts, Prompts | TokenBatch):
        of = asked(prompts)
        prompts, template = of.prompts, template or of.template
    batches = prompt_batches(model, prompts, sampling, batch_size, template or "none")
    done = [c for batch in batches for c in Stream(model, batch, edits, sampling).run()]
    if isinstance(prompts, TokenBatch):
        return Completions(done)
    order = {item.key: n for n, item in enumerate(prompts.items)}
    return Completions(sorted(done, key=lambda c: (order[c.item.key], c.sample)))


def prompt_batches(
    model: Handle, prompts: Prompts | TokenBatch, sampling: Sampling, batch_size: int, template: Template
) -> list[TokenBatch]:
    """Left-padded batches of prompts alone; every prompt leaves room for the new tokens."""
    room = model.shape.n_ctx - sampling.max_new_tokens
    if isinstance(prompts, TokenBatch):
        batch = _without_answers(prompts, room, model.pad_id)
        if model.turn is not None and len(batch) > 1 and _classes(batch.mask.sum(-1).tolist(), sampling, model.turn):
            raise InputError(
                f"a batch whose items pass {model.turn} tokens while they are generated: this model's rotary "
                "frequencies (longrope) change there for the whole batch. Give the prompts instead of a batch"
            )
        return [batch]
    encoded = tokenize_prompts(model.tokenizer, prompts, template=template, max_length=room, **asdict(model.framing))
    if model.turn is None:
        return plan(encoded, model.at_once(batch_size), "left", model.pad_id)
    # Prompts that pass the turn while they grow are alone: the others of a batch would turn with them.
    parts: dict[bool, list[Encoded]] = {False: [], True: []}
    for one in encoded:
        parts[len(one.ids) <= model.turn < len(one.ids) + sampling.max_new_tokens].append(one)
    together = plan(parts[False], batch_size, "left", model.pad_id, model.turn)
    return [*together, *plan(parts[True], 1, "left", model.pad_id)]


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


class Stream:
    """The rows of one batch while they grow. Finished rows leave when half of the rows have."""

    def __init__(self, model: Handle, batch: TokenBatch, edits: Sequence[Edit], sampling: Sampling) -> None:
        self.model, self.edits, self.sampling = model, tuple(edits), sampling
        self.batch = batch.to(model.device)
        n, copies = len(batch), sampling.n_samples
        self.who = [(row, sample) for row in range(n) for sample in range(copies)]
        self.drawn: list[list[int]] = [[] for _ in self.who]
        self.finish: list[Finish | None] = [None] * len(self.who)
        self.rows = list(range(len(self.who)))
        self.uniform = _uniform(self.batch, sampling).to(model.device)
        self.cache: Any = None
        room = torch.ones(n, sampling.max_new_tokens, dtype=torch.bool, device=self.batch.mask.device)
        self.mask = torch.cat([self.batch.mask, room], 1).repeat_interleave(copies, 0)
        self.length = self.batch.mask.sum(-1).repeat_interleave(copies)

    def run(self) -> list[Completion]:
        """Every completion, by item then sample."""
        logits = self._prefill()
        for step in range(self.sampling.max_new_tokens):
            self._refuse_non_finite(logits, step)
            ids = self._draw(logits, step)
            self._record(ids)
            if step + 1 == self.sampling.max_new_tokens or not any(self.finish[r] is None for r in self.rows):
                break
            ids = self._compact(ids)
            logits = self._step(ids, step)
        return [self._completion(i) for i in range(len(self.who))]

    def _prefill(self) -> Float[Tensor, "row vocab"]:
        self.cache = self.model.backend.new_cache()
        visits = visitors([], self.edits, self.batch, self.model.site)
        tokens = backends.Tokens(self.batch.ids, self.batch.mask, self.batch.position_ids, self.cache)
        logits = self._forward(tokens, visits)
        copies = self.sampling.n_samples
        if copies > 1:
            self.cache.batch_repeat_interleave(copies)
        return logits.repeat_interleave(copies, 0)

    def _step(self, ids: Int[Tensor, " row"], step: int) -> Float[Tensor, "row vocab"]:
        visits = self._decode_visits()
        width = self.batch.mask.shape[1] + step + 1
        positions = (self.length + step)[:, None]
        return self._forward(backends.Tokens(ids[:, None], self.mask[:, :width], positions, self.cache), visits)

    def _forward(self, tokens: backends.Tokens, visits: dict[Site, Visitor]) -> Float[Tensor, "row vocab"]:
        final = visits.get(Site("logits"))
        inner = {s: v for s, v in visits.items() if v is not final}
        hidden = self.model.backend.forward(tokens, inner)
        if final is None:
            out = self.model.backend.head(hidden[:, -1])
        else:
            # The edit sees every position, as in a run.
            whole = self.model.backend.head(hidden)
            changed = final(whole)
            out = (whole if changed is None else changed)[:, -1]
        check_passed(visits)
        return out.to(self.model.device)

    def _refuse_non_finite(self, logits: Float[Tensor, "row vocab"], step: int) -> None:
        """The arg max of NaN is a token like any other. Rows that have ended are not looked at."""
        going = [n for n, row in enumerate(self.rows) if self.finish[row] is None]

        def where(n: int) -> tuple[str, str, int]:
            row = self.who[self.rows[going[n]]][0]
            length = int(self.batch.mask[row].sum())
            return f"{finite.label(self.model)}: logits", self.batch.items[row].id, length + step - 1

        edited = bool(self.edits) or type(self) is not Stream
        read = logits if len(going) == len(logits) else logits[going]
        finite.require_logits(read, where, finite.advice(self.model, edited))

    def _decode_visits(self) -> dict[Site, Visitor]:
        """Visitors of the edits that reach generated tokens."""
        out: dict[Site, Visitor] = {}
        for edit in self.edits:
            if edit.reaches_generated:
                site = edit.site.whole
                out.setdefault(site, Visitor(site, keep=False)).edits.append((edit, None))
        return out

    def _draw(self, logits: Float[Tensor, "row vocab"], step: int) -> Int[Tensor, " row"]:
        if self.sampling.temperature == 0:
            return logits.argmax(-1)
        return sample(logits, self.sampling, self.uniform[self.rows, step])

    def _record(self, ids: Int[Tensor, " row"]) -> None:
        for row, token in zip(self.rows, ids.tolist(), strict=True):
            if self.finish[row] is not None:
                continue
            self.drawn[row].append(token)
            if token in self.model.eos_ids:
                self.finish[row] = "eos"
            elif self.sampling.stop and self._stops(self.drawn[row]):
                self.finish[row] = "stop"

    def _stops(self, drawn: list[int]) -> bool:
        # A stop string's last character came with the last token; no token is shorter than a byte.
        longest = max(len(s.encode()) for s in self.sampling.stop)
        tail = self.model.tokenizer.decode(drawn[-longest - 4 :], skip_special_tokens=True)
        return any(s in tail for s in self.sampling.stop)

    def _compact(self, ids: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        """Drop finished rows once they are half of those computed."""
        keep = [i for i, row in enumerate(self.rows) if self.finish[row] is None]
        if len(keep) * 2 > len(self.rows):
            return ids
        index = torch.tensor(keep, device=ids.device)
        self.cache.batch_select_indices(index)
        self.mask, self.length = self.mask[index], self.length[index]
        self.rows = [self.rows[i] for i in keep]
        return ids[index]

    def _completion(self, i: int) -> Completion:
        row, number = self.who[i]
        text = self.model.tokenizer.decode(self.drawn[i], skip_special_tokens=True)
        if self.finish[i] == "stop":
            text = text[: min(at for at in (text.find(s) for s in self.sampling.stop) if at >= 0)]
        return Completion(self.batch.items[row], number, tuple(self.drawn[i]), text, self.finish[i] or "length")


def sample(
    logits: Float[Tensor, "row vocab"], sampling: Sampling, uniform: Float[Tensor, " row"]
) -> Int[Tensor, " row"]:
    """Ids at the given quantiles of softmax(logits / temperature) cut to its top-p mass.

    Ids are ranked by probability first, so that a draw near a boundary moves to a token of like weight.
    """
    probs = torch.softmax(logits.double() / sampling.temperature, -1)
    ranked, ids = torch.sort(probs, dim=-1, descending=True, stable=True)
    below = ranked.cumsum(-1)
    kept = ranked.masked_fill(below - ranked >= sampling.top_p, 0.0).cumsum(-1)
    chosen = torch.searchsorted(kept, (uniform.double() * kept[:, -1])[:, None], right=True)
    last = (kept < kept[:, -1:]).sum(-1, keepdim=True)
    return ids.gather(1, torch.minimum(chosen, last))[:, 0]


def _uniform(batch: TokenBatch, sampling: Sampling) -> Float[Tensor, "row step"]:
    """One stream per (seed, item, sample), whatever else is in the batch."""

    def stream(item: Item, number: int) -> Tensor:
        digest = hashlib.sha256(f"{sampling.seed}|{item.id}|{number}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.rand(sampling.max_new_tokens, generator=generator, dtype=torch.float64)

    return torch.stack([stream(item, k) for item in batch.items for k in range(sampling.n_samples)])
