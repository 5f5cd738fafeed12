"""What an analysis costs before it is run: operations, bytes, memory and rows, from sizes and token counts alone.

An analysis declares its work for one item (`@analysis(work=...)`); what declares nothing is taken from its
signature, as a lower bound: one forward pass per item and model, and the tokens its options say are generated.
Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probe.errors import InputError

if TYPE_CHECKING:
    from analyses.core.analysis import Analysis
    from probe.shape import ModelShape

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
LOGIT_ROWS = 64  # rows of logits held at once where they are streamed (`analyses.core.measures`)
TABLE_BYTES = 4_800  # a Parquet file's schema and footer


@dataclass(frozen=True)
class Size:
    """Matrix sizes of a model. `block`: weights of one block's matrices; `weights`: all parameters, each once."""

    shape: ModelShape
    block: float
    weights: float

    @classmethod
    def of(cls, shape: ModelShape, *, matrices_of_mlp: int = 3, tied: bool = False) -> Size:
        """The sizes that a shape implies (three MLP matrices: a gated MLP)."""
        block = _attention(shape) + matrices_of_mlp * shape.d_model * shape.d_mlp
        embeddings = (1 if tied else 2) * shape.d_vocab * shape.d_model
        return cls(shape, block, shape.n_layers * block + embeddings)

    @property
    def heads(self) -> float:
        """Width of all heads together."""
        return self.shape.n_heads * self.shape.d_head

    @property
    def kv(self) -> float:
        """Weights of the key and value projections."""
        return 2 * self.shape.d_model * self.shape.n_kv_heads * self.shape.d_head

    @property
    def qkv(self) -> float:
        """Weights of the query, key and value projections."""
        return self.kv + self.shape.d_model * self.heads

    @property
    def out(self) -> float:
        """Weights of the projection of the heads back to the residual stream."""
        return self.shape.d_model * self.heads

    @property
    def mlp(self) -> float:
        """Weights of the MLP's matrices."""
        return self.block - self.qkv - self.out

    @property
    def unembed(self) -> float:
        """Weights of the unembedding."""
        return self.shape.d_vocab * self.shape.d_model


def _attention(shape: ModelShape) -> float:
    return 2 * shape.d_model * shape.d_head * (shape.n_heads + shape.n_kv_heads)


@dataclass(frozen=True)
class Case:
    """What the work on one item depends on; token counts are means over the items.

    Attributes:
        size: of the model.
        models: checkpoints one run takes (1, or 2 for a pair).
        prompt: tokens of the prompt, template included.
        answer: tokens of the answer.
        padded: tokens computed per item: the width of its batch.
        n_items: number of items.
        options: of the analysis, defaults filled in.
    """

    size: Size
    models: int
    prompt: float
    answer: float
    padded: float
    n_items: int
    options: Mapping[str, Any]

    @property
    def tokens(self) -> float:
        """Tokens of the item."""
        return self.prompt + self.answer

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.size.shape.n_layers

    @property
    def batch(self) -> int:
        """Items of one forward pass."""
        return int(self.options.get("batch_size", 1))

    @property
    def full_pass(self) -> float:
        """Rows times blocks of one forward pass over the item."""
        return self.padded * self.n_layers


@dataclass(frozen=True)
class Work:
    """What one item takes, all checkpoints of the run together.

    Attributes:
        block_rows: rows put through a block, summed over blocks.
        unembedded: rows put through the unembedding.
        projected: rows put through a block's q, k and v projections alone, summed over blocks.
        generated: tokens generated, one at a time.
        rows: rows of the table; None where nobody has counted them.
        row_bytes: measured bytes of such a row in Parquet.
        sites: residual-sized activations of a batch that are held at once.
        fixed: operations that do not grow with the items (on weights).
        spilled: residual-sized rows that wait on disk if one checkpoint at a time is held.
    """

    block_rows: float = 0.0
    unembedded: float = 0.0
    projected: float = 0.0
    generated: float = 0.0
    rows: float | None = None
    row_bytes: float = 0.0
    sites: float = 1.0
    fixed: float = 0.0
    spilled: float = 0.0


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

    def peak_bytes(self, held: int | None = None) -> float:
        """Memory at the worst moment with `held` checkpoints (default: all of the run's) in memory."""
        return (self.models if held is None else held) * self.weight_bytes + self.work_bytes


def work_of(of: Analysis, case: Case) -> Work:
    """The work of one item: as declared, else read off the signature."""
    if of.work is not None:
        return of.work(case)
    if case.models == 0:
        return Work(sites=0)
    new = float(case.options.get("max_new_tokens", 0)) * float(case.options.get("n_samples", 1)) * case.models
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
    )


def flops(work: Work, case: Case) -> float:
    """Matrix operations of one item: 2 x weights x rows, and 4 x heads x keys for each row that attends."""
    size = case.size
    attended = work.block_rows * case.padded
    generated = work.generated * (case.n_layers * size.block + size.unembed)
    seen = work.generated * case.n_layers * (case.prompt + _new_tokens(case) / 2)
    return 2 * (
        work.block_rows * size.block + work.projected * size.qkv + work.unembedded * size.unembed + generated
    ) + 4 * size.heads * (attended + seen)


def replayed(case: Case, kind: str, layer: int) -> tuple[float, float]:
    """Rows times blocks that a replayed run with one patched site takes, and rows unembedded (`probe.replay`)."""
    size, last = case.size, case.n_layers - 1
    patched = 1.0 if case.options["positions"] == "last_prompt" else case.prompt
    after = case.answer if case.options["positions"] == "last_prompt" else case.tokens - 1
    ends_mlp = kind in ("mlp_out", "resid_post")
    if layer == last:
        return (0.0 if ends_mlp else size.mlp / size.block), 1.0
    own = {"attn_out": size.mlp + size.out, "z": size.mlp + size.out, "resid_mid": size.mlp + size.out}
    here = patched * own.get(kind, 0.0 if ends_mlp else size.block) / size.block
    # In the last block only rows that are read go past their keys and values.
    final = after * size.kv / size.block + case.answer
    return here + after * (last - layer - 1) + final, case.answer


def _new_tokens(case: Case) -> float:
    return float(case.options.get("max_new_tokens", 0))


def _work_bytes(work: Work, case: Case, width: int) -> float:
    """Held beside the weights: sites kept of a batch, the widest point of a block, scores, a chunk of logits."""
    shape, rows = case.size.shape, case.batch * case.padded
    kept = work.sites * rows * shape.d_model * width
    block = rows * (4 * shape.d_model + 3 * shape.d_mlp) * width
    scores = case.batch * shape.n_heads * case.padded**2 * (width + 4)
    cache = 0.0
    if work.generated:
        cache = case.batch * (case.prompt + _new_tokens(case)) * case.n_layers * 2 * shape.n_kv_heads * shape.d_head
    logits = 3 * LOGIT_ROWS * shape.d_vocab * 4 if work.unembedded or work.generated else 0
    return kept + block + scores + cache * width + logits
