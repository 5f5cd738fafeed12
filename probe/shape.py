"""Sizes of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from probe.errors import InputError

_NEEDED = ("num_attention_heads", "hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings")


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
        """The sizes a Hugging Face configuration states.

        Raises:
            InputError: a configuration without the sizes of a text decoder (a multimodal wrapper, say).
        """
        absent = [name for name in _NEEDED if getattr(config, name, None) is None]
        if absent:
            raise InputError(
                f"{getattr(config, 'model_type', type(config).__name__)}: its configuration states no "
                f"{', '.join(absent)}; expected a text decoder. Of a multimodal model, load the text part alone"
            )
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
