"""How many rows are computed at once: as many as a stated share of the free memory holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from probe import devices, families

if TYPE_CHECKING:
    from probe.replay.decoder import Decoder

SHARE = 0.25
CEILING = 2 * 2**30


@dataclass(frozen=True)
class Budget:
    """Bytes that replay may add on top of the model and the unedited run, and what they hold.

    `rows`: of one call of a block. `kept`: rows whose residual state is held between two blocks. `logits`: rows
    unembedded at once.
    """

    bytes: int
    rows: int
    kept: int
    logits: int


def budget_of(decoder: Decoder, n_pos: int, given: int | None = None) -> Budget:
    """The budget in bytes (`given`, else a quarter of the free memory, 2 GiB at most) as numbers of rows."""
    total = given or min(int(SHARE * devices.free_bytes(decoder.device)), CEILING)
    size = decoder.dtype.itemsize
    width = decoder.unembed.weight.shape[1]
    hidden = families.d_mlp(decoder.config)
    # Alive at the widest point of a block: the residual, its norm in fp32, and four of the MLP's width. Keys and
    # values of whole lanes are laid out anew, each query row carrying at most n_pos / its lane's rows of them.
    row = size * (4 * width + 4 * hidden) + 8 * width
    lanes = 4 * size * width * min(n_pos, 64)
    vocab = decoder.unembed.weight.shape[0] * (size + 24)
    rows = max(64, min(int(0.5 * total / (row + lanes / 8)), devices.rows_at_once(decoder.device)))
    kept = max(rows, int(0.25 * total / (2 * size * width)))
    return Budget(total, rows, kept, max(1, min(int(0.25 * total / vocab), 1024)))
