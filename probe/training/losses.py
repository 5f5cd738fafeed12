"""Training losses that weight the cross-entropy of each token by its probability: MAR, DFT and plain CE.

With p the probability of the true token and l = -ln p: MAR sum (1 - p) l presses on what is not yet known (arXiv
2508.04117, its equation 2); DFT sum p l does the opposite (arXiv 2508.05629, weight detached). Whether the MAR
weight is detached in the paper is unknown: both forms are offered under their own names. Ignored tokens contribute 0.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.errors import InputError

IGNORED = -100
Name: TypeAlias = Literal["ce", "mar_detached", "mar_attached", "dft"]
NAMES: tuple[Name, ...] = ("ce", "mar_detached", "mar_attached", "dft")
Reduction: TypeAlias = Literal["sum", "token_mean", "none"]


def token_loss(
    logits: Float[Tensor, "*item pos vocab"],
    labels: Int[Tensor, "*item pos"],
    name: Name = "mar_detached",
    reduction: Reduction = "token_mean",
) -> Float[Tensor, ...]:
    """Loss of ``logits`` against the labels at the same positions (already shifted), in nats, in float32.

    Args:
        logits: position t predicts ``labels[t]``.
        labels: ids; -100 is ignored.
        name: `ce`, `mar_detached`, `mar_attached` or `dft`.
        reduction: `sum` over tokens, `token_mean` over tokens that are not ignored (0 if there are none), `none`.

    Raises:
        InputError: an unknown name or reduction.
    """
    if name not in NAMES or reduction not in ("sum", "token_mean", "none"):
        raise InputError(f"loss {name!r}, reduction {reduction!r}; expected one of {NAMES} and sum, token_mean or none")
    kept = labels != IGNORED
    log_p = torch.log_softmax(logits.float(), -1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    each = torch.where(kept, -_weight(log_p, name) * log_p, torch.zeros_like(log_p))
    if reduction == "none":
        return each
    return each.sum() if reduction == "sum" else each.sum() / kept.sum().clamp(min=1)


def _weight(log_p: Tensor, name: Name) -> Tensor:
    if name == "ce":
        return torch.ones_like(log_p)
    if name == "dft":
        return log_p.detach().exp()
    weight = -torch.expm1(log_p)  # 1 - p without cancellation near p = 1
    return weight if name == "mar_attached" else weight.detach()


def trainer_with(base: type[Any], name: Name) -> type[Any]:
    """A trainer class of transformers or TRL that trains with this loss: `trainer_with(SFTTrainer, "mar_detached")`.

    Labels are shifted here. The sum over tokens is divided by the number of labelled tokens of the whole
    accumulated batch where the trainer gives it, else of this one. (TRL's own `compute_loss_func` is deprecated.)
    """

    class Weighted(base):
        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            outputs = model(**{k: v for k, v in inputs.items() if k != "labels"})
            loss = shifted_loss(outputs.logits, inputs["labels"], name, num_items_in_batch)
            return (loss, outputs) if return_outputs else loss

    Weighted.__name__ = f"{base.__name__}With_{name}"
    return Weighted


def shifted_loss(logits: Tensor, labels: Tensor, name: Name, n_tokens: Any = None) -> Tensor:
    """Loss of logits against labels of the same positions, each predicting the next; over ``n_tokens`` if given."""
    if n_tokens is None:
        return token_loss(logits[..., :-1, :], labels[..., 1:], name)
    return token_loss(logits[..., :-1, :], labels[..., 1:], name, "sum") / n_tokens
