"""What a dictionary's latents are to two checkpoints: shared, of one alone, or written in another direction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from analyses.mechanism._dictionary import BASE, TUNED, Dictionary

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from analyses.mechanism._states import Tokens

AT_ONCE = 4096  # tokens
DENSE = 0.5  # share of tokens: a latent on at more has no rest to be compared with


@dataclass(frozen=True)
class Latents:
    """Sums over the tokens of every item, from which all about the latents follows.

    A latent belongs to the checkpoint into which it writes more. Its presence in the other is elsewhere / here: how
    much further along its direction the other checkpoint's states lie where it is on than where it is off, as a share
    of what that is in its own checkpoint.

    Attributes:
        here: sum of activation x (state of its checkpoint along its direction, less the mean where it is off).
        elsewhere: the same of the other checkpoint's state.
        on: tokens at which it is on.
        top: the most it writes at a token, and `where` that is.
        explained: of the squared states of its checkpoint, the share that is lost without it.
        energy: of what it writes into base and tuned.
    """

    dictionary: Dictionary
    here: Float[np.ndarray, "item latent"]
    elsewhere: Float[np.ndarray, "item latent"]
    on: Int[np.ndarray, "item latent"]
    top: Float[np.ndarray, "item latent"]
    where: Int[np.ndarray, "item latent"]
    explained: Float[np.ndarray, " latent"]
    energy: Float[np.ndarray, "model latent"]
    unexplained: Float[np.ndarray, " model"]
    density: Float[np.ndarray, " latent"]

    @property
    def side(self) -> Int[np.ndarray, " latent"]:
        """The checkpoint a latent belongs to."""
        return side_of(self.energy)

    @cached_property
    def relative_norm(self) -> Float[np.ndarray, " latent"]:
        """1: written into tuned alone; .5: into both alike; 0: into base alone; NaN: never on."""
        sizes = np.sqrt(self.energy)
        most = sizes.max(0)
        with np.errstate(invalid="ignore"):
            return np.where(most > 0, ((sizes[TUNED] - sizes[BASE]) / most + 1) / 2, np.nan)

    @cached_property
    def cosine(self) -> Float[np.ndarray, " latent"]:
        """Cosine of the two directions."""
        one, other = self.dictionary.decoder.double().cpu().numpy()
        norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
        return (one * other).sum(-1) / np.where(norms > 0, norms, np.nan)

    def presence(self, items: Bool[np.ndarray, " item"]) -> Float[np.ndarray, " latent"]:
        """Share of a latent that is in the other checkpoint too, over some items; NaN where it is off."""
        here = self.here[items].sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(here > 0, self.elsewhere[items].sum(0) / here, np.nan)


def side_of(energy: Float[np.ndarray, "model latent"]) -> Int[np.ndarray, " latent"]:
    return (energy[TUNED] >= energy[BASE]).astype(int)


def measured(
    dictionary: Dictionary, states: Float[Tensor, "token model d_model"], tokens: Tokens, fitted: Bool[Tensor, " token"]
) -> Latents:
    """The latents' sums; what decides side and offset is taken from the fitted tokens alone."""
    energy, offset = _sides(dictionary, states[fitted])
    side = torch.from_numpy(side_of(energy))
    shape = (len(tokens.items), dictionary.size)
    sums = {n: torch.zeros(shape, dtype=torch.float64) for n in ("here", "elsewhere", "on")}
    top, where = torch.zeros(shape), torch.full(shape, -1)
    lost, whole, rest = torch.zeros(shape[1]), torch.zeros(2), torch.zeros(2)
    for first, part in _parts(states):
        seen = _Seen(dictionary, part, side, offset)
        own = tokens.item[first : first + len(part)]
        for name, values in (("here", seen.here), ("elsewhere", seen.elsewhere), ("on", seen.found > 0)):
            sums[name].index_add_(0, own, values.double())
        for row in own.unique().tolist():
            most, at = seen.size[own == row].max(0)
            better = most > top[row]
            top[row] = torch.where(better, most, top[row])
            where[row] = torch.where(better, first + (own == row).nonzero()[at, 0], where[row])
        lost, whole, rest = lost + seen.lost, whole + seen.whole, rest + seen.rest.square().sum((0, 2))
    return Latents(
        dictionary,
        here=sums["here"].numpy(),
        elsewhere=sums["elsewhere"].numpy(),
        on=sums["on"].int().numpy(),
        top=top.numpy(),
        where=where.numpy(),
        explained=(lost / whole[side].clamp_min(1e-30)).numpy(),
        energy=energy,
        unexplained=(rest / whole.clamp_min(1e-30)).numpy(),
        density=sums["on"].sum(0).numpy() / max(len(states), 1),
    )


def _parts(states: Tensor) -> Iterator[tuple[int, Tensor]]:
    for first in range(0, len(states), AT_ONCE):
        yield first, states[first : first + AT_ONCE].float()


def _sides(dictionary: Dictionary, states: Tensor) -> tuple[np.ndarray, Tensor]:
    """Energy written into each checkpoint; and where a latent is off, the mean of base's and tuned's states along it.

    The mean [model, direction, latent] is of either state along either direction.
    """
    norms = dictionary.decoder.square().sum(-1)
    energy, count = torch.zeros(2, dictionary.size), torch.zeros(2, dictionary.size)
    total = torch.zeros(2, 2, dictionary.size)
    for _, part in _parts(states):
        found = dictionary.activations(part)
        energy += (found.square().sum(0) * norms).cpu()
        off = (found == 0).to(part)
        total += torch.einsum("tsd,mld,tml->sml", part, dictionary.decoder, off).cpu()
        count += off.sum(0).cpu()
    return energy.double().numpy(), total / count.clamp_min(1)


class _Seen:
    """The latents on some tokens."""

    def __init__(self, dictionary: Dictionary, states: Tensor, side: Tensor, offset: Tensor) -> None:
        every = torch.arange(dictionary.size)
        both = dictionary.activations(states)
        self.found = both[:, side, every]
        own = dictionary.decoder[side, every]
        along = torch.einsum("tsd,ld->stl", states, own) - offset[:, side, every][:, None]
        self.here = self.found * along[side, :, every].T
        self.elsewhere = self.found * along[1 - side, :, every].T
        self.size = self.found * own.norm(dim=-1)
        self.rest = states - dictionary.decoded(both)
        left = torch.stack([self.rest[:, m] @ own.T for m in (BASE, TUNED)])[side, :, every].T
        self.lost = (2 * self.found * left + self.size.square()).sum(0)
        self.whole = (states - dictionary.center).square().sum((0, 2))
