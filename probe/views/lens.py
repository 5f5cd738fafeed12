"""The logit lens of one text: what every layer would say next at every position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch

from probe.errors import InputError
from probe.grids import Cell, Row, alone
from probe.sites import Site
from probe.token_text import token_texts, visible

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float, Int
    from torch import Tensor

    from probe.batches import TokenBatch
    from probe.handle import Handle


@dataclass(frozen=True, repr=False)
class Lens:
    """Distributions over the next token, by the model's own final norm and unembedding (arXiv 2303.08112, section 2).

    A layer that does not yet write in the final basis reads as noise here: that a token is absent does not show that
    the layer does not carry it.

    Attributes:
        tokens: texts of the tokens read, [pos].
        sites: states read, in order; the last one is what the model says.
        top_ids, top_probs: the most probable next tokens, [site pos rank]; probabilities in [0, 1].
        top_tokens: their texts.
        entropy_nats: of each whole distribution, [site pos], from 0 to ln(vocabulary).
        next_logprob: of the token that follows in the text, [site pos], in nats; NaN at the last position.
    """

    tokens: tuple[str, ...]
    sites: tuple[Site, ...]
    top_ids: Int[Tensor, "site pos rank"]
    top_probs: Float[Tensor, "site pos rank"]
    top_tokens: list[list[list[str]]]
    entropy_nats: Float[Tensor, "site pos"]
    next_logprob: Float[Tensor, "site pos"]

    def frame(self) -> pd.DataFrame:
        """One row a site, position and rank: site, pos, token, rank, top_token, prob, entropy_nats, next_logprob."""
        cells = [(s, p, r) for s, _ in enumerate(self.sites) for p, _ in enumerate(self.tokens) for r in range(self.k)]
        rows: list[dict[str, object]] = [
            {
                "site": str(self.sites[s]), "pos": p, "token": self.tokens[p], "rank": r,
                "top_token": self.top_tokens[s][p][r], "prob": float(self.top_probs[s, p, r]),
                "entropy_nats": float(self.entropy_nats[s, p]), "next_logprob": float(self.next_logprob[s, p]),
            }
            for s, p, r in cells
        ]  # fmt: skip
        return pd.DataFrame(rows)

    @property
    def k(self) -> int:
        """How many tokens are kept of each distribution."""
        return self.top_ids.shape[-1]

    def __repr__(self) -> str:
        head = f"{'':<14}" + " ".join(f"{visible(t, 9):<9}" for t in self.tokens)
        lines = [
            f"{site!s:<14}" + " ".join(f"{visible(top[0], 9):<9}" for top in row)
            for site, row in zip(reversed(self.sites), reversed(self.top_tokens), strict=True)
        ]
        return "\n".join(["Lens: the most probable next token", *lines, head])

    def _repr_html_(self) -> str:
        places = range(len(self.tokens))
        rows = [Row(str(site), [self._cell(s, p) for p in places]) for s, site in enumerate(self.sites)][::-1]
        head = [visible(token) for token in self.tokens]
        return alone(rows, head, "most probable next token at each position; colour: its probability, 0 to 1")

    def _cell(self, s: int, p: int) -> Cell:
        top = zip(self.top_tokens[s][p], self.top_probs[s, p].tolist(), strict=True)
        said = [f"{visible(token)} {prob:.3f}" for token, prob in top]
        hover = "\n".join(
            [f"{self.sites[s]}, position {p}", *said, f"entropy {float(self.entropy_nats[s, p]):.2f} nats"]
        )
        return Cell(visible(self.top_tokens[s][p][0]), float(self.top_probs[s, p, 0]), hover)


def lens_of(model: Handle, batch: TokenBatch, top_k: int) -> Lens:
    """The lens of a batch of one text, over the states before the first block and after each.

    Args:
        model: the handle.
        batch: one text.
        top_k: most likely tokens kept.

    Raises:
        InputError: `top_k` outside 1 to the vocabulary's size.
    """
    if not 1 <= top_k <= model.shape.d_vocab:
        raise InputError(f"top_k={top_k}; expected 1 to {model.shape.d_vocab}, the size of the vocabulary")
    sites = [*model.sites("resid_pre")[:1], *model.sites("resid_post")]
    trace = model.run(batch, sites)
    parts = [_read(model.unembed(trace[site])[0], batch, top_k) for site in sites[:-1]]
    assert trace.logits is not None
    parts.append(_read(trace.logits[0], batch, top_k))
    probs, ids, entropy, following = (torch.stack(column) for column in zip(*parts, strict=True))
    texts = [[token_texts(model.tokenizer, row) for row in layer] for layer in ids.tolist()]
    return Lens(tuple(trace.tokens[0]), tuple(sites), ids, probs, texts, entropy, following)


def _read(logits: Float[Tensor, "pos vocab"], batch: TokenBatch, top_k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top probabilities, their ids, entropy and the following token's log-probability, by position."""
    logp = logits.double().log_softmax(-1)
    top = logp.topk(top_k, -1)
    entropy = -torch.where(logp.isinf(), 0.0, logp.exp() * logp).sum(-1)
    following = logp.new_full((len(logp),), float("nan"))
    following[:-1] = logp[:-1].gather(-1, batch.ids[0, 1:, None].to(logp.device))[:, 0]
    return top.values.exp().float().cpu(), top.indices.cpu(), entropy.float().cpu(), following.float().cpu()
