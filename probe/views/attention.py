"""Attention of one text: where each head of a layer looks, with the tokens beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from probe.html import attention_map
from probe.token_text import visible

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float
    from torch import Tensor

_SIDE, _CSS = 9, "border:1px solid gray;fill:rgb(31,119,180)"  # pixels a cell


@dataclass(frozen=True, repr=False)
class Attention:
    """Attention probabilities of one layer: `pattern` [head pos key_pos], each row a distribution over keys.

    A weight says where a head looks, not what it takes from there nor that this matters (arXiv 1902.10186).
    """

    layer: int
    tokens: tuple[str, ...]
    heads: tuple[int, ...]
    pattern: Float[Tensor, "head pos key_pos"]

    @property
    def names(self) -> list[str]:
        """Names of the heads, as `L2H0`."""
        return [f"L{self.layer}H{head}" for head in self.heads]

    def frame(self) -> pd.DataFrame:
        """One row a head, position and key position: head, pos, token, key_pos, key_token, weight."""
        rows: list[dict[str, object]] = [
            {"head": head, "pos": q, "token": self.tokens[q], "key_pos": k, "key_token": self.tokens[k], "weight": w}
            for head, map_ in zip(self.heads, self.pattern.tolist(), strict=True)
            for q, row in enumerate(map_)
            for k, w in enumerate(row)
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        lines = [f"Attention of layer {self.layer}: {len(self.heads)} heads, {len(self.tokens)} tokens; last token to:"]
        for name, row in zip(self.names, self.pattern[:, -1], strict=True):
            top = row.topk(min(3, len(row)))
            said = ", ".join(
                f"{visible(self.tokens[k])!r} {w:.2f}"
                for k, w in zip(top.indices.tolist(), top.values.tolist(), strict=True)
            )
            lines.append(f"  {name}  {said}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        maps = "".join(self._map(n) for n, _ in enumerate(self.heads))
        return (
            f"<div><b>Attention of layer {self.layer}</b>: rows are queries, columns keys; point at a cell</div>{maps}"
        )

    def _map(self, number: int) -> str:
        words = [visible(token) for token in self.tokens]
        drawn = attention_map(
            self.pattern[number].tolist(), len(words) * _SIDE, lambda q, k, w: f"{words[q]} → {words[k]}: {w:.2f}", _CSS
        )
        return (
            f"<figure style='display:inline-block;margin:4px'>{drawn}"
            f"<figcaption style='font-size:11px'>{self.names[number]}</figcaption></figure>"
        )
