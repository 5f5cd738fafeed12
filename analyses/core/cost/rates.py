"""What this machine does in a second: one block of the model's own shape, rows of its unembedding, bytes.

A bare matrix product is faster than the same product inside a block, and unembedded rows are read through a softmax:
so both are timed as they are used, on random weights, in a second or two.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analyses.core.cost.estimates import flops
from analyses.core.work import LOGIT_ROWS, Case, Work
from probe import devices
from probe.lazily import torch

if TYPE_CHECKING:
    from probe import Checkpoint

SAMPLE_BYTES = 1 << 28
MOST_WORDS = 1 << 15  # of the vocabulary that is timed: more rows of the matrix change no rate


@dataclass(frozen=True)
class Rates:
    """What this machine does in a second.

    Attributes:
        flops: operations of a block.
        memory: bytes copied in memory.
        read: bytes read from a weight file.
        head: operations of unembedded rows, softmax included; 0: as `flops`.
        proof: seconds of one block's pass over a few tokens.
    """

    flops: float
    memory: float
    read: float
    head: float = 0.0
    proof: float = 0.0


Clock = Callable[[], float]


def measured(dtype: str, device: str, checkpoint: Checkpoint, case: Case, clock: Clock = time.perf_counter) -> Rates:
    """Rates of this machine for batches of the case, on a block of the checkpoint's configuration.

    Args:
        dtype: of the weights in memory.
        device: where they are measured.
        checkpoint: whose configuration and files are taken.
        case: batch size and tokens of an item.
        clock: seconds; of the wall, or of the processor where the machine is shared.
    """
    copied = torch.empty(1 << 26, dtype=torch.uint8, device=device)
    memory = per_second(copied.clone, 2.0 * copied.numel(), device, clock)
    block, proof = _block(dtype, device, checkpoint, case, clock)
    return Rates(block, memory, _read_rate(checkpoint, clock), _head(dtype, device, case, clock), proof)


def _block(dtype: str, device: str, checkpoint: Checkpoint, case: Case, clock: Clock) -> tuple[float, float]:
    """Operations a second of one block over a batch, and seconds of one over a few tokens."""
    from transformers import AutoConfig, AutoModel

    config: Any = AutoConfig.from_pretrained(checkpoint.config_folder, local_files_only=True)
    config = config.get_text_config()
    config.num_hidden_layers, config.vocab_size, config.pad_token_id = 1, 64, None
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1]
    config._attn_implementation = "eager"  # as checkpoints are loaded
    model = AutoModel.from_config(config).to(device, getattr(torch, dtype)).eval()
    width, rows = max(2, round(case.padded)), max(1, min(case.batch, case.n_items))
    one = flops(Work(block_rows=width), case) * rows

    def over(n: int, tokens: int) -> Callable[[], object]:
        ids = torch.zeros(n, tokens, dtype=torch.long, device=device)
        return lambda: model(input_ids=ids, use_cache=False)

    with torch.no_grad():
        return per_second(over(rows, width), one, device, clock), 1 / per_second(over(2, 8), 1.0, device, clock, 0.1)


def _head(dtype: str, device: str, case: Case, clock: Clock) -> float:
    """Operations a second of rows unembedded and put through a softmax."""
    shape, kind = case.size.shape, getattr(torch, dtype)
    words = min(shape.d_vocab, MOST_WORDS)
    weight = torch.randn(words, shape.d_model, device=device).to(kind)
    x = torch.randn(LOGIT_ROWS, shape.d_model, device=device).to(kind)
    return per_second(
        lambda: (x @ weight.T).float().log_softmax(-1), 2.0 * LOGIT_ROWS * words * shape.d_model, device, clock
    )


def per_second(
    call: Callable[[], object], amount: float, device: str, clock: Clock = time.perf_counter, seconds: float = 0.4
) -> float:
    """How much of `amount`, which one call does, is done in a second."""

    def done() -> float:
        devices.wait(device)
        return clock()

    call()
    start, number = done(), 0
    while done() - start < seconds:
        call()
        number += 1
    return number * amount / (done() - start)


def _read_rate(checkpoint: Checkpoint, clock: Clock) -> float:
    """Bytes per second of a weight file's beginning, its pages dropped from the cache first where the system can."""
    file = max(checkpoint.weight_files, key=lambda f: f.stat().st_size)
    with file.open("rb", buffering=0) as handle:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start, n = clock(), 0
        while n < SAMPLE_BYTES and (part := handle.read(1 << 22)):
            n += len(part)
    return n / max(clock() - start, 1e-6)
