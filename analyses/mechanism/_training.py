"""Training of a BatchTopK crosscoder on states that lie in memory or in a file; it can be stopped and taken up again.

Most latents write one direction into both checkpoints; some write into base alone and as many into tuned alone. So what
only one has cannot hide in a latent of both (a latent for "cue after subject" would take the cue with it).

Loss: squared error of both reconstructions. Of a minibatch of n tokens the n x k activations are kept that weigh most
(activation times the length of what is written); latents that were off for long try to explain what is left over.
After training a latent is on where its weight passes the mean least kept weight. No L1 penalty: it would push what is
small in one checkpoint to 0 there (arXiv 2504.02922).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from analyses.core.progress import progress
from analyses.mechanism._dictionary import Dictionary

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    States = Float[Tensor, "token model d_model"]

TOKENS = 256  # of a minibatch
DEAD = 20  # minibatches without being on
LEFT_OVER = 1 / 32  # weight of what latents that are off explain of the rest
SAVED_EVERY = 200  # steps
FADE = 0.2  # of the steps, in which the rate falls to 0


@dataclass(frozen=True)
class Recipe:
    """How a dictionary is trained."""

    latents: int
    own: int  # of base alone, and as many of tuned alone
    k: int
    steps: int
    rate: float
    seed: int


class Trainer:
    """A crosscoder in training: weights, optimiser, random state, and how far it is."""

    def __init__(self, states: States, recipe: Recipe) -> None:
        self.states, self.recipe, self.step = states, recipe, 0
        self.rng = torch.Generator().manual_seed(recipe.seed)
        home, width, own = states.device, states.shape[-1], recipe.own
        first = torch.randn(recipe.latents, width, generator=self.rng).to(home)
        first[recipe.latents - 2 * own :] += self._differences(2 * own)
        first = first / first.norm(dim=-1, keepdim=True)
        share = torch.tensor([[0.5, 0.5], [1.0, -1.0], [-1.0, 1.0]], device=home)  # what shared, base's, tuned's read
        encoder = share.repeat_interleave(torch.tensor([recipe.latents - 2 * own, own, own], device=home), 0)
        encoder = encoder.T[:, None, :] * first.T
        center = states.mean(0)
        self.weights = {
            "encoder": encoder.clone(),
            "bias": -torch.einsum("md,mdl->l", center, encoder),
            "directions": first.clone(),
            "center": center.clone(),
        }
        self.writes = torch.ones(2, recipe.latents, 1, device=home)  # tuned's own latents write nothing into base
        self.writes[1, recipe.latents - 2 * own : recipe.latents - own] = 0
        self.writes[0, recipe.latents - own :] = 0
        for weight in self.weights.values():
            weight.requires_grad_()
        self.optimizer = torch.optim.Adam(self.weights.values(), lr=recipe.rate, betas=(0.9, 0.99))
        self.off = torch.zeros(recipe.latents, device=home)  # minibatches since a latent was on
        self.least = torch.zeros((), device=home)  # mean least kept weight

    def _differences(self, count: int) -> Float[Tensor, "latent d_model"]:
        """Differences of the two states at tokens drawn by their squares, from which own latents begin; 0: no two."""
        width = self.states.shape[-1]
        apart = self.states[:, 1] - self.states[:, 0]
        apart = apart - apart.mean(0)
        size = apart.square().sum(-1)
        if not count or float(size.sum()) == 0:
            return apart.new_zeros(count, width)
        picked = torch.multinomial(size.cpu(), count, replacement=True, generator=self.rng)
        found = apart[picked.to(apart.device)]
        found[: count // 2] *= -1  # base's own
        return 10 * width**0.5 * found / found.norm(dim=-1, keepdim=True).clamp_min(1e-12)

    @property
    def decoder(self) -> Float[Tensor, "model latent d_model"]:
        """What every latent writes into base and tuned."""
        return self.writes * self.weights["directions"]

    def run(self, kept: Path | None = None) -> Dictionary:
        """The dictionary after all steps; with a file, from where it stopped.

        Args:
            kept: file of the training's state, read if it is there and written now and then.
        """
        if kept is not None and kept.is_file():
            self._load(kept)
        with torch.enable_grad():
            for _ in progress(range(self.step, self.recipe.steps), "dictionary", total=self.recipe.steps - self.step):
                self.advance()
                if kept is not None and (self.step % SAVED_EVERY == 0 or self.step == self.recipe.steps):
                    self._save(kept)
        return self.dictionary()

    def advance(self) -> None:
        """One minibatch."""
        picked = torch.randint(len(self.states), (min(TOKENS, len(self.states)),), generator=self.rng)
        batch = self.states[picked.to(self.states.device)]
        left = 1 - self.step / self.recipe.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate * min(1.0, left / FADE)
        self.optimizer.zero_grad()
        self._loss(batch).backward()
        self.optimizer.step()
        self.step += 1

    def _loss(self, batch: States) -> Tensor:
        w, decoder = self.weights, self.decoder
        found = torch.relu(torch.einsum("tmd,mdl->tl", batch, w["encoder"]) + w["bias"])
        weight = found.detach() * _lengths(decoder.detach())
        least = weight.flatten().topk(min(len(batch) * self.recipe.k, weight.numel())).values[-1]
        on = (weight >= least) & (weight > 0)
        rest = batch - torch.einsum("tl,mld->tmd", found * on, decoder) - w["center"]
        share = 0.05 if self.step else 1.0
        self.least = (1 - share) * self.least + share * least
        self.off = torch.where(on.any(0), 0, self.off + 1)
        return rest.square().sum((1, 2)).mean() + LEFT_OVER * self._left_over(found, rest.detach())

    def _left_over(self, found: Tensor, rest: States) -> Tensor:
        """Squared error of what dead latents make of the rest, as a share of it (0 without dead latents)."""
        dead = (self.off >= DEAD).nonzero(as_tuple=True)[0]
        if not len(dead):
            return rest.new_zeros(())
        own = found[:, dead]
        many = min(4 * self.recipe.k, len(dead))
        own = own * (own >= own.topk(many, dim=-1).values[:, -1:])
        made = torch.einsum("tl,mld->tmd", own, self.decoder[:, dead])
        return (rest - made).square().sum((1, 2)).mean()

    def dictionary(self) -> Dictionary:
        """The weights as they are."""
        w = {name: weight.detach().clone() for name, weight in self.weights.items()}
        decoder = self.decoder.detach().clone()
        least = self.least / _lengths(decoder).clamp_min(1e-12)
        return Dictionary(w["encoder"], w["bias"], decoder, w["center"], least)

    def _save(self, file: Path) -> None:
        state = {
            "weights": {n: w.detach() for n, w in self.weights.items()},
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.get_state(),
            "step": self.step, "off": self.off, "least": self.least,
        }  # fmt: skip
        made = file.with_suffix(".part")
        torch.save(state, made)
        made.replace(file)

    def _load(self, file: Path) -> None:
        state = torch.load(file, map_location=self.states.device, weights_only=True)
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.set_state(state["rng"].cpu())
        self.step, self.off, self.least = state["step"], state["off"], state["least"]


def sizes(n_tokens: int, width: int, latents: int, k: int) -> tuple[int, int, int]:
    """(latents, of these each checkpoint's own, on at a token) that fit the data, where they are not given (0).

    Four latents a coordinate, but 25 tokens a latent at least; an eighth of them each checkpoint's own; k an eighth of
    the coordinates, 4 to 32.
    """
    fitting = max(8, min(4 * width, n_tokens // 25))
    size = latents or fitting
    return size, max(1, size // 8) if size > 2 else 0, min(k or max(4, min(32, width // 8)), size)


def _lengths(decoder: Float[Tensor, "model latent d_model"]) -> Float[Tensor, " latent"]:
    """What an activation of 1 takes off both errors together at most, as a root."""
    return decoder.square().sum((0, 2)).sqrt()
