"""A stream of generation: prompts join where rows have ended, rows that have ended leave.

All rows share one forward pass per token. Prompts wait in the order given; once an eighth of the rows is free, as many
join as there is room for, computed once for all their samples. A cache that holds more than keys and values (running
states) takes no newcomers: there the prompts go in one lot after another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from probe import backends, caches, finite
from probe.backends.visits import Visitor, check_passed, visitors
from probe.batches import padded
from probe.completions import Completion, Finish
from probe.sampling import Sampling, sample, uniforms
from probe.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from probe.batches import Encoded, TokenBatch
    from probe.handle import Handle
    from probe.interventions import Edit

OnText: TypeAlias = Callable[[Sequence[str]], None]
"""Told the texts so far, after every token."""

FREE = 8
"""Rows that have ended leave, and prompts join, once they are this part of all."""


class Stream:
    """The rows of a generation while they grow; `copies` rows for every prompt, `at_once` prompts together.

    `rows` are the numbers of those computed now, in the order in which their prompts joined, then by copy.
    """

    def __init__(
        self,
        model: Handle,
        prompts: Sequence[Encoded],
        edits: Sequence[Edit],
        sampling: Sampling,
        at_once: int,
        on_text: OnText | None = None,
    ) -> None:
        self.on_text = on_text
        self.model, self.edits, self.sampling, self.at_once = model, tuple(edits), sampling, at_once
        self.copies = sampling.n_samples
        self.waiting = list(prompts)
        self.who: list[tuple[Encoded, int]] = []
        self.drawn: list[list[int]] = []
        self.finish: list[Finish | None] = []
        self.rows: list[int] = []
        self.uniform: list[Tensor] = []
        self.cache: Any = None
        self.mask: Tensor = torch.zeros(0, 0, dtype=torch.bool)

    def run(self) -> list[Completion]:
        """Every completion, by prompt then copy."""
        logits: Tensor | None = None
        while self.waiting or self.rows:
            logits = self._joined(logits)
            self._refuse_non_finite(logits)
            ids = self._draw(logits)
            self._record(ids.tolist())
            if self.on_text:
                self.on_text([self._completion(n).text for n in range(len(self.who))])
            kept = self._leave()
            logits = self._step(ids if kept is None else ids[kept]) if self.rows else None
        return [self._completion(n) for n in range(len(self.who))]

    def _joined(self, logits: Float[Tensor, "row vocab"] | None) -> Float[Tensor, "row vocab"]:
        """The next token's logits, with those of the prompts that join now."""
        room = self.at_once - -(-len(self.rows) // self.copies)
        if logits is not None and (room * FREE < self.at_once or not self.waiting or not caches.can_join(self.cache)):
            return logits
        lot, self.waiting = self.waiting[:room], self.waiting[room:]
        batch = padded(lot, "left", self.model.pad_id).to(self.model.device)
        cache, first = self._prefill(batch)
        self._admit(lot, batch.mask.repeat_interleave(self.copies, 0), cache)
        return first if logits is None else torch.cat([logits, first])

    def _admit(self, lot: Sequence[Encoded], mask: Tensor, cache: Any) -> None:
        own = [(one, copy) for one in lot for copy in range(self.copies)]
        self.rows += range(len(self.who), len(self.who) + len(own))
        self.who += own
        self.drawn += [[] for _ in own]
        self.finish += [None] * len(own)
        if self.sampling.temperature:
            self.uniform += [uniforms(one.item, copy, self.sampling) for one, copy in own]
        if len(own) == len(self.rows):
            self.cache, self.mask = cache, mask
            return
        caches.join(self.cache, cache)
        width = max(self.mask.shape[1], mask.shape[1])
        wide = [torch.nn.functional.pad(m, (width - m.shape[1], 0)) for m in (self.mask, mask)]
        self.mask = torch.cat(wide)

    def _prefill(self, batch: TokenBatch) -> tuple[Any, Float[Tensor, "row vocab"]]:
        """A cache of the prompts, and the logits of their first tokens; a row for every copy of each."""
        cache = self.model.backend.new_cache()
        visits = visitors([], self.edits, batch, self.model.site)
        logits = self._forward(backends.Tokens(batch.ids, batch.mask, batch.position_ids, cache), visits)
        if self.copies > 1:
            cache.batch_repeat_interleave(self.copies)
        return cache, logits.repeat_interleave(self.copies, 0)

    def _step(self, ids: Int[Tensor, " row"]) -> Float[Tensor, "row vocab"]:
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=True)
        places = [len(self.who[n][0].ids) + len(self.drawn[n]) - 1 for n in self.rows]
        positions = torch.tensor(places, device=ids.device)[:, None]
        return self._forward(backends.Tokens(ids[:, None], self.mask, positions, self.cache), self._decode_visits())

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

    def _refuse_non_finite(self, logits: Float[Tensor, "row vocab"]) -> None:
        """The arg max of NaN is a token like any other. Rows that have ended are not looked at."""
        going = [n for n, row in enumerate(self.rows) if self.finish[row] is None]

        def where(n: int) -> tuple[str, str, int]:
            row = self.rows[going[n]]
            one = self.who[row][0]
            return f"{finite.label(self.model)}: logits", one.item.id, len(one.ids) + len(self.drawn[row]) - 1

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

    def _draw(self, logits: Float[Tensor, "row vocab"]) -> Int[Tensor, " row"]:
        if self.sampling.temperature == 0:
            return logits.argmax(-1)
        last = self.sampling.max_new_tokens - 1
        at = [self.uniform[row][min(len(self.drawn[row]), last)] for row in self.rows]
        return sample(logits, self.sampling, torch.stack(at).to(logits.device))

    def _record(self, ids: Sequence[int]) -> None:
        for row, token in zip(self.rows, ids, strict=True):
            if self.finish[row] is not None:
                continue
            self.drawn[row].append(token)
            if token in self.model.eos_ids:
                self.finish[row] = "eos"
            elif self.sampling.stop and self._stops(self.drawn[row]):
                self.finish[row] = "stop"
            elif len(self.drawn[row]) == self.sampling.max_new_tokens:
                self.finish[row] = "length"

    def _stops(self, drawn: list[int]) -> bool:
        # A stop string's last character came with the last token; no token is shorter than a byte.
        longest = max(len(s.encode()) for s in self.sampling.stop)
        tail = self.model.tokenizer.decode(drawn[-longest - 4 :], skip_special_tokens=True)
        return any(s in tail for s in self.sampling.stop)

    def _leave(self) -> Int[Tensor, " kept"] | None:
        """Drop rows that have ended once they are an eighth of those computed; the places of the others, or None."""
        keep = [i for i, row in enumerate(self.rows) if self.finish[row] is None]
        if (len(self.rows) - len(keep)) * FREE < len(self.rows) or len(keep) == len(self.rows):
            return None
        self.rows = [self.rows[i] for i in keep]
        index = torch.tensor(keep, device=self.mask.device, dtype=torch.long)
        if keep:
            self.cache.batch_select_indices(index)
            self.mask = self.mask[index]
            self._trim()
        return index

    def _trim(self) -> None:
        """Drop the columns in which no row has a token any more."""
        empty = int(self.mask.any(0).int().argmax())
        if empty and caches.can_join(self.cache):
            caches.trim(self.cache, empty)
            self.mask = self.mask[:, empty:]

    def _completion(self, n: int) -> Completion:
        one, number = self.who[n]
        text = self.model.tokenizer.decode(self.drawn[n], skip_special_tokens=True)
        if self.finish[n] == "stop":
            text = text[: min(at for at in (text.find(s) for s in self.sampling.stop) if at >= 0)]
        return Completion(one.item, number, tuple(self.drawn[n]), text, self.finish[n] or "length")
