"""What probably lies behind a proof that failed, in words for the user."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probe.handle import Handle

_CAUSES = {
    "causal": "Logits depend on what comes later: this is no causal language model (an encoder, or a configuration "
    "without is_decoder)",
    "logits_alone": "The likely cause: the family does something to its logits after the unembedding that this toolkit "
    "does not know (probe.families.logit_scale, logit_cap)",
    "logits_left_padded": "The likely cause: the family lets padding into its state or its positions, so that a number "
    "would depend on the batch",
    "logits_right_padded": "The likely cause: the family looks at padding that follows",
    "residual": "The likely cause: a block adds more to the residual stream than its attention and its MLP",
    "unembed": "The likely cause: something stands between the last block and the final norm",
    "logits_opened": "The likely cause: attention is computed otherwise where it is looked into; try the other backend",
    "neighbours": "The likely cause: positions of one text change how the others of its batch are read (rotary "
    "frequencies chosen by the longest text)",
    "changes": "The likely cause: that site is not on the way to the logits, or the weights behind it are 0",
    "lands": "The likely cause: an edit there reaches one of two branches",
}


def likely(model: Handle, name: str, value: float) -> str:
    """What probably lies behind a failed proof."""
    broken = next((n for n, p in model.weights().items() if p.is_floating_point() and not p.isfinite().all()), None)
    if broken is not None:
        return f"The weights hold NaN or infinity (first in {broken})"
    if value != value or value == float("inf"):
        return "The model's own states are not finite: try float32, and attn_implementation='sdpa' with padding"
    kind = name if name in _CAUSES else name.rpartition("_")[2]
    return _CAUSES.get(kind, "Please report family and versions")
