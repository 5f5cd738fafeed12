"""Residual states of two checkpoints on the same tokens, in memory or kept in a folder between calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from analyses.core.progress import progress
from probe.errors import InputError
from probe.token_text import token_texts

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from probe import Item, Model, TokenBatch

AROUND = 6  # tokens of a context before the one that is marked, and half as many behind it


@dataclass(frozen=True)
class Tokens:
    """The tokens of batches whose states are read, row by row: all real ones but the first of each text.

    What a model holds at a text's first token is often tens of times larger than elsewhere, whatever the text.
    """

    batches: tuple[TokenBatch, ...]

    @cached_property
    def items(self) -> list[Item]:
        """Items in the order of the batches."""
        return [item for batch in self.batches for item in batch.items]

    @cached_property
    def item(self) -> Int[Tensor, " token"]:
        """Number of each token's item."""
        first = np.cumsum([0, *(len(b) for b in self.batches)])
        return torch.cat([n + mask.nonzero()[:, 0] for n, mask in zip(first, map(read, self.batches), strict=False)])

    @cached_property
    def bounds(self) -> list[tuple[int, int]]:
        """First token of each batch and the one behind its last."""
        ends = np.cumsum([0, *(int(read(b).sum()) for b in self.batches)])
        return list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))

    def context(self, model: Model, token: int) -> str:
        """The text around a token, the token itself in angle brackets."""
        at = next(n for n, (_, end) in enumerate(self.bounds) if token < end)
        batch = self.batches[at]
        row, column = (int(x) for x in read(batch).nonzero()[token - self.bounds[at][0]])
        start = max(int(batch.offsets[row]), column - AROUND)
        own = batch.ids[row, start : column + 1 + AROUND // 2][batch.mask[row, start : column + 1 + AROUND // 2]]
        texts = token_texts(model.tokenizer, own.tolist())
        bare = texts[column - start].lstrip(" ")
        texts[column - start] = f"{texts[column - start].removesuffix(bare)}⟨{bare}⟩"
        gap = "" if any(t.startswith(" ") for t in texts[1:]) else " "
        return gap.join(texts).strip()


def read(batch: TokenBatch) -> Bool[Tensor, "item pos"]:
    """Which tokens of a batch are read."""
    places = torch.arange(batch.ids.shape[1])
    return batch.mask.cpu() & (places != batch.offsets.cpu()[:, None])


def states(
    models: tuple[Model, Model], tokens: Tokens, site: str, folder: Path | None
) -> Float[Tensor, "token model d_model"]:
    """States of base and tuned at a site, fp32; with a folder they are kept there, and read if they are there.

    Raises:
        InputError: the folder holds other states.
    """
    made_of = {
        "weights": [m.fingerprint() for m in models] if folder else [],
        "site": site,
        "items": [f"{i.id}/{i.answer_kind}" for i in tokens.items],
        "tokens": [int(b.ids[read(b)].sum()) for b in tokens.batches],
    }
    if folder is not None and (folder / "states.json").is_file():
        if json.loads((folder / "states.json").read_text()) != made_of:
            raise InputError(
                f"{folder} holds states of other checkpoints, prompts or another site; give another folder"
            )
        return torch.from_numpy(np.load(folder / "states.npy", mmap_mode="c"))
    found = torch.cat(list(_read(models, tokens, site)))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "states.npy", found.numpy())
        (folder / "states.json").write_text(json.dumps(made_of))
    return found


def _read(models: tuple[Model, Model], tokens: Tokens, site: str) -> Iterator[Tensor]:
    for batch in progress(tokens.batches, "states", total=len(tokens.batches)):
        own = read(batch)
        values = [m.run(batch, read=[site], logits="none")[site].float().cpu()[own] for m in models]
        yield torch.stack(values, 1)
