"""What an orthogonalising optimiser makes of singular values: odd quintic maps, applied some times.

`promote` lifts every value towards 1 (1.875 s - 1.25 s^3 + .375 s^5); `suppress` sends values below sqrt(2/3) to 0 and
those above to 1 (2.5 s^3 - 1.5 s^5). Source: arXiv 2605.19282.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

PROMOTION = (1.875, -1.25, 0.375)
SUPPRESSION = (0.0, 2.5, -1.5)
CUT_OFF = (2 / 3) ** 0.5


def quintic(s: Float[Tensor, " rank"], coefficients: tuple[float, float, float]) -> Float[Tensor, " rank"]:
    """a s + b s^3 + c s^5."""
    a, b, c = coefficients
    return a * s + b * s**3 + c * s**5


def mapped(s: Float[Tensor, " rank"], promotions: int, suppressions: int = 0) -> Float[Tensor, " rank"]:
    """Singular values in [0, 1] after so many promotions and then so many suppressions."""
    for _ in range(promotions):
        s = quintic(s, PROMOTION)
    for _ in range(suppressions):
        s = quintic(s, SUPPRESSION)
    return s


def cut_off(promotions: int) -> float:
    """The value that so many promotions take to the fixed point sqrt(2/3): what begins above it ends at 1, below at 0.

    .8165, .5230, .2957, .1605, .0860, .0459 for 0 to 5 promotions.
    """
    low, high = 0.0, 1.0
    for _ in range(80):  # the map rises on [0, 1]
        middle = (low + high) / 2
        value = middle
        for _ in range(promotions):
            value = PROMOTION[0] * value + PROMOTION[1] * value**3 + PROMOTION[2] * value**5
        low, high = (middle, high) if value < CUT_OFF else (low, middle)
    return (low + high) / 2
