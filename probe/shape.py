"""Sizes of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from probe import families
from probe.errors import InputError

NO_LIMIT = 1 << 20
"""`n_ctx` of a family that states no longest input (recurrent ones, ALiBi)."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model.

    `n_ctx`: longest input in tokens (`NO_LIMIT` where the family states none); `n_heads`: 0 without attention;
    `family`: `model_type` of its configuration. Where blocks differ in a size, it is the first block's.
    """

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
        config = families.of_block(families.text_config(config), 0)
        layers = families.n_layers(config)
        width = families.number(config, "hidden_size", "n_embd", "d_model")
        vocab = families.number(config, "vocab_size")
        stated = {"number of blocks": layers, "width": width, "vocabulary": vocab}
        absent = [name for name, value in stated.items() if not value]
        if absent or layers is None or width is None or vocab is None:
            raise InputError(
                f"{getattr(config, 'model_type', type(config).__name__)}: its configuration states no "
                f"{', '.join(absent)}; expected a text decoder"
            )
        if getattr(config, "is_encoder_decoder", False):
            raise InputError(f"{config.model_type}: an encoder-decoder model; expected a decoder-only language model")
        return cls(
            n_layers=layers,
            n_heads=families.n_heads(config),
            n_kv_heads=families.n_kv_heads(config),
            d_model=width,
            d_head=families.d_head(config),
            d_mlp=families.d_mlp(config),
            d_vocab=vocab,
            n_ctx=families.n_ctx(config) or NO_LIMIT,
            family=str(config.model_type),
        )
