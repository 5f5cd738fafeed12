"""The gate of key steering: neurons put to 0 by replay are those put to 0 at the plain model's down projection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from analyses.core.reading.patch_gates import metric_of
from analyses.steering._arms import scale_keys
from probe.backends.observed import accepted
from probe.errors import ProbeError
from probe.replay import Clean, answer_logprob, replay
from probe.weights import down_name

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from probe import Model, TokenBatch
    from probe.replay import Metric


def prove_keys(model: Model, batch: TokenBatch, chosen: Mapping[int, Bool[Tensor, "item neuron"]]) -> None:
    """Prove on one batch that the keys steered are the numbers that the down projection multiplies.

    Args:
        model: the checkpoint.
        batch: items with answers.
        chosen: layer -> neurons of every item (one row where they are the same); all of them where none is chosen.

    Raises:
        ProbeError: the metric differs from that of plain transformers with a hook at the down projection.
    """
    clean = Clean(model, batch)
    metric = answer_logprob(clean.batch)
    allowed = 1e-4 if clean.decoder.dtype == torch.float32 else 0.1
    for layer, mask in chosen.items():
        mask = mask.to(clean.batch.ids.device)
        (fast,) = replay(clean, [scale_keys(layer, 0.0, mask)], metric)
        plain = _hooked(clean, layer, mask, metric)
        alike = (fast == plain) | (fast.isnan() & plain.isnan())  # items without answer rows have no metric in either
        off = float(torch.where(alike, 0.0, (fast - plain).abs()).nan_to_num(nan=float("inf")).max())
        if not off <= allowed:
            raise ProbeError(
                f"gate: neurons of block {layer} put to 0 by replay change the answers by another amount ({off:.3g} "
                f"nats) than by a hook at {down_name(model, layer)}, at most {allowed:g} is rounding: in this "
                f"{model.shape.family} model what is steered is not what the down projection multiplies"
            )


def _hooked(clean: Clean, layer: int, mask: Bool[Tensor, "item neuron"], metric: Metric) -> Float[Tensor, " item"]:
    """The metric of the plain model with these neurons 0 at the input of the block's down projection."""
    plain: Any = clean.decoder.hf
    down = plain.get_submodule(down_name(clean.model, layer).rpartition(".")[0])
    n_items = len(clean.batch)

    def silenced(_module: object, args: tuple[Any, ...]) -> tuple[Any, ...]:
        rows = args[0].reshape(n_items, -1, args[0].shape[-1])
        kept = rows.masked_fill(mask.to(rows.device)[:, None, :], 0.0)
        return (kept.reshape(args[0].shape), *args[1:])

    batch = clean.batch
    given = {"input_ids": batch.ids, "attention_mask": batch.mask.long(), "position_ids": batch.position_ids}
    handle = down.register_forward_pre_hook(silenced)
    try:
        with torch.no_grad():
            logits = plain(**accepted(plain, given), use_cache=False).logits
    finally:
        handle.remove()
    return metric_of(logits, metric)
