"""RandomCalculation: arithmetic made on the spot, which nothing trained before today can have seen.

D_0 holds atoms: integers 0 to 100, their fractions (a/b), squares and cubes. D_i combines, for j = 0 ... ceil(i/2) - 1,
a member of D_j and one of D_{i-1-j} with a random operator in random order, so a member of D_i has exactly i
combining operators (those inside atoms not counted). Values are exact rationals; a division by zero is drawn again.
Source: arXiv 2507.10532 (its definition; this code is ours).
"""

from __future__ import annotations

import random
from fractions import Fraction

from probe.prompts import Item, Prompts

OPERATORS = ("+", "-", "*", "/")
Expression = tuple[str, Fraction]


def random_calculation(steps: tuple[int, ...] = (5, 10), n: int = 100, seed: int = 0) -> Prompts:
    """`n` items for each number of steps, in groups `random_calculation_<steps>`, with exact answers."""
    items: list[Item] = []
    for i in steps:
        for number in range(n):
            rng = random.Random(f"random_calculation/{seed}/{i}/{number}")
            text, value = expression(i, rng)
            name, group = f"rc{i}-{number:04d}", f"random_calculation_{i}"
            prompt = f"Evaluate this LaTeX numerical expression step-by-step and give the final value: ${text}$"
            items.append(Item(name, prompt, str(value), group, "gold_final", {"expression": text, "steps": i}))
    return Prompts(tuple(items), f"RandomCalculation, seed {seed}")


def expression(i: int, rng: random.Random) -> Expression:
    """A member of D_i with its value: its text holds exactly i combining operators."""
    if i == 0:
        return _atom(rng)
    j = rng.randrange((i + 1) // 2)
    while True:
        parts = [expression(j, rng), expression(i - 1 - j, rng)]
        if rng.random() < 0.5:
            parts.reverse()
        (left, a), (right, b) = parts
        operator = rng.choice(OPERATORS)
        if operator != "/" or b != 0:
            return f"({left} {operator} {right})", _value(a, operator, b)


def _atom(rng: random.Random) -> Expression:
    a = rng.randint(0, 100)
    kind = rng.choice(("integer", "fraction", "square", "cube"))
    if kind == "integer":
        return str(a), Fraction(a)
    if kind == "fraction":
        b = rng.randint(1, 100)
        return rf"\frac{{{a}}}{{{b}}}", Fraction(a, b)
    power = 2 if kind == "square" else 3
    return f"{a}^{power}", Fraction(a) ** power


def _value(a: Fraction, operator: str, b: Fraction) -> Fraction:
    if operator == "+":
        return a + b
    if operator == "-":
        return a - b
    return a * b if operator == "*" else a / b


def reward(answer: float | Fraction, truth: float | Fraction) -> float:
    """1 - min(d, 1)/2 - min(d / (|truth| + 1e-6), 1)/2 with d = |answer - truth|: 1 if equal, 0 if far."""
    distance = abs(Fraction(answer) - Fraction(truth))
    relative = distance / (abs(Fraction(truth)) + Fraction(1, 10**6))
    return float(1 - min(distance, 1) / 2 - min(relative, 1) / 2)
