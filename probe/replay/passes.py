"""Edited runs as whole forward passes: exact for every family, and what running only rows is proved against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from probe.interventions import Edit
from probe.replay.metric import Metric, of_rows
from probe.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from probe.replay.clean import CleanPass

_AFTER = ("ln_final", "logits")


def whole_run(
    clean: CleanPass, edits: Sequence[Edit], metric: Metric, rows: Bool[Tensor, "item pos"], at_once: int
) -> Float[Tensor, "item pos"]:
    """The metric's score at `rows` (NaN elsewhere) in one edited forward pass, everything computed."""
    item, pos = rows.to(clean.decoder.device).nonzero(as_tuple=True)
    if any(edit.site.kind in _AFTER for edit in edits):
        logits = clean.model.run(clean.batch, edits=edits).logits
        assert logits is not None
        values = metric.score(logits.to(item.device)[item, pos], item, pos)
    else:
        last = Site("resid_post", clean.n_layers - 1)
        resid = clean.model.run(clean.batch, [last], edits, logits="none")[last].to(item.device)
        values = of_rows(metric, clean.decoder, resid[item, pos], item, pos, at_once)
    out = torch.full(rows.shape, float("nan"))
    out[item.cpu(), pos.cpu()] = values.float().cpu()
    return out
