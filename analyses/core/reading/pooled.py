"""Pooled hidden states of all items on disk, filled one batch at a time and read one layer at a time.

1,000 items x 29 states x 3,584 dims are 416 MB; only one batch of activations is in memory while they are made,
and only one state of all items while they are read.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from analyses.core.reading.teacher_forced import batches
from analyses.core.reading.where_read import OF_PROMPT, Pooling
from probe.batches import ANSWER, RATIONALE
from probe.errors import InputError

if TYPE_CHECKING:
    from probe import Model, Prompts, TokenBatch
    from probe.prompts import Item


def two_groups(prompts: Prompts, groups: tuple[str, ...], needed: int = 4) -> tuple[str, str]:
    """The two groups to compare.

    Args:
        prompts: the items.
        groups: two names, or none for the only two.
        needed: fewest items of a group.

    Raises:
        InputError: not exactly two, or fewer than `needed` items in one.
    """
    names = groups or prompts.groups
    if len(names) != 2:
        raise InputError(f"groups {list(names)}: exactly two are compared; name them, e.g. groups=('leak', 'stable')")
    count = {name: len({item.id for item in prompts.items if item.group == name}) for name in names}
    if min(count.values()) < needed:
        raise InputError(f"items per group {count}: at least {needed} in each are needed (split halves of two)")
    return names[0], names[1]


def strata_of(states: States, names: tuple[str, ...]) -> np.ndarray[Any, Any] | None:
    """A stratum per item: the joint value of columns of the prompt file, `length` being the number of tokens."""
    if not names:
        return None
    columns = [_column(states, name) for name in names]
    return np.asarray(["|".join(map(str, values)) for values in zip(*columns, strict=True)], dtype=object)


def _column(states: States, name: str) -> list[object]:
    if name == "length":
        edges = np.quantile(states.n_tokens, [1 / 3, 2 / 3])
        return np.digitize(states.n_tokens, edges).tolist()
    missing = [item.id for item in states.items if name not in item.meta]
    if missing:
        raise InputError(f"stratum {name!r}: not a column of item(s) {missing[:3]}; columns or 'length' are possible")
    return [item.meta[name] for item in states.items]


@dataclass(frozen=True)
class States:
    """Pooled residual states [item, state, d_model]: state 0 is the embedding, state l+1 the output of block l.

    Attributes:
        values: memory-mapped float32 array of an unnamed file; slice one state (`values[:, s]`) at a time.
        items: the items, in the order of the prompts.
        n_tokens: number of prompt tokens of each item, a covariate.
    """

    values: np.memmap[Any, Any]
    items: tuple[Item, ...]
    n_tokens: np.ndarray[Any, Any]

    @property
    def groups(self) -> np.ndarray[Any, Any]:
        """Group of each item."""
        return np.asarray([item.group for item in self.items], dtype=object)

    @property
    def ids(self) -> np.ndarray[Any, Any]:
        """Id of each item."""
        return np.asarray([item.id for item in self.items], dtype=object)

    @property
    def n_layers(self) -> int:
        """Number of blocks: one less than the number of states."""
        return self.values.shape[1] - 1

    def layer(self, state: int) -> Float[np.ndarray, "item d_model"]:
        """One state of all items, in float64."""
        return np.asarray(self.values[:, state], dtype=np.float64)

    def update(self, layer: int) -> Float[np.ndarray, "item d_model"]:
        """What block `layer` adds: state[layer + 1] - state[layer]."""
        return self.layer(layer + 1) - self.layer(layer)


def pooled_states(
    model: Model,
    prompts: Prompts,
    *,
    pooling: Pooling = "last_prompt",
    positions: tuple[int, ...] = (),
    what: str = "states",
    **plan: object,
) -> States:
    """Pooled residual states of every item of one checkpoint.

    Args:
        model: the checkpoint.
        prompts: the items; of several answer_kinds of an id the first stands for all (their prompt is the same).
        pooling: which tokens' states stand for an item (see `where_read.Pooling`).
        positions: instead of `pooling`, the mean over these positions: 0 is the item's first token, -1 the last of its
            prompt, -2 the one before.
        what: label of the progress bar.
        plan: options of the batch plan, as in `Model.batches`.

    Raises:
        InputError: an id twice, a span or position that an item has not, or a state that is not finite (model, site,
            item and position are named).
    """
    prompts = _one_per_id(prompts, "positions" if positions else pooling)
    place = {item.id: row for row, item in enumerate(prompts.items)}
    shape = (len(place), model.shape.n_layers + 1, model.shape.d_model)
    with tempfile.TemporaryFile(prefix="probe-states-") as file:  # the mapping outlives the handle; no name is left
        values: np.memmap[Any, Any] = np.memmap(file, np.float32, "w+", shape=shape)
    n_tokens = np.zeros(len(place), dtype=int)
    for batch in batches(model, prompts, what, **plan):
        rows = [place[item.id] for item in batch.items]
        for state, pooled in enumerate(_pool(model, batch, pooling, positions)):
            values[rows, state] = pooled.float().cpu().numpy()
        n_tokens[rows] = (batch.mask & (batch.span < 3)).sum(-1).cpu().numpy()
    return States(values, prompts.items, n_tokens)


def _one_per_id(prompts: Prompts, pooling: str) -> Prompts:
    """Each id once: what is read on the prompt alone is the same for every kind of answer."""
    first: dict[str, Item] = {}
    for item in prompts.items:
        known = first.setdefault(item.id, item)
        if known is not item and (pooling not in OF_PROMPT or known.prompt != item.prompt):
            raise InputError(
                f"item {item.id} occurs with several answer_kinds: pooling={pooling!r} needs one state per item, so "
                "keep one kind (or pool over the prompt, if their prompts are the same)"
            )
    return replace(prompts, items=tuple(first.values()))


def _pool(model: Model, batch: TokenBatch, pooling: Pooling, positions: tuple[int, ...]) -> list[Tensor]:
    """Pooled states of one batch, [item, d_model] for each state."""
    sites = ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(model.shape.n_layers))]
    trace = model.run(batch, read=sites, logits="none")
    weights = position_weights(batch, pooling, positions)
    pooled: list[Tensor] = []
    for site in sites:
        x, w = trace[site].float(), weights.to(trace[site].device).unsqueeze(-1)
        pooled.append((torch.where(w > 0, x, 0.0) * w).sum(1))  # states of padding may be anything, even NaN
    return pooled


def position_weights(batch: TokenBatch, pooling: Pooling, positions: tuple[int, ...] = ()) -> Float[Tensor, "item pos"]:
    """Weights over positions that sum to 1 in each item: of a pooling, or equal ones over chosen positions.

    Args:
        batch: the items.
        pooling: pooling by name, taken where `positions` is empty.
        positions: positions within each prompt.

    Raises:
        InputError: a span or position that an item has not.
    """
    return _at(batch, positions) if positions else _weights(batch, pooling)


def _weights(batch: TokenBatch, pooling: Pooling) -> Float[Tensor, "item pos"]:
    """Weights over positions that sum to 1 in each item; padding has none."""
    if pooling == "last_prompt":
        return torch.nn.functional.one_hot(batch.last_prompt, batch.ids.shape[1]).float()
    if pooling in ("mean_prompt", "mean"):
        kept = batch.mask & (batch.span < 3) if pooling == "mean_prompt" else batch.mask
    else:
        kept = _predicting(batch, pooling)
    return kept.float() / kept.sum(-1, keepdim=True)


def _predicting(batch: TokenBatch, pooling: Pooling) -> Bool[Tensor, "item pos"]:
    """True at states that predict tokens of the answer (all, its first, its last) or of the rationale."""
    span = RATIONALE if pooling == "rationale" else ANSWER
    kept = torch.zeros_like(batch.mask)
    kept[:, :-1] = (batch.span == span)[:, 1:] & batch.mask[:, :-1]
    bare = [item.id for item, any_ in zip(batch.items, kept.any(-1).tolist(), strict=True) if not any_]
    if bare:
        raise InputError(f"pooling={pooling!r}: item(s) {bare[:3]} have no such tokens, so no state predicts them")
    if pooling in ("answer_first", "answer_last"):
        order = kept.int() if pooling == "answer_first" else kept.int().flip(-1)
        at = order.argmax(-1)
        at = at if pooling == "answer_first" else kept.shape[1] - 1 - at
        kept = torch.nn.functional.one_hot(at, kept.shape[1]).bool()
    return kept


def _at(batch: TokenBatch, positions: tuple[int, ...]) -> Float[Tensor, "item pos"]:
    """Equal weights over chosen positions: from the item's first token, or (negative) back from its last prompt one."""
    weights = torch.zeros(batch.ids.shape, device=batch.ids.device)
    offsets, last = batch.offsets.tolist(), batch.last_prompt.tolist()
    ends = (batch.offsets + batch.mask.sum(-1)).tolist()
    for row, item in enumerate(batch.items):
        for position in positions:
            at = offsets[row] + position if position >= 0 else last[row] + 1 + position
            if not offsets[row] <= at < ends[row]:
                tokens = f"{last[row] + 1 - offsets[row]} of {ends[row] - offsets[row]} tokens are its prompt"
                raise InputError(f"positions {list(positions)}: item {item.id!r} has no position {position} ({tokens})")
            weights[row, at] += 1 / len(positions)
    return weights
