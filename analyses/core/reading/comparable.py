"""Whether two checkpoints can be compared at all, and what to warn about if they can."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe.errors import InputError
from probe.turns import Turn

if TYPE_CHECKING:
    from probe import Model

IDENTICAL = "base and tuned have identical weights: every effect is exactly 0 and ratios are undefined"


def pair_warnings(base: Model, tuned: Model) -> list[str]:
    """Warnings for the result of a pair: one if the weights are identical, else none.

    Raises:
        InputError: the two differ in depth, width, heads or vocabulary, or give other ids for the same text.
    """
    for size in ("n_layers", "d_model", "n_heads", "n_kv_heads", "d_mlp", "d_vocab"):
        a, b = getattr(base.shape, size), getattr(tuned.shape, size)
        if a != b:
            raise InputError(f"base has {size} {a} and tuned {b}: a pair must be two checkpoints of one model")
    if base.tokenizer is not tuned.tokenizer and base.tokenizer.get_vocab() != tuned.tokenizer.get_vocab():
        raise InputError("base and tuned have different tokenizers: their positions and ids cannot be compared")
    return [IDENTICAL] if identical(base, tuned) else []


def identical(base: Model, tuned: Model) -> bool:
    """True if every weight is equal bit for bit; the first that differs ends the search."""
    if base is tuned:
        return True
    if isinstance(base, Turn) or isinstance(tuned, Turn):  # their weights are never in memory together
        return base.fingerprint() == tuned.fingerprint()
    ours, theirs = base.weights(), tuned.weights()
    return ours.keys() == theirs.keys() and all(
        bool((w == theirs[name].to(w.device)).all()) for name, w in ours.items()
    )
