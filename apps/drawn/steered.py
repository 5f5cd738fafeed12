"""Steering seen at once: a layer by strength grid beside its placebo, and completions side by side; without a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apps.drawn.look import markup, text
from apps.drawn.reading import differing

BREAK = "\n"
Doses = Mapping[tuple[int, float], float]  # (layer, strength) -> KL from the unchanged next token, nats


def grids(of: Mapping[str, Doses], picked: tuple[int, float] | None = None) -> str:
    """Grids side by side on one scale; a click on a cell sends layer, a break, and strength.

    Args:
        of: name of the arm -> its doses; the intervention first, then its placebos.
        picked: the cell whose completions are shown.
    """
    most = max((v for doses in of.values() for v in doses.values()), default=0.0) or 1.0
    shown = "".join(f"<section><h4>{text(n)}</h4>{_grid(doses, most, picked)}</section>" for n, doses in of.items())
    legend = f"colour: how far the next token's distribution moves (KL, 0 to {most:.3g} nats); layers by strengths"
    return markup(f'<div class="sides">{shown}</div><p class="legend quiet">{legend}</p>', "Strength by layer")


def _grid(doses: Doses, most: float, picked: tuple[int, float] | None) -> str:
    layers = sorted({layer for layer, _ in doses}, reverse=True)
    strengths = sorted({strength for _, strength in doses})
    head = "".join(f'<th scope="col">{s:g}</th>' for s in strengths)
    body = "".join(
        f'<tr><th scope="row">{layer}</th>'
        + "".join(_cell(layer, s, doses.get((layer, s)), most, (layer, s) == picked) for s in strengths)
        + "</tr>"
        for layer in layers
    )
    return f'<div class="grid doses"><table><tbody>{body}</tbody><tfoot><tr><th></th>{head}</tr></tfoot></table></div>'


def _cell(layer: int, strength: float, value: float | None, most: float, is_picked: bool) -> str:
    if value is None:
        return '<td class="gap"></td>'
    word = f"{layer}{BREAK}{strength:g}"
    return (
        f'<td class="pos{" now" if is_picked else ""}" style="--p:{value / most:.3f}" data-pick="{text(word)}" '
        f'data-tip="layer {layer}, strength {strength:g}{BREAK}KL {value:.4g} nats">{_short(value)}</td>'
    )


def _short(value: float) -> str:
    """A KL in as many characters as a cell has room for."""
    return text("<.01") if 0 < value < 0.01 else f"{value:.2g}"


def completions(of: Sequence[tuple[str, str]]) -> str:
    """Completions side by side, the first as it is, in the others the words marked that it has not.

    Args:
        of: (name of the arm, what it wrote), the unchanged one first.
    """
    own = of[0][1] if of else ""
    columns = "".join(
        f"<section><h4>{text(name)}</h4><pre>{differing(said, own) if said else '(nothing)'}</pre></section>"
        for name, said in of
    )
    return markup(f'<div class="reader"><div class="sides">{columns}</div></div>', "Completions")
