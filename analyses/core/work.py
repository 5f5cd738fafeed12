"""What one item of an analysis takes: rows put through blocks and unembedding, tokens generated, rows written.

An analysis declares it (`@analysis(work=...)`); `analyses.core.cost` turns it into operations, bytes and seconds.
Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probe.shape import ModelShape

ROOM = 256  # new tokens of a response whose length is left open, where the context has room for them
LOGIT_ROWS = 64  # rows of logits held at once where they are streamed (`analyses.core.reading.readouts`)


@dataclass(frozen=True)
class Size:
    """Matrix sizes of a model. `block`: weights of one block's matrices; `weights`: all parameters, each once."""

    shape: ModelShape
    block: float
    weights: float

    @classmethod
    def of(cls, shape: ModelShape, *, matrices_of_mlp: int = 3, tied: bool = False) -> Size:
        """The sizes that a shape implies (three MLP matrices: a gated MLP).

        Args:
            shape: sizes of the model.
            matrices_of_mlp: matrices of an MLP.
            tied: True where embedding and unembedding are one.
        """
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
        choices: options of an item that is a choice.
    """

    size: Size
    models: int
    prompt: float
    answer: float
    padded: float
    n_items: int
    options: Mapping[str, Any]
    choices: float = 4.0

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
    def new_tokens(self) -> float:
        """Tokens of a response: as many as are asked for, or as there is room for; 0 where none is generated."""
        asked = self.options.get("max_new_tokens", 0)
        return max(1.0, min(ROOM, self.size.shape.n_ctx - self.prompt)) if asked is None else float(asked)

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


ADDED = ("block_rows", "unembedded", "projected", "generated", "fixed", "spilled")
"""Fields that add up where work is done one part after the other."""


def replayed(case: Case, kind: str, layer: int) -> tuple[float, float]:
    """Rows times blocks that a replayed run with one patched site takes, and rows unembedded (`probe.replay`).

    Args:
        case: items, model and options.
        kind: kind of the patched site.
        layer: its block, from 0.
    """
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


def passes(case: Case, unembedded: str = "answer", times: float = 1.0, models: int | None = None, **more: Any) -> Work:
    """Forward passes over the item, with what is unembedded of each.

    Args:
        case: the item.
        unembedded: `none`, `last` (one row), `answer` (the answer's tokens) or `all` (all tokens but the first).
        times: passes of each model.
        models: models that make them; by default all of the case.
        more: further fields of `Work`.
    """
    count = times * (case.models if models is None else models)
    rows = {"none": 0.0, "last": 1.0, "answer": case.answer, "all": case.tokens - 1}[unembedded]
    return Work(block_rows=count * case.full_pass, unembedded=count * rows, **more)


def every_state(case: Case) -> Work:
    """One pass read at every state; what is fitted to the states is not counted."""
    return passes(case, "none", sites=case.n_layers + 1)


def generation(case: Case, times: float = 1.0, prompts: float | None = None) -> Work:
    """Responses to the item's prompt, each of as many tokens as are asked for.

    `times`: responses of each model. `prompts`: passes over the prompt, which samples share; by default one each.
    """
    read = case.models * (times if prompts is None else prompts)
    return Work(
        block_rows=read * case.prompt * case.n_layers, unembedded=read, generated=times * case.new_tokens * case.models
    )


def replays(case: Case, layers: Iterable[int], times: float, *, rows: float | None = None) -> Work:
    """Runs replayed from a block on, once for each of `layers` and `times`, the answer's tokens unembedded.

    `rows`: of the item that change behind the edit; by default all of its tokens.
    """
    behind = [case.n_layers - layer - 1 for layer in layers]
    changed = case.tokens if rows is None else rows
    return Work(block_rows=times * changed * sum(behind), unembedded=times * case.answer * len(behind))


def together(*parts: Work) -> Work:
    """All of the parts, one after the other."""
    found = {name: sum(getattr(p, name) for p in parts) for name in ADDED}
    rows = [p.rows for p in parts if p.rows is not None]
    first = max(parts, key=lambda p: p.sites)
    return replace(first, **found, rows=sum(rows) if rows else None)


def scaled(part: Work, share: float) -> Work:
    """A part of the work: that of some of the items."""
    return replace(part, **{name: share * getattr(part, name) for name in ADDED})
