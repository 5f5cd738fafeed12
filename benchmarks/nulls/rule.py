"""What a rule of the zoo is: who says what of which data, and on how many data sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from analyses.core.claim import Claim
from benchmarks.nulls.zoo import Rng

Data = TypeVar("Data")
Makers = dict[str, Callable[[Rng], Data]]
CHEAP, DEAR, TRAINED = 1000, 100, 30  # data sets: under a tenth of a second each, longer, and where models are trained


@dataclass(frozen=True)
class Rule(Generic[Data]):
    """What may be claimed (name -> kinds of claims that count), who says it, and of what data.

    A rule is named after its analysis; where an analysis has several, a comma and a word follow.
    """

    counts: dict[str, tuple[str, ...]]
    ask: Callable[[Data], list[Claim]]
    nulls: Makers[Data]
    plants: Makers[Data]
    sets: int = CHEAP
