"""Gradients of objectives on a rollout log, one per response: policy gradient, and nearness to a reference policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.core import reading
from analyses.core.progress import progress
from analyses.weights._item_gradients import Gradients, Leaves, collected
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from analyses.core.reading.teacher_forced import Scored
    from probe import Model, Rollouts, TokenBatch

    Read = Callable[[TokenBatch, Scored], tuple[Tensor, ...]]


def of_policy(policy: Model, log: Rollouts, leaves: Leaves, dims: int, seed: int) -> tuple[Gradients, np.ndarray]:
    """The gradient of every response's mean A log pi(token), and the item of each.

    Args:
        policy: read, not changed.
        log: with ids and advantages; responses without masked-in tokens are left out.
        leaves: with respect to what.
        dims: of the sketch, as in `collected`.
        seed: of the sketch.
    """
    advantages = log.advantages()["advantage"].to_numpy(float)
    if np.isnan(advantages).any():
        raise InputError(f"{log.source}: {int(np.isnan(advantages).sum())} response(s) have no advantage")

    def objective(row: int, logits: Tensor, targets: Tensor) -> Tensor:
        logp = logits.float().log_softmax(-1).gather(-1, targets[:, None])
        return advantages[row] * logp.mean()

    return of_log(policy, log, leaves, dims, seed, objective, lambda batch, tokens: _read(policy, batch, tokens))


def of_nearness(
    policy: Model, reference: Model, log: Rollouts, leaves: Leaves, dims: int, seed: int
) -> tuple[Gradients, np.ndarray]:
    """The gradient of every response's -KL(policy, reference), mean over its tokens' states, and the item of each.

    Args:
        policy: read, not changed.
        reference: what it is kept near to.
        log: with ids.
        leaves: with respect to what.
        dims: of the sketch, as in `collected`.
        seed: of the sketch.
    """

    def objective(row: int, logits: Tensor, targets: Tensor, other: Tensor) -> Tensor:
        del row, targets
        p, q = logits.float().log_softmax(-1), other.float().log_softmax(-1)
        return -(p.exp() * (p - q)).sum(-1).mean()

    def read(batch: TokenBatch, tokens: Scored) -> tuple[Tensor, ...]:
        return *_read(policy, batch, tokens), tokens.rows(_logits(reference, batch))

    return of_log(policy, log, leaves, dims, seed, objective, read)


def of_log(
    policy: Model, log: Rollouts, leaves: Leaves, dims: int, seed: int, objective: Any, read: Read
) -> tuple[Gradients, np.ndarray]:
    """The gradient of `objective(row, *read(batch, tokens))` of every response, and the item of each."""
    items: list[str] = []
    rows = progress(responses(policy, log, read), "gradients of responses", total=len(log))

    def values() -> Iterator[Tensor]:
        for item, given in rows:
            items.append(item)
            yield objective(*given)

    counted = int((_counts(log) > 0).sum())
    return collected(leaves, values(), counted, dims, seed), np.asarray(items, object)


def _counts(log: Rollouts) -> np.ndarray:
    return log.index["n_tokens"].to_numpy(int)


def _logits(model: Model, batch: TokenBatch, *, grad: bool = False) -> Tensor:
    found = model.run(batch, logits="all", grad=grad).logits
    assert found is not None
    return found


def _read(policy: Model, batch: TokenBatch, tokens: Scored) -> tuple[Tensor, ...]:
    """Logits that predict the tokens, with their graph, and the tokens' ids."""
    return tokens.rows(_logits(policy, batch, grad=True)), tokens.target.to(policy.device)


def responses(policy: Model, log: Rollouts, read: Read) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Item of every response, and its row with what is read at its masked-in tokens."""
    from probe import recompute
    from probe.finite import as_named

    recompute.check(policy, log)
    first = 0
    for index, table in log.windows(["prompt_token_ids", "response_token_ids", "response_mask"]):
        masks = table["response_mask"].to_pylist() if "response_mask" in table.column_names else None
        for batch in recompute.response_batches(policy, table, 1):
            row = int(batch.items[0].id)
            tokens = reading.scored(batch)
            tokens = tokens.where(tokens.in_span("answer"))
            if masks is not None:
                tokens = tokens.where(torch.tensor([bool(m) for m in masks[row]], device=tokens.item.device))
            if not len(tokens.target):
                continue
            with as_named(recompute.named_as_logged(index)):
                yield str(index["item"].iloc[row]), (first + row, *read(batch, tokens))
        first += len(index)


def per_item(gradients: Gradients, items: np.ndarray) -> tuple[Gradients, np.ndarray]:
    """Means over the responses of each item, items sorted."""
    names, codes = np.unique(items.astype(str), return_inverse=True)
    sums = np.zeros((len(names), gradients.values.shape[1]))
    np.add.at(sums, codes, gradients.values)
    means = sums / np.bincount(codes)[:, None]
    return Gradients(means.astype(np.float32), gradients.dims), names


def groups_of(index: pd.DataFrame, names: np.ndarray) -> np.ndarray:
    """The group of each item of a log."""
    known = index.drop_duplicates("item").set_index("item")["group"]
    return known.reindex(names).to_numpy(object)
