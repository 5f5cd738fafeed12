"""Backends: each one class that runs a forward pass and shows the sites on its way (`protocol`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe.backends.protocol import Backend, Rows, Tokens, Visit
from probe.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["NAMES", "Backend", "Rows", "Tokens", "Visit", "wrap"]

NAMES = ("transformer_lens", "nnsight")


def wrap(name: str, hf_model: PreTrainedModel) -> Backend:
    """The named backend around a Hugging Face model (whose modules it may hook or, placed over devices, wrap)."""
    if name == "transformer_lens":
        from probe.backends.transformer_lens import TransformerLensBackend

        return TransformerLensBackend(hf_model)
    if name == "nnsight":
        from probe.backends.nnsight import NnsightBackend

        return NnsightBackend(hf_model)
    raise InputError(f"unknown backend {name!r}; backends are: {', '.join(NAMES)}")
