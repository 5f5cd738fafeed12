"""Two checkpoints on one text: where and by how much what they say next differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch

from probe.errors import InputError
from probe.grids import Cell, Row, alone
from probe.token_text import visible
from probe.views.lens import Lens, lens_of

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float
    from torch import Tensor

    from probe.batches import TokenBatch
    from probe.handle import Handle


@dataclass(frozen=True, repr=False)
class Compared:
    """A text under two checkpoints.

    Attributes:
        base, tuned: their logit lenses; the last site of each is what the model says.
        kl_nats: KL(tuned || base) of the next-token distributions, [site pos], at least 0; the last site is the
            model's own. It says that they differ there, not in whose favour.
    """

    base: Lens
    tuned: Lens
    kl_nats: Float[Tensor, "site pos"]

    @property
    def tokens(self) -> tuple[str, ...]:
        """Texts of the tokens, [pos]."""
        return self.base.tokens

    def top(self, n: int = 5) -> list[tuple[int, str, str, str, float]]:
        """The positions of largest divergence: pos, token, next token by base, by tuned, KL in nats."""
        last = self.kl_nats[-1]
        where = last.argsort(descending=True)[:n].tolist()
        said = [(self.base.top_tokens[-1][p][0], self.tuned.top_tokens[-1][p][0]) for p in where]
        return [(p, self.tokens[p], a, b, float(last[p])) for p, (a, b) in zip(where, said, strict=True)]

    def frame(self) -> pd.DataFrame:
        """One row a site and position: site, pos, token, base_top, tuned_top, kl_nats."""
        rows: list[dict[str, object]] = [
            {
                "site": str(site), "pos": p, "token": token, "base_top": self.base.top_tokens[s][p][0],
                "tuned_top": self.tuned.top_tokens[s][p][0], "kl_nats": float(self.kl_nats[s, p]),
            }
            for s, site in enumerate(self.base.sites)
            for p, token in enumerate(self.tokens)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        lines = [
            f"  {p:>4} {visible(t):<14} {visible(a):>14} -> {visible(b):<14} {v:.4f}" for p, t, a, b, v in self.top()
        ]
        return "\n".join([f"Compared on {len(self.tokens)} tokens; largest KL(tuned || base), nats", *lines])

    def _repr_html_(self) -> str:
        most = float(self.kl_nats.max()) or 1.0
        rows = [
            Row(str(self.base.sites[s]), [self._cell(s, p, most) for p, _ in enumerate(self.tokens)])
            for s in reversed(range(len(self.base.sites)))
        ]
        return alone(rows, [visible(t) for t in self.tokens], f"colour: KL(tuned || base) in nats, 0 to {most:.3g}")

    def _cell(self, s: int, p: int, most: float) -> Cell:
        a, b = (visible(lens.top_tokens[s][p][0]) for lens in (self.base, self.tuned))
        value = float(self.kl_nats[s, p])
        told = f"{self.base.sites[s]}, position {p}: {value:.4f} nats\n{a} → {b}"
        return Cell(a if a == b else f"{a} → {b}", value / most, told)


def compared(base: Handle, tuned: Handle, batch: TokenBatch, other: TokenBatch, top_k: int) -> Compared:
    """Both checkpoints on a batch of one text, which `tuned`'s tokenizer gives as `other`.

    Args:
        base: one checkpoint.
        tuned: the other.
        batch: the text as base reads it.
        other: the text as tuned reads it.
        top_k: most likely tokens kept.

    Raises:
        InputError: tokenizers that give other ids, other numbers of blocks.
    """
    if not torch.equal(batch.ids.cpu(), other.ids.cpu()):
        raise InputError("base and tuned give this text other token ids: position by position they cannot be compared")
    if base.sites("resid_post") != tuned.sites("resid_post"):
        raise InputError(
            f"base has {base.shape.n_layers} blocks, tuned {tuned.shape.n_layers}; expected one architecture"
        )
    logp = [_all_logps(model, batch) for model in (base, tuned)]
    kl = torch.stack([_kl(b, a) for a, b in zip(*logp, strict=True)])
    return Compared(lens_of(base, batch, top_k), lens_of(tuned, batch, top_k), kl)


def _all_logps(model: Handle, batch: TokenBatch) -> list[Tensor]:
    sites = [*model.sites("resid_pre")[:1], *model.sites("resid_post")]
    trace = model.run(batch, sites)
    states = [model.unembed(trace[site])[0] for site in sites[:-1]]
    assert trace.logits is not None
    return [x.double().log_softmax(-1).cpu() for x in (*states, trace.logits[0])]


def _kl(p: Float[Tensor, "pos vocab"], q: Float[Tensor, "pos vocab"]) -> Float[Tensor, " pos"]:
    """KL(p || q) of log-probabilities; where p is 0 a term is 0."""
    return torch.where(p.isinf(), 0.0, p.exp() * (p - q)).sum(-1).clamp(min=0).float()
