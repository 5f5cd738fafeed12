"""A dictionary of features of two checkpoints: what it reads, when a latent is on, what it writes into each.

A crosscoder reads both checkpoints' states and has one activation per latent and a direction in each checkpoint. A
sparse autoencoder reads one checkpoint's states at a time: it has an activation in each and one direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

BASE, TUNED = 0, 1


@dataclass(frozen=True)
class Dictionary:
    """Weights of a dictionary, in the units of the states.

    Attributes:
        encoder: what a latent reads in base and tuned; of a sparse autoencoder both are equal.
        bias: of the encoder.
        decoder: what a latent writes into base and tuned.
        center: what both reconstructions start from.
        threshold: a latent is on where its activation is above it.
        joint: whether one activation is read from both states together (a crosscoder).
        most: latents on at a token at most; 0: as many as pass their thresholds.
    """

    encoder: Float[Tensor, "model d_model latent"]
    bias: Float[Tensor, " latent"]
    decoder: Float[Tensor, "model latent d_model"]
    center: Float[Tensor, "model d_model"]
    threshold: Float[Tensor, " latent"]
    joint: bool = True
    most: int = 0

    @property
    def size(self) -> int:
        return self.bias.shape[0]

    def activations(self, states: Float[Tensor, "token model d_model"]) -> Float[Tensor, "token model latent"]:
        """Activations of every latent, for base's and for tuned's direction; of a crosscoder the two are equal."""
        read = torch.einsum("tmd,mdl->tml", states, self.encoder)
        before = read.sum(1, keepdim=True) if self.joint else read
        found = torch.relu(before + self.bias)
        found = found * (found > self.threshold)
        if self.most:
            least = found.topk(min(self.most, self.size), dim=-1).values[..., -1:]
            found = found * (found >= least)
        return found.expand(-1, 2, -1)

    def decoded(self, found: Float[Tensor, "token model latent"]) -> Float[Tensor, "token model d_model"]:
        """Both reconstructions."""
        return torch.einsum("tml,mld->tmd", found, self.decoder) + self.center
