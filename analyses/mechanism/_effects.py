"""What an answer loses when features are taken out of a checkpoint's states, exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from analyses.core.progress import progress
from analyses.mechanism._dictionary import TUNED, Dictionary
from analyses.mechanism._states import read
from probe import patch
from probe.replay import Clean, answer_logprob, clean_metric, replay

if TYPE_CHECKING:
    from torch import Tensor

    from analyses.mechanism._states import Tokens
    from probe import Edit, Model, TokenBatch

RANDOM = "random"


def lost(
    models: tuple[Model, Model],
    tokens: Tokens,
    site: str,
    states: Tensor,
    dictionary: Dictionary,
    scale: float,
    sets: Mapping[str, Sequence[int]],
    seed: int,
) -> pd.DataFrame:
    """One row an item, in the order of the tokens' items: metric_base, metric, and what each set's absence costs.

    A set called `random` writes as much as its latents, in directions of chance.
    """
    rng, frames = torch.Generator().manual_seed(seed), list[pd.DataFrame]()
    ways = {name: dictionary.decoder[TUNED][list(own)] for name, own in sets.items()}
    if RANDOM in ways:
        noise = torch.randn(ways[RANDOM].shape, generator=rng)
        ways[RANDOM] = noise / noise.norm(dim=-1, keepdim=True) * ways[RANDOM].norm(dim=-1, keepdim=True)
    for batch, (first, end) in progress(
        list(zip(tokens.batches, tokens.bounds, strict=True)), "without features", total=len(tokens.batches)
    ):
        found = dictionary.activations(states[first:end].float() * scale)[:, TUNED]
        gone = {name: found[:, list(own)] @ ways[name] / scale for name, own in sets.items()}
        frames.append(_of_batch(models, batch, site, gone))
    return pd.concat(frames, ignore_index=True)


def _of_batch(models: tuple[Model, Model], batch: TokenBatch, site: str, gone: Mapping[str, Tensor]) -> pd.DataFrame:
    metric = answer_logprob(batch)
    before, clean = (Clean(model, batch) for model in models)
    plain = clean_metric(clean, metric).numpy().astype(float)
    values = {"metric_base": clean_metric(before, metric).numpy().astype(float), "metric": plain}
    if gone:
        edits = [_without(clean, batch, site, write) for write in gone.values()]
        left = replay(clean, edits, metric).numpy().astype(float)
        values |= {name: plain - left[n] for n, name in enumerate(gone)}
    return pd.DataFrame(values, index=np.arange(len(batch)))


def _without(clean: Clean, batch: TokenBatch, site: str, write: Tensor) -> Edit:
    state = clean.value(clean.model.site(site))
    whole = torch.zeros(state.shape, dtype=torch.float32)
    whole[read(batch)] = write
    return patch(site, state - whole.to(state))
