"""Greedy responses under many doses and sets of neurons at once: one stream, a row for every prompt and arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.core.progress import progress
from probe import backends
from probe.backends.visits import Visitor
from probe.generation import Completion, Sampling, Stream, prompt_batches
from probe.interventions import Edit
from probe.sites import Site

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
            found |= {(c.item.key, row % arms): c for row, c in enumerate(done)}
    return [[found[item.key, arm] for item in prompts.items] for arm in range(arms)]


class _Arms(Stream):
    """A stream whose rows are (prompt, arm), arms next to each other; each row's keys have their own factors."""

    def __init__(
        self, model: Model, batch: TokenBatch, layer: int, factors: Tensor, how: Sampling, *, shares_prompt: bool
    ) -> None:
        super().__init__(model, _repeated(batch, len(factors)), [], how)
        self.site, self.factors, self.shares_prompt = Site("mlp_post", layer), factors, shares_prompt
        self.once = batch.to(model.device)
        self.arm: Int[Tensor, " row"] = torch.arange(len(factors), device=model.device).repeat(len(batch))

    def _visits(self, mask: Tensor | None = None) -> dict[Site, Visitor]:
        """The visitor of the present rows; without a mask at every position."""
        factor = self.factors[self.arm[torch.tensor(self.rows, device=self.arm.device)]][:, None]
        edit = Edit(self.site, lambda x: x * factor.to(x))
        return {self.site: Visitor(self.site, keep=False, edits=[(edit, mask)])}

    def _prefill(self) -> Float[Tensor, "row vocab"]:
        if not self.shares_prompt:
            self.cache = self.model.backend.new_cache()
            batch = self.batch
            tokens = backends.Tokens(batch.ids, batch.mask, batch.position_ids, self.cache)
            return self._forward(tokens, self._visits(batch.mask))
        self.cache = self.model.backend.new_cache()
        tokens = backends.Tokens(self.once.ids, self.once.mask, self.once.position_ids, self.cache)
        logits = self._forward(tokens, {})
        self.cache.batch_repeat_interleave(len(self.factors))
        return logits.repeat_interleave(len(self.factors), 0)

    def _decode_visits(self) -> dict[Site, Visitor]:
        return self._visits()


def _repeated(batch: TokenBatch, times: int) -> TokenBatch:
    tensors = {name: getattr(batch, name).repeat_interleave(times, 0) for name in ("ids", "mask", "span")}
    items: Sequence[object] = [item for item in batch.items for _ in range(times)]
    return replace(batch, items=tuple(items), **tensors)  # type: ignore[arg-type]
