"""What an analysis costs before it is run: operations, bytes, memory and rows, from sizes and token counts alone.

An analysis declares its work for one item (`@analysis(work=...)`); what declares nothing is taken from its
signature, as a lower bound: one forward pass per item and model, and the tokens its options say are generated.
Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analyses.core.work import LOGIT_ROWS, Case, Work
from probe.errors import InputError

if TYPE_CHECKING:
    from analyses.core.analysis import Analysis

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PROOFS = 24  # passes over a few tokens when a checkpoint is loaded (`probe.check`)
TABLE_BYTES = 4_800  # a Parquet file's schema and footer


@dataclass(frozen=True)
class Cost:
    """One run of an analysis (one checkpoint, or one pair).

    Attributes:
        flops: matrix operations; a multiplication and an addition count as two.
        read_bytes: weights read from storage.
        streamed_bytes: weights read from memory for tokens generated one at a time, batch by batch.
        weight_bytes: one checkpoint's weights as held.
        work_bytes: activations and logits beside the weights.
        spill_bytes: on disk, if one checkpoint at a time is held; None where both are needed.
        rows: of the table; None where they are not counted.
        store_bytes: of the table's file.
        head_flops: those of `flops` that unembed rows.
        proofs: passes of a block over a few tokens, when one checkpoint is loaded.
    """

    flops: float
    read_bytes: float
    streamed_bytes: float
    weight_bytes: float
    work_bytes: float
    models: int
    spill_bytes: float | None
    rows: float | None
    store_bytes: float | None
    head_flops: float = 0.0
    proofs: float = 0.0

    def peak_bytes(self, held: int | None = None) -> float:
        """Memory at the worst moment with `held` checkpoints (default: all of the run's) in memory."""
        return (self.models if held is None else held) * self.weight_bytes + self.work_bytes


def work_of(of: Analysis, case: Case) -> Work:
    """The work of one item: as declared, else read off the signature."""
    if of.work is not None:
        return of.work(case)
    if case.models == 0:
        return Work(sites=0)
    new = case.new_tokens * float(case.options.get("n_samples", 1)) * case.models
    rows = 0.0 if new else case.answer * case.models
    return Work(block_rows=case.models * case.full_pass, unembedded=rows, generated=new)


def cost(of: Analysis, case: Case, dtype: str = "float32", stored_bytes: float | None = None) -> Cost:
    """The cost of one run over all items.

    Args:
        of: the analysis.
        case: sizes, token counts and options.
        dtype: of the weights in memory.
        stored_bytes: one checkpoint's weights on storage; default as in memory.

    Raises:
        InputError: an unknown dtype.
    """
    if dtype not in DTYPE_BYTES:
        raise InputError(f"dtype={dtype!r}; expected one of {', '.join(DTYPE_BYTES)}")
    work, size, width = work_of(of, case), case.size, DTYPE_BYTES[dtype]
    weights = size.weights * width
    steps = work.generated / max(1, case.batch) * case.n_items  # every step reads all weights once for its batch
    spilled = work.spilled * size.shape.d_model * width * case.n_items
    return Cost(
        flops=work.fixed + case.n_items * flops(work, case),
        read_bytes=case.models * (weights if stored_bytes is None else stored_bytes),
        streamed_bytes=steps * weights,
        weight_bytes=weights,
        work_bytes=_work_bytes(work, case, width),
        models=case.models,
        spill_bytes=spilled if of.takes_turns else None,
        rows=None if work.rows is None else work.rows * case.n_items,
        store_bytes=None if work.rows is None else work.rows * case.n_items * work.row_bytes + TABLE_BYTES,
        head_flops=2 * case.n_items * (work.unembedded + work.generated) * size.unembed,
        proofs=PROOFS * case.n_layers,
    )


def flops(work: Work, case: Case) -> float:
    """Matrix operations of one item: 2 x weights x rows, and 4 x heads x keys for each row that attends."""
    size = case.size
    attended = work.block_rows * case.padded
    generated = work.generated * (case.n_layers * size.block + size.unembed)
    seen = work.generated * case.n_layers * (case.prompt + case.new_tokens / 2)
    return 2 * (
        work.block_rows * size.block + work.projected * size.qkv + work.unembedded * size.unembed + generated
    ) + 4 * size.heads * (attended + seen)


def _work_bytes(work: Work, case: Case, width: int) -> float:
    """Held beside the weights: sites kept of a batch, the widest point of a block, scores, a chunk of logits."""
    shape, rows = case.size.shape, case.batch * case.padded
    kept = work.sites * rows * shape.d_model * width
    block = rows * (4 * shape.d_model + 3 * shape.d_mlp) * width
    scores = case.batch * shape.n_heads * case.padded**2 * (width + 4)
    cache = 0.0
    if work.generated:
        cache = case.batch * (case.prompt + case.new_tokens) * case.n_layers * 2 * shape.n_kv_heads * shape.d_head
    logits = 3 * LOGIT_ROWS * shape.d_vocab * 4 if work.unembedded or work.generated else 0
    return kept + block + scores + cache * width + logits
