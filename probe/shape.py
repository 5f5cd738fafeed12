"""Sizes of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model. `n_ctx`: longest input in tokens; `family`: `model_type` of its configuration."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_ctx: int
    family: str

    @classmethod
    def of(cls, config: Any) -> ModelShape:
        """The sizes a Hugging Face configuration states."""
        heads = int(config.num_attention_heads)
        width = int(config.hidden_size)
        mlp = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width
        return cls(
            n_layers=int(config.num_hidden_layers),
            n_heads=heads,
            n_kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
            d_model=width,
            d_head=int(getattr(config, "head_dim", None) or width // heads),
            d_mlp=int(mlp),
            d_vocab=int(config.vocab_size),
            n_ctx=int(config.max_position_embeddings),
            family=str(config.model_type),
        )
