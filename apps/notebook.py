"""Views for notebooks that are not Plotly figures: attention patterns in the form of CircuitsVis.

from apps.notebook import attention
attention(tokens, pattern)          # the last expression of a cell shows it
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from numpy import asarray, ndarray

from probe.errors import InputError


def attention(
    tokens: Sequence[str],
    pattern: Float[ndarray, "head pos key_pos"] | Any,
    *,
    names: Sequence[str] | None = None,
    offline: bool = True,
) -> Html:
    """Attention patterns of one sequence as interactive HTML, one small map per head.

    Args:
        tokens: decoded tokens; shown as text, never read as markup.
        pattern: attention probabilities of one layer (array or tensor), rows sum to 1.
        names: names of the heads, for example ("L5H0", "L5H1"); numbers by default.
        offline: embed the library's script (1.3 MB) instead of a link to a public host.

    Returns:
        An object notebooks display; ``.html`` is its code.

    Raises:
        InputError: shapes that do not fit the tokens, or CircuitsVis is not installed.
    """
    try:
        from circuitsvis.attention import attention_heads
    except ImportError as error:
        raise InputError("attention patterns need CircuitsVis: pip install circuitsvis") from error
    given: Any = pattern
    values = asarray(given.detach().cpu().float() if hasattr(given, "detach") else given, dtype=float)
    n = len(tokens)
    if values.ndim != 3 or values.shape[1:] != (n, n):
        raise InputError(f"pattern has shape {values.shape}; expected (head, {n}, {n}) for {n} tokens")
    if names is not None and len(names) != len(values):
        raise InputError(f"{len(names)} names for {len(values)} heads")
    # The library puts texts into a script as they are; `</script>` in a token would end it.
    texts = [*tokens, *(names or [])]
    marks = [f"@text-{i}@" for i in range(len(texts))]
    drawn = attention_heads(tokens=marks[:n], attention=values, attention_head_names=marks[n:] or None)
    html = drawn.local_src if offline else drawn.cdn_src
    for mark, text in zip(marks, texts, strict=True):
        html = html.replace(f'"{mark}"', json.dumps(text).replace("<", "\\u003c"))
    return Html(html)


@dataclass(frozen=True)
class Html:
    """What a notebook shows as it is."""

    html: str

    def _repr_html_(self) -> str:
        return self.html
