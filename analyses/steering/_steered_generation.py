"""Greedy responses under many doses and sets of neurons at once: one stream, a row for every prompt and arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from analyses.core.progress import progress
from probe import backends
from probe.backends.visits import Visitor
from probe.completions import Completion
from probe.generation import encoded_of, prompt_batches
from probe.interventions import Edit
from probe.sampling import Sampling
from probe.sites import Site
from probe.stream import Stream

if TYPE_CHECKING:
    from probe import Model, Prompts, TokenBatch

ROWS_AT_ONCE = 256  # prompts x arms in one stream
SteerAt = Literal["all", "generated"]


def steered_completions(
    model: Model,
    prompts: Prompts,
    layer: int,
    factors: Float[Tensor, "arm neuron"],
    *,
    max_new_tokens: int,
    steer_at: SteerAt = "all",
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
) -> list[list[Completion]]:
    """For every arm, the greedy completions of the prompts (in their order) with keys multiplied by its factors.

    `all` steers the prompt's tokens and every generated one; `generated` leaves the prompt alone, so its forward
    pass is computed once for all arms. The same tokens as one `Model.generate` per arm, up to rounding of logits
    that tie.
    """
    how = Sampling(max_new_tokens)
    arms = len(factors)
    size = max(1, min(batch_size, ROWS_AT_ONCE // arms)) if arms <= ROWS_AT_ONCE else 1
    batches = prompt_batches(model, prompts, how, size, template)
    found: dict[tuple[tuple[str, str], int], Completion] = {}
    with torch.no_grad():
        for batch in progress(batches, "steered responses", total=len(batches)):
            done = _Arms(
                model, batch, layer, factors.to(model.device), how, shares_prompt=steer_at == "generated"
            ).run()
            found |= {(c.item.key, c.sample): c for c in done}
    return [[found[item.key, arm] for item in prompts.items] for arm in range(arms)]


class _Arms(Stream):
    """A stream whose rows are (prompt, arm), arms next to each other; each row's keys have their own factors."""

    def __init__(
        self, model: Model, batch: TokenBatch, layer: int, factors: Tensor, how: Sampling, *, shares_prompt: bool
    ) -> None:
        super().__init__(model, encoded_of(batch), [], how, len(batch))
        self.copies = len(factors)
        self.site, self.factors, self.shares_prompt = Site("mlp_post", layer), factors, shares_prompt

    def _visits(self, arms: Sequence[int], mask: Tensor | None = None) -> dict[Site, Visitor]:
        """The visitor of rows of these arms; without a mask at every position."""
        factor = self.factors[torch.tensor(arms, device=self.factors.device)][:, None]
        edit = Edit(self.site, lambda x: x * factor.to(x))
        return {self.site: Visitor(self.site, keep=False, edits=[(edit, mask)])}

    def _prefill(self, batch: TokenBatch) -> tuple[Any, Float[Tensor, "row vocab"]]:
        if self.shares_prompt:
            return super()._prefill(batch)
        cache, every = self.model.backend.new_cache(), _repeated(batch, self.copies)
        tokens = backends.Tokens(every.ids, every.mask, every.position_ids, cache)
        arms = [*range(self.copies)] * len(batch)
        return cache, self._forward(tokens, self._visits(arms, every.mask))

    def _decode_visits(self) -> dict[Site, Visitor]:
        return self._visits([self.who[row][1] for row in self.rows])


def _repeated(batch: TokenBatch, times: int) -> TokenBatch:
    tensors = {name: getattr(batch, name).repeat_interleave(times, 0) for name in ("ids", "mask", "span")}
    items: Sequence[object] = [item for item in batch.items for _ in range(times)]
    return replace(batch, items=tuple(items), **tensors)  # type: ignore[arg-type]
