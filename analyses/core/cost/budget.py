"""What fits into a time: how many items, and which layers where an analysis can be asked for some."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from analyses.core.analysis import Analysis
from analyses.core.cost.plan import Plan
from probe.errors import InputError

FEW = 64  # items below which layers are left out rather than more items
STRIDES = (2, 4, 8)
BY_LAYER = (
    "activation_patching", "attribution_patching", "behaviour_direction", "cross_patching", "mlp_key_steering",
    "tuning_vector",
)  # fmt: skip
"""Analyses that ask for layers one by one: leaving some out changes nothing of the others."""
UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}

Make = Callable[[int | None, tuple[int, ...] | None], Plan]


@dataclass(frozen=True)
class Cut:
    """What fits.

    Attributes:
        plan: of what is left.
        items: first items that are used, of `of_items`.
        layers: blocks that are asked for; None: all, or the analysis does not ask for some.
        n_layers: blocks there are.
    """

    plan: Plan
    items: int
    of_items: int
    layers: tuple[int, ...] | None
    n_layers: int

    @property
    def left_out(self) -> list[str]:
        """In words, what is not computed; [] where all of it fits."""
        said: list[str] = []
        if self.items < self.of_items:
            said.append(f"{self.of_items - self.items:,} of {self.of_items:,} items (the last ones)")
        if self.layers is not None:
            out = [layer for layer in range(self.n_layers) if layer not in self.layers]
            said.append(f"{len(out)} of {self.n_layers} layers ({', '.join(map(str, out))})")
        return said

    @property
    def options(self) -> str:
        """The options that say so on the command line."""
        words = [f"--limit {self.items}"] if self.items < self.of_items else []
        words += [f"--layers {','.join(map(str, self.layers))}"] if self.layers is not None else []
        return " ".join(words)


def seconds_of(text: str) -> float:
    """Seconds of `2h`, `1h30m`, `90s` or a bare number of seconds.

    Raises:
        InputError: another text, or no time at all.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([dhms]?)", text)
    whole = "".join(number + unit for number, unit in parts)
    total = sum(float(number) * UNITS[unit or "s"] for number, unit in parts)
    if whole != text.replace(" ", "") or total <= 0:
        raise InputError(f"budget {text!r}; expected a time as 2h, 1h30m, 45m or 90s")
    return total


def fitted(of: Analysis, budget: float, make: Make) -> Cut:
    """The most items, then the most layers, whose plan takes at most `budget` seconds.

    Args:
        of: the analysis; layers are left out of those in `BY_LAYER`.
        budget: seconds.
        make: the plan of so many first items (None: all) at these layers (None: as asked).

    Raises:
        InputError: not even one item fits.
    """
    whole = make(None, None)
    n, depth = whole.n_items, whole.n_layers
    thinned = [None, *(_every(depth, stride) for stride in STRIDES)] if of.name in BY_LAYER else [None]
    found: list[tuple[int, tuple[int, ...] | None]] = []
    for layers in thinned:
        items = _most(lambda k, layers=layers: total(make(k, layers)) <= budget, n)
        found.append((items, layers))
        if items >= min(FEW, n):
            break
    items, layers = next((one for one in found if one[0] >= min(FEW, n)), max(found, key=lambda one: one[0]))
    if not items:
        needed = total(make(1, thinned[-1]))
        raise InputError(f"{of.name}: one item takes {needed:,.0f} s, mostly for weights; {budget:,.0f} s were given")
    return Cut(make(items, layers), items, n, layers, depth)


def total(made: Plan) -> float:
    """Seconds of all parts, one after the other."""
    return sum(made.seconds.values())


def _every(depth: int, stride: int) -> tuple[int, ...]:
    """Every stride-th block, the last among them."""
    return tuple(range((depth - 1) % stride, depth, stride))


def _most(fits: Callable[[int], bool], n: int) -> int:
    """The largest number up to n that fits, 0 if none does; what fits for more fits for fewer."""
    if fits(n):
        return n
    low, high = 0, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
