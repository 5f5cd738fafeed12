"""Generated expressions have the operators they claim and the values Python gives them."""

from __future__ import annotations

import random
import re
from fractions import Fraction

import pytest

from analyses.memory._random_calculation import expression, random_calculation, reward


def evaluated(text: str) -> Fraction:
    """The value by Python's own parser, with every number an exact fraction."""

    def exact(found: re.Match[str]) -> str:
        top, bottom, root, power, plain = found.groups()
        if top:
            return f"(F({top}) / F({bottom}))"
        return f"(F({root}) ** {power})" if root else f"F({plain})"

    python = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}|(\d+)\^(\d)|(\d+)", exact, text)
    return Fraction(eval(python, {"F": Fraction, "__builtins__": {}}))


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 10, 20])
def test_steps_are_combining_operators(steps: int):
    for seed in range(20):
        text, value = expression(steps, random.Random(seed))
        assert len(re.findall(r" [-+*/] ", text)) == steps
        assert isinstance(value, Fraction)
        assert evaluated(text) == value


def test_items_are_seeded_and_grouped():
    one, two = random_calculation((3, 5), 4, seed=1), random_calculation((3, 5), 4, seed=1)
    assert one.items == two.items
    assert one.groups == ("random_calculation_3", "random_calculation_5")
    assert random_calculation((3,), 4, seed=2).items != random_calculation((3,), 4, seed=1).items


def test_reward():
    assert reward(7, 7) == 1.0
    assert reward(Fraction(1, 3), Fraction(1, 3)) == 1.0
    for truth in (0, 0.5, 3, -200):
        assert reward(truth + max(1, abs(truth) + 1e-6) * 1.001, truth) == pytest.approx(0.0, abs=1e-9)
    assert reward(10.5, 10) == pytest.approx(1 - 0.25 - 0.025, abs=1e-6)
