"""Attention of one text: a small map of every head, and one head's row over the tokens; without a page, without torch.

A weight says where a head looks, not what it takes from there (arXiv 1902.10186).
"""

from __future__ import annotations

from collections.abc import Sequence

from analyses.core.figures import visible
from apps.drawn.look import markup, text
from probe.html import attention_map

HEAD, QUERY, BREAK = "head", "query", "\n"
SIDE = 96  # pixels of a small map
Pattern = Sequence[Sequence[float]]  # [query][key], each row sums to 1


def thumbnails(layer: int, patterns: Sequence[Pattern], picked: int) -> str:
    """All heads as small maps, queries downwards, keys to the right; a click on one opens it.

    Args:
        layer: whose heads they are.
        patterns: one a head.
        picked: the head that is open.
    """
    return markup(
        f'<div class="heads">{"".join(_head(layer, h, p, h == picked) for h, p in enumerate(patterns))}</div>',
        f"Heads of layer {layer}",
    )


def _head(layer: int, head: int, pattern: Pattern, is_picked: bool) -> str:
    name = f"L{layer}H{head}"
    return (
        f'<button class="head{" now" if is_picked else ""}" data-pick="{HEAD}{BREAK}{head}" aria-label="{name}">'
        f"{attention_map(pattern, SIDE)}{name}</button>"
    )


def over_text(tokens: Sequence[str], pattern: Pattern, query: int) -> str:
    """The text, its tokens shaded by how much the token ``query`` looks at them; a click makes another one the query.

    Args:
        tokens: of the text.
        pattern: of one head.
        query: position of the token that looks.
    """
    row = pattern[query]
    shown = "".join(
        f'<button class="token{" now" if k == query else ""}" style="--p:{row[k] if k < len(row) else 0:.3f}" '
        f'data-pick="{QUERY}{BREAK}{k}" data-tip="{text(visible(t, 60))}{BREAK}weight {row[k]:.4f}">'
        f"{text(visible(t, 24))}</button>"
        for k, t in enumerate(tokens)
    )
    legend = f"shade: weight from “{visible(tokens[query])}” (outlined), 0 to 1; click a token to look from there"
    below = f'<p class="legend quiet">{text(legend)}</p>'
    return markup(f'<div class="tokens">{shown}</div>{below}', "Attention over the text")
